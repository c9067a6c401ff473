"""The bench: samples in turns, growth exponents, the native services it asks, its table, its plots, its command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import load_file

from parity.bench import external, modes, throughput
from parity.bench.__main__ import main
from parity.bench.clock import Sample, exponent, interleave, spread, summary
from parity.bench.native_side import Block, Steps
from parity.bench.one_block import TARGETS
from parity.bench.plots import draw
from parity.bench.tables import table
from parity.capture.reference import ReferenceUnavailable
from parity.cases import Case, Guidance, Image
from parity.checkpoints import tiny

SIZE = {"width": 64, "height": 64, "frames": 9, "frame_rate": 24.0, "text_tokens": 16, "guided": False}


def test_subjects_take_turns_and_warming_up_is_not_counted():
    order: list[str] = []

    def subject(name: str, seconds: float):
        def run() -> Sample:
            order.append(name)
            return Sample(seconds, seconds / 2)

        return run

    found = interleave({"native": subject("native", 1.0), "official": subject("official", 4.0)}, rounds=3, warmup=1)
    assert [len(runs) for runs in found.values()] == [3, 3]
    assert order == ["official", "native", "native", "official"] * 2
    told = summary(found)
    assert told["native"]["cpu_s"] == {"min": 0.5, "median": 0.5, "max": 0.5}
    assert told["native ÷ official"]["wall"]["median"] == 0.25


def test_growth_exponent():
    assert exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="two sizes"):
        exponent([4, 4], [1.0, 2.0])
    assert spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps(str(tiny().model))


def test_native_steps_at_a_size(steps: Steps):
    assert steps.shape({**SIZE, "blocks": 1}) == {"video_tokens": 8, "audio_tokens": 9, "blocks": 1}
    assert steps.shape({**SIZE, "guided": True})["blocks"] == 2
    for answer in (steps.step({}), steps.decode({})):
        assert answer["seconds"] > 0


@pytest.mark.parametrize(("every", "least"), [(False, 2), (True, 100)])
def test_recording_records(steps: Steps, every: bool, least: int):
    steps.shape(SIZE)
    counts = {what: steps.record({"what": what, "every": every})["records"] for what in ("sketch", "tensors")}
    assert counts["sketch"] == counts["tensors"] >= least
    assert "records" not in steps.record({"what": "", "every": every})
    assert type(steps.transformer).__name__ == "LTXModel"


@pytest.mark.parametrize("plain", [False, True])
def test_one_native_block_hands_over_what_it_computes_with(tmp_path: Path, plain: bool):
    block = Block(str(tiny().model))
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("weights", "inputs", "output")}
    told = block.load({**SIZE, "index": 1, "plain": plain, "weights": files["weights"], "inputs": files["inputs"]})
    assert told["tokens"] == [8, 9]
    assert block.run({"output": files["output"]})["seconds"] > 0
    before, after = load_file(files["inputs"]), load_file(files["output"])
    assert set(after) == {"video.x", "audio.x"}
    assert not np.array_equal(before["video.x"], after["video.x"])
    assert "attn1.to_q.weight" in load_file(files["weights"])


def test_throughput_is_measured_in_bounded_memory():
    found = throughput.measure(megabytes=8, rounds=2)
    assert all(found[name]["gb_per_s"]["min"] > 0 for name in throughput.PAIRS)
    assert found["extra_bytes"] < throughput.TARGETS["extra_bytes"]


def test_a_process_is_measured_whole(tmp_path: Path):
    program = "import json; x = bytes(50_000_000); print(json.dumps({'steps': [], 'stages_s': {}}))"
    found = modes.process([sys.executable, "-c", program])
    assert found["peak_bytes"] > 50e6
    assert found["process_s"] > 0
    with pytest.raises(ReferenceUnavailable, match="status 3"):
        modes.process([sys.executable, "-c", "import sys; sys.exit(3)"])


def test_a_child_of_the_process_counts_and_a_report_is_read(tmp_path: Path):
    child = "x = bytes(80_000_000); sum(range(1_000_000))"
    report = tmp_path / "report.json"
    program = (
        f"import subprocess, sys, pathlib; subprocess.run([sys.executable, '-c', {child!r}], check=True); "
        f"pathlib.Path({str(report)!r}).write_text('{{}}'); print('not JSON')"
    )
    found = modes.process([sys.executable, "-c", program], report)
    assert found["peak_bytes"] > 80e6
    assert found["process_cpu_s"] > 0


def test_a_request_survives_its_way_through_a_file():
    case = Case(
        "all", images=(Image("a.png", 8, 0.5),), loras=(("l", 0.8),), video=Guidance(2.0, 1.0, 3.0, 0.7, (3, 4)), audio_path="s"
    )
    assert Case.of(json.loads(json.dumps(case.request()))) == case
    assert Case.of(Case("plain").request()) == Case("plain")


def test_a_native_run_tells_what_it_worked_on(tmp_path: Path):
    case = replace(modes.bench_cases()["extend"], steps=2)
    told = modes.process(modes.native(case, tiny(), tmp_path))
    assert (tmp_path / "native.mp4").stat().st_size > 0
    assert told["work"]["tokens"] == [[4 * 6, 43]]  # (25 + 16) / 24 s of 25 audio tokens
    assert told["work"]["shapes"]["video_decoder"] == [1, 3, 41, 64, 64]
    assert told["work"]["calls"]["embeddings_processor"] == 2
    assert len(told["steps"]) == 2
    assert told["stages_s"]["source"] > 0
    assert "tokens" not in told["stages_s"]
    found = external.common(told)
    assert found["stages_s"]["rest"] > 0
    assert sum(found["stages_s"].values()) == pytest.approx(told["process_s"])
    assert sum(found["stages_cpu_s"].values()) == pytest.approx(told["process_cpu_s"])


def _run(cpu: float, *, sound: int = 1000, loaded: int = 0) -> dict:
    """What an engine tells; every stage takes `cpu` seconds."""
    stages = dict.fromkeys(("load", "gemma", "video_decoder", "vocoder"), cpu)
    weights = {"gemma": 50, "transformer": 300, "video_decoder": 4000, "vocoder": sound, "video_encoder": loaded}
    shapes = {"video_decoder": [1, 3, 9, 64, 64], "vocoder": [1, 2, 15840]}
    weights = {name: count for name, count in weights.items() if count}
    work = {"calls": {"embeddings_processor": 2}, "weights": weights, "shapes": shapes, "tokens": [[8, 9]]}
    spent = {"process_s": 10 * cpu, "process_cpu_s": 10 * cpu, "peak_bytes": int(1e9 * cpu)}
    return {"steps": [{"seconds": cpu, "cpu_s": cpu}] * 2, "stages_s": stages, "stages_cpu_s": stages, "work": work, **spent}


def test_only_the_same_work_is_divided():
    runs = {"native": [_run(1.0)], "official": [_run(2.0, loaded=5000)], "ltx-2-mlx": [_run(4.0, sound=2000)]}
    row = external.summary(runs)
    assert row["native ÷ official"]["not the same work"] == ["load"]
    assert row["native ÷ official"]["process"]["median"] == row["native ÷ official"]["sound"]["median"] == 0.5
    assert "load" not in row["native ÷ official"]
    other = row["native ÷ ltx-2-mlx"]
    assert other["not the same work"] == ["load", "sound"]
    assert other["step"]["median"] == other["picture"]["median"] == 0.25
    assert not {"process", "process wall", "peak", "sound", "load", "upsampler", "rest"} & other.keys()
    assert row["native"]["stages_cpu_s"]["rest"]["median"] == pytest.approx(10 - 4 - 2)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [(1000, 1009, True), (1000, 1020, False), ([8, 9], [8, 9], True), ([8, 9], [2, 9], False), (0, 0, True)],
)
def test_work_is_the_same_within_a_hundredth(a: object, b: object, equal: bool):
    assert external.same(a, b) is equal
    assert external.same({"x": a}, {"x": b}) is equal
    assert not external.same({"x": a}, {"y": a})
    assert not external.same({"x": a}, None)


def test_whole_processes_are_told_and_drawn(tmp_path: Path):
    runs = {"native": [_run(1.0)], "ltx-2-mlx": [_run(4.0, sound=2000)]}
    row = external.summary(runs) | {"left out": {"official": "no such pipeline"}, "rounds": 1, "version": "0.14.19"}
    text = table({"cli": {"extend": row}})
    assert "extend (1 rounds, ltx-2-mlx 0.14.19)" in text
    assert "not the same work: ltx-2-mlx" in next(line for line in text.splitlines() if line.strip().startswith("sound"))
    assert "official left out: no such pipeline" in text
    assert "picture 0.25" in text
    assert "process 0.25" not in text
    drawn = draw({"cli": {"extend": row}}, tmp_path)
    assert [path.name for path in drawn] == ["ratios.svg", "stages.svg"]
    assert "extend, ltx-2-mlx" in drawn[1].read_text()
    assert "extend, step (ltx-2-mlx)" in drawn[0].read_text()
    assert "extend, process" not in drawn[0].read_text()


def test_without_a_cli_its_section_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delenv("LTX2_MLX_BIN", raising=False)
    monkeypatch.setattr("parity.bench.__main__.DEFAULT", ("cli",))
    assert main(["--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("cli: left out, LTX2_MLX_BIN names no ltx-2-mlx")
    monkeypatch.setenv("LTX2_MLX_BIN", str(tmp_path / "absent"))
    assert main(["cli", "--output", str(tmp_path)]) == 3
    assert "absent" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def _engines(cpu: float) -> dict:
    times = {"min": cpu, "median": cpu, "max": cpu}
    ratio = {"wall": {"min": 0.5, "median": 0.5, "max": 0.5}, "cpu": {"min": 0.5, "median": 0.5, "max": 0.5}}
    return {
        "native": {"wall_s": times, "cpu_s": times},
        "official": {"wall_s": times, "cpu_s": times},
        "native ÷ official": ratio,
        "peak_bytes": {"native": 1e9, "official": 2e9},
        "rounds": 1,
    }


def _found() -> dict:
    point = {"x": 1, **_engines(1.0)}
    return {
        "steps": {"mid forward": {**_engines(1.0), "tokens": {"video_tokens": 256, "audio_tokens": 64}}},
        "block": {"float32": {**_engines(1.0), "tokens": [1650, 101], "rel_l2": {"video": 1e-4, "audio": 1e-7}}},
        "growth": {"blocks": {"points": [point, {**point, "x": 2}], "exponents": {"native": 1.0, "official": 1.1}}},
    }


def test_the_table_says_what_misses_its_target():
    text = table(_found())
    assert "target: native ÷ official at most 0.95: 0.500 ✓" in text
    assert "rel_l2 video 0.0001, audio 1e-07; peak 2.00 GB ✗" in text
    assert TARGETS["rel_l2"] == 1e-5


def test_a_mode_is_told_with_its_stages():
    times = {"min": 1.0, "median": 1.0, "max": 1.0}
    both = {"wall": times, "cpu": times}
    side = {
        "process": {"wall_s": times, "cpu_s": times},
        "peak_bytes": {"min": 1e9, "median": 1e9, "max": 1e9},
        "step": {"wall_s": times, "cpu_s": times},
        "stages_s": {"load": times, "step": {"min": 2.0, "median": 2.0, "max": 2.0}},
    }
    alone = {"native": side, "left out": {"official": "no such pipeline"}}
    rows = {"a2v": {"native": side, "official": side, "native ÷ official": {"step": both}}, "extend": alone}
    text = table({"modes": rows})
    assert "a2v" in text
    assert "(no such pipeline)" in next(line for line in text.splitlines() if line.strip().startswith("extend"))
    assert "a2v, native stages in s: step 2.000, load 1.000" in text


def test_plots_are_svg(tmp_path: Path):
    drawn = draw(_found(), tmp_path)
    assert [path.name for path in drawn] == ["growth.svg", "ratios.svg"]
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert not draw({}, tmp_path / "none")


def test_sections_are_kept_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "bench.json").write_text(json.dumps({"schema": 1, "growth": _found()["growth"]}))
    assert main(["throughput", "--megabytes", "4", "--rounds", "1", "--output", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert {"growth", "throughput", "throughput environment"} <= kept.keys()
    assert "blocks: native" in (tmp_path / "bench.txt").read_text()
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["steps", "--rounds", "0"], ["block", "--checkpoint", "nowhere"]])
def test_bad_input_is_refused(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("bench: ")
    assert not (tmp_path / "bench.json").exists()
