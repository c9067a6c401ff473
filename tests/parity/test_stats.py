"""The gate's statistics: validity under the null hypothesis by simulation, power, and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import stats
from parity.stats import Bet

RNG_SEED = 20260101
POINTS = Bet(margin=0.5, bound=4.5, sigma=1.5)


def replays(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.permutation(values) for _ in range(count)])


def crossings(suites: np.ndarray, bet: Bet, alpha: float = 0.05) -> np.ndarray:
    return stats.crossings(stats.non_inferiority(suites, suites.shape[1], bet), alpha)


@pytest.mark.parametrize(("sigma", "median"), [(1.5, 40), (2.0, 52)])
def test_figures_of_the_plan(sigma: float, median: int) -> None:
    """N = 100, margin .5: passes at about 40 / 51 videos when there is no difference, at most .05 at the margin."""
    rng = np.random.default_rng(RNG_SEED)
    bet = Bet(0.5, 3 * sigma, sigma)
    noise = rng.normal(0, sigma, (2000, 100))
    noise -= noise.mean(axis=1, keepdims=True)
    at_zero, at_margin = crossings(noise, bet), crossings(noise - 0.5, bet)
    assert np.isfinite(at_zero).mean() >= 0.99
    assert abs(np.median(at_zero) - median) <= 4
    assert np.isfinite(at_margin).mean() <= 0.05


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["normal", "heavy", "skewed", "rare losses", "two values"]),
    size=st.integers(20, 120),
    margin=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**31),
)
def test_wealth_is_a_supermartingale_at_the_margin(kind: str, size: int, margin: float, seed: int) -> None:
    """In a suite whose mean is exactly -margin, the mean wealth never exceeds 1 (by simulation over random orders)."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(0, 1.5, size),
        "heavy": rng.standard_t(4, size),
        "skewed": -rng.exponential(1.0, size),
        "rare losses": np.where(rng.random(size) < 0.1, -3.0, 0.3),
        "two values": rng.choice([-1.0, 1.0], size),
    }[kind]
    values = values - values.mean() - margin
    bet = Bet(margin, max(4.5, 3 * margin, float(-values.min() / stats.LOSS_ROOM)), 1.5)
    paths = stats.non_inferiority(replays(values, 1000, rng), size, bet)
    mean = paths.mean(axis=0)
    error = paths.std(axis=0) / math.sqrt(len(paths))
    # Clipped gains lower the mean further; 5 standard errors over up to 120 videos and 12 examples.
    assert (mean <= 1 + 5 * error + 1e-9).all()
    assert (paths.max(axis=1) >= 20).mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / len(paths))


def test_false_fail_of_the_inferiority_test() -> None:
    rng = np.random.default_rng(RNG_SEED)
    noise = rng.normal(0, 1.5, (500, 100))
    noise = noise - noise.mean(axis=1, keepdims=True)
    at_margin = stats.crossings(stats.inferiority(noise - 0.5, 100, POINTS), 0.05)
    worse = stats.crossings(stats.inferiority(noise - 2.0, 100, POINTS), 0.05)
    assert np.isfinite(at_margin).mean() <= 0.05 + 0.03
    assert np.median(worse) <= 30


def test_certainty_without_replacement() -> None:
    """Once no rest of the suite can bring the mean below the margin, the wealth is infinite, and not one video earlier."""
    bet = Bet(0.05, 1.0, 0.1, hard=True)
    path = stats.non_inferiority(np.zeros(100), 100, bet)
    assert math.isinf(path[-1])
    assert math.isinf(path[95])  # four videos are left: they cannot cost 5 % of 100 any more
    assert not math.isinf(path[94])
    losses = np.zeros(100)
    losses[:5] = -1  # exactly at the margin: never certain
    assert np.isfinite(stats.non_inferiority(losses, 100, bet)).all()
    losses[4] = 0
    assert math.isinf(stats.non_inferiority(losses, 100, bet)[-1])


def test_one_catastrophe_stops_the_betting() -> None:
    """A loss far below the bound counts in full: what is left cannot buy a pass."""
    values = np.zeros(100)
    values[3] = -60.0
    path = stats.non_inferiority(values, 100, POINTS)
    assert path.max() < 20
    assert stats.crossing(stats.non_inferiority(np.zeros(100), 100, POINTS), 0.05) is not None


