"""``ltx-native generate | convert | doctor``: bad input gives one message and status 2, and leaves nothing behind."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ltx_native.dispatch import ENGINES, BridgeFailed, InferenceEngine
from ltx_native.errors import RequestError, UserError
from ltx_native.request import DEFAULT_IMAGE_CRF, DTYPES, MODES, PIPELINES, Anchor, Lora, Request

#: Their values are free text, which may begin with a dash.
TEXT_OPTIONS = ("--prompt", "-p", "--negative-prompt", "-n")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(join_text(sys.argv[1:] if argv is None else argv))
    try:
        status: int = args.run(args)
    except (UserError, BridgeFailed) as error:
        print(f"ltx-native: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt:
        print("ltx-native: cancelled; no video was written", file=sys.stderr)
        return 130
    return status


def join_text(argv: Sequence[str]) -> list[str]:
    """``--prompt X`` as ``--prompt=X``, because argparse takes an X that begins with dashes for an option."""
    joined: list[str] = []
    words = iter(argv)
    for word in words:
        value = next(words, None) if word in TEXT_OPTIONS else None
        if value is None:
            joined.append(word)
        else:
            joined.append(f"{word}={value}" if word.startswith("--") else f"{word}{value}")
    return joined


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="ltx-native", description="LTX-2.3 text to video with sound.", allow_abbrev=False)
    verbs = top.add_subparsers(required=True, metavar="VERB")
    _generate(verbs.add_parser("generate", help="make a video", allow_abbrev=False))
    _convert(verbs.add_parser("convert", help="official file to the split MLX folder", allow_abbrev=False))
    _doctor(verbs.add_parser("doctor", help="say what is in force on this machine", allow_abbrev=False))
    return top


def _generate(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(run=run_generate)
    add = verb.add_argument
    add("-p", "--prompt", required=True, help="what the video shows and how it sounds")
    add("-n", "--negative-prompt", help="what it shall not be like")
    add("-o", "--output", help="the mp4 to write (output.mp4)")
    add("-m", "--model", help="official file, split folder or Hub id")
    add("--gemma", help="folder or Hub id of Gemma 3 (beside the model by default)")
    add("--upsampler", help="latent upsampler (beside the model by default)")
    add("--mode", choices=MODES, help="by default what the given inputs amount to")
    add("--pipeline", choices=PIPELINES)
    add("-W", "--width", type=int)
    add("-H", "--height", type=int)
    add("-f", "--frames", type=int, help="8k + 1")
    add("--frame-rate", type=float)
    add("--steps", type=int)
    for prefix, what in (("", "picture"), ("audio-", "sound")):
        add(f"--{prefix}cfg-scale", type=float, help=f"{what}: how strongly the prompt steers; 1 is off")
        add(f"--{prefix}stg-scale", type=float, help=f"{what}: spatio-temporal guidance; 0 is off")
        add(f"--{prefix}stg-blocks", type=int, nargs="+", action="extend", help=f"{what}: blocks left out for it")
        add(f"--{prefix}modality-scale", type=float, help=f"{what}: how strongly the other modality steers; 1 is off")
        add(f"--{prefix}rescale-scale", type=float, help=f"{what}: how far guidance keeps the contrast; 0 is off")
    add("--seed", type=int)
    add("--image", nargs="+", action="append", default=[], metavar="A", help="PATH [FRAME [STRENGTH [CRF]]], repeatable")
    add("--audio", help="sound that steers the picture")
    add("--audio-passthrough", action="store_true", help="put the sound into the file, let it steer nothing")
    add("--video", help="retake, extend: the source")
    add("--start", type=float, help="retake: from here, seconds")
    add("--end", type=float, help="retake: to here, seconds")
    add("--keep-audio", action="store_true", help="retake: leave the sound as it is")
    add("--extend-frames", type=int, help="extend: latent frames to add (8 frames each)")
    add("--direction", choices=("before", "after"), help="extend: where")
    add("--reference", nargs="+", action="append", default=[], metavar="A", help="ic-lora: PATH [STRENGTH], repeatable")
    add("--lora", nargs="+", action="append", default=[], metavar="A", help="PATH [STRENGTH], repeatable")
    add("--distilled-lora", nargs="+", action="append", default=[], metavar="A", help="for two-stage refinement")
    add("--dtype", choices=DTYPES, default=DTYPES[0])
    add("--low-ram", action="store_true", help="read each transformer block when it runs: slower, a few GB of memory")
    add("--noise", help="safetensors file of the random draws to use instead of the seed's")
    add("--engine", choices=ENGINES, help="override the verdict")
    add("--verdict", type=Path, help="another verdict.json")
    add("-q", "--quiet", action="store_true", help="say nothing but errors")


def run_generate(args: argparse.Namespace) -> int:
    from ltx_native.progress import Bar

    request = request_of(args)
    with Bar(sys.stderr, enabled=not args.quiet) as bar:
        result = InferenceEngine(args.engine, args.verdict, bar.update, args.noise).generate_video(request)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not args.quiet:
        print(result.last_line())
    return 0


def request_of(args: argparse.Namespace) -> Request:
    """The request that the arguments describe. Raises RequestError for values that are no numbers."""
    return Request(
        prompt=args.prompt,
        output_path=args.output,
        model=args.model,
        gemma=args.gemma,
        upsampler=args.upsampler,
        negative_prompt=args.negative_prompt,
        mode=args.mode,
        pipeline=args.pipeline,
        width=args.width,
        height=args.height,
        num_frames=args.frames,
        frame_rate=args.frame_rate,
        steps=args.steps,
        guidance=args.cfg_scale,
        stg_scale=args.stg_scale,
        stg_blocks=_blocks(args.stg_blocks),
        modality_scale=args.modality_scale,
        rescale_scale=args.rescale_scale,
        audio_guidance=args.audio_cfg_scale,
        audio_stg_scale=args.audio_stg_scale,
        audio_stg_blocks=_blocks(args.audio_stg_blocks),
        audio_modality_scale=args.audio_modality_scale,
        audio_rescale_scale=args.audio_rescale_scale,
        seed=args.seed,
        image_path=args.image[0][0] if len(args.image) == 1 and len(args.image[0]) == 1 else None,
        images=() if len(args.image) == 1 and len(args.image[0]) == 1 else tuple(_anchor(words) for words in args.image),
        audio_path=args.audio,
        audio_passthrough=args.audio_passthrough,
        source_video_path=args.video,
        retake_start=args.start,
        retake_end=args.end,
        regenerate_audio=not args.keep_audio,
        extend_frames=args.extend_frames,
        extend_direction=args.direction,
        reference_videos=tuple(_path_strength("--reference", words) for words in args.reference),
        loras=tuple(Lora(*_path_strength("--lora", words)) for words in args.lora),
        distilled_loras=tuple(Lora(*_path_strength("--distilled-lora", words)) for words in args.distilled_lora),
        dtype=args.dtype,
        low_ram=args.low_ram,
    )


def _blocks(blocks: list[int] | None) -> tuple[int, ...] | None:
    return None if blocks is None else tuple(blocks)


def _anchor(words: Sequence[str]) -> Anchor:
    expected = "PATH [FRAME [STRENGTH [CRF]]]"
    if len(words) > 4:
        raise RequestError("too many values", "--image", " ".join(words), expected, "Repeat --image for each image")
    path, frame, strength, crf = (*words, *("0", "1", str(DEFAULT_IMAGE_CRF))[len(words) - 1 :])
    try:
        return Anchor(path, int(frame), float(strength), int(crf))
    except ValueError:
        raise RequestError("a value is no number", "--image", " ".join(words), expected, "Correct it") from None


def _path_strength(flag: str, words: Sequence[str]) -> tuple[str, float]:
    try:
        if len(words) > 2:
            raise ValueError
        return words[0], float(words[1]) if len(words) == 2 else 1.0
    except ValueError:
        found = " ".join(words)
        raise RequestError("not a path with a strength", flag, found, "PATH [STRENGTH]", "Correct it") from None


def _convert(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(run=run_convert)
    verb.add_argument("source", help="the official safetensors file")
    verb.add_argument("out", help="the folder to write; it must not exist")
    verb.add_argument("--dtype", default="bfloat16", help="bfloat16, float32, q8 or q4")
    verb.add_argument("--group-size", type=int, default=64)
    verb.add_argument("--variant", choices=("dev", "distilled"), default="dev")
    verb.add_argument("--upsampler", action="append", default=[], help="convert this latent upsampler too, repeatable")
    verb.add_argument("--verbose", action="store_true", help="say what became of every key")


def run_convert(args: argparse.Namespace) -> int:
    from ltx_native.convert import convert

    report = convert(
        args.source,
        args.out,
        dtype=args.dtype,
        group_size=args.group_size,
        variant=args.variant,
        upsamplers=args.upsampler,
    )
    if args.verbose:
        for entry in report.entries:
            print(f"{entry.source} -> {', '.join(entry.targets) or 'nothing'}: {', '.join(entry.actions) or 'as it is'}")
    print(report.summary())
    return 0


def _doctor(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(run=run_doctor)
    verb.add_argument("--json", action="store_true", help="as JSON")


def run_doctor(args: argparse.Namespace) -> int:
    from ltx_native.doctor import examine, table, to_json

    found = examine()
    print(to_json(found) if args.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
