"""What only the files themselves can tell: refused here in words rather than deep inside the official code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official.checks import BadInput, frame_count, multiple_of, safetensors_header


def check_files(args: argparse.Namespace) -> None:
    """Check LoRAs, images, sound and source video; a retake takes its size and rate from the video. Raises `BadInput`."""
    loras = [*args.lora, *([args.distilled_lora] if args.distilled_lora else [])]
    for path, _ in loras:
        _lora(path)
    for path, *_ in args.image:
        _image(path)
    if args.audio is not None:
        _sound(args.audio, args.audio_start + args.frames / args.frame_rate)
    if args.mode == "retake":
        args.frame_rate, args.frames, args.width, args.height = video_format(args.video[0][0])
        if args.start >= args.frames / args.frame_rate:
            found = f"{args.start} s of {args.frames / args.frame_rate:.3f} s"
            raise BadInput("region after the end", "--start", found, "a start inside the video", "Change the region.")
    for path, _ in args.video:
        video_format(path, "--video", whole=args.mode == "retake")


def video_format(path: Path, where: str = "--video", whole: bool = True) -> tuple[float, int, int, int]:
    """Frame rate, frames, width, height of a video. `whole`: all of it must fit the model, as in a retake."""
    import av
    from ltx_pipelines.utils.media_io import get_videostream_metadata

    try:
        found: tuple[float, int, int, int] = get_videostream_metadata(str(path))
    except (av.FFmpegError, OSError, StopIteration, TypeError) as error:
        raise BadInput("unreadable video", where, f"{path} ({error})", "a video file", "Check the file.") from None
    if whole:
        frame_count(found[1], f"{where} {path}: frames")
        multiple_of(found[2], 32, f"{where} {path}: width")
        multiple_of(found[3], 32, f"{where} {path}: height")
    return found


def _lora(path: Path) -> None:
    """The official fusion passes over keys it does not know, so that a LoRA of another model would do nothing."""
    names = [name for name in safetensors_header(path, "--lora") if name != "__metadata__"]
    known = [n for n in names if n.startswith("diffusion_model.") and n.endswith((".lora_A.weight", ".lora_B.weight"))]
    if len(known) != len(names) or not names:
        other = next((name for name in names if name not in known), "no tensor")
        expected = "keys like diffusion_model.….lora_A.weight"
        raise BadInput("a LoRA for another model", "--lora", f"{path}: {other}", expected, "Convert it to these keys.")


def _image(path: Path) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.verify()
            mode = image.mode
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadInput("unreadable image", "--image", f"{path} ({error})", "an image file", "Check the file.") from None
    if mode not in ("RGB", "RGBA"):
        # The official loader takes the first three channels as they are.
        raise BadInput("image of another kind", "--image", f"{path}: {mode}", "RGB or RGBA", "Convert it to RGB.")


def _sound(path: Path, needed_s: float) -> None:
    import av

    try:
        with av.open(str(path)) as container:
            stream: Any = next(iter(container.streams.audio), None)
            channels = 0 if stream is None else stream.codec_context.channels
            length = 0.0 if stream is None or stream.duration is None else float(stream.duration * stream.time_base)
    except (av.FFmpegError, OSError) as error:
        raise BadInput("unreadable sound", "--audio", f"{path} ({error})", "a sound file", "Check the file.") from None
    if channels != 2:
        raise BadInput("sound of another kind", "--audio", f"{path}: {channels} channels", "2 channels", "Convert it.")
    # One latent of the audio VAE lasts 40 ms; half of one is lost in rounding.
    if length and length < needed_s - 0.02:
        found, expected = f"{length:.3f} s", f"at least {needed_s:.3f} s"
        raise BadInput("sound shorter than the clip", "--audio", found, expected, "Use a longer sound or fewer frames.")
