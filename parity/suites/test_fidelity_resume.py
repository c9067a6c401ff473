"""A real fidelity run, killed -9 in the middle, ends like one that was not: same verdict, same scores, nothing made twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from parity.capture.reference import ReferenceUnavailable, reference_python
from parity.folders import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fidelity")]

PROMPTS = 4


def start(output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "parity.cli", "fidelity", "--prompts", str(PROMPTS), "--no-ladder", "--steps", "4"]
    return subprocess.Popen(
        [*command, "--output", str(output), "--quiet"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def made(output: Path) -> dict[Path, int]:
    """Finished files of the store and when they were written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("store/*/*") if ".partial" not in path.name}


def result(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "short.json").read_text())
    return content


def test_kill_9_in_the_middle_loses_the_videos_in_flight(tmp_path: Path) -> None:
    try:
        reference_python()
    except ReferenceUnavailable as error:
        pytest.fail(f"inconclusive: nothing was compared: {error}", pytrace=False)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(timeout=1200) == 3, "a short form is inconclusive"
    everything = {path.relative_to(whole) for path in made(whole)}

    process = start(killed)
    deadline = time.monotonic() + 600
    while len(made(killed)) < len(everything) // 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = made(killed)
    assert len(everything) // 3 < len(before) < len(everything), "killed in the middle"
    assert not (killed / "short.json").exists()

    assert start(killed).wait(timeout=1200) == 3
    after = made(killed)
    assert {path: after[path] for path in before} == before, "what was finished is not made again"
    assert {path.relative_to(killed) for path in after} == everything
    assert result(killed) == result(whole)
    assert len(result(killed)["pairs"]) == PROMPTS
    assert not list(killed.glob("store/*/*.partial*"))
