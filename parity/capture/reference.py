"""Run the official code as its own process and take its trace; captures are kept by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_native.verdict import reference_fingerprint
from parity.cases import Case
from parity.folders import ROOT
from parity.trace import Trace, TraceError, file_sha256

TIMEOUT_S = 1800


class ReferenceUnavailable(Exception):
    """The reference could not be run: not installed, failed, or left no whole trace."""


@dataclass(frozen=True)
class Checkpoint:
    """Files both sides read."""

    model: Path
    gemma: Path
    upsampler: Path | None = None

    def digest(self) -> str:
        files = [self.model, *sorted(path for path in self.gemma.iterdir() if path.is_file())]
        files += [self.upsampler] if self.upsampler else []
        return hashlib.sha256("".join(file_sha256(path) for path in files).encode()).hexdigest()


def reference_python() -> Path:
    """The reference environment's interpreter: `LTX_REFERENCE_PYTHON`, else the one `make reference` sets up.

    Raises `ReferenceUnavailable` with the command to run when there is none.
    """
    named = os.environ.get("LTX_REFERENCE_PYTHON")
    path = Path(named) if named else ROOT / ".venv-reference" / "bin" / "python"
    if not path.is_file():
        raise ReferenceUnavailable(f"the reference environment is not set up: {path} does not exist; run `make reference`")
    return path


def run_official(arguments: Sequence[str], quiet: bool = True) -> str:
    """Call the official adapter's command line; its standard output. Raises `ReferenceUnavailable` with the tail of stderr."""
    command = [str(reference_python()), "-m", "reference_bridge.adapters.official", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if not quiet and sys.stderr.isatty() else subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReferenceUnavailable(f"the reference did not run: {error}") from error
    if result.returncode != 0:
        tail = "\n".join((result.stderr or "").strip().splitlines()[-8:])
        raise ReferenceUnavailable(f"the reference stopped with status {result.returncode}: {tail}")
    return result.stdout


def arguments_of(case: Case, checkpoint: Checkpoint) -> list[str]:
    """The case as the adapter's arguments; values are joined with `=` so that a prompt may begin with a dash."""
    arguments = [
        "generate",
        f"--mode={case.mode}",
        f"--prompt={case.prompt}",
        f"--negative-prompt={case.negative_prompt}",
        f"--model={checkpoint.model}",
        f"--gemma={checkpoint.gemma}",
        f"--seed={case.seed}",
        f"--height={case.height}",
        f"--width={case.width}",
        f"--frames={case.num_frames}",
        f"--frame-rate={case.frame_rate}",
        f"--steps={case.steps}",
        "--dtype=float32",
    ]
    if checkpoint.upsampler is not None:
        arguments.append(f"--upsampler={checkpoint.upsampler}")
    arguments += _inputs_of(case)
    for prefix, guidance in (("", case.video), ("audio-", case.audio)):
        arguments += [
            f"--{prefix}cfg-scale={guidance.cfg}",
            f"--{prefix}stg-scale={guidance.stg}",
            f"--{prefix}modality-scale={guidance.modality}",
            f"--{prefix}rescale-scale={guidance.rescale}",
            *(f"--{prefix}stg-blocks={block}" for block in guidance.stg_blocks),
        ]
    return arguments


def _inputs_of(case: Case) -> list[str]:
    """Images, sound, clips, ranges and LoRAs; options with several values come as separate words."""
    words = [] if case.audio_path is None else [f"--audio={case.audio_path}"]
    if case.source_path is not None:
        words += ["--video", case.source_path]
    for name, seconds in (("start", case.start), ("end", case.end)):
        words += [] if seconds is None else [f"--{name}={seconds}"]
    words += ["--keep-audio"] if case.keep_audio else []
    for image in case.images:
        words += ["--image", image.path, str(image.frame), str(image.strength), str(image.crf)]
    for flag, adapters in (("--lora", case.loras), ("--distilled-lora", case.distilled_loras)):
        for path, strength in adapters:
            words += [flag, path, str(strength)]
    return words


@dataclass(frozen=True)
class ReferenceCache:
    """Reference captures by content: same reference, checkpoint, request and sites, no second run."""

    folder: Path

    def key(self, case: Case, checkpoint: Checkpoint, sites: Sequence[str], sketch: bool = False) -> str:
        content = [reference_fingerprint(), checkpoint.digest(), case.digest(), *sites, *(["sketch"] if sketch else [])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def entries(self) -> list[dict[str, Any]]:
        """What is kept: key, size, and what is wrong with it (every trace is read and verified)."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [_describe(entry) for entry in folders if entry.is_dir() and not entry.name.startswith(".")]

    def prune(self) -> list[str]:
        """Remove damaged captures and those of another reference code; the removed keys."""
        removed = []
        for found in self.entries():
            entry = self.folder / found["key"]
            marker = entry / "reference"
            stale = not marker.is_file() or marker.read_text() != reference_fingerprint()
            if found["problem"] or stale:
                shutil.rmtree(entry)
                removed.append(found["key"])
        return removed

    def capture(self, case: Case, checkpoint: Checkpoint, sites: Sequence[str] = (), quiet: bool = True) -> tuple[Trace, Path]:
        """The trace and the mp4 of the reference's run, from the cache or from a run now.

        Raises `ReferenceUnavailable` when the reference cannot be run; a damaged entry is thrown away and made again.
        """
        return self._capture(case, checkpoint, sites, quiet, sketch=False)

    def sketches(self, case: Case, checkpoint: Checkpoint, sites: Sequence[str] = (), quiet: bool = True) -> Trace:
        """The same, with sketches of outputs in place of tensors."""
        return self._capture(case, checkpoint, sites, quiet, sketch=True)[0]

    def _capture(
        self, case: Case, checkpoint: Checkpoint, sites: Sequence[str], quiet: bool, sketch: bool
    ) -> tuple[Trace, Path]:
        reference_python()  # a cached capture of a reference that is gone is no evidence about it
        entry = self.folder / self.key(case, checkpoint, sites, sketch)
        if entry.is_dir():
            try:
                return Trace(entry / "trace"), entry / "video.mp4"
            except TraceError:
                shutil.rmtree(entry)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".making-") as temporary:
            making = Path(temporary) / "entry"
            making.mkdir()
            arguments = [*arguments_of(case, checkpoint), f"--output={making / 'video.mp4'}", f"--trace={making / 'trace'}"]
            arguments += [f"--sites={site}" for site in sites]
            run_official([*arguments, *(["--sketch"] if sketch else []), "--quiet"], quiet)
            try:
                Trace(making / "trace")
            except TraceError as error:
                raise ReferenceUnavailable(f"the reference left no whole trace: {error}") from error
            (making / "reference").write_text(reference_fingerprint())
            if not entry.exists():  # another process may have made the same capture meanwhile
                making.rename(entry)
        return Trace(entry / "trace"), entry / "video.mp4"


def _describe(entry: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"key": entry.name, "problem": "", "bytes": sum(f.stat().st_size for f in entry.rglob("*.*"))}
    try:
        trace = Trace(entry / "trace")
    except TraceError as error:
        return {**found, "problem": str(error)}
    request = trace.manifest.get("request", {})
    return {**found, "records": len(trace.records), "mode": request.get("mode"), "prompt": request.get("prompt")}


def reference_replay(trace: Trace, checkpoint: Checkpoint, dtype: str, folder: Path, steps: Sequence[int] = ()) -> Trace:
    """Module records of a trace (all, or those of some denoising steps) run again by the reference in another dtype.

    Kept in ``folder``; a damaged one is made again. Raises `ReferenceUnavailable` or `TraceError`.
    """
    reference_python()
    if folder.is_dir():
        try:
            return Trace(folder)
        except TraceError:
            shutil.rmtree(folder)
    arguments = [
        "replay",
        f"--trace={trace.folder}",
        f"--output={folder}",
        f"--model={checkpoint.model}",
        f"--gemma={checkpoint.gemma}",
        f"--dtype={dtype}",
        "--quiet",
    ]
    run_official([*arguments, *(["--steps", *map(str, steps)] if steps else [])])
    return Trace(folder)


def versions() -> dict[str, Any]:
    """Versions in the reference environment."""
    parsed: dict[str, Any] = json.loads(run_official(["versions"]))
    return parsed
