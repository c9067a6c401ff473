"""Sketches: the same on both sides, additive, as near as they say, small; suspects in order."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.align import align
from parity.metrics import MetricError, measure
from parity.search import suspects_of
from parity.sites import to_native_layout, to_reference_layout
from parity.sketch import SKETCH_SUMS, Estimate, SketchRow, estimate, estimates, merge, of, read, sketching
from parity.trace import Key, Trace, TraceWriter

Array = npt.NDArray[np.float32]
MODALITIES = ("video", "audio")


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda r: 1e-7 * normal(1, *r.shape) * r, id="rounding"),
        pytest.param(lambda r: 0.02 * r, id="scale"),
        pytest.param(lambda r: np.full_like(r, 1e-3), id="bias"),
        pytest.param(lambda r: np.where(np.arange(r.shape[-1]) == 5, r, 0), id="one channel"),
        pytest.param(lambda r: np.where(np.arange(r.shape[1])[:, None] == 7, r, 0), id="one token"),
        pytest.param(lambda r: np.roll(r, 1, axis=1) - r, id="shift"),
    ],
)
def test_the_estimate_is_within_ten_percent_whatever_the_error(error) -> None:
    reference = normal(0, 1, 700, 256)
    native = (reference.astype(np.float64) + error(reference)).astype(np.float32)
    exact = measure(native, reference)
    found = estimate(of(native), of(reference), reference.size)
    assert found.rel_l2 == pytest.approx(exact.rel_l2, rel=0.1)
    assert abs(found.cosine - exact.cosine) <= 4 * found.cosine_deviation + 1e-6
    assert found.deviation == pytest.approx(1 / math.sqrt(2 * SKETCH_SUMS))


def test_the_stated_deviation_is_the_spread_over_tensors() -> None:
    ratios = []
    for seed in range(200):
        reference, native = normal(2 * seed, 40_000), normal(2 * seed + 1, 40_000)
        ratios.append(estimate(of(native), of(reference), 40_000).rel_l2 / measure(native, reference).rel_l2)
    assert np.std(ratios) == pytest.approx(1 / math.sqrt(2 * SKETCH_SUMS), rel=0.25)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 3000),
    cuts=st.lists(st.integers(0, 3000), max_size=4),
    seed=st.integers(0, 2**31),
    exponent=st.integers(-30, 30),
)
def test_sketches_of_pieces_add_up(size: int, cuts: list[int], seed: int, exponent: int) -> None:
    from reference_bridge.probe_sketch import sketch

    values = normal(seed, size) * np.float32(2.0**exponent)
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    total = sketch(values[:0])
    for start, end in pairwise(edges):
        total = merge(total, sketch(values[start:end], start))
    whole = sketch(values)
    np.testing.assert_allclose(total.sums, whole.sums, rtol=1e-12, atol=1e-12 * 2.0**exponent)
    assert total.energy == pytest.approx(whole.energy, rel=1e-12)
    assert total.finite == size


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, SKETCH_SUMS), seed=st.integers(0, 2**31), gap=st.floats(1e-6, 10))
def test_small_tensors_are_exact(size: int, seed: int, gap: float) -> None:
    reference = normal(seed, size) + np.float32(3)
    native = (reference + np.float32(gap) * normal(seed + 1, size)).astype(np.float32)
    found, exact = estimate(of(native), of(reference), size), measure(native.astype(np.float64), reference.astype(np.float64))
    assert found.deviation == 0.0
    assert found.rel_l2 == pytest.approx(exact.rel_l2, rel=1e-9, abs=1e-15)
    assert found.cosine == pytest.approx(exact.cosine, abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", MODALITIES)
def test_what_is_not_finite_is_infinitely_far(bad: float, side: str) -> None:
    good = normal(0, 3000)
    broken = good.copy()
    broken[17] = bad
    pair = (of(broken), of(good)) if side == "video" else (of(good), of(broken))
    found = estimate(*pair, good.size)
    assert (found.rel_l2, found.finite) == (math.inf, False)
    assert of(broken).finite == good.size - 1


def test_zeros_and_emptiness() -> None:
    zero, one = np.zeros(600, np.float32), np.ones(600, np.float32)
    assert estimate(of(zero), of(zero), 600) == Estimate(0.0, 1.0, estimate(of(zero), of(zero), 600).deviation, True)
    assert estimate(of(one), of(zero), 600).rel_l2 == math.inf
    assert estimate(of(zero), of(one), 600).rel_l2 == pytest.approx(1.0, rel=0.1)
    with pytest.raises(MetricError, match="empty"):
        estimate(of(zero[:0]), of(zero[:0]), 0)


def test_bfloat16_is_widened_before_it_is_sketched() -> None:
    values = mx.array(normal(3, 2, 700)).astype(mx.bfloat16)
    widened = np.array(values.astype(mx.float32))
    np.testing.assert_array_equal(of(widened).sums, of(np.array(mx.array(widened))).sums)
    assert estimate(of(widened), of(normal(3, 2, 700)), 1400).rel_l2 == pytest.approx(2e-3, rel=0.5)


@pytest.mark.parametrize(
    ("site", "shape"), [("video_decoder.conv_in", (1, 3, 2, 4, 5)), ("vocoder", (1, 2, 40)), ("gemma.norm", (1, 4, 8))]
)
def test_layouts_go_there_and_back(site: str, shape: tuple[int, ...]) -> None:
    reference = normal(0, *shape)
    native = to_native_layout(site, reference)
    np.testing.assert_array_equal(to_reference_layout(site, native), reference)


def _trace(folder: Path, side: str, sketched: bool, scale: float = 1.0) -> Trace:
    """Two sites, one of them in another layout on the native side, both a little off by ``scale``."""
    with TraceWriter(folder, {"side": side, "engine": side}) as writer:
        for site, shape in (("transformer.transformer_blocks.0", (1, 9, 300)), ("video_decoder", (1, 3, 9, 16, 16))):
            array = normal(len(site), *shape) * np.float32(scale)
            array = to_native_layout(site, array) if side == "native" else array
            store = sketching(writer, site) if sketched and side == "native" else writer.store
            tree = store(array, "float32")
            block = {"items": [{"fields": {"x": tree}}, {"value": None}]} if site.startswith("transformer") else tree
            kind = "BasicAVTransformerBlock" if site.startswith("transformer") else "VideoDecoder"
            writer.append(site, block, type_name=kind, stage="stage_1")
    return Trace(folder)


@pytest.mark.parametrize("sketched", [False, True])
def test_a_trace_of_sketches_is_compared_like_one_of_tensors(tmp_path: Path, sketched: bool) -> None:
    reference = _trace(tmp_path / "reference", "reference", sketched)
    native = _trace(tmp_path / "native", "native", sketched, scale=1.01)
    rows = estimates(align(reference.records, native.records), native, reference)
    assert [(row.key.site, row.output, row.problem) for row in rows] == [
        ("transformer.transformer_blocks.0", "0.x", ""),
        ("video_decoder", "", ""),
    ]
    assert [row.error for row in rows] == pytest.approx([0.01, 0.01], rel=0.1)


def test_a_missing_output_and_another_shape_are_problems(tmp_path: Path) -> None:
    def trace(name: str, tree: dict[str, object], extra: dict[str, object]) -> Trace:
        with TraceWriter(tmp_path / name, {"side": name}) as writer:
            kept = {key: writer.store(value) for key, value in {**tree, **extra}.items()}  # type: ignore[arg-type]
            writer.append("denoised", {"fields": kept}, kind="function", stage="stage_1")
        return Trace(tmp_path / name)

    one = trace("reference", {"video": normal(0, 1, 4, 8)}, {"audio": normal(1, 1, 3, 8)})
    other = trace("native", {"video": normal(0, 1, 5, 8)}, {})
    rows = estimates(align(one.records, other.records), other, one)
    assert {row.output: row.error for row in rows} == {"video": math.inf, "audio": math.inf}
    assert "shape" in next(row.problem for row in rows if row.output == "video")


def test_a_step_of_the_whole_model_is_a_small_trace(tmp_path: Path) -> None:
    """48 blocks, 4 guidance passes, both modalities at the checkpoint's widths; a sketch does not grow with tokens."""
    with TraceWriter(tmp_path / "trace", {"side": "native"}) as writer:
        for guidance_pass in ("cond", "uncond", "stg", "modality"):
            for block in range(48):
                site = f"transformer.transformer_blocks.{block}"
                store = sketching(writer, site)
                tokens = [normal(7 * block + len(guidance_pass), 1, 40, width) for width in (4096, 2048)]
                tree = {"items": [{"fields": {"x": store(array, "float32")}} for array in tokens]}
                kind = "BasicAVTransformerBlock"
                writer.append(site, tree, type_name=kind, stage="stage_1", step=0, guidance_pass=guidance_pass)
    size = sum(path.stat().st_size for path in (tmp_path / "trace").iterdir())
    print(f"{size / 1e6:.2f} MB")
    assert len(Trace(tmp_path / "trace").records) == 192
    assert size <= 5_000_000


