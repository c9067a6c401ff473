"""Who serves a request: the native engine where its verdict allows it, else the bridge to a reference implementation.

This is the only file that knows the bridge. Without the folder ``reference_bridge`` the native engine serves alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ltx_native import verdict as verdicts
from ltx_native.errors import RequestError, UserError
from ltx_native.locate import CheckpointFiles
from ltx_native.request import Request, ResolvedRequest

ENGINES = ("native", "bridge")
#: What a request may hold that no released external CLI can be told.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Result:
    """A finished video and who made it."""

    video_path: str
    media_type: str
    model_used: str
    engine: str
    reason: str
    warnings: tuple[str, ...] = ()

    def last_line(self) -> str:
        return f"{self.video_path}: made by {self.engine} ({self.reason})"


@dataclass(frozen=True)
class Choice:
    """An engine and why; ``warnings`` are what a user who overrides should read."""

    engine: str
    reason: str
    warnings: tuple[str, ...] = ()


class BridgeFailed(Exception):
    """The bridge could not serve; ``exit_status`` is what a command line should return."""

    def __init__(self, message: str, exit_status: int) -> None:
        self.exit_status = exit_status
        super().__init__(message)


class InferenceEngine:
    """Serves requests. ``engine`` overrides the verdict; ``verdict`` is another verdict file than the default."""

    def __init__(
        self,
        engine: str | None = None,
        verdict: Path | None = None,
        progress: Progress | None = None,
        noise: str | None = None,
    ) -> None:
        if engine is not None and engine not in ENGINES:
            raise RequestError("unknown engine", "engine", engine, " or ".join(ENGINES), "Leave it out to follow the verdict")
        self.engine = engine
        self.verdict = verdict
        self.progress = progress
        self.noise = noise

    def generate_video(self, request: Request) -> Result:
        """Make the video under its final name, or raise UserError or BridgeFailed and leave nothing."""
        request.validate()
        resolved = request.resolved()
        _check_output(resolved.output_path)
        choice = self.choose(resolved)
        serve = self._native if choice.engine == "native" else self._bridge
        return serve(resolved, choice)

    def choose(self, request: ResolvedRequest) -> Choice:
        """Which engine serves this request, and why."""
        found, missing = _locate(request)
        usable = False
        reasons: tuple[str, ...] = (missing,)
        if found is not None:
            verdict = verdicts.load_verdict(self.verdict)
            now = verdicts.current_fingerprints(_fingerprint(verdict, found))
            usable, reasons = verdicts.judge(verdict, now)
        why = "; ".join(reasons)
        if self.engine == "native":
            warnings = () if usable else (f"the native engine was demanded although {why}",)
            return Choice("native", "demanded; the verdict is pass" if usable else f"demanded although {why}", warnings)
        if self.engine == "bridge":
            warnings = ("the bridge was demanded although the verdict for the native engine is pass",) if usable else ()
            return Choice("bridge", "demanded" if usable else f"demanded; without that, too: {why}", warnings)
        if usable:
            return Choice("native", "its parity verdict is pass for this code, checkpoint, reference, MLX and policy")
        if not bridge_installed() and found is not None:
            return Choice("native", f"there is no bridge; {why}", (f"native serves without a bridge although {why}",))
        return Choice("bridge", why)

    def _native(self, request: ResolvedRequest, choice: Choice) -> Result:
        from ltx_native.generate import generate_video

        warnings = generate_video(request, self.progress, self.noise)
        return Result(
            request.output_path, "video/mp4", f"native:{request.model}", "native", choice.reason, choice.warnings + warnings
        )

    def _bridge(self, request: ResolvedRequest, choice: Choice) -> Result:
        if not bridge_installed():
            raise BridgeFailed(f"the bridge is to serve ({choice.reason}), but reference_bridge is not installed", 2)
        from reference_bridge.engine import BridgeEngine
        from reference_bridge.errors import BridgeError
        from reference_bridge.job import Job

        try:
            done = BridgeEngine().generate_video(Job.from_mapping(job_fields(request)))
        except BridgeError as error:
            raise BridgeFailed(f"{error}\nThe bridge was to serve because {choice.reason}.", error.exit_status) from error
        return Result(
            done.video_path,
            done.media_type,
            done.model_used,
            "bridge",
            choice.reason,
            choice.warnings + tuple(done.warnings),
        )


def job_fields(request: ResolvedRequest) -> dict[str, Any]:
    """The request as the bridge's job: the same names and units."""
    job = {item.name: getattr(request, item.name) for item in fields(Request)}
    job["mode"] = request.effective_mode
    if job["mode"] in ("retake", "extend"):
        # The source decides size, length and rate.
        job |= dict.fromkeys(("width", "height", "num_frames", "frame_rate", "pipeline"))
    return job


def bridge_installed() -> bool:
    return importlib.util.find_spec("reference_bridge") is not None


def describe_bridge() -> str:
    """One line on what would serve instead of the native engine."""
    if not bridge_installed():
        return "not installed"
    from reference_bridge.engine import BridgeEngine

    return BridgeEngine().describe()


def reference_versions() -> dict[str, str]:
    """Versions in the environment of the official code, or why there are none."""
    if not bridge_installed():
        return {}
    from reference_bridge.environment import OFFICIAL_HINT, find_official_python

    python = find_official_python(os.environ)
    if python is None:
        return {"official": OFFICIAL_HINT}
    command = [str(python), "-m", "reference_bridge.adapters.official", "versions"]
    env = {**os.environ, "PYTHONPATH": str(verdicts.ROOT)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=env)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"official": f"{python} does not tell its versions: {error}"}
    return {"official": str(python), **{name: str(value) for name, value in found.items()}}


def _locate(request: ResolvedRequest) -> tuple[CheckpointFiles | None, str]:
    """The checkpoint's files, or why they are not here. Damaged local files raise: no engine can read them."""
    variant = "distilled" if request.effective_pipeline in ("distilled", "ic-lora") else None
    try:
        found = CheckpointFiles.find(request.model, request.gemma, request.upsampler, variant)
        _ = found.config
    except UserError as error:
        if Path(request.model).exists():
            raise
        return None, f"the checkpoint is not on this machine ({error})"
    return found, ""


def _fingerprint(verdict: verdicts.Verdict, found: CheckpointFiles) -> str:
    # Hashing a large checkpoint takes minutes; a verdict that lets nobody serve does not need it.
    if verdict.problem or verdict.verdict != "pass":
        return str(verdict.fingerprints.get("checkpoint", ""))
    return found.fingerprint()


def _check_output(path: str) -> None:
    final = Path(path)
    if not final.absolute().parent.is_dir():
        raise RequestError("no such folder", "output_path", str(final.parent), "an existing folder", "Create it")
    if final.is_dir():
        raise RequestError("the output is a folder", "output_path", path, "the path of a file", "Add a file name")
    if final.suffix.lower() != ".mp4":
        raise RequestError("output of an unknown kind", "output_path", path, "a name that ends in .mp4", "Rename it")
