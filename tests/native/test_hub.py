"""Hub ids without a network: HF_HUB_OFFLINE=1 reads what lies in the Hub's cache, and says so where nothing does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ltx_native.media import video_metadata

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = ["-W", "64", "-H", "64", "-f", "9", "--steps", "1", "--stg-blocks", "1", "--audio-stg-blocks", "1"]


@pytest.fixture(scope="module")
def home(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hub cache as huggingface_hub lays it out: a split folder, an official file and Gemma."""
    home = tmp_path_factory.mktemp("hub")
    shutil.copytree(tiny["split"], snapshot(home, "maker", "split"))
    shutil.copytree(tiny["gemma"], snapshot(home, "maker", "gemma"))
    official = snapshot(home, "maker", "official")
    official.mkdir()
    shutil.copy(tiny["model"], official / "dev.safetensors")
    return home


def snapshot(home: Path, organisation: str, name: str) -> Path:
    repository = home / "hub" / f"models--{organisation}--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / COMMIT


def generate(home: Path, model: str, gemma: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ltx_native.cli", "generate", "-p", "a fox", "--engine", "native", *SMALL]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command += ["-m", model, "--gemma", gemma, "-o", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.parametrize("model", ["maker/split", "maker/official/dev.safetensors", "maker/official"])
def test_cached_repositories_serve_offline(model: str, home: Path, tmp_path: Path) -> None:
    done = generate(home, model, "maker/gemma", tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    assert video_metadata(tmp_path / "out.mp4").num_frames == 9


@pytest.mark.parametrize(("model", "gemma"), [("maker/absent", "maker/gemma"), ("maker/split", "maker/absent")])
def test_what_is_not_cached_is_refused_offline(model: str, gemma: str, home: Path, tmp_path: Path) -> None:
    done = generate(home, model, gemma, tmp_path / "out.mp4")
    assert done.returncode == 2
    assert "maker/absent" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
