"""What a user asks for: one frozen request, checked before anything is loaded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any

from ltx_native.errors import RequestError
from ltx_native.guidance_params import GuiderParams

DEFAULT_MODEL = "dgrauet/ltx-2.3-mlx-q4"
DEFAULT_OUTPUT = "output.mp4"
DEFAULT_IMAGE_CRF = 33
MODES = ("t2v", "audio_video", "i2v", "audio_ref_video", "extend", "retake")
#: one-stage: dev model at the target size; two-stage: half size, upsampled, refined; the last two are one-of-a-kind.
PIPELINES = ("one-stage", "two-stage", "two-stages-hq", "distilled", "keyframes", "ic-lora")
DTYPES = ("bfloat16", "float32")
MAX_SEED = 2**32 - 1
DEFAULT_FRAMES = 97
#: The default of all official pipelines, word for word.
DEFAULT_NEGATIVE_PROMPT = (
    "blurry, out of focus, overexposed, underexposed, low contrast, washed out colors, excessive noise, grainy "
    "texture, poor lighting, flickering, motion blur, distorted proportions, unnatural skin tones, deformed facial "
    "features, asymmetrical face, missing facial features, extra limbs, disfigured hands, wrong hand count, "
    "artifacts around text, inconsistent perspective, camera shake, incorrect depth of field, background too sharp, "
    "background clutter, distracting reflections, harsh shadows, inconsistent lighting direction, color banding, "
    "cartoonish rendering, 3D CGI look, unrealistic materials, uncanny valley effect, incorrect ethnicity, wrong "
    "gender, exaggerated expressions, wrong gaze direction, mismatched lip sync, silent or muted audio, distorted "
    "voice, robotic voice, echo, background noise, off-sync audio, incorrect dialogue, added dialogue, repetitive "
    "speech, jittery movement, awkward pauses, incorrect timing, unnatural transitions, inconsistent framing, tilted "
    "camera, flat lighting, inconsistent tone, cinematic oversaturation, stylized filters, or AI artifacts."
)


@dataclass(frozen=True)
class Anchor:
    """An image that pixel frame ``frame`` shall show, ``strength`` 1 exactly, 0 not at all.

    ``crf`` is the quality of the H.264 pass that makes the image look like a video frame; 0 leaves it alone.
    """

    path: str
    frame: int = 0
    strength: float = 1.0
    crf: int = DEFAULT_IMAGE_CRF


@dataclass(frozen=True)
class Lora:
    path: str
    strength: float = 1.0


@dataclass(frozen=True)
class Request:
    """One video to make. ``None`` means the default of the mode; sizes in pixels, ranges in seconds.

    ``retake`` makes [retake_start, retake_end) of ``source_video_path`` anew; ``extend`` adds ``extend_frames`` latent
    frames (8 pixel frames each) before or after it.
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
    loras: tuple[Lora, ...] = ()
    distilled_loras: tuple[Lora, ...] = ()
    dtype: str = "bfloat16"
    low_ram: bool = False  # one transformer block in memory at a time

    @property
    def effective_mode(self) -> str:
        """The mode asked for, else what the inputs amount to: a source video, then sound, then an image, then text."""
        if self.mode is not None:
            return self.mode
        if self.source_video_path:
            return "extend" if self.extend_frames is not None else "retake"
        if self.audio_path:
            return "audio_ref_video"
        return "i2v" if self.anchors else "t2v"

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        first = (Anchor(self.image_path),) if self.image_path else ()
        return first + self.images

    @property
    def steering_anchors(self) -> tuple[Anchor, ...]:
        """The images that the mode takes: text to video, retake and extend make their pictures without any."""
        return self.anchors if self.effective_mode == "i2v" or self.audio_conditioning else ()

    @property
    def audio_conditioning(self) -> bool:
        """The given sound steers the picture; with ``audio_passthrough`` it is only put into the file."""
        return self.effective_mode == "audio_ref_video" and not self.audio_passthrough

    @property
    def effective_pipeline(self) -> str:
        if self.pipeline is not None:
            return self.pipeline
        return "two-stage" if self.audio_conditioning else "one-stage"

    @property
    def two_stage(self) -> bool:
        """Half size first: the size must divide by 64. Retake and extend work at the source's size in one stage."""
        return self.effective_pipeline != "one-stage" and self.effective_mode not in ("extend", "retake")

    def resolved(self) -> ResolvedRequest:
        """Every default of the mode written out, so that both engines make the same video."""
        hq = self.effective_pipeline == "two-stages-hq"
        size = (768, 512) if self.two_stage else (704, 480)
        defaults: dict[str, Any] = {
            "output_path": DEFAULT_OUTPUT,
            "model": DEFAULT_MODEL,
            "negative_prompt": DEFAULT_NEGATIVE_PROMPT,
            "width": size[0],
            "height": size[1],
            "num_frames": DEFAULT_FRAMES,
            "frame_rate": 24.0,
            "steps": 15 if hq else 30,
            "guidance": 3.0,
            "stg_scale": 0.0 if hq else 1.0,
            "stg_blocks": () if hq else (28,),
            "modality_scale": 3.0,
            "rescale_scale": 0.45 if hq else 0.7,
            "audio_guidance": 7.0,
            "audio_stg_scale": 0.0 if hq else 1.0,
            "audio_stg_blocks": () if hq else (28,),
            "audio_modality_scale": 3.0,
            "audio_rescale_scale": 1.0 if hq else 0.7,
            "seed": 10,
            "extend_direction": "after",
        }
        given: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(Request)}
        return ResolvedRequest(**{**given, **{k: v for k, v in defaults.items() if given[k] is None}})

    def validate(self) -> None:
        """Refuse what cannot be served. Raises RequestError: what, where, value, expected, next step."""
        if not self.prompt.strip():
            raise RequestError("the prompt is empty", "prompt", self.prompt, "some text", "Say what the video shows")
        if "\0" in self.prompt:
            raise RequestError("the prompt holds a NUL character", "prompt", self.prompt, "text", "Remove it")
        _choice("mode", self.mode, MODES)
        _choice("pipeline", self.pipeline, PIPELINES)
        _choice("extend_direction", self.extend_direction, ("before", "after"))
        _choice("dtype", self.dtype, DTYPES)
        self._validate_numbers()
        self._validate_inputs()

    def _validate_numbers(self) -> None:
        multiple = 64 if self.two_stage else 32
        for name in ("width", "height"):
            value = getattr(self, name)
            _check(
                value is None or (value > 0 and value % multiple == 0),
                f"{name} is out of range",
                name,
                value,
                f"a positive multiple of {multiple} for {self.effective_pipeline}",
                _nearest(value, multiple),
            )
        frames = self.num_frames
        _check(
            frames is None or (frames > 0 and frames % 8 == 1),
            "the frame count does not fit the video VAE",
            "num_frames",
            frames,
            "8k + 1: 1, 9, 17, …, 97, 121",
            f"Use {max(1, round(((frames or 1) - 1) / 8) * 8 + 1)}",
        )
        _check(self.steps is None or self.steps >= 1, "there is nothing to do", "steps", self.steps, "1 or more", "Use 30")
        seed_ok = self.seed is None or 0 <= self.seed <= MAX_SEED
        _check(seed_ok, "the seed is out of range", "seed", self.seed, f"0 to {MAX_SEED}", "Use a seed in this range")
        for item in fields(self):
            value = getattr(self, item.name)
            finite = not isinstance(value, float) or math.isfinite(value)
            _check(finite, f"{item.name} is not a number", item.name, value, "a finite number", "Change the value")
        rate_ok = self.frame_rate is None or self.frame_rate > 0
        _check(rate_ok, "the frame rate is out of range", "frame_rate", self.frame_rate, "more than 0", "Use 24")
        for name in ("stg_blocks", "audio_stg_blocks"):
            blocks = getattr(self, name)
            ok = blocks is None or all(block >= 0 for block in blocks)
            _check(ok, "a block number is negative", name, blocks, "0 or more", "Give the numbers of blocks")

    def _validate_inputs(self) -> None:
        mode = self.effective_mode
        if mode == "i2v" and not self.anchors:
            raise RequestError("i2v was asked for without an image", "image_path", None, "a file", "Give --image")
        for anchor in self.anchors:
            _readable("image_path", anchor.path)
            last = (self.num_frames or DEFAULT_FRAMES) - 1
            inside = 0 <= anchor.frame <= last
            _check(inside, "the image lies outside the clip", "image frame", anchor.frame, f"0 to {last}", "Move it")
            _check(
                0 <= anchor.strength <= 1, "an image's strength is out of range", "image strength", anchor.strength,
                "0 to 1", "Use 1 for an exact frame",
            )  # fmt: skip
            _check(0 <= anchor.crf <= 51, "CRF is out of range", "image CRF", anchor.crf, "0 to 51", "Use 33")
        if mode == "audio_ref_video":
            if not self.audio_path:
                raise RequestError(
                    "audio_ref_video was asked for without a sound", "audio_path", None, "a file", "Give --audio"
                )
            _readable("audio_path", self.audio_path)
        if mode in ("retake", "extend"):
            if not self.source_video_path:
                raise RequestError(f"{mode} was asked for without a video", "source_video_path", None, "a file", "Give --video")
            _readable("source_video_path", self.source_video_path)
        if mode == "retake":
            start, end = self.retake_start, self.retake_end
            ok = start is not None and end is not None and 0 <= start < end
            _check(
                ok,
                "there is no range to retake",
                "retake_start, retake_end",
                (start, end),
                "0 <= start < end in seconds",
                "Give both",
            )
        if mode == "extend":
            ok = self.extend_frames is not None and self.extend_frames >= 1
            _check(
                ok,
                "there is nothing to add",
                "extend_frames",
                self.extend_frames,
                "1 or more latent frames",
                "Use 1 for 8 more frames",
            )
        if self.effective_pipeline == "keyframes" and not self.anchors:
            raise RequestError("keyframes need images", "images", (), "at least one image", "Give --image PATH FRAME")
        for path, _ in self.reference_videos:
            _readable("reference_videos", path)
        for lora in (*self.loras, *self.distilled_loras):
            _readable("lora", lora.path)


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest(Request):
    """A request in which nothing is left to a default."""

    output_path: str
    model: str
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    frame_rate: float
    steps: int
    guidance: float
    stg_scale: float
    stg_blocks: tuple[int, ...]
    modality_scale: float
    rescale_scale: float
    audio_guidance: float
    audio_stg_scale: float
    audio_stg_blocks: tuple[int, ...]
    audio_modality_scale: float
    audio_rescale_scale: float
    seed: int
    extend_direction: str

    def video_guider(self) -> GuiderParams:
        return GuiderParams(
            cfg_scale=self.guidance,
            stg_scale=self.stg_scale,
            stg_blocks=self.stg_blocks,
            rescale_scale=self.rescale_scale,
            modality_scale=self.modality_scale,
        )

    def audio_guider(self) -> GuiderParams:
        return GuiderParams(
            cfg_scale=self.audio_guidance,
            stg_scale=self.audio_stg_scale,
            stg_blocks=self.audio_stg_blocks,
            rescale_scale=self.audio_rescale_scale,
            modality_scale=self.audio_modality_scale,
        )


def _check(ok: bool, what: str, where: str, value: object, expected: str, next_step: str) -> None:
    if not ok:
        raise RequestError(what, where, value, expected, next_step)


def _choice(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    _check(value is None or value in allowed, f"unknown {name}", name, value, f"one of {', '.join(allowed)}", "Change it")


def _nearest(value: int | None, multiple: int) -> str:
    return f"Use {max(multiple, round((value or multiple) / multiple) * multiple)}"


def _readable(field: str, path: str) -> None:
    ok = os.path.isfile(path) and os.access(path, os.R_OK)
    _check(ok, "the file cannot be read", field, path, "a readable file", "Check the path")
