"""The compiled loop: NumPy's sums bit for bit, and NumPy in its place where it cannot be had."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import sketch_kernel
from parity.sketch_kernel import fast_sketch, library
from reference_bridge.probe_sketch import PIECE, SKETCH_SUMS, Sketch, sketch


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and no library that this process has already loaded."""
    monkeypatch.setenv("LTX_PARITY_CACHE", str(tmp_path))
    library.cache_clear()
    yield tmp_path
    library.cache_clear()


def assert_same(found: Sketch, expected: Sketch) -> None:
    assert found.sums.tobytes() == expected.sums.tobytes()
    assert found.energy == pytest.approx(expected.energy, rel=1e-12)
    assert found.finite == expected.finite


def drawn(seed: int, size: int, exponent: int = 0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(size) * 2.0**exponent).astype(np.float32)


def test_where_there_is_a_compiler_the_loop_is_made_once_and_kept(fresh: Path) -> None:
    compiler = shutil.which("cc") is not None
    assert (library() is not None) == compiler
    kept = {path: path.stat().st_mtime_ns for path in fresh.glob("kernels/*")}
    assert len(kept) == compiler
    library.cache_clear()
    assert (library() is not None) == compiler
    assert {path: path.stat().st_mtime_ns for path in fresh.glob("kernels/*")} == kept


@settings(max_examples=100, deadline=None)
@given(size=st.integers(0, 12 * SKETCH_SUMS), seed=st.integers(0, 2**31), exponent=st.integers(-120, 100))
def test_the_sums_are_those_of_numpy(size: int, seed: int, exponent: int) -> None:
    values = drawn(seed, size, exponent)
    assert_same(fast_sketch(values), sketch(values))


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 2 * PIECE + 5 * SKETCH_SUMS + 3, 9 * PIECE + 17])
def test_tensors_of_several_pieces(size: int) -> None:
    values = drawn(size, size)
    assert_same(fast_sketch(values), sketch(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 3000, PIECE + 4])
def test_what_is_not_finite_is_left_out_and_counted(bad: float, at: int) -> None:
    values = drawn(1, PIECE + 700)
    values[at] = bad
    found = fast_sketch(values)
    assert_same(found, sketch(values))
    assert found.finite == values.size - 1
    assert math.isfinite(found.energy)


def test_the_largest_and_the_smallest_floats_and_zeros() -> None:
    extremes = np.float32(
        [np.finfo(np.float32).max, -np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, -0.0, 0.0]
    )
    values = np.tile(extremes, 700)
    assert_same(fast_sketch(values), sketch(values))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, bool])
def test_other_types_and_strided_tensors_are_numpys(dtype: type) -> None:
    values = (drawn(2, 4000) * 3).astype(dtype)
    assert_same(fast_sketch(values), sketch(values))
    assert_same(fast_sketch(drawn(3, 4000)[::2]), sketch(drawn(3, 4000)[::2]))


@pytest.mark.parametrize("trouble", ["no compiler", "a compiler that fails", "no folder", "no library"])
def test_without_the_loop_numpy_gives_the_same(fresh: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    if trouble == "no compiler":
        monkeypatch.setenv("PATH", str(fresh))
    elif trouble == "a compiler that fails":
        (fresh / "cc").write_text("#!/bin/sh\nexit 1\n")
        (fresh / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", str(fresh))
    elif trouble == "no folder":
        (fresh / "kernels").write_text("in the way")
    else:
        monkeypatch.setattr(sketch_kernel, "_compile", lambda path: (path.parent.mkdir(), path.write_bytes(b"no library")))
    assert library() is None
    assert_same(fast_sketch(drawn(4, 5000)), sketch(drawn(4, 5000)))
