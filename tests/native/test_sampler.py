"""Schedule, steps and the second-order sampler's coefficients against values that ltx-core 1.0.0 gave."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx_native.sampler import euler_step, phi, res_2s_coefficients, sde_coefficients, sde_step, to_denoised, to_velocity
from ltx_native.schedule import DISTILLED_SIGMAS, STAGE_2_DISTILLED_SIGMAS, ltx2_sigmas

# LTX2Scheduler().execute(steps=n) of ltx-core 1.0.0, as float32 bit patterns.
OFFICIAL = {
    1: [1036831952, 0],
    2: [1065353208, 1036831952, 0],
    3: [1065353212, 1060893484, 1036831952, 0],
    4: [1065353213, 1063123240, 1059171967, 1036831952, 0],
    8: [1065353214, 1064777954, 1064042492, 1063069100, 1061720034, 1059725790, 1055991620, 1036831952, 0],
    9: [1065353214, 1064881890, 1064297401, 1063553432, 1062574389, 1061227963, 1059259603, 1055253344, 1036831960, 0],
    15: [
        1065353215,
        1065139299,
        1064897268,
        1064621186,
        1064303321,
        1063933420,
        1063497563,
        1062976378,
        1062342096,
        1061553416,
        1060546156,
        1059214826,
        1057373051,
        1052350670,
        1036831960,
        0,
    ],
    30: [
        1065353215,
        1065268609,
        1065178784,
        1065083244,
        1064981426,
        1064872687,
        1064756303,
        1064631429,
        1064497109,
        1064352227,
        1064195484,
        1064025363,
        1063840076,
        1063637498,
        1063415090,
        1063169796,
        1062897883,
        1062594775,
        1062254776,
        1061870714,
        1061433435,
        1060931044,
        1060347838,
        1059662608,
        1058846016,
        1057856281,
        1056299012,
        1053191104,
        1049116912,
        1036831952,
        0,
    ],
}


@pytest.mark.parametrize("steps", sorted(OFFICIAL))
def test_sigmas_are_the_official_ones_bit_for_bit(steps: int) -> None:
    expected = np.array(OFFICIAL[steps], dtype=np.uint32).view(np.float32)
    assert np.array_equal(ltx2_sigmas(steps), expected)


def test_sigmas_fall_from_one_to_zero_and_end_at_the_terminal_level() -> None:
    for steps in range(2, 60):
        sigmas = ltx2_sigmas(steps)
        assert sigmas.dtype == np.float32
        assert sigmas.shape == (steps + 1,)
        assert sigmas[0] == pytest.approx(1, abs=1e-6)  # the official stretch moves it by a bit
        assert sigmas[-1] == 0
        assert sigmas[-2] == pytest.approx(0.1, abs=1e-6)
        assert (np.diff(sigmas) < 0).all()


def test_a_single_step_is_finite_at_every_size() -> None:
    for tokens in (4, 8, 100, 1024, 4096, 9000):
        sigmas = ltx2_sigmas(1, tokens=tokens)
        assert sigmas.tolist() == pytest.approx([0.1, 0.0], abs=1e-6)


def test_the_token_count_shifts_the_schedule() -> None:
    assert ltx2_sigmas(8, tokens=1024)[4] < ltx2_sigmas(8)[4]


def test_distilled_levels() -> None:
    assert DISTILLED_SIGMAS.tolist() == pytest.approx([1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0])
    assert np.array_equal(STAGE_2_DISTILLED_SIGMAS, DISTILLED_SIGMAS[5:])


def test_velocity_and_estimate_undo_each_other() -> None:
    x, v = mx.random.normal((1, 6, 4)), mx.random.normal((1, 6, 4))
    assert mx.allclose(to_velocity(x, 0.3, to_denoised(x, v, 0.3)), v, atol=1e-5)
    with pytest.raises(ValueError, match="sigma 0"):
        to_velocity(x, 0.0, x)


def test_estimate_takes_a_noise_level_per_token() -> None:
    x, v = mx.ones((1, 3, 2)), mx.ones((1, 3, 2))
    sigma = mx.array([0.0, 0.5, 1.0]).reshape(1, 3, 1)
    assert to_denoised(x, v, sigma)[0, :, 0].tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_last_step_lands_on_the_estimate(dtype: mx.Dtype) -> None:
    x, clean = mx.random.normal((1, 5, 8)).astype(dtype), mx.random.normal((1, 5, 8)).astype(dtype)
    after = euler_step(x, clean, np.array([0.1, 0.0], dtype=np.float32), 0)
    assert after.dtype == dtype
    assert mx.abs(after.astype(mx.float32) - clean.astype(mx.float32)).max() < (1e-6 if dtype == mx.float32 else 0.07)


def test_phi_near_zero_is_its_taylor_limit() -> None:
    assert phi(1, 0.0) == 1.0
    assert phi(2, 0.0) == 0.5
    assert phi(1, -1e-3) == pytest.approx(1 - 5e-4, rel=1e-6)


def test_res_2s_is_second_order() -> None:
    """x' = -x + sin(t) integrated over one step: halving h must divide the local error by about 2^3."""
    errors = []
    for h in (0.2, 0.1):
        a21, b1, b2 = res_2s_coefficients(h)
        exact = (1 + 0.5) * np.exp(-h) + 0.5 * (np.sin(h) - np.cos(h))
        middle = 1 + h * a21 * (np.sin(0) - 1)
        x = 1 + h * (b1 * (np.sin(0) - 1) + b2 * (np.sin(h / 2) - 1 - 0 * middle))
        errors.append(abs(x - exact))
    assert errors[0] / errors[1] > 6


@pytest.mark.parametrize("sigma", [np.float32(0.725), np.float64(0.31)])
def test_sde_coefficients_keep_the_variance_and_the_precision(sigma: np.floating) -> None:
    alpha, down, up = sde_coefficients(sigma)
    assert type(alpha) is type(sigma)
    assert up == pytest.approx(0.5 * float(sigma))
    assert (alpha * down) ** 2 + up**2 == pytest.approx(float(sigma) ** 2, rel=1e-6)


def test_sde_step_to_zero_is_the_estimate() -> None:
    x, clean, noise = (np.random.default_rng(i).standard_normal((1, 4, 3)) for i in range(3))
    assert sde_step(x, clean, np.float64(0.2), np.float64(0.0), noise) is clean
