"""The bridge engine: a job in, a video under its final name out, or an error that says what to do."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference_bridge import audio, command, process
from reference_bridge.boxes import Movie, Mp4Error, read_movie
from reference_bridge.environment import (
    INSTALL_HINT,
    OFFICIAL_HINT,
    ROOT,
    Discovery,
    cache_dir,
    find_cli,
    find_official_python,
)
from reference_bridge.errors import (
    BridgeError,
    Cancelled,
    ExitError,
    JobError,
    NotInstalled,
    OutputError,
    RunTimeout,
    SpawnError,
)
from reference_bridge.job import DEFAULT_OUTPUT, Job, Result

_LOW_DISK = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What will be started for a job, before anything is."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    warnings: tuple[str, ...]


class BridgeEngine:
    """Serves jobs with the external CLI, or with the official code when that is asked for or all there is.

    `env` decides everything that is not in the job: LTX2_MLX_BIN, PATH, LTX_BRIDGE (`external` or `official`),
    LTX_REFERENCE_PYTHON, LTX_BRIDGE_TIMEOUT (seconds), LTX_BRIDGE_CACHE (surveys and logs).
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.env = dict(os.environ if env is None else env)
        self.cache = cache_dir(self.env)
        self._discovery: Discovery | None = None

    @property
    def discovery(self) -> Discovery:
        if self._discovery is None:
            self._discovery = find_cli(self.env, self.cache / "surveys")
        return self._discovery

    @property
    def backend(self) -> str:
        """`external-ltx-2-mlx` or `official`. Raises NotInstalled when neither is there."""
        asked = self.env.get("LTX_BRIDGE", "")
        if asked not in ("", "external", "official"):
            raise JobError("unknown bridge", "LTX_BRIDGE", asked, "external or official", "Change or unset the variable")
        has_official = find_official_python(self.env) is not None
        if asked == "official":
            if not has_official:
                raise NotInstalled("the official code cannot be used: it is not set up", (), OFFICIAL_HINT)
            return command.OFFICIAL
        if self.discovery.chosen is None and has_official and not asked and not self.env.get("LTX2_MLX_BIN"):
            return command.OFFICIAL
        self.discovery.require()
        return command.EXTERNAL

    def is_available(self) -> bool:
        """Whether a job could be started at all."""
        try:
            return bool(self.backend)
        except BridgeError:
            return False

    def describe(self) -> str:
        """One line on what serves a job, or why nothing does."""
        try:
            backend = self.backend
        except BridgeError as error:
            return f"no bridge: {error}"
        if backend == command.OFFICIAL:
            return f"official PyTorch code, run by {find_official_python(self.env)}"
        found = self.discovery.require()
        version = found.version or "of unknown version"
        text = f"ltx-2-mlx {version} ({found.version_source}) at {found.binary}"
        rejected = "; ".join(f"{path}: {reason}" for path, reason in self.discovery.rejected)
        return f"{text}; not used: {rejected}" if rejected else text

    def plan(self, job: Job, output: Path) -> Plan:
        """Check the job against what is installed and build the command. Raises JobError, UnsupportedMode, NotInstalled."""
        job.validate()
        if self.backend == command.OFFICIAL:
            python = find_official_python(self.env)
            found = command.official(job, str(output))
            path = os.pathsep.join(part for part in (str(ROOT), self.env.get("PYTHONPATH", "")) if part)
            argv = (str(python), "-m", "reference_bridge.adapters.official", *found.argv)
            return Plan("the official code", argv, {**self.env, "PYTHONPATH": path}, found.warnings)
        surveyed = self.discovery.require()
        built = command.external(job, surveyed.surface(), str(output), _source_rate(job))
        warnings = built.warnings + self._check_inputs(job)
        return Plan("ltx-2-mlx", (str(surveyed.binary), *built.argv), self.env, warnings)

    def _check_inputs(self, job: Job) -> tuple[str, ...]:
        if job.model and os.path.isfile(job.model):
            raise JobError(
                "ltx-2-mlx cannot read a single-file checkpoint", "model", job.model,
                "a split MLX folder or a repository name", "Convert it, or use LTX_BRIDGE=official",
            )  # fmt: skip
        if not job.audio_conditioning:
            return ()
        seconds, need = audio.duration_s(Path(job.audio_path or ""), self.env), job.clip_seconds
        if seconds is None:
            return (f"the length of {job.audio_path} could not be read; ltx-2-mlx crashes when it is below {need:.3f} s",)
        if seconds < need - 5e-4:  # half a millisecond: headers round
            raise JobError(
                "the audio is shorter than the clip, which crashes ltx-2-mlx", "audio_path",
                f"{job.audio_path} of {seconds:.3f} s", f"{need:.3f} s or more", "Use longer audio or fewer frames",
            )  # fmt: skip
        return ()

    def generate_video(
        self,
        job: Job,
        *,
        timeout_s: float | None = None,
        cancel: threading.Event | None = None,
        on_output: Callable[[str, str], None] | None = None,
    ) -> Result:
        """Make the video. It appears under its final name only when it is whole; raises a BridgeError otherwise."""
        final = Path(os.path.abspath(job.output_path or DEFAULT_OUTPUT))
        if not final.parent.is_dir():
            raise JobError("no such folder", "output_path", str(final), "a path in an existing folder", "Create the folder")
        if final.is_dir():
            raise JobError("the output is a folder", "output_path", str(final), "the path of a file", "Add a file name")
        # A folder of its own beside the final name: the same disk, so the rename is one step, and nobody else's files.
        scratch = final.parent / f".{final.stem[:40]}-{secrets.token_hex(6)}.partial"
        partial = scratch / "video.mp4"
        plan = self.plan(job, partial)
        if timeout_s is None and self.env.get("LTX_BRIDGE_TIMEOUT"):
            timeout_s = _seconds(self.env["LTX_BRIDGE_TIMEOUT"])
        try:
            scratch.mkdir(mode=0o700)
        except OSError as error:
            raise JobError(
                "the output folder cannot be written", "output_path", str(final.parent),
                "a writable folder with room", f"{error.strerror}",
            ) from error  # fmt: skip
        try:
            log_path = self._new_log(plan)
            done = process.run(
                plan.argv, env=plan.env, scratch=scratch, log_path=log_path, timeout_s=timeout_s, cancel=cancel,
                on_output=on_output,
            )  # fmt: skip
            movie = self._judge(plan, done, partial, final, log_path, timeout_s)
            os.replace(partial, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        warnings = plan.warnings + _differences(job, movie)
        if not done.log_complete:
            warnings += (f"the log {log_path} is not complete: it could not be written",)
        return Result(
            str(job.output_path or DEFAULT_OUTPUT), "video/mp4", f"external:{job.model_or_default}", warnings, log_path
        )

    def _judge(
        self, plan: Plan, done: process.Completed, partial: Path, final: Path, log_path: Path | None, timeout_s: float | None
    ) -> Movie:
        """The video that a finished process left, or the error that says why there is none."""
        tails = {"stderr": done.stderr, "stdout": done.stdout, "log_path": log_path}
        official = plan.name != "ltx-2-mlx"
        if done.why == "spawn":
            raise SpawnError(plan.argv[0], done.stderr, OFFICIAL_HINT if official else INSTALL_HINT)
        if done.why == "cancelled":
            raise Cancelled(
                f"cancelled after {done.seconds:.1f} s: {plan.name} and its children were ended, no video was written"
            )
        if done.why == "timeout":
            raise RunTimeout(f"{plan.name} ran past its limit of {timeout_s:g} s and was ended with its children", **tails)  # type: ignore[arg-type]
        full = shutil.disk_usage(final.parent).free < _LOW_DISK
        no_room = f"no space is left in {final.parent}" if full else ""
        if done.returncode != 0:
            raise ExitError(plan.name, done.returncode, reason=no_room, **tails)
        try:
            return read_movie(partial)
        except FileNotFoundError:
            what = f"{plan.name} ended with status 0 but wrote no video"
        except (Mp4Error, OSError) as error:
            what = f"{plan.name} ended with status 0 but its video is unusable: {error}"
        raise OutputError(f"{what} ({no_room})" if no_room else what, **tails)  # type: ignore[arg-type]

    def _new_log(self, plan: Plan) -> Path | None:
        folder = self.cache / "logs"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=time.strftime("%Y%m%d-%H%M%S-"), suffix=".log")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("".join(f"{word!r}\n" for word in plan.argv) + "\n")
        except OSError:
            return None
        return Path(name)


def _source_rate(job: Job) -> float | None:
    """Frames per second of a retake's source video, when its header tells."""
    if job.effective_mode != "retake" or not job.source_video_path:
        return None
    try:
        video = read_movie(Path(job.source_video_path)).video
    except (Mp4Error, OSError):
        return None
    return video.samples / video.duration_s if video.duration_s else None


def _differences(job: Job, movie: Movie) -> tuple[str, ...]:
    """Where the video is not what was asked for; sizes that the reference rounds are the usual reason."""
    video, warnings = movie.video, []
    if job.effective_mode in ("retake", "extend"):
        return ()
    for name, asked, got in (
        ("width", job.width, video.width),
        ("height", job.height, video.height),
        ("num_frames", job.num_frames, video.samples),
    ):
        if asked is not None and got and asked != got:
            warnings.append(f"{name} of the video is {got}, {asked} was asked")
    if movie.audio is None:
        warnings.append("the video has no sound")
    return tuple(warnings)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise JobError("not a time limit", "LTX_BRIDGE_TIMEOUT", text, "seconds, more than 0", "Change or unset the variable")
    return value
