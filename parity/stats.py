"""Statistics of the prompt-fidelity gate (NumPy only): no limits, no verdicts, no I/O.

Differences are native - reference, oriented so that more is better. The sequential tests bet on bounded values drawn
without replacement (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023): the N videos
of one frozen suite are the whole population, looked at in an order fixed before anything was seen. What they say holds for
that suite only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

NORMAL: Final = NormalDist()
PRIOR: Final = 8.0  # the expected mean and spread weigh as much as this many videos
LOSS_ROOM: Final = 1.4  # stakes leave room for a loss of 1.4 bounds, so that clipping the gains alone is enough
MOST: Final = 0.9  # of the stake that one worst possible video would lose entirely
MOST_HARD: Final = 0.8  # the same where the worst value is an everyday one
Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Bet:
    """A one-sided test of a suite's mean difference, all in the difference's unit.

    `margin`: non-inferior means mean > -margin. `bound`: gains above it count as it; fixed before the run, about 3 `sigma`.
    `sigma`: the expected spread; it sets the stakes, not the validity.
    `hard`: the values cannot leave [-bound, bound] at all (R-precision), so no room for larger losses is kept.
    """

    margin: float
    bound: float
    sigma: float
    hard: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.margin < self.bound < math.inf and 0 < self.sigma <= self.bound):
            raise ValueError(f"{self}: expected 0 < margin < bound and 0 < sigma <= bound")

    @property
    def floor(self) -> float:
        """The smallest difference that the stakes reckon with."""
        return -self.bound if self.hard else -LOSS_ROOM * self.bound


def non_inferiority(differences: Numbers, size: int, bet: Bet) -> np.ndarray:
    """(..., n) wealth after each video against "the suite's mean is at most -margin". Above 1 / alpha: non-inferior."""
    return wealth(differences, size, bet, null=-bet.margin, target=0.0)


def inferiority(differences: Numbers, size: int, bet: Bet) -> np.ndarray:
    """(..., n) wealth after each video against "the suite's mean is at least -margin". Above 1 / alpha: inferior."""
    return wealth(-np.asarray(differences, dtype=np.float64), size, bet, null=bet.margin, target=3 * bet.margin)


def wealth(differences: Numbers, size: int, bet: Bet, null: float, target: float) -> np.ndarray:
    """Wealth of a gambler who starts with 1 and bets video after video that the suite's mean lies above `null`.

    differences: (..., n), n <= size, finite; leading axes are separate runs. Returns (..., n) >= 0. In every suite whose
    mean is at most `null` the wealth is a supermartingale in random order, so the chance that it ever reaches 1 / alpha is at
    most alpha. Gains are clipped at `bound`, losses never, so clipping can only hide an advantage. `target` is the mean
    that the stakes are best for. Infinite once no completion of the suite is left in which the mean is at most `null`.
    """
    values = np.minimum(np.asarray(differences, dtype=np.float64), bet.bound)
    n = values.shape[-1]
    if n > size or not np.isfinite(values).all():
        raise ValueError(f"wealth: differences {values.shape} of a suite of {size}; expected at most {size} finite numbers")
    out = np.empty(values.shape)
    current, total, squares = np.ones(values.shape[:-1]), np.zeros(values.shape[:-1]), np.zeros(values.shape[:-1])
    slack = 1e-9 * bet.bound
    most = MOST_HARD if bet.hard else MOST
    for t in range(n):
        x = values[..., t]
        rest = (size * null - total) / (size - t)  # mean of the unseen videos on the border of the null hypothesis
        expected = (PRIOR * target + total) / (PRIOR + t)
        spread = (PRIOR * bet.sigma**2 + squares - 2 * expected * total + t * expected**2) / (PRIOR + t)
        edge = np.maximum(np.maximum(expected, target) - rest, 0.0)
        stake = np.minimum(edge / (spread + edge**2), most / np.maximum(rest - bet.floor, slack))
        factor = np.maximum(0.0, 1.0 + np.where(rest < bet.bound, stake, 0.0) * (x - rest))
        current = current * np.where(np.isinf(current), 1.0, factor)
        total, squares = total + x, squares + x * x
        worst = total + (size - t - 1) * bet.floor
        current = np.where(worst > size * (null + slack), np.inf, current)
        out[..., t] = current
    return out


def crossing(values: np.ndarray, alpha: float) -> int | None:
    """Number of videos after which a wealth (n,) first reached 1 / alpha; None when it never did."""
    reached = np.flatnonzero(values >= 1.0 / alpha)
    return int(reached[0]) + 1 if len(reached) else None


def crossings(values: np.ndarray, alpha: float) -> np.ndarray:
    """(R,) the same for every row of (R, n), as float64: infinite where it never did."""
    reached = values >= 1.0 / alpha
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1.0, np.inf)


def lower_bound(differences: Numbers, size: int, bet: Bet, alpha: float, steps: int = 200) -> float:
    """Largest m such that "the suite's mean is at most m" is refuted by the wealth at any time so far: a lower
    confidence bound (1 - alpha, valid at every stopping time). -inf when not even the floor is refuted."""
    values = np.asarray(differences, dtype=np.float64)
    low, high = bet.floor, bet.bound
    if not len(values) or not _refuted(values, size, bet, low, alpha):
        return -math.inf
    for _ in range(int(math.log2(steps)) + 12):
        middle = (low + high) / 2
        low, high = (middle, high) if _refuted(values, size, bet, middle, alpha) else (low, middle)
    return low


def _refuted(values: np.ndarray, size: int, bet: Bet, null: float, alpha: float) -> bool:
    return crossing(wealth(values, size, bet, null, target=max(0.0, null)), alpha) is not None


def videos_needed(differences: Numbers, size: int, bet: Bet, alpha: float, draws: int = 200, seed: int = 0) -> int | None:
    """About how many more videos until non-inferiority: the median over futures drawn from what was seen so far.

    None when fewer than half of these futures get there within the suite. Needs at least two videos.
    """
    seen = np.asarray(differences, dtype=np.float64)
    if len(seen) < 2:
        return None
    rng = np.random.default_rng(seed)
    futures = rng.choice(seen, (draws, size - len(seen)))
    runs = np.concatenate([np.broadcast_to(seen, (draws, len(seen))), futures], axis=1)
    median = float(np.median(crossings(non_inferiority(runs, size, bet), alpha)))
    return None if math.isinf(median) else max(0, math.ceil(median) - len(seen))


def fixed_size(sigma: float, margin: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Videos that a test of fixed size needs at a true difference of 0 (normal approximation)."""
    return math.ceil(((NORMAL.inv_cdf(1 - alpha) + NORMAL.inv_cdf(power)) * sigma / margin) ** 2)


