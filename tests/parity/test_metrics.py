"""Metrics: known values, and the properties that must hold for any tensors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.metrics import MetricError, along_axis, measure, psnr_db

floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
)


def test_known_difference():
    result = measure(np.array([3.0, 4.0], np.float32), np.array([0.0, 4.0], np.float32))
    assert result.rel_l2 == pytest.approx(0.75)
    assert result.max_abs == 3.0
    assert result.cosine == pytest.approx(0.8)
    assert result.bias == pytest.approx(1.5 / math.sqrt(8))
    assert not result.exact


def test_pure_scale_error_is_seen_although_the_cosine_is_one():
    reference = np.linspace(-1, 1, 1000, dtype=np.float32)
    result = measure(reference * np.float32(1.1), reference)
    assert result.cosine == pytest.approx(1.0)
    assert result.rel_l2 == pytest.approx(0.1, rel=1e-5)


@given(floats)
def test_equal_tensors_are_exact(array):
    result = measure(array, array.copy())
    assert result.exact
    assert result.rel_l2 == 0
    assert result.snr_db == 400


@given(floats, st.floats(1e-3, 10))
def test_rel_l2_is_scale_free(array, factor):
    if not np.any(array):
        return
    noisy = array + np.float32(0.01) * np.abs(array).max()
    scaled = measure(noisy.astype(np.float64) * factor, array.astype(np.float64) * factor).rel_l2
    assert scaled == pytest.approx(measure(noisy.astype(np.float64), array.astype(np.float64)).rel_l2, rel=1e-6)


@given(floats, st.sampled_from([np.nan, np.inf, -np.inf]))
def test_not_finite_is_infinitely_far(array, poison):
    bad = array.copy()
    bad.reshape(-1)[-1] = poison
    result = measure(bad, array)
    assert not result.finite
    assert result.rel_l2 == math.inf
    # Two NaNs in the same place are not agreement either.
    assert not measure(bad, bad).finite


def test_zero_reference():
    zero = np.zeros(4, np.float32)
    assert measure(zero, zero).rel_l2 == 0
    assert measure(zero + 1, zero).rel_l2 == math.inf


def test_nothing_to_compare_is_an_error():
    with pytest.raises(MetricError, match="nothing to compare"):
        measure(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    with pytest.raises(MetricError, match="nothing to compare"):
        measure(np.ones((1, 2, 3)), np.ones((1, 2, 3)), np.zeros((1, 2), bool))
    with pytest.raises(MetricError, match="shape"):
        measure(np.ones(3), np.ones(4))


def test_mask_keeps_valid_tokens_only():
    reference = np.ones((1, 4, 8), np.float32)
    native = reference.copy()
    native[:, :2] = 100
    mask = np.array([[False, False, True, True]])
    assert measure(native, reference, mask).exact
    assert measure(native, reference, mask).count == 16


def test_squares_beyond_float32_are_measured():
    reference = np.full(10, 1e25, np.float32)
    assert measure(reference * np.float32(2), reference).rel_l2 == pytest.approx(1.0)


def test_chunks_agree_with_one_pass():
    generator = np.random.default_rng(0)
    reference = generator.standard_normal(200_001).astype(np.float32)
    native = reference + 1e-4 * generator.standard_normal(200_001).astype(np.float32)
    wide_native, wide_reference = native.astype(np.float64), reference.astype(np.float64)
    exact = np.linalg.norm(wide_native - wide_reference) / np.linalg.norm(wide_reference)
    assert measure(native, reference).rel_l2 == pytest.approx(exact, rel=1e-6)


def test_error_along_an_axis_points_at_the_guilty_index():
    reference = np.ones((2, 3, 4), np.float32)
    native = reference.copy()
    native[:, 1] += 1
    profile = along_axis(native, reference, 1)
    assert profile.tolist() == [0.0, 1.0, 0.0]


def test_psnr():
    assert psnr_db(np.zeros(4), np.zeros(4), 255) == 400
    assert psnr_db(np.full(4, 255.0), np.zeros(4), 255) == pytest.approx(0.0)
