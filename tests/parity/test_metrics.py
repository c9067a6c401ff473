"""Metrics: known values, and the properties that must hold for any tensors."""

import math
import tracemalloc

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


def _views(array):
    """The same values laid out in other ways."""
    yield array
    yield np.asfortranarray(array)
    yield np.repeat(array, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize("shape", [(70_001,), (3, 40_000), (1, 1, 90_000), (50, 7, 301), (40_000, 3)])
def test_layout_and_mask_change_no_number(shape):
    generator = np.random.default_rng(1)
    reference = generator.standard_normal(shape)
    native = reference + 1e-3 * generator.standard_normal(shape)
    for axes in range(len(shape)):
        mask = generator.random(shape[:axes]) < 0.7 if axes else None
        kept = (native, reference) if mask is None else (native[mask], reference[mask])
        expected = np.linalg.norm(kept[0] - kept[1]) / np.linalg.norm(kept[1])
        if not kept[0].size:
            continue
        for n, r in zip(_views(native), _views(reference), strict=True):
            found = measure(n, r, mask)
            assert found.count == kept[0].size
            assert found.rel_l2 == pytest.approx(expected, rel=1e-12)
            assert found.max_abs == np.abs(kept[0] - kept[1]).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_memory_beyond_the_tensors_is_bounded(dtype):
    """Up to 8 MB on each side, strided, broadcast, masked or of a type that has to be widened."""
    generator = np.random.default_rng(2)
    reference = (100 * generator.standard_normal((32, 128, 512), np.float32)).astype(dtype)
    native = reference + np.asarray(1, dtype)
    mask = generator.random((32, 128)) < 0.5
    transposed = native.transpose(1, 0, 2), reference.transpose(1, 0, 2)
    row = np.broadcast_to(native[:1], native.shape)
    tracemalloc.start()
    try:
        measure(native, reference, mask)
        measure(*transposed)
        measure(row, reference)
        psnr_db(native, reference, 255.0)
        along_axis(native, reference, 2)
        along_axis(native, reference, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2e6