def test_a_stored_sketch_is_read_as_it_was_made(tmp_path: Path) -> None:
    array = normal(5, 20, 20)
    with TraceWriter(tmp_path / "trace", {"side": "native"}) as writer:
        writer.append("gemma.norm", sketching(writer, "gemma.norm")(array, "float32"), stage="stage_1")
    trace = Trace(tmp_path / "trace")
    found, made = read(trace, trace.records[0].outputs), of(array)
    np.testing.assert_array_equal(found.sums, made.sums)
    assert (found.finite, found.energy) == (400, pytest.approx(made.energy))


def test_suspects_come_in_execution_order_and_once() -> None:
    def row(site: str, error: float, index: int) -> SketchRow:
        return SketchRow(index, Key(site, "stage_1", 0, "cond", 0), "", Estimate(error, 1.0, 0.03, True))

    rows = [row("a", 1e-7, 0), row("b", 1e-3, 1), row("c", 1e-2, 2), row("b", 1.0, 3), row("d", 1.0, 4), row("e", 1.0, 5)]
    assert suspects_of(rows, 1e-5) == ("b", "c", "d")
    assert suspects_of([row("schedule", 1e-9, 0)], 1e-5) == ("schedule",)  # exact sites may not differ at all
    assert suspects_of(rows[:1], 1e-5) == ()
