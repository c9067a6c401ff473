"""From a job to the argument list of a reference. Pure: reads no file, starts nothing.

Every value is passed as `--flag=value`, so that a prompt or a path that begins with `-` stays a value.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass

from reference_bridge.errors import UnsupportedMode
from reference_bridge.job import DEFAULT_FRAME_RATE, Anchor, Job
from reference_bridge.surface import Surface, difference

EXTERNAL = "external-ltx-2-mlx"
OFFICIAL = "official"

# sha256 of the negative prompt that every released ltx-2-mlx always uses (the official code's default).
NEGATIVE_PROMPT_SHA256 = "3b57a0df38897410505431c481fdc9b8e4b6e86d18b1c425a1bc26ab96067379"
# What every released ltx-2-mlx does without a flag to change it (its HQ pipeline has other values for the rescales).
_FIXED = {
    "stg_blocks": (28,),
    "modality_scale": 3.0,
    "rescale_scale": 0.7,
    "audio_guidance": 7.0,
    "audio_stg_blocks": (28,),
    "audio_modality_scale": 3.0,
    "audio_rescale_scale": 0.7,
    "upsampler": None,
    "dtype": "bfloat16",
}
_FIXED_HQ = {"rescale_scale": 0.45, "audio_rescale_scale": 1.0, "stg_blocks": (), "audio_stg_blocks": ()}


@dataclass(frozen=True)
class Command:
    """Arguments after the program's name, and what the user should know about the video they give."""

    argv: tuple[str, ...]
    warnings: tuple[str, ...]


def external(job: Job, surface: Surface, output: str, source_rate: float | None = None) -> Command:
    """The `ltx-2-mlx` command for this job. Raises UnsupportedMode where the installed version cannot serve it.

    `source_rate` is the frame rate of the source video of a retake (None: 24).
    """
    mode = job.effective_mode
    for name in ("reference_videos", "distilled_loras"):
        if getattr(job, name):
            raise UnsupportedMode(mode, EXTERNAL, f"{name} cannot be handed to ltx-2-mlx through this bridge")
    builder = {"retake": _retake, "extend": _extend}.get(mode, _a2v if job.audio_conditioning else _generate)
    subcommand = builder.__name__.lstrip("_")
    reason = surface.broken.get(subcommand)
    if reason:
        raise UnsupportedMode(mode, EXTERNAL, reason)
    argv, warnings = builder(job, surface, [subcommand, f"--prompt={job.prompt}", f"--output={output}"])
    if mode == "retake":
        warnings += _latent_range(job, argv, source_rate or DEFAULT_FRAME_RATE)
    if job.loras and subcommand != "generate":
        raise UnsupportedMode(mode, EXTERNAL, f"`{subcommand}` of ltx-2-mlx {surface.version} takes no LoRA")
    for path, strength in job.loras:
        argv += ["--lora", os.path.abspath(path), str(strength)]
    if job.low_ram and surface.takes(subcommand, "--low-ram"):
        argv.append("--low-ram")
    elif job.low_ram:
        warnings.append(f"low_ram is not used: `{subcommand}` of ltx-2-mlx {surface.version} has no option for it")
    difference_found = difference(surface.helps.get(subcommand), subcommand, argv[1:])
    if difference_found:
        raise UnsupportedMode(mode, EXTERNAL, f"the installed ltx-2-mlx {surface.version} does not fit: {difference_found}")
    if not surface.known:
        warnings.append(f"ltx-2-mlx {surface.version} is not in the table of known versions; its --help fits this request")
    return Command(tuple(argv), tuple(warnings))


def _common(job: Job, argv: list[str]) -> None:
    argv.append(f"--model={job.model_or_default}")
    _add(argv, "--gemma", job.gemma)


