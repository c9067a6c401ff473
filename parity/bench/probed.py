"""The official denoising step with the probe in its process, for `parity.probe_bench`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from parity.capture.reference import Checkpoint, ReferenceUnavailable, arguments_of, reference_python
from parity.cases import Case
from parity.folders import ROOT


@contextmanager
def official_step(
    checkpoint: Checkpoint, case: Case, probe: Path | None = None, steps: int = 1
) -> Iterator[Callable[..., float]]:
    """The official engine's steps on request: a function that runs `steps` of them and returns the seconds of one.

    With ``probe``, a folder to record in, it takes what to record of the run: `sketch`, `tensors` or nothing.
    """
    arguments = [a for a in arguments_of(case, checkpoint)[1:] if a.split("=")[0] in _BENCH_OPTIONS]
    command = [
        str(reference_python()),
        "-m",
        "reference_bridge.adapters.official",
        "bench",
        *arguments,
        "--on-request",
        f"--repeat={steps}",
    ]
    command += [] if probe is None else [f"--probe={probe}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def step(what: str = "") -> float:
        stdin.write(f"{what}\n")
        stdin.flush()
        return float(json.loads(stdout.readline())["seconds"])

    try:
        ready = stdout.readline()
        if not ready:
            raise ReferenceUnavailable(f"the official bench did not start (status {process.wait()})")
        yield step
    finally:
        stdin.close()
        process.wait(timeout=60)


_BENCH_OPTIONS = {
    "--model", "--gemma", "--height", "--width", "--frames", "--frame-rate", "--seed",
    "--cfg-scale", "--stg-scale", "--stg-blocks", "--modality-scale", "--rescale-scale",
    "--audio-cfg-scale", "--audio-stg-scale", "--audio-stg-blocks", "--audio-modality-scale", "--audio-rescale-scale",
}  # fmt: skip