def test_order_matters_but_not_what_was_not_seen() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1.5, 100)
    whole = stats.non_inferiority(values, 100, POINTS)
    np.testing.assert_array_equal(stats.non_inferiority(values[:37], 100, POINTS), whole[:37])


@pytest.mark.parametrize(("sigma", "expected"), [(1.0, 25), (1.5, 56), (2.0, 99)])
def test_fixed_sizes_of_the_plan(sigma: float, expected: int) -> None:
    assert stats.fixed_size(sigma, 0.5) == expected


def test_lower_bound_covers() -> None:
    rng = np.random.default_rng(RNG_SEED)
    misses = 0
    for _ in range(150):
        suite = rng.normal(-0.3, 1.5, 60)
        bound = stats.lower_bound(rng.permutation(suite)[:40], 60, POINTS, 0.05)
        misses += bound > suite.mean() + 1e-9
    assert misses / 150 <= 0.05 + 0.04
    assert stats.lower_bound([], 60, POINTS, 0.05) == -math.inf
    narrow = stats.lower_bound(np.zeros(60), 60, POINTS, 0.05)
    assert -0.01 <= narrow <= 0.0  # the whole suite was seen: its mean is known


def test_videos_needed_is_about_right() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1.5, 100)
    noise -= noise.mean()
    when = stats.crossing(stats.non_inferiority(noise, 100, POINTS), 0.05)
    assert when is not None
    more = stats.videos_needed(noise[: when // 2], 100, POINTS, 0.05)
    assert more is not None
    assert 0 < more <= 100 - when // 2
    assert stats.videos_needed(noise[:when], 100, POINTS, 0.05) == 0
    assert stats.videos_needed(noise[:50] - 5, 100, POINTS, 0.05) is None


def test_mcnemar_known_values() -> None:
    """No discordant pair among 100 at 5 points: restricted loss probability .05, score 5 / sqrt(4.75)."""
    same = np.ones(100, dtype=bool)
    expected = 1 - stats.NORMAL.cdf(5 / math.sqrt(4.75))
    assert stats.mcnemar_non_inferiority(same, same, 0.05) == pytest.approx(expected)
    worse = same.copy()
    worse[:5] = False  # exactly at the margin: a coin toss
    assert stats.mcnemar_non_inferiority(worse, same, 0.05) == pytest.approx(0.5)
    assert stats.mcnemar_non_inferiority(same, worse, 0.05) < 0.01


def test_mcnemar_false_pass_rate() -> None:
    rng = np.random.default_rng(RNG_SEED)
    passes = 0
    for _ in range(2000):
        u = rng.random(200)
        native, reference = u >= 0.10, (u < 0.05) | (u >= 0.10)  # rates .90 and .95
        passes += stats.mcnemar_non_inferiority(native, reference, 0.05) <= 0.05
    assert passes / 2000 <= 0.065


def test_t_quantile_known_values() -> None:
    for degrees, value in ((5, 2.015), (11, 1.796), (30, 1.697)):
        assert stats.t_quantile(0.95, degrees) == pytest.approx(value, rel=0.01)


def test_paired_cmmd_is_unbiased_where_the_released_one_is_not() -> None:
    """Same distribution on both sides, nearly equal pairs: paired statistic about 0; with the i = j terms it is not."""
    rng = np.random.default_rng(RNG_SEED)
    n, draws = 20, 200
    paired, released = [], []
    for _ in range(draws):
        x = rng.normal(size=(n, 8))
        y = x + 0.01 * rng.normal(size=(n, 8))
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        paired.append(stats.paired_cmmd(x, y, bandwidth=1.0))
        kernel = np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 2)
        released.append(paired[-1] + 1000 * 2 * ((kernel.sum() - np.trace(kernel)) / (n * (n - 1)) - kernel.mean()))
    assert abs(np.mean(paired)) < 4 * np.std(paired) / math.sqrt(draws) + 0.05
    assert np.mean(released) < -10
    far = rng.normal(size=(n, 8)) + 3
    assert stats.paired_cmmd(x, far / np.linalg.norm(far, axis=1, keepdims=True), bandwidth=1.0) > 50


@pytest.mark.parametrize("bad", [(0.0, 1.0, 0.5), (1.0, 1.0, 0.5), (0.5, 1.0, 0.0), (0.5, 1.0, 2.0), (0.5, math.inf, 1.0)])
def test_a_senseless_bet_is_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < margin"):
        Bet(*bad)


def test_non_finite_differences_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.non_inferiority([0.0, math.nan], 10, POINTS)