def _generate(job: Job, surface: Surface, argv: list[str]) -> tuple[list[str], list[str]]:
    _common(job, argv)
    pipeline = _pipeline(job, surface)
    flag = surface.pipelines[pipeline]
    if flag is not None:
        argv.append(flag)
    warnings = _unused(job, surface, pipeline)
    _geometry(job, argv)
    _rate(job, surface.generate_rate_flag, argv, surface)
    _add(argv, "--steps" if pipeline in ("one-stage", "distilled-one-stage") else "--stage1-steps", job.steps)
    if pipeline in ("one-stage", "two-stage", "two-stages-hq"):
        _add(argv, "--cfg-scale", job.guidance)
        _add(argv, "--stg-scale", job.stg_scale)
    else:
        if job.guidance is not None:
            # Passed all the same: the command line is what was asked, and every version accepts the flag.
            argv.append(f"--cfg-scale={job.guidance}")
        if job.guidance not in (None, 1.0) or job.stg_scale not in (None, 0.0):
            how = "without a pipeline flag" if flag is None else f"with {flag}"
            warnings.append(
                f"guidance is not applied: `generate` of ltx-2-mlx {surface.version} {how} runs the distilled model without it"
            )
    _add(argv, "--seed", job.seed)
    if job.effective_mode == "i2v":
        _images(job, surface, pipeline, argv)
    elif job.effective_mode == "audio_ref_video":
        warnings.append(
            "audio_path is for muxing only because audio_passthrough is set: the video is made from the text alone"
            + (", images are not used" if job.anchors else "")
        )
    elif job.anchors:
        warnings.append(f"images are not used in mode {job.effective_mode}")
    _two_stage_size(job, pipeline, warnings)
    return argv, warnings


def _a2v(job: Job, surface: Surface, argv: list[str]) -> tuple[list[str], list[str]]:
    _common(job, argv)
    warnings = _unused(job, surface, "two-stage", audio_is_frozen=True)
    argv.append(f"--audio={os.path.abspath(job.audio_path or '')}")
    _geometry(job, argv)
    _rate(job, surface.a2v_rate_flag, argv, surface)
    _add(argv, "--stage1-steps", job.steps)
    _add(argv, "--cfg-scale", job.guidance)
    _add(argv, "--stg-scale", job.stg_scale)
    _add(argv, "--seed", job.seed)
    _images(job, surface, "a2v", argv)
    warnings.append(
        "stage 2 runs in full (3 more steps at twice the size): ltx-2-mlx cannot skip it, "
        "every version reads --stage2-steps 0 as 3"
    )
    if job.frame_rate not in (None, DEFAULT_FRAME_RATE):
        warnings.append(
            f"a2v of ltx-2-mlx places video tokens in time as if at 24 frames per second; {job.frame_rate} gives only durations"
        )
    if job.pipeline not in (None, "two-stage"):
        warnings.append(f"pipeline {job.pipeline} is not used: a2v always runs in two stages")
    _two_stage_size(job, "two-stage", warnings)
    return argv, warnings


def _retake(job: Job, surface: Surface, argv: list[str]) -> tuple[list[str], list[str]]:
    warnings = _edit(job, surface, argv)
    if not job.regenerate_audio:
        argv.append("--no-regen-audio")
    return argv, warnings


def _latent_range(job: Job, argv: list[str], rate: float) -> list[str]:
    """Seconds to latent frames: frame 0 is pixel frame 0, frame k > 0 holds pixel frames 8k - 7 to 8k."""
    from_s, to_s = job.retake_start or 0.0, job.retake_end or 0.0  # validate() has seen to both
    first, last = math.floor(from_s * rate), max(0, math.ceil(to_s * rate) - 1)
    start, end = (first + 7) // 8, (last + 7) // 8 + 1
    argv += [f"--start={start}", f"--end={end}"]
    begins, ends = max(0, start * 8 - 7) / rate, (end * 8 - 7) / rate
    if abs(begins - from_s) < 0.5 / rate and abs(ends - to_s) < 0.5 / rate:
        return []
    return [
        f"seconds {from_s} to {to_s} become {begins:.3f} to {ends:.3f}: "
        f"ltx-2-mlx regenerates whole latent frames ({start} to {end - 1} of 8 pixel frames each)"
    ]


def _extend(job: Job, surface: Surface, argv: list[str]) -> tuple[list[str], list[str]]:
    warnings = _edit(job, surface, argv)
    argv.append(f"--extend-frames={job.extend_frames}")
    _add(argv, "--direction", job.extend_direction)
    return argv, warnings


