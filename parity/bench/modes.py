"""Every mode on the tiny checkpoint: the whole process, its stages, its denoising steps, its memory; native and official."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.bench.clock import spread
from parity.capture.reference import ROOT, Checkpoint, ReferenceUnavailable, arguments_of, reference_python
from parity.cases import Case
from parity.checkpoints import cache_folder, tiny


def bench_cases() -> dict[str, Case]:
    """One case per mode, 8 steps where a mode lets one choose."""
    from parity.suites.inputs import make_inputs
    from parity.suites.test_modes import BASE, cases

    found = {"one-stage": BASE, **cases(make_inputs(cache_folder() / "inputs"))}
    return {name: replace(case, name=name, steps=8) for name, case in found.items()}


def measure(rounds: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """By mode and engine: spreads of the whole process (wall, processor, peak bytes), of stages and of the median step."""
    cases = bench_cases()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-modes-") as folder:
        for name in names or cases:
            runs: dict[str, list[dict[str, Any]]] = {"native": [], "official": []}
            for i in range(rounds):
                for engine in list(runs) if i % 2 else list(runs)[::-1]:
                    runs[engine].append(process(command(engine, cases[name], tiny(), Path(folder) / f"{engine}.mp4")))
            found[name] = {engine: about(told) for engine, told in runs.items()} | {"rounds": rounds}
            found[name]["native ÷ official"] = _ratios(runs)
    return found


def command(engine: str, case: Case, checkpoint: Checkpoint, output: Path) -> list[str]:
    if engine == "native":
        return [sys.executable, "-m", "parity.bench.mode_worker", case.name, f"--output={output}"]
    official = [str(reference_python()), "-m", "reference_bridge.adapters.official_parts", "pipeline", "--repeat=1", "--"]
    return [*official, *arguments_of(case, checkpoint)[1:], f"--output={output}"]


def process(arguments: Sequence[str]) -> dict[str, Any]:
    """Run to the end: what it told, and wall and processor seconds and peak resident bytes of the whole process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        running = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=ROOT, env=environment)
        _, status, used = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - started
        running.returncode = os.waitstatus_to_exitcode(status)
        for stream in (output, errors):
            stream.seek(0)
        if running.returncode:
            tail = "\n".join(errors.read().strip().splitlines()[-6:])
            raise ReferenceUnavailable(f"{arguments[2]} stopped with status {running.returncode}: {tail}")
        told: dict[str, Any] = json.loads(output.read().strip().splitlines()[-1])
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**told, "process_s": seconds, "process_cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": peak}


def about(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    stages = {name: spread([run["stages_s"].get(name, 0.0) for run in runs]) for name in runs[0]["stages_s"]}
    return {
        "process": {"wall_s": _spread(runs, "process_s"), "cpu_s": _spread(runs, "process_cpu_s")},
        "peak_bytes": spread([run["peak_bytes"] for run in runs]),
        "step": {
            "wall_s": spread([_step(run, "seconds") for run in runs]),
            "cpu_s": spread([_step(run, "cpu_s") for run in runs]),
        },
        "steps": len(runs[0]["steps"]),
        "stages_s": stages,
    }


def _spread(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    return spread([float(run[name]) for run in runs])


def _step(run: dict[str, Any], kind: str) -> float:
    """The median step: the first one compiles, and of second order the last one evaluates once, which only native counts."""
    return statistics.median(step[kind] for step in run["steps"])


def _ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    pairs = list(zip(runs["native"], runs["official"], strict=True))
    return {
        "step": {
            kind: spread([_step(a, name) / _step(b, name) for a, b in pairs])
            for kind, name in (("wall", "seconds"), ("cpu", "cpu_s"))
        },
        "process cpu": spread([a["process_cpu_s"] / b["process_cpu_s"] for a, b in pairs]),
        "peak": spread([a["peak_bytes"] / b["peak_bytes"] for a, b in pairs]),
    }
