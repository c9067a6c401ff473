"""What is kept of a tensor finds where its error sits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.align import align
from parity.bounds import Bounds
from parity.compare import Row
from parity.details import axis_names, collect_details, site_details, worth_showing
from parity.localise import Finding
from parity.measure_case import measure_pairs
from parity.metrics import measure
from parity.trace import Key, Record, Trace, TraceWriter

RANDOM = np.random.default_rng(0)
BOUNDS = Bounds("float32", 1e-5, ())


def row(site: str, error: float) -> Row:
    reference = np.ones((1, 4, 4))
    measured = measure(reference * (1 + error), reference)
    return Row(0, Key(site, "stage_1", 0, "cond", 0), "Linear", "", (1, 4, 4), "float32", measured, measured)


@pytest.mark.parametrize(
    ("site", "shape", "at", "axis"),
    [
        ("transformer.transformer_blocks.0", (1, 40, 16), (0, 7, 3), "token"),
        ("video_decoder.conv_out", (1, 5, 8, 8, 3), (0, 2, 6, 1, 0), "frame"),
        ("vocoder", (1, 4000, 2), (0, 1999, 1), "sample"),
        ("audio_decoder.conv_out", (1, 9, 16, 2), (0, 8, 4, 1), "time"),
    ],
)
def test_a_local_error_is_found_along_every_axis(site: str, shape: tuple[int, ...], at: tuple[int, ...], axis: str) -> None:
    reference = RANDOM.normal(size=shape)
    native = reference.copy()
    native[at] += 5.0
    found = site_details(site, native, reference)
    assert tuple(found["worst"][0]["index"]) == at
    assert len(found["worst"]) == 1, "equal elements are no worst elements"
    profiles = {profile["axis"]: profile for profile in found["profiles"]}
    assert axis in profiles
    for name, profile in profiles.items():
        assert len(profile["rel_l2"]) <= 256
        assert int(np.argmax(profile["rel_l2"])) == at[axis_names(site, len(shape)).index(name)] // profile["per_bin"]
    image = found["images"]["difference"]
    assert image["high"] == pytest.approx(5.0)
    assert image["shape"][0] <= 64
    assert image["shape"][1] <= 96


def test_histograms_count_every_element() -> None:
    reference = RANDOM.normal(size=(1, 30, 20))
    found = site_details("transformer", reference + 1e-3, reference)
    assert sum(found["histogram"]["native"]) == sum(found["histogram"]["reference"]) == reference.size
    assert sum(found["difference"]["counts"]) == reference.size


def test_masked_tokens_do_not_count() -> None:
    reference = RANDOM.normal(size=(1, 6, 4))
    native = reference.copy()
    native[:, :2] = 99.0
    mask = np.array([[False, False, True, True, True, True]])
    assert site_details("gemma", native, reference, mask)["worst"] == []


def test_nan_is_shown_as_the_worst_element() -> None:
    reference = RANDOM.normal(size=(1, 6, 4))
    native = reference.copy()
    native[0, 3, 2] = np.nan
    found = site_details("gemma", native, reference)
    assert found["worst"][0]["index"] == [0, 3, 2]
    assert found["not_finite"] == {"native": 1, "reference": 0}


@pytest.mark.parametrize("native", [None, np.ones((1, 3, 3))])
def test_what_cannot_be_compared_says_so(native: np.ndarray | None) -> None:
    assert site_details("gemma", native, np.ones((1, 6, 4)))["problem"]


def test_the_guilty_and_the_worst_get_pages() -> None:
    rows = [row("a", 1e-7), row("b", 1e-6), row("c", 1.0), row("d", 0.1), row("d", 0.2)]
    finding = Finding("wiring", rows[0].key, "", "a", 1.0, 1e-3, "a was handed another input")
    chosen = worth_showing(rows, {2, 3, 4}, BOUNDS, finding, limit=4)
    assert chosen[0] == 0, "the finding comes first although it is in bound"
    assert chosen[1] == 2, "then the first failing"
    assert set(chosen) == {0, 2, 4, 1}, "one row per site, its worst"


def test_details_are_found_again_in_the_traces(tmp_path: Path) -> None:
    """The whole way: two traces with other layouts, a site that is replayed, one that only runs, one of gemma with padding."""
    video = RANDOM.normal(size=(1, 4, 2, 3, 3)).astype(np.float32)  # channels first, as the reference has it
    moved = np.moveaxis(video, 1, -1).copy()
    moved[0, 1, 2, 0, 3] += 2.0
    hidden = RANDOM.normal(size=(1, 5, 4)).astype(np.float32)
    padded = hidden.copy()
    padded[0, 0] = 50.0  # the padding differs and does not count
    padded[0, 3, 1] += 1.0
    mask = np.array([[0, 1, 1, 1, 1]])
    latent = RANDOM.normal(size=(1, 6, 8)).astype(np.float32)
    for side, text, frames in (("reference", hidden, video), ("native", padded, moved)):
        with TraceWriter(tmp_path / side, {"side": side}) as writer:
            given = {"attention_mask": writer.store(mask)}
            writer.append("gemma", writer.store(text), inputs=given, type_name="Gemma", stage="stage_1")
            shown = latent + (0.5 if side == "native" else 0.0)
            writer.append("denoised", writer.store(shown), type_name="X0", stage="stage_1", step=0, guidance_pass="cond")
            writer.append("video_decoder", writer.store(frames), type_name="VideoDecoder", stage="stage_1")
    reference, native = Trace(tmp_path / "reference"), Trace(tmp_path / "native")
    alignment = align(reference.records, native.records)

    def replay(record: Record) -> dict[str, np.ndarray] | None:
        return {"": moved if record.key.site == "video_decoder" else padded} if record.key.site != "denoised" else None

    rows = measure_pairs(alignment, reference, native, replay)
    assert [row.key.site for row in rows] == ["gemma", "denoised", "video_decoder"]
    wanted = worth_showing(rows, {0, 2}, BOUNDS)
    text, *others = collect_details(rows, wanted, alignment, reference, native, replay)
    by_site = {rows[d["row"]].key.site: d for d in (text, *others)}
    assert by_site["gemma"]["worst"][0]["index"] == [0, 3, 1], "padding must not be the worst element"
    assert by_site["video_decoder"]["worst"][0]["index"] == [0, 1, 2, 0, 3], "in the native layout"
    assert by_site["video_decoder"]["local"] is True
    assert by_site["denoised"]["local"] is False
    assert len(by_site["denoised"]["worst"]) == 10
    assert collect_details(rows, [0], align([], []), reference, native, replay)[0]["problem"]
