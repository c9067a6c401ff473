"""The training machinery, in the reference environment: resumable, and true to the official modules."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    python = Path(os.environ.get("LTX_REFERENCE_PYTHON", ROOT / ".venv-reference/bin/python"))
    if not python.exists():
        pytest.skip(f"no reference environment at {python}; `make reference` installs it")
    run = subprocess.run(
        [str(python), str(Path(__file__).with_name("training_checks.py"))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
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