def _edit(job: Job, surface: Surface, argv: list[str]) -> list[str]:
    _common(job, argv)
    argv.append(f"--video={os.path.abspath(job.source_video_path or '')}")
    _add(argv, "--steps", job.steps)
    _add(argv, "--cfg-scale", job.guidance)
    _add(argv, "--stg-scale", job.stg_scale)
    _add(argv, "--seed", job.seed)
    warnings = _unused(job, surface, "one-stage")
    sized = [name for name in ("width", "height", "num_frames") if getattr(job, name) is not None]
    if sized:
        warnings.append(f"{', '.join(sized)} not used: {job.effective_mode} takes the size from the source video")
    if job.frame_rate not in (None, DEFAULT_FRAME_RATE):
        raise UnsupportedMode(
            job.effective_mode,
            EXTERNAL,
            f"frame_rate {job.frame_rate} was asked; ltx-2-mlx {surface.version} always writes this mode at 24",
        )
    return warnings


def _pipeline(job: Job, surface: Surface) -> str:
    if job.pipeline is None:
        return "one-stage" if "one-stage" in surface.pipelines else "distilled-one-stage"
    if job.pipeline not in surface.pipelines:
        offered = ", ".join(sorted(surface.pipelines))
        raise UnsupportedMode(
            job.effective_mode,
            EXTERNAL,
            f"ltx-2-mlx {surface.version} has no pipeline {job.pipeline}; it has {offered}",
        )
    return job.pipeline


def _images(job: Job, surface: Surface, pipeline: str, argv: list[str]) -> None:
    anchors = job.anchors
    plain = all((anchor.frame, anchor.strength, anchor.crf) == (0, 1.0, Anchor.crf) for anchor in anchors)
    if len(anchors) <= 1 and plain:
        argv += [f"--image={os.path.abspath(anchor.path)}" for anchor in anchors]
    elif pipeline in surface.many_images:
        for anchor in anchors:
            # Not `--image=`: the option takes several words, and an absolute path never begins with a dash.
            argv += ["--image", os.path.abspath(anchor.path), str(anchor.frame), str(anchor.strength), str(anchor.crf)]
    else:
        raise UnsupportedMode(
            job.effective_mode,
            EXTERNAL,
            f"{pipeline} of ltx-2-mlx {surface.version} takes one image, at frame 0 with strength 1 and crf {Anchor.crf}",
        )


def _geometry(job: Job, argv: list[str]) -> None:
    _add(argv, "--width", job.width)
    _add(argv, "--height", job.height)
    _add(argv, "--frames", job.num_frames)


def _rate(job: Job, flag: str | None, argv: list[str], surface: Surface) -> None:
    rate = DEFAULT_FRAME_RATE if job.frame_rate is None else float(job.frame_rate)
    if flag is not None:
        argv.append(f"{flag}={rate}")
    elif rate != DEFAULT_FRAME_RATE:
        raise UnsupportedMode(
            job.effective_mode,
            EXTERNAL,
            f"frame_rate {rate} was asked; `{argv[0]}` of ltx-2-mlx {surface.version} always makes 24 frames per second "
            f"(0.14.0 and newer take a frame rate)",
        )


def _unused(job: Job, surface: Surface, pipeline: str, *, audio_is_frozen: bool = False) -> list[str]:
    """Fields that differ from what this version always does and that it has no flag for."""
    fixed = {**_FIXED, **(_FIXED_HQ if pipeline == "two-stages-hq" else {})}
    if pipeline.startswith("distilled"):  # no guidance there, and a warning of its own about it
        fixed = {name: fixed[name] for name in ("upsampler", "dtype")}
    stg = surface.default_stg_scale if job.stg_scale is None else job.stg_scale
    warnings = []
    negative = job.negative_prompt
    guided = not pipeline.startswith("distilled")
    if guided and negative is not None and hashlib.sha256(negative.encode()).hexdigest() != NEGATIVE_PROMPT_SHA256:
        warnings.append(f"negative_prompt is not used: ltx-2-mlx {surface.version} always takes the official code's default")
    for name, value in fixed.items():
        asked = getattr(job, name)
        if asked is None or asked == value or (audio_is_frozen and name.startswith("audio_")):
            continue
        does = "has its own default" if value is None else f"always uses {value}"
        warnings.append(f"{name}={asked!r} is not used: ltx-2-mlx {surface.version} has no option for it and {does}")
    if guided and not audio_is_frozen and job.audio_stg_scale not in (None, stg):
        warnings.append(f"audio_stg_scale={job.audio_stg_scale} is not used: audio takes the video's stg_scale, {stg}")
    return warnings


