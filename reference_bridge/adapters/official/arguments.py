"""The command line of the adapter: flags, their checks, and nothing that needs PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from reference_bridge.adapters.official.checks import (
    BadInput,
    at_least,
    existing,
    frame_count,
    gemma_config,
    model_config,
    multiple_of,
    safetensors_header,
)

ONE_STAGE_MODES = ("one-stage", "retake")
TWO_STAGE_MODES = ("distilled", "two-stage", "two-stage-hq", "a2v", "keyframe", "ic-lora")
DISTILLED_LORA_MODES = ("two-stage", "two-stage-hq", "a2v", "keyframe")
MODES = (*ONE_STAGE_MODES, *TWO_STAGE_MODES)
DTYPES = ("float32", "bfloat16", "float64")
MAX_SEED = 2**63 - 1


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput("bad arguments", self.prog, message, "the flags listed by --help", "Correct the command.")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="official", description="Lightricks' official LTX-2 code as a reference.", allow_abbrev=False)
    verbs = top.add_subparsers(dest="verb", required=True, parser_class=Parser)
    _generate(verbs.add_parser("generate", help="generate a video with sound", allow_abbrev=False))
    _replay(verbs.add_parser("replay", help="run every recorded module again in another dtype", allow_abbrev=False))
    _cases(verbs.add_parser("cases", help="run the transformer of a golden file on its cases", allow_abbrev=False))
    _bench(verbs.add_parser("bench", help="time the denoising step", allow_abbrev=False))
    verbs.add_parser("versions", help="print what is installed, as JSON", allow_abbrev=False)
    return top


def _weights(verb: argparse.ArgumentParser, gemma_required: bool = True) -> None:
    verb.add_argument("--model", type=Path, required=True, help="official single-file checkpoint")
    verb.add_argument("--gemma", type=Path, required=gemma_required, help="folder of the Gemma 3 text encoder")
    verb.add_argument("--upsampler", type=Path, help="latent upsampler checkpoint")
    verb.add_argument("--threads", type=int, default=1, help="threads of a tensor operation (default 1)")


def _size(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--height", type=int, default=512)
    verb.add_argument("--width", type=int, default=768)
    verb.add_argument("--frames", type=int, default=121, help="8k+1")
    verb.add_argument("--frame-rate", type=float, default=24.0)


def _guidance(verb: argparse.ArgumentParser) -> None:
    for prefix, modality in (("--", "video"), ("--audio-", "audio")):
        verb.add_argument(f"{prefix}cfg-scale", type=float, help=f"{modality}: classifier-free guidance")
        verb.add_argument(f"{prefix}stg-scale", type=float, help=f"{modality}: spatio-temporal guidance")
        blocks = f"{modality}: blocks perturbed for it"
        verb.add_argument(f"{prefix}stg-blocks", type=int, nargs="*", action="extend", help=blocks)
        verb.add_argument(f"{prefix}modality-scale", type=float, help=f"{modality}: guidance from the other modality")
        verb.add_argument(f"{prefix}rescale-scale", type=float, help=f"{modality}: rescaling after guidance")
        verb.add_argument(f"{prefix}skip-step", type=int, help=f"{modality}: steps left out between guided ones")


def _generate(verb: argparse.ArgumentParser) -> None:
    _weights(verb)
    _size(verb)
    _guidance(verb)
    verb.add_argument("--mode", choices=MODES, default="one-stage")
    verb.add_argument("--prompt", required=True, help="write --prompt=TEXT when it begins with a dash")
    verb.add_argument("--negative-prompt", help="default: the official one")
    verb.add_argument("--output", type=Path, required=True, help="the mp4 to write")
    verb.add_argument("--seed", type=int, default=10)
    verb.add_argument("--steps", type=int, help="steps of the guided stage; fixed for distilled and ic-lora")
    verb.add_argument("--image", nargs="+", action="append", default=[], metavar="A", help="PATH FRAME STRENGTH [CRF]")
    verb.add_argument("--audio", type=Path, help="a2v: sound to follow")
    verb.add_argument("--audio-start", type=float, default=0.0, help="a2v: where to begin in it, seconds")
    verb.add_argument("--video", nargs="+", action="append", default=[], metavar="A", help="PATH [STRENGTH]")
    verb.add_argument("--start", type=float, help="retake: start of the region, seconds")
    verb.add_argument("--end", type=float, help="retake: end of the region, seconds")
    verb.add_argument("--keep-video", action="store_true", help="retake: regenerate the sound only")
    verb.add_argument("--keep-audio", action="store_true", help="retake: regenerate the picture only")
    verb.add_argument("--lora", nargs="+", action="append", default=[], metavar="A", help="PATH [STRENGTH]")
    verb.add_argument("--distilled-lora", nargs="+", metavar="A", help="PATH [STRENGTH], for stage 2")
    verb.add_argument("--tiling", choices=("official", "none"), default="official", help="tiles of the video decoder")
    verb.add_argument("--dtype", choices=DTYPES[:2], default="float32")
    verb.add_argument("--noise", type=Path, help="safetensors file of the random draws to use instead")
    verb.add_argument("--trace", type=Path, help="folder to record the run in")
    verb.add_argument("--sites", nargs="+", action="extend", default=[], metavar="GLOB", help="record only these sites")
    verb.add_argument("--outputs-only", action="store_true", help="record no inputs")
    verb.add_argument("--sketch", action="store_true", help="record sketches of outputs in place of tensors")
    verb.add_argument("--quiet", action="store_true")


def _replay(verb: argparse.ArgumentParser) -> None:
    _weights(verb)
    verb.add_argument("--trace", type=Path, required=True, help="a trace that `generate` recorded")
    verb.add_argument("--output", type=Path, required=True, help="the trace to write")
    verb.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    verb.add_argument("--sites", nargs="+", action="extend", default=[], metavar="GLOB", help="replay only these sites")
    verb.add_argument("--steps", type=int, nargs="+", help="replay only these denoising steps (and what has none)")
    verb.add_argument("--quiet", action="store_true")


def _cases(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--golden", type=Path, required=True)
    verb.add_argument("--output", type=Path, help="safetensors file to write the velocities to")


def _bench(verb: argparse.ArgumentParser) -> None:
    _weights(verb, gemma_required=False)
    _size(verb)
    _guidance(verb)
    verb.add_argument("--repeat", type=int, default=10, help="steps timed")
    verb.add_argument("--warmup", type=int, default=2, help="steps before the timed ones")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--on-request", action="store_true", help="time one step for each line read from stdin")
    verb.add_argument("--probe", type=Path, metavar="DIR", help="with --on-request: record the steps that ask for it there")


def check_weights(args: argparse.Namespace) -> None:
    model_config(args.model, "--model")
    if args.gemma is not None:
        gemma_config(args.gemma)
    if args.upsampler is not None:
        safetensors_header(args.upsampler, "--upsampler")
    at_least(args.threads, 1, "--threads")


def check_size(args: argparse.Namespace, divisor: int) -> None:
    multiple_of(args.height, divisor, "--height")
    multiple_of(args.width, divisor, "--width")
    frame_count(args.frames, "--frames")
    at_least(args.frame_rate, 1, "--frame-rate")


def check_generate(args: argparse.Namespace) -> None:
    """Everything about a `generate` command that can be told without running it. Raises `BadInput`."""
    mode = args.mode
    if not args.prompt.strip():
        raise BadInput("empty prompt", "--prompt", repr(args.prompt), "some text", "Describe the video.")
    if not 0 <= args.seed <= MAX_SEED:
        raise BadInput("seed out of range", "--seed", args.seed, f"0 to {MAX_SEED}", "Choose another seed.")
    if mode != "retake":
        check_size(args, 64 if mode in TWO_STAGE_MODES else 32)
    at_least(args.steps, 1, "--steps")
    for name in ("stg_blocks", "audio_stg_blocks"):
        for block in getattr(args, name) or ():
            at_least(block, 0, "--" + name.replace("_", "-"))
    if args.output.suffix.lower() != ".mp4":
        raise BadInput("output of an unknown kind", "--output", args.output, "a name ending in .mp4", "Rename it.")
    for flag, path in (("--output", args.output), ("--trace", args.trace)):
        if path is not None and not path.absolute().parent.is_dir():
            raise BadInput("no such folder", flag, path.parent, "an existing folder", "Create it.")
    if args.trace is not None and args.trace.exists():
        raise BadInput("the trace exists", "--trace", args.trace, "a new folder", "Remove it or choose another name.")
    _check_mode(args)
    check_weights(args)
    if args.noise is not None:
        safetensors_header(args.noise, "--noise")


def _check_mode(args: argparse.Namespace) -> None:
    mode = args.mode
    args.image = [_image(values, args) for values in args.image]
    args.lora = [_path_strength(values, "--lora") for values in args.lora]
    args.video = [_path_strength(values, "--video") for values in args.video]
    if args.distilled_lora is not None:
        args.distilled_lora = _path_strength(args.distilled_lora, "--distilled-lora")
    needs = {
        "--upsampler": (args.upsampler, mode in TWO_STAGE_MODES),
        "--distilled-lora": (args.distilled_lora, mode in DISTILLED_LORA_MODES),
        "--audio": (args.audio, mode == "a2v"),
        "--video": (args.video or None, mode in ("retake", "ic-lora")),
        "--start": (args.start, mode == "retake"),
        "--end": (args.end, mode == "retake"),
        "--image": (args.image or None, mode == "keyframe"),
    }
    for flag, (value, needed) in needs.items():
        if needed and value is None:
            raise BadInput("missing flag", f"--mode {mode}", "nothing", flag, f"Add {flag}.")
        useful = needed or flag == "--upsampler" or (flag == "--image" and mode != "retake")
        if value is not None and not useful:
            raise BadInput("flag without use", f"--mode {mode}", flag, "flags of this mode", f"Remove {flag}.")
    if mode == "retake" and not 0 <= args.start < args.end:
        found = f"{args.start} to {args.end}"
        raise BadInput("empty region", "--start --end", found, "0 <= start < end", "Change the region.")
    if args.audio is not None:
        existing(args.audio, "--audio")


def _path_strength(values: list[str], flag: str) -> tuple[Path, float]:
    if len(values) > 2:
        raise BadInput("too many values", flag, " ".join(values), "PATH [STRENGTH]", "Repeat the flag for each file.")
    try:
        strength = float(values[1]) if len(values) == 2 else 1.0
    except ValueError:
        raise BadInput("not a number", flag, values[1], "PATH [STRENGTH]", "Correct the strength.") from None
    return existing(Path(values[0]), flag), strength


def _image(values: list[str], args: argparse.Namespace) -> tuple[Path, int, float, int | None]:
    try:
        path, frame, strength, *rest = values
        image = existing(Path(path), "--image"), int(frame), float(strength), int(rest[0]) if rest else None
        if len(rest) > 1:
            raise ValueError
    except ValueError:
        found = " ".join(values)
        raise BadInput("bad image", "--image", found, "PATH FRAME STRENGTH [CRF]", "Correct it.") from None
    if not 0 <= image[1] < args.frames:
        raise BadInput("frame outside the clip", "--image", frame, f"0 to {args.frames - 1}", "Choose another frame.")
    return image
