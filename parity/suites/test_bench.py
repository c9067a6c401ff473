"""The bench with the official code on the other side: equal token counts, steps, decoding, whole processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from parity.arbitration import checkpoint
from parity.arbitration.run import case_for_cli
from parity.bench import external, modes
from parity.bench.clock import interleave, summary
from parity.bench.sides import TINY, engines, shape, subjects
from parity.capture.service import same_blas
from parity.checkpoints import tiny
from parity.folders import cache_folder
from parity.plugin import Parity
from reference_bridge.adapters.ltx_2_mlx.trace import trace
from reference_bridge.environment import cache_dir, find_cli

pytestmark = pytest.mark.slow


def with_cli(test: Callable[..., None]) -> Callable[..., None]:
    skip = pytest.mark.skipif(not os.environ.get("LTX2_MLX_BIN"), reason="LTX2_MLX_BIN names no ltx-2-mlx")
    marked: Callable[..., None] = pytest.mark.external_cli(skip(test))
    return marked


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


@with_cli
def test_whole_processes_of_all_three_do_the_same_work(parity: Parity) -> None:
    row = external.measure(1, ["distilled"])["distilled"]
    parity.count(3)
    for engine in ("native", "official", external.CLI):
        assert row[engine]["steps"] == 11
        assert row[engine]["work"]["denoising"]["tokens"] == [[2, 9], [8, 9]]
        assert all(row[engine]["stages_s"][stage]["min"] > 0 for stage in external.STAGES if stage != "source")
        assert row[engine]["stages_s"]["source"]["max"] == 0
    for other in ("official", external.CLI):
        pair = row[f"native ÷ {other}"]
        assert set(pair["not the same work"]) <= {"load"}, row[other]["work"]
        assert ("load" in pair) is (other == "official")
        assert {"process", "peak", "step", "text", "upsampler", "picture", "sound"} <= pair.keys()


@with_cli
@pytest.mark.parametrize("mode", ["one-stage", "distilled"])
def test_clocks_change_no_byte_of_the_video(mode: str, parity: Parity, tmp_path: Path) -> None:
    cli = find_cli(os.environ, cache_dir(os.environ) / "surveys").require()
    files = checkpoint.make(cache_folder() / "arbitration")
    case = replace(case_for_cli(steps=2, mode=mode), num_frames=1)
    told = external.cli_run(case, files, cli, tmp_path / "clocks")()
    parity.count(1)
    assert all(told["stages_s"][name] > 0 for name in ("load", "gemma", "embeddings_processor", "vocoder", "video_decoder"))
    asked = replace(external.job(case, files), output_path=str(tmp_path / "plain.mp4"))
    plain = trace(asked, cli, {**os.environ, **same_blas()}, None, defaults=files.defaults(cli.version))
    assert (tmp_path / "clocks" / "video.mp4").read_bytes() == plain.video_path.read_bytes()
