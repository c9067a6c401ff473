"""What is asked of a reference: the request's fields, the mode they amount to, and the answer."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_bridge.errors import JobError

DEFAULT_MODEL = "dgrauet/ltx-2.3-mlx-q4"
DEFAULT_OUTPUT = "output.mp4"
DEFAULT_FRAME_RATE = 24.0
DEFAULT_FRAMES = 97  # every released ltx-2-mlx
MODES = ("t2v", "audio_video", "i2v", "audio_ref_video", "extend", "retake")
PIPELINES = ("one-stage", "two-stage", "two-stages-hq", "distilled", "keyframes", "ic-lora")
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Anchor:
    """An image that pixel frame `frame` shall show; `crf` is the quality of the H.264 pass over it (0: none)."""

    path: str
    frame: int = 0
    strength: float = 1.0
    crf: int = 33


@dataclass(frozen=True)
class Job:
    """One video to make. `None` means: the reference's own default. Frames are pixel frames at `frame_rate` per second.

    `retake` regenerates the seconds [retake_start, retake_end) of `source_video_path`; `extend` adds `extend_frames` latent
    frames before or after it (`extend_direction`). A latent frame holds 8 pixel frames, the first one holds 1.
    `loras`, `distilled_loras` and `reference_videos` are pairs of path and strength.
    """

    prompt: str
    output_path: str | None = None
    model: str | None = None
    gemma: str | None = None
    upsampler: str | None = None
    negative_prompt: str | None = None
    mode: str | None = None
    pipeline: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    frame_rate: float | None = None
    steps: int | None = None
    guidance: float | None = None
    stg_scale: float | None = None
    stg_blocks: tuple[int, ...] | None = None
    modality_scale: float | None = None
    rescale_scale: float | None = None
    audio_guidance: float | None = None
    audio_stg_scale: float | None = None
    audio_stg_blocks: tuple[int, ...] | None = None
    audio_modality_scale: float | None = None
    audio_rescale_scale: float | None = None
    seed: int | None = None
    image_path: str | None = None
    images: tuple[Anchor, ...] = ()
    audio_path: str | None = None
    audio_passthrough: bool = False
    source_video_path: str | None = None
    retake_start: float | None = None
    retake_end: float | None = None
    regenerate_audio: bool = True
    extend_frames: int | None = None
    extend_direction: str | None = None
    reference_videos: tuple[tuple[str, float], ...] = ()
    loras: tuple[tuple[str, float], ...] = ()
    distilled_loras: tuple[tuple[str, float], ...] = ()
    dtype: str | None = None
    low_ram: bool = False

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Job:
        """A job from a request's fields by name. A name that no job has is refused: dropping it would change the video."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise JobError("a field that the bridge does not know", name, value, f"one of {sorted(known)}", "Leave it out")
        plain = {name: _plain(value) for name, value in values.items()}
        if "images" in plain:
            plain["images"] = tuple(Anchor(*anchor) for anchor in plain["images"])
        return cls(**plain)

    @classmethod
    def from_request(cls, request: Any) -> Job:
        """A job from a dataclass with the same field names (the native engine's Request)."""
        return cls.from_mapping({field.name: getattr(request, field.name) for field in dataclasses.fields(request)})

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """All images that steer the video, `image_path` at frame 0 first."""
        return ((Anchor(self.image_path),) if self.image_path else ()) + self.images

    @property
    def effective_mode(self) -> str:
        """The mode asked for, or else the one that the given inputs amount to: a source video, then audio, then an image."""
        if self.mode is not None:
            return self.mode
        if self.source_video_path:
            return "extend" if self.extend_frames is not None else "retake"
        if self.audio_path:
            return "audio_ref_video"
        return "i2v" if self.anchors else "t2v"

    @property
    def audio_conditioning(self) -> bool:
        """The audio steers the picture (`a2v`). With `audio_passthrough` it is only to be muxed with the video later."""
        return self.effective_mode == "audio_ref_video" and not self.audio_passthrough

    @property
    def model_or_default(self) -> str:
        return self.model or DEFAULT_MODEL

    @property
    def clip_seconds(self) -> float:
        frames = DEFAULT_FRAMES if self.num_frames is None else self.num_frames
        return frames / (self.frame_rate or DEFAULT_FRAME_RATE)

    def validate(self) -> None:
        """Refuse what no reference could serve. Raises JobError."""
        if not self.prompt.strip():
            raise JobError("the prompt is empty", "prompt", self.prompt, "some text", "Say what the video shows")
        if "\0" in self.prompt:
            raise JobError("the prompt holds a NUL character", "prompt", self.prompt, "text", "Remove the character")
        _choice("mode", self.mode, MODES)
        _choice("pipeline", self.pipeline, PIPELINES)
        _choice("extend_direction", self.extend_direction, ("before", "after"))
        for name, low, step, offset in (
            ("width", 32, 32, 0),
            ("height", 32, 32, 0),
            ("num_frames", 1, 8, 1),
            ("steps", 1, 1, 0),
        ):
            value = getattr(self, name)
            if value is not None and (value < low or (value - offset) % step):
                rule = {"num_frames": "8·k + 1 (1, 9, 17, …)", "steps": "1 or more"}.get(name, "a positive multiple of 32")
                raise JobError(f"{name} is out of range", name, value, rule, "Change the value")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise JobError("not a finite number", field.name, value, "a finite number", "Change the value")
        if self.frame_rate is not None and self.frame_rate <= 0:
            raise JobError("frame_rate is out of range", "frame_rate", self.frame_rate, "more than 0", "Use 24")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise JobError("seed is out of range", "seed", self.seed, f"0 to {MAX_SEED}", "Change the value")
        self._validate_inputs()

    def _validate_inputs(self) -> None:
        mode = self.effective_mode
        if mode == "i2v" and not self.anchors:
            _readable("image_path", None, "i2v requested but image_path is empty")
        for anchor in self.anchors:
            _readable("image_path", anchor.path, "an image without a path")
        if mode == "audio_ref_video":
            _readable("audio_path", self.audio_path, "audio_ref_video requested but audio_path is empty")
        if mode in ("retake", "extend"):
            _readable("source_video_path", self.source_video_path, f"{mode} requested but source_video_path is empty")
        start, end = self.retake_start, self.retake_end
        if mode == "retake" and not (start is not None and end is not None and 0 <= start < end):
            raise JobError("no range to retake", "retake_start, retake_end", (start, end), "0 <= start < end", "Give both")
        for path, _ in (*self.reference_videos, *self.loras, *self.distilled_loras):
            _readable("reference_videos, loras", path, "an entry without a path")
        if mode == "extend" and (self.extend_frames is None or self.extend_frames < 1):
            raise JobError("nothing to add", "extend_frames", self.extend_frames, "1 or more latent frames", "Give the number")


@dataclass(frozen=True)
class Result:
    """A video that exists under its final name and was read back."""

    video_path: str
    media_type: str
    model_used: str
    warnings: tuple[str, ...]
    log_path: Path | None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.astuple(value)
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return getattr(value, "value", value)


def _choice(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise JobError(f"unknown {name}", name, value, f"one of {', '.join(allowed)}", "Change the value")


def _readable(field: str, path: str | None, missing: str) -> None:
    if not path:
        raise JobError(missing, field, path, "the path of a file", "Give the path or another mode")
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise JobError("the file cannot be read", field, path, "a readable file", "Check the path")
