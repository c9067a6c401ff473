"""One block of weights at a time on both sides: drawn tokens, recorded ones, quantised weights, a planted mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.convert import convert
from parity.bench import one_block
from parity.bench.sides import Size
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.folders import cache_folder
from parity.plugin import Parity
from parity.stream import StreamResult, compare_streamed
from parity.stream_request import StreamRequest

SMALL = StreamRequest(width=64, height=64, text_tokens=16)


def _opened(checkpoint: Checkpoint) -> NativeCheckpoint:
    return NativeCheckpoint.open(str(checkpoint.model))


def _check(found: StreamResult, parity: Parity) -> None:
    parity.count(len(found.case.rows))
    assert found.judgement.verdict == "pass", found.judgement.reasons
    assert len(found.seconds) == 2
    assert all(peak > 0 for peak in found.peak_bytes.values())


def test_drawn_tokens_run_through_every_block(checkpoint: Checkpoint, parity: Parity, tmp_path: Path) -> None:
    found = compare_streamed(_opened(checkpoint), SMALL, tmp_path / "out", tmp_path / "scratch")
    _check(found, parity)
    sites = {row.key.site for row in found.case.rows}
    assert {
        "transformer.prepare",
        "transformer.transformer_blocks.0",
        "transformer.transformer_blocks.1",
        "transformer",
    } == sites
    assert (tmp_path / "out" / "report.html").is_file()
    assert not list((tmp_path / "scratch").iterdir())


def test_quantised_blocks_against_the_numbers_they_stand_for(checkpoint: Checkpoint, parity: Parity, tmp_path: Path) -> None:
    convert(checkpoint.model, tmp_path / "split", dtype="q4", group_size=32)
    _check(compare_streamed(NativeCheckpoint.open(str(tmp_path / "split")), SMALL), parity)


@pytest.mark.slow
@pytest.mark.parametrize("guidance_pass", ["cond", "stg"])
def test_a_recorded_run_is_taken_up_at_a_block(checkpoint: Checkpoint, parity: Parity, guidance_pass: str) -> None:
    trace, _ = ReferenceCache(cache_folder() / "reference").capture(T2V_SQUARE, checkpoint)
    request = StreamRequest(trace=trace.folder, step=1, guidance_pass=guidance_pass)
    _check(compare_streamed(_opened(checkpoint), request), parity)
    alone = StreamRequest(trace=trace.folder, step=1, guidance_pass=guidance_pass, blocks=(1,))
    found = compare_streamed(_opened(checkpoint), alone)
    parity.count(len(found.case.rows))
    assert found.judgement.verdict == "pass", found.judgement.reasons


def test_a_mistake_in_one_block_is_named_with_its_module(checkpoint: Checkpoint, parity: Parity) -> None:
    found = compare_streamed(_opened(checkpoint), StreamRequest(width=64, height=64, plant=("weight-slice", 1)))
    parity.count(len(found.case.rows))
    assert found.judgement.verdict == "fail"
    assert found.case.finding is not None
    assert found.case.finding.key.site == "transformer.transformer_blocks.1.attn1.to_q"


@pytest.mark.slow
def test_the_bench_of_one_block_measures_the_same_computation(checkpoint: Checkpoint, parity: Parity) -> None:
    config = _opened(checkpoint).located.raw_config
    found = one_block.measure(checkpoint.model, config, 1, Size(64, 64, 9, 24.0, text_tokens=16), index=1)
    for row in found.values():
        parity.count(len(row["rel_l2"]))
        assert max(row["rel_l2"].values()) <= one_block.TARGETS["rel_l2"]
        assert row["tokens"] == [8, 9]
