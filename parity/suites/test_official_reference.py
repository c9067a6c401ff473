"""The official reference itself: right by the golden, unchanged by its probe, repeatable from its recorded draws.

Each test runs the real packages in their own process on the tiny checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from parity.capture.reference import ReferenceUnavailable, reference_python, run_official
from parity.folders import ROOT
from parity.trace import Trace, leaves
from parity.world.random_checkpoint import write_checkpoint

GOLDENS = Path(os.environ.get("LTX_PARITY_GOLDENS") or Path(__file__).parents[3] / "shared" / "goldens")
GOLDEN = GOLDENS / "transformer_git_1.2.0.safetensors"
GUIDANCE = ["--stg-blocks=1", "--audio-stg-blocks=1"]
SIZE = ["--height=64", "--width=64", "--frames=9", "--frame-rate=25", "--steps=2", "--seed=7"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = write_checkpoint(tmp_path_factory.mktemp("official") / "tiny")
    return [f"--model={paths['model']}", f"--gemma={paths['gemma']}"]


def generate(checkpoint: list[str], folder: Path, *more: str) -> list[str]:
    request = ["--prompt=--a bell rings in the snow", f"--output={folder / 'video.mp4'}", "--quiet"]
    return ["generate", *checkpoint, *SIZE, *GUIDANCE, *request, *more]


@pytest.fixture(scope="module")
def recorded(checkpoint: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, bytes]:
    """A recorded run and its mp4."""
    folder = tmp_path_factory.mktemp("recorded")
    run_official(generate(checkpoint, folder, f"--trace={folder / 'trace'}"))
    return Trace(folder / "trace"), (folder / "video.mp4").read_bytes()


def test_the_patched_transformer_is_the_one_of_1_2_0() -> None:
    results: dict[str, Any] = json.loads(run_official(["cases", f"--golden={GOLDEN}"]))
    assert len(results["rel_l2"]) == 7
    assert results["worst"] <= 1e-5


def test_the_probe_changes_nothing_and_recorded_draws_repeat_the_run(
    checkpoint: list[str], recorded: tuple[Trace, bytes], tmp_path: Path
) -> None:
    """Neither run can have told the other anything but its noise: one is tapped and draws, one is bare and is given."""
    trace, video = recorded
    noise = {name: trace.tensor(trace.site(f"noise.{name}")[0].outputs) for name in ("video", "audio")}
    save_file(noise, tmp_path / "noise.safetensors")
    run_official(generate(checkpoint, tmp_path, f"--noise={tmp_path / 'noise.safetensors'}"))
    assert (tmp_path / "video.mp4").read_bytes() == video


def test_the_record_is_whole(recorded: tuple[Trace, bytes]) -> None:
    trace, _ = recorded
    passes = [(r.key.step, r.key.guidance_pass) for r in trace.site("transformer")]
    assert passes == [(step, name) for step in (0, 1) for name in ("cond", "uncond", "stg", "modality")]
    for site in ("guidance", "post_process", "sampler"):
        for modality in ("video", "audio"):
            assert [r.key.step for r in trace.site(f"{site}.{modality}")] == [0, 1]
    text = trace.site("tokenizer")[0].inputs["text"]["value"]
    assert text == "--a bell rings in the snow"
    assert trace.tensor(trace.site("tokenizer")[0].outputs["fields"]["input_ids"]).shape == (1, 1024)
    state = trace.site("state.video")[0].outputs["fields"]
    assert set(state) == {"latent", "positions", "denoise_mask", "clean_latent"}
    first = trace.site("transformer")[0].inputs["video"]["fields"]
    assert first["latent"]["tensor"] == state["latent"]["tensor"]
    final = trace.tensor(trace.site("latent.video")[0].outputs)
    tokens = trace.tensor(trace.site("sampler.video")[-1].outputs)
    np.testing.assert_array_equal(final, tokens.reshape(1, 2, 2, 2, 128).transpose(0, 4, 1, 2, 3))
    frames = trace.site("frames")[0].outputs["fields"]
    pixels = (np.clip((trace.tensor(frames["pixels"]) + 1) / 2, 0, 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(trace.tensor(frames["frames"]), pixels)
    finite = (np.isfinite(trace.tensor(leaf)).all() for r in trace.records for _, leaf in leaves(r.outputs) if "tensor" in leaf)
    assert all(finite)


def test_the_manifest_says_where_the_trace_comes_from(checkpoint: list[str], recorded: tuple[Trace, bytes]) -> None:
    manifest = recorded[0].manifest
    model = Path(checkpoint[0].removeprefix("--model="))
    assert manifest["checkpoint"][model.name] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (manifest["versions"]["ltx-core"], manifest["dtype"]) == ("1.0.0", "float32")
    assert {"av-cross-timestep-1.2.0", "pipelines-float32", "gemma-from-pretrained"} <= set(manifest["patches"])
    assert manifest["request"]["seed"] == 7


def test_a_replay_in_float32_repeats_every_module(checkpoint: list[str], recorded: tuple[Trace, bytes], tmp_path: Path) -> None:
    """A module's inputs are laid out afresh, which may move its last bit, and nothing more."""
    trace, _ = recorded
    request = [f"--trace={trace.folder}", f"--output={tmp_path / 'again'}", "--dtype=float32", "--steps", "0"]
    run_official(["replay", *checkpoint, *request])
    again, originals = Trace(tmp_path / "again"), trace.by_key()
    modules = [r for r in trace.records if r.kind == "module" and r.key.step in (None, 0)]
    assert len(again.records) == len(modules) > 1000
    for record in again.records:
        ours, theirs = dict(leaves(record.outputs)), dict(leaves(originals[record.key].outputs))
        assert ours.keys() == theirs.keys()
        for path, leaf in theirs.items():
            if "tensor" in leaf and leaf["tensor"] != ours[path].get("tensor"):
                expected = trace.tensor(leaf).astype(np.float64)
                error = np.linalg.norm(again.tensor(ours[path]) - expected) / np.linalg.norm(expected)
                assert error <= 1e-6, f"{record.key} {path}: {error}"


def test_noise_that_does_not_fit_is_refused(checkpoint: list[str], tmp_path: Path) -> None:
    wrong = {"video": np.ones((1, 8, 128), np.float32), "audio": np.ones((1, 8, 128), np.float32)}
    save_file(wrong, tmp_path / "noise.safetensors")
    more = [f"--noise={tmp_path / 'noise.safetensors'}", f"--trace={tmp_path / 'trace'}"]
    with pytest.raises(ReferenceUnavailable, match=r"(?s)status 2.*wrong shape.*audio.*\[1, 9, 128\]"):
        run_official(generate(checkpoint, tmp_path, *more))
    assert [path.name for path in tmp_path.iterdir()] == ["noise.safetensors"]


def test_an_interrupted_run_leaves_nothing(checkpoint: list[str], tmp_path: Path) -> None:
    command = generate(checkpoint, tmp_path, f"--trace={tmp_path / 'trace'}", "--steps=400")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [reference_python(), "-m", "reference_bridge.adapters.official", *command],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    partial = tmp_path / "trace.partial" / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
