"""The training machinery, in the reference environment: resumable, and true to the official modules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ltx_native.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def python() -> str:
    found = Path(os.environ.get("LTX_REFERENCE_PYTHON", ROOT / ".venv-reference/bin/python"))
    if not found.exists():
        pytest.fail(
            f"the world is trained with the official modules, and there is no {found}; next: make reference", pytrace=False
        )
    return str(found)


@pytest.fixture(scope="module")
def found(python: str) -> dict[str, object]:
    checks = str(Path(__file__).with_name("training_checks.py"))
    run = subprocess.run([python, checks], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def test_a_killed_stage_resumes_to_the_same_weights(found):
    assert found["resumed_at"] == 31
    assert found["equal"] is True
    assert found["falls"] is True
    assert found["files"] == ["toy.curve.json", "toy.safetensors"]


def test_the_vae_compresses_as_the_pipelines_insist(found):
    assert found["latent"] == [1, 128, 2, 2, 2]
    assert found["video"] == [1, 3, 9, 64, 64]


def test_folding_a_shortcut_changes_nothing(found):
    assert found["first_residual"] is True
    assert found["fold_difference"] < 1e-5


def test_the_sampled_context_is_the_official_one_when_nothing_is_left_out(found):
    assert found["context_difference"] < 1e-4 * found["context_size"]


def test_noise_levels_and_grids_are_the_official_ones(found):
    low, high = found["sigma"]
    assert 0.02 <= low < 0.1
    assert 0.99 < high <= 1.0
    assert found["grids"] == [[1, 3, 8, 2], [1, 1, 9, 2]]


def test_matrix_updates_are_nearly_orthogonal_and_the_rate_warms_up_and_falls(found):
    low, high = found["singular"]
    assert 0.5 < low < high < 1.5
    assert found["peak"] == 1.0
    assert found["last"] < 0.03


def steps(path: Path) -> int:
    """How far a stage has come; 0 before its first state."""
    if not path.exists():
        return 0
    with safe_open(path, "np") as file:
        return int(file.metadata()["step"])


@pytest.mark.slow
def test_the_whole_chain_runs_and_survives_a_kill(python: str, tmp_path: Path):
    """`make world-train` with four steps a stage: killed -9 in the first stage, it ends with the weights of a run that was
    not, and exports a checkpoint that native opens."""

    def start(state: Path, *stages: str) -> subprocess.Popen[bytes]:
        command = [python, "-m", "parity.world.train", *stages, "--rehearsal", "4"]
        command += ["--state", str(state), "--out", str(state / "out" / "checkpoint")]
        return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, "video").wait(timeout=600) == 0
    process = start(killed, "all")
    state = killed / "video_vae.safetensors"
    deadline = time.monotonic() + 300
    while not 1 <= steps(state) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= steps(state) < 4, "killed in the middle of the first stage"
    assert start(killed, "all").wait(timeout=900) == 0
    one, two = load_file(whole / state.name), load_file(state)
    assert one.keys() == two.keys()
    assert all((one[key] == two[key]).all() for key in one)
    out = killed / "out" / "checkpoint"
    opened = Checkpoint.open(str(out / "ltx-2.3-world.safetensors"), str(out / "gemma"))
    assert opened.config.transformer.num_layers == 4
    assert (killed / "out" / "clip" / "model.safetensors").is_file()
