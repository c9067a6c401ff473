"""Capsules: a runner without the model fails under a mistake and passes without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.faults import fault
from parity.folders import ROOT, cache_folder
from parity.plugin import Parity
from parity.reduce import ReduceError, reduce, run
from parity.session import Session

pytestmark = pytest.mark.slow

# A mistake in a module's code, in a layer's weights as they are loaded, under a mask, and in a function between modules.
PLANTED = {
    "ATT-06": "transformer.transformer_blocks.1.attn2",
    "GEM-05": "gemma.layers.1.input_layernorm",
    "VAE-09": "video_decoder",
    "SCH-05": "schedule",
    "GUI-01": "guidance.video",
}
UNDER_FAULT = (
    "import runpy, sys; from parity.faults import fault; path = sys.argv[2]\nwith fault(sys.argv[1]): runpy.run_path(path)"
)


def runner(path: Path, *under: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", UNDER_FAULT, *under, str(path)] if under else [sys.executable, str(path)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLX_ENABLE_TF32": "0",
        "LTX_PARITY_CACHE": str(path.parent / "no-cache"),
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path.parent, timeout=300, check=False)


@pytest.mark.parametrize(("id", "site"), PLANTED.items())
def test_the_runner_fails_under_the_mistake_and_passes_without(
    id: str, site: str, checkpoint: Checkpoint, tmp_path: Path, parity: Parity
) -> None:
    with fault(id):
        session = Session(checkpoint, tmp_path, ReferenceCache(cache_folder() / "reference"))
        capsule = reduce(session, T2V_SQUARE, site, tmp_path / "capsule")
    parity.count(1)
    print(f"{id} {capsule.place}: rel_l2 {capsule.error:.3g}, {capsule.bytes / 1e6:.2f} MB, {capsule.tensors} tensors")
    assert capsule.fails
    assert capsule.bytes < sum(path.stat().st_size for path in (checkpoint.model, *checkpoint.gemma.iterdir()))
    assert len((capsule.folder / "run.py").read_text().splitlines()) <= 12
    broken = runner(capsule.folder / "run.py", id)
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert f"FAIL  {site}" in broken.stdout
    mended = runner(capsule.folder / "run.py")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert f"pass  {site}" in mended.stdout


def test_what_cannot_be_reduced_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path, parity: Parity) -> None:
    session = Session(checkpoint, tmp_path, ReferenceCache(cache_folder() / "reference"))
    with pytest.raises(ReduceError, match="expected a site such as transformer"):
        reduce(session, T2V_SQUARE, "transformer.no_such", tmp_path / "capsule")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ReduceError, match="exists"):
        reduce(session, T2V_SQUARE, "schedule", tmp_path / "taken")
    parity.count(1)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_that_is_no_capsule_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], parity: Parity) -> None:
    parity.count(1)
    assert run(tmp_path) == 2
    assert "parity reduce" in capsys.readouterr().err