def _two_stage_size(job: Job, pipeline: str, warnings: list[str]) -> None:
    if not pipeline.endswith("one-stage"):
        for name in ("width", "height"):
            value = getattr(job, name)
            if value is not None and value % 64:
                warnings.append(f"{name} {value} becomes {max(64, value // 64 * 64)}: two stages need a multiple of 64")


_OFFICIAL_PIPELINES = {"two-stages-hq": "two-stage-hq", "keyframes": "keyframe"}


def official(job: Job, output: str) -> Command:
    """The command for our own adapter of the official PyTorch code (`python -m reference_bridge.adapters.official`)."""
    mode = job.effective_mode
    if mode == "extend":
        raise UnsupportedMode(mode, OFFICIAL, "the official code has no pipeline for it")
    if not job.model or not job.gemma:
        missing = "model" if not job.model else "gemma"
        raise UnsupportedMode(mode, OFFICIAL, f"{missing} is not given; the official code needs local files and has no default")
    pipeline = _OFFICIAL_PIPELINES.get(job.pipeline or "", job.pipeline or "one-stage")
    pipeline = "retake" if mode == "retake" else "a2v" if job.audio_conditioning else pipeline
    argv = ["generate", f"--prompt={job.prompt}", f"--output={output}", f"--mode={pipeline}"]
    for flag, value in (
        ("--model", os.path.abspath(job.model)),
        ("--gemma", os.path.abspath(job.gemma)),
        ("--upsampler", job.upsampler and os.path.abspath(job.upsampler)),
        ("--negative-prompt", job.negative_prompt),
        ("--seed", job.seed),
        ("--height", job.height),
        ("--width", job.width),
        ("--frames", job.num_frames),
        ("--frame-rate", job.frame_rate),
        ("--steps", job.steps if pipeline not in ("distilled", "ic-lora") else None),
        ("--cfg-scale", job.guidance),
        ("--stg-scale", job.stg_scale),
        ("--modality-scale", job.modality_scale),
        ("--rescale-scale", job.rescale_scale),
        ("--audio-cfg-scale", job.audio_guidance),
        ("--audio-stg-scale", job.audio_stg_scale),
        ("--audio-modality-scale", job.audio_modality_scale),
        ("--audio-rescale-scale", job.audio_rescale_scale),
        ("--audio", os.path.abspath(job.audio_path or "") if pipeline == "a2v" else None),
        ("--start", job.retake_start if pipeline == "retake" else None),
        ("--end", job.retake_end if pipeline == "retake" else None),
        ("--dtype", job.dtype),
    ):
        _add(argv, flag, value)
    # Options of several words cannot be written with `=`; absolute paths and numbers never look like a flag.
    for flag, blocks in (("--stg-blocks", job.stg_blocks), ("--audio-stg-blocks", job.audio_stg_blocks)):
        if blocks is not None:
            argv += [flag, *map(str, blocks)]
    warnings = ["low_ram is not used: the official adapter has no option for it"] if job.low_ram else []
    if mode == "i2v" or pipeline == "a2v":
        for anchor in job.anchors:
            argv += ["--image", os.path.abspath(anchor.path), str(anchor.frame), str(anchor.strength), str(anchor.crf)]
    elif job.anchors:
        warnings.append(f"images are not used in mode {mode}")
    if pipeline == "retake":
        argv += ["--video", os.path.abspath(job.source_video_path or "")]
        argv += [] if job.regenerate_audio else ["--keep-audio"]
    pairs = (("--video", job.reference_videos), ("--lora", job.loras), ("--distilled-lora", job.distilled_loras))
    for flag, entries in pairs:
        for path, strength in entries:
            argv += [flag, os.path.abspath(path), str(strength)]
    if mode == "audio_ref_video" and not job.audio_conditioning:
        warnings.append("audio_path is for muxing only because audio_passthrough is set: the video is made from the text alone")
    return Command(tuple(argv), tuple(warnings))


def _add(argv: list[str], flag: str, value: object) -> None:
    if value is not None:
        argv.append(f"{flag}={value}")