def mean_lower_bound(values: Numbers, alpha: float) -> float:
    """One-sided lower confidence bound of a mean (Student's t; Cornish-Fisher quantile, error < 1 % from 5 values on)."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return -math.inf
    return float(x.mean() - t_quantile(1 - alpha, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))


def t_quantile(p: float, degrees: int) -> float:
    """Student's t quantile (Abramowitz and Stegun 26.7.5)."""
    z, v = NORMAL.inv_cdf(p), degrees
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / v + g2 / v**2 + g3 / v**3 + g4 / v**4


def mcnemar_non_inferiority(native: Numbers, reference: Numbers, margin: float) -> float:
    """One-sided p-value against "native's rate is at least `margin` below the reference's", paired yes/no outcomes.

    Tango's score test (Statistics in Medicine 1998), exact restricted likelihood, normal reference distribution.
    """
    a, b = np.asarray(native, dtype=bool), np.asarray(reference, dtype=bool)
    n = len(a)
    if n == 0 or len(b) != n:
        raise ValueError(f"McNemar: {n} and {len(b)} outcomes; expected the same positive number")
    gained, lost = int(np.sum(a & ~b)), int(np.sum(~a & b))
    gap = -margin
    # Probability of a loss, most likely among those with P(gain) - P(loss) = gap: root of a quadratic.
    linear = -gained - lost + (2 * n - gained + lost) * gap
    loss = (math.sqrt(max(linear**2 + 8 * n * lost * gap * (1 - gap), 0.0)) - linear) / (4 * n)
    variance = n * (2 * loss + gap * (1 - gap))
    return 1.0 - NORMAL.cdf((gained - lost - n * gap) / math.sqrt(variance))


def paired_cmmd(native: np.ndarray, reference: np.ndarray, bandwidth: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD between paired sets of unit embeddings (n, D) each: unbiased squared MMD with a Gaussian kernel, times `scale`.

    Bandwidth and scale as in Jayasumana et al. 2024. Pairs share prompt and noise, so the cross term leaves out i = j
    like the other two; with it (as the released estimator does) the expectation shifts by about -2 k(pair) / n.
    """
    x, y = np.asarray(native, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n = len(x)
    if x.shape != y.shape or n < 2:
        raise ValueError(f"CMMD: {x.shape} and {y.shape}; expected two equal (n, D) with n >= 2")

    def off_diagonal(a: np.ndarray, b: np.ndarray) -> float:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        kernel = np.exp(-squared / (2 * bandwidth**2))
        return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))

    return scale * (off_diagonal(x, x) + off_diagonal(y, y) - 2 * off_diagonal(x, y))
