"""Every mode on the tiny checkpoint: the whole process, its stages, its denoising steps, its memory; native and official."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from parity.bench.clock import interleave, spread
from parity.capture.reference import Checkpoint, ReferenceUnavailable, arguments_of, reference_python
from parity.cases import Case
from parity.checkpoints import tiny
from parity.folders import ROOT, cache_folder

#: Why the official side is not there, by mode.
LEFT_OUT = {"extend": "the official packages have no such pipeline"}


def bench_cases() -> dict[str, Case]:
    """One case per mode, 8 steps where a mode lets one choose."""
    from parity.suites.inputs import make_inputs
    from parity.suites.test_modes import BASE, cases

    inputs = make_inputs(cache_folder() / "inputs")
    extend = replace(BASE, mode="extend", source_path=inputs.clip, num_frames=25, extend_frames=2)
    found = {"one-stage": BASE, **cases(inputs), "extend": extend}
    return {name: replace(case, name=name, steps=8) for name, case in found.items()}


def measure(rounds: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """By mode and engine: spreads of the whole process (wall, processor, peak bytes), of stages and of the median step.

    A mode that the official packages lack has native alone, `left out` with the reason, and no ratio.
    """
    cases = bench_cases()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-modes-") as folder:
        for name in names or cases:
            case = cases[name]
            engines = {"native": native, "official": official}
            left = {"official": LEFT_OUT[case.mode]} if case.mode in LEFT_OUT else {}
            commands = {n: make(case, tiny(), Path(folder)) for n, make in engines.items() if n not in left}
            runs = interleave({n: partial(process, command) for n, command in commands.items()}, rounds, warmup=0)
            found[name] = {engine: about(told) for engine, told in runs.items()} | {"rounds": rounds}
            found[name] |= {"left out": left} if left else {"native ÷ official": _ratios(runs)}
    return found


def native(case: Case, checkpoint: Checkpoint, folder: Path) -> list[str]:
    """The command of a native run; its request is written into `folder`."""
    request = folder / f"{case.name}.json"
    files = {name: path and str(path) for name, path in vars(checkpoint).items()}
    request.write_text(json.dumps({"case": case.request(), **files}), encoding="utf-8")
    return [sys.executable, "-m", "parity.bench.mode_worker", str(request), f"--output={folder / 'native.mp4'}"]


def official(case: Case, checkpoint: Checkpoint, folder: Path) -> list[str]:
    start = [str(reference_python()), "-m", "reference_bridge.adapters.official_parts", "pipeline", "--repeat=1", "--"]
    return [*start, *arguments_of(case, checkpoint)[1:], f"--output={folder / 'official.mp4'}"]


def process(
    arguments: Sequence[str], report: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run to the end: what it told, and wall and processor seconds and peak resident bytes of the whole process.

    It tells in the last line of its standard output, or in the file `report`. Its children count too.
    """
    if environment is None:
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
        line = report.read_text(encoding="utf-8") if report else output.read().strip().splitlines()[-1]
        told: dict[str, Any] = json.loads(line)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**told, "process_s": seconds, "process_cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": peak}


def about(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    stages = {
        kind: {name: spread([run[kind].get(name, 0.0) for run in runs]) for name in runs[0].get(kind, ())}
        for kind in ("stages_s", "stages_cpu_s")
    }
    return {
        "process": {"wall_s": _spread(runs, "process_s"), "cpu_s": _spread(runs, "process_cpu_s")},
        "peak_bytes": spread([run["peak_bytes"] for run in runs]),
        "step": {
            "wall_s": spread([median_step(run, "seconds") for run in runs]),
            "cpu_s": spread([median_step(run, "cpu_s") for run in runs]),
        },
        "steps": len(runs[0]["steps"]),
        **stages,
    }


def _spread(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    return spread([float(run[name]) for run in runs])


def median_step(run: dict[str, Any], kind: str) -> float:
    """The median step: the first one compiles, and of second order the last one evaluates once, which only native counts."""
    return statistics.median(step[kind] for step in run["steps"])


def _ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    pairs = list(zip(runs["native"], runs["official"], strict=True))
    return {
        "step": {
            kind: spread([median_step(a, name) / median_step(b, name) for a, b in pairs])
            for kind, name in (("wall", "seconds"), ("cpu", "cpu_s"))
        },
        "process cpu": spread([a["process_cpu_s"] / b["process_cpu_s"] for a, b in pairs]),
        "peak": spread([a["peak_bytes"] / b["peak_bytes"] for a, b in pairs]),
    }
