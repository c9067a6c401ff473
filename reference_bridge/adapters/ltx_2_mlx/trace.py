"""Run the external CLI with the probe inside its own interpreter: same arguments, same video, and a trace of the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_bridge import command, process
from reference_bridge.boxes import Mp4Error, read_movie
from reference_bridge.environment import ROOT
from reference_bridge.errors import BridgeError, Cancelled, ExitError, OutputError, RunTimeout, SpawnError
from reference_bridge.job import Job
from reference_bridge.survey import Survey

_LAUNCH = Path(__file__).with_name("launch.py")


class TraceRefused(BridgeError):
    """The installed copy cannot be traced; the message says why and what to do."""

    exit_status = 2


@dataclass(frozen=True)
class Traced:
    """A traced run. No `folder`: untraced.

    `probe_s` is the time spent recording, part of the interpreter's `wall_s`; `cpu_s` is its processor time, which other
    programs on the machine disturb less.
    """

    video_path: Path
    folder: Path | None
    records: int
    wall_s: float
    cpu_s: float
    probe_s: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """How to start the CLI inside the launcher, and what it leaves: the video, a JSON report of seconds."""

    argv: tuple[str, ...]
    video: Path
    report: Path
    warnings: tuple[str, ...]


def interpreter_of(found: Survey, env: Mapping[str, str]) -> Path:
    """The Python to run the probe in: LTX2_MLX_PYTHON, else what the console script names. Raises TraceRefused."""
    named = env.get("LTX2_MLX_PYTHON")
    python = Path(named) if named else found.interpreter
    if python is None or not os.access(python, os.X_OK):
        raise TraceRefused(
            f"the interpreter of {found.binary} cannot be read from it (a wrapper or a compiled launcher); "
            f"set LTX2_MLX_PYTHON to the Python that has ltx-pipelines-mlx"
        )
    return python


def console_script(found: Survey, python: Path) -> Path:
    """The script that the interpreter runs; beside the interpreter when the copy on PATH is a wrapper of another kind."""
    for candidate in (Path(os.path.realpath(found.binary)), python.parent / "ltx-2-mlx"):
        try:
            text = candidate.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "ltx_pipelines_mlx" in text:
            return candidate
    raise TraceRefused(f"no console script of ltx-2-mlx was found at {found.binary} or beside {python}")


def trace(
    job: Job,
    found: Survey,
    env: Mapping[str, str],
    folder: Path | None,
    *,
    sites: Sequence[str] = (),
    outputs_only: bool = False,
    sketch: bool = False,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    corrections: Sequence[str] = (),
    hash_checkpoint: bool = True,
    timeout_s: float | None = None,
    cancel: threading.Event | None = None,
) -> Traced:
    """Make the job's video with taps (`folder`) or without them (None), both in the same launcher.

    `sites` are globs, empty for all; `sketch` records sketches of outputs in place of tensors. `defaults` changes default
    arguments of constructors in memory (see launch.py) for a checkpoint smaller than the CLI's fixed sizes; `corrections`
    take away known departures from the official code (see corrections.py). Both are written to the manifest. Raises what the
    bridge raises.
    """
    job.validate()
    final = Path(os.path.abspath(job.output_path or "output.mp4"))
    if not final.parent.is_dir():
        raise TraceRefused(f"no such folder: {final.parent}")
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.stem[:40]}-", suffix=".partial", dir=final.parent))
    try:
        start = launch(
            job, found, env, scratch, defaults,
            trace=os.path.abspath(folder) if folder else None, sites=list(sites), outputs_only=outputs_only, sketch=sketch,
            corrections=list(corrections), checkpoint=checkpoint_sha256(job) if folder and hash_checkpoint else {},
        )  # fmt: skip
        done = process.run(start.argv, env=env, scratch=scratch, log_path=scratch / "log", timeout_s=timeout_s, cancel=cancel)
        _judge(done, start.argv[0], start.video)
        seconds = json.loads(start.report.read_text(encoding="utf-8"))
        os.replace(start.video, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if folder is not None:
            shutil.rmtree(f"{folder}.partial", ignore_errors=True)
    return Traced(
        video_path=final,
        folder=folder,
        records=int(seconds["records"]),
        wall_s=float(seconds["wall_s"]),
        cpu_s=float(seconds["cpu_s"]),
        probe_s=float(seconds["probe_s"]),
        warnings=start.warnings,
    )


def launch(
    job: Job,
    found: Survey,
    env: Mapping[str, str],
    scratch: Path,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Launch:
    """The command that makes the job's video in the folder `scratch` (`options` as in launch.py). Starts nothing.

    Raises TraceRefused, and UnsupportedMode for what this version cannot make.
    """
    python = interpreter_of(found, env)
    video, report, path = scratch / "video.mp4", scratch / "report.json", scratch / "options.json"
    built = command.external(job, found.surface(), str(video))
    settings = {
        "script": str(console_script(found, python)),
        "root": str(ROOT),
        "defaults": {name: dict(values) for name, values in (defaults or {}).items()},
        "report": str(report),
        **options,
    }
    path.write_text(json.dumps(settings), encoding="utf-8")
    return Launch((str(python), str(_LAUNCH), str(path), "--", *built.argv), video, report, built.warnings)


def _judge(done: process.Completed, python: str, partial: Path) -> None:
    if done.why == "spawn":
        raise SpawnError(python, done.stderr, "Check LTX2_MLX_PYTHON or reinstall ltx-2-mlx.")
    if done.why == "cancelled":
        raise Cancelled(f"cancelled after {done.seconds:.1f} s: no video and no trace were written")
    if done.why == "timeout":
        raise RunTimeout(
            f"the traced ltx-2-mlx ran past its limit after {done.seconds:.1f} s", stderr=done.stderr, stdout=done.stdout
        )
    if done.returncode != 0:
        raise ExitError("the traced ltx-2-mlx", done.returncode, stderr=done.stderr, stdout=done.stdout)
    try:
        read_movie(partial)
    except (Mp4Error, OSError) as error:
        raise OutputError(
            f"the traced ltx-2-mlx left no usable video: {error}", stderr=done.stderr, stdout=done.stdout
        ) from error


def checkpoint_sha256(job: Job) -> dict[str, str]:
    """Hash by name of every file of a local model and Gemma folder; empty for what is fetched from a repository."""
    found: dict[str, str] = {}
    for prefix, name in (("", job.model), ("gemma/", job.gemma)):
        folder = Path(name) if name else None
        for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            if path.is_file() and path.suffix in (".safetensors", ".json", ".model"):
                with path.open("rb") as file:
                    found[prefix + path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
