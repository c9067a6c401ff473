"""Statistics of the prompt-fidelity gate (NumPy only): no bounds, no verdicts, no I/O.

All differences are native - reference, oriented so that more is better. Sequential tests follow Waudby-Smith and Ramdas
(2023), "Estimating means of bounded random variables by betting", sampling without replacement: the N videos of one frozen
suite are the whole population, looked at in an order that was fixed before anything was seen. What they say holds for
that suite only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()


@dataclass(frozen=True)
class Bet:
    """A one-sided test of a suite's mean difference.

    `margin`: the null hypothesis is mean <= -margin (units of the difference; margin > 0).
    `bound`: differences are clipped to [-bound, bound], fixed before the run.
    `sigma`: spread expected of a difference, fixed before the run; it sets the stakes, not the validity.
    """

    margin: float
    bound: float
    sigma: float

    def __post_init__(self) -> None:
        if not (0 < self.margin < self.bound and 0 < self.sigma <= self.bound and math.isfinite(self.bound)):
            raise ValueError(
                f"Bet: margin {self.margin}, bound {self.bound}, sigma {self.sigma}; expected 0 < margin, sigma <= bound"
            )


def e_process(differences: Sequence[float] | np.ndarray, size: int, bet: Bet, null_mean: float | None = None) -> np.ndarray:
    """Wealth after each video of a gambler who bets that the suite's mean lies above `null_mean` (default -margin).

    differences: (n,) with n <= size, the clipped values count. Returns (n,) float64 >= 0. Under every suite whose
    mean is at most `null_mean` the wealth is a supermartingale with start 1, so it ever exceeds 1/alpha with probability at
    most alpha, whenever one stops. It is infinite once no completion of the suite is left that obeys the null hypothesis.
    """
    null = -bet.margin if null_mean is None else null_mean
    values = np.clip(np.asarray(differences, dtype=np.float64), -bet.bound, bet.bound)
    if values.ndim != 1 or len(values) > size or not np.isfinite(values).all():
        raise ValueError(f"e_process: {values.shape} differences of a suite of {size}; expected at most {size} finite numbers")
    left = size - np.arange(len(values))
    seen = np.concatenate([[0.0], np.cumsum(values)])
    null_of_rest = (size * null - seen[:-1]) / left  # mean that the unseen videos must have on the null's border
    wealth = np.empty(len(values))
    current = 1.0
    for t, (x, mean) in enumerate(zip(values, null_of_rest, strict=True)):
        if mean < -bet.bound:
            current = math.inf
        elif mean < bet.bound:
            current *= 1.0 + _stake(values[:t], mean, bet) * (x - mean)
        if not math.isinf(current) and t + 1 == size and seen[-1] > size * null + 1e-9 * size * bet.bound:
            current = math.inf  # the whole suite is known and its mean lies above the null's
        wealth[t] = current
    return wealth


def _stake(seen: np.ndarray, mean: float, bet: Bet) -> float:
    """Share to bet on the next video, from the past alone: Kelly's stake for the alternative "no difference at all".

    The expected mean is shrunk from 0 towards what was seen, the spread from `sigma`; both count as a few videos.
    """
    prior = 8.0
    total = prior + len(seen)
    expected = min(float(np.sum(seen)) / total, bet.bound)
    spread = (prior * bet.sigma**2 + float(np.sum((seen - expected) ** 2))) / total
    edge = max(expected, 0.5 * (expected + 0.0), mean) - mean
    edge = max(edge, 0.0)
    most = 1.0 / (mean + bet.bound)  # a loss of everything at the worst possible value, not more
    return float(min(edge / (spread + edge**2), 0.9 * most))
