"""The bench with the official code on the other side: equal token counts, steps, decoding, whole processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from parity.bench import external, modes
from parity.bench.clock import interleave, summary
from parity.bench.sides import TINY, engines, shape, subjects
from parity.checkpoints import tiny
from parity.plugin import Parity

pytestmark = pytest.mark.slow


def test_both_engines_take_the_same_steps_in_turns(parity: Parity, tmp_path: Path) -> None:
    with engines(tiny(), "tiny", tmp_path, cli=False) as services:
        for size in (TINY, replace(TINY, guided=True), replace(TINY, blocks=1)):
            assert shape(services, size) == {"video_tokens": 18, "audio_tokens": 17}
            found = summary(interleave(subjects(services, repeat=2), rounds=2, warmup=1))
            parity.count(len(services))
            assert found["native ÷ official"]["cpu"]["min"] > 0
        decoded = interleave(subjects(services, "decode"), rounds=1, warmup=0)
        assert all(sample.seconds > 0 for runs in decoded.values() for sample in runs)
        assert all(service.peak_bytes > 50e6 for service in services.values())


def test_a_mode_is_measured_on_both_sides(parity: Parity) -> None:
    found = modes.measure(1, ["two-stage-hq"])["two-stage-hq"]
    parity.count(2)
    for engine in ("native", "official"):
        told = found[engine]
        assert told["process"]["wall_s"]["min"] > told["step"]["wall_s"]["min"] > 0
        assert told["peak_bytes"]["min"] > 50e6
        assert told["stages_s"]["load"]["min"] > 0
    # The last step of each of the two stages evaluates once, outside of the official loop's count.
    assert found["native"]["steps"] == found["official"]["steps"] + 2


def test_a_mode_without_an_official_pipeline_has_native_alone(parity: Parity) -> None:
    row = modes.measure(1, ["extend"])["extend"]
    parity.count(1)
    assert row["native"]["steps"] == 8
    assert row["left out"] == {"official": modes.LEFT_OUT["extend"]}
    assert "official" not in row
    assert not [name for name in row if "÷" in name]


@pytest.mark.external_cli
@pytest.mark.skipif(not os.environ.get("LTX2_MLX_BIN"), reason="LTX2_MLX_BIN names no ltx-2-mlx")
def test_whole_processes_of_all_three_do_the_same_work(parity: Parity) -> None:
    row = external.measure(1, ["distilled"])["distilled"]
    parity.count(3)
    for engine in ("native", "official", external.CLI):
        assert row[engine]["steps"] == 11
        assert row[engine]["work"]["denoising"]["tokens"] == [[2, 9], [8, 9]]
        assert all(row[engine]["stages_s"][stage]["min"] > 0 for stage in external.STAGES)
    for other in ("official", external.CLI):
        pair = row[f"native ÷ {other}"]
        assert pair["not the same work"] == ["load"], row[other]["work"]
        assert {"process", "peak", "step", "text", "upsampler", "picture", "sound"} <= pair.keys()
