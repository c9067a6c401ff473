"""Train the world's checkpoint: `python -m parity.world.train all --state DIR` in the reference environment.

Every stage resumes from its state in DIR; a kill loses at most a minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from parity.world.train.recipe import rehearse

# The transformer learns on the first encoder's latents and goes on with the refined one's.
ORDER = (
    "video",
    "prepare",
    "transformer",
    "decoder",
    "refine",
    "prepare",
    "transformer-refine",
    "palette",
    "prepare",
    "transformer-palette",
    "audio",
    "vocoder",
    "upsampler",
    "clip",
    "export",
)


def stages(state: Path, out: Path, until: float | None) -> dict[str, Callable[[], object]]:
    """The stages by name; imports happen when one runs."""
    from parity.world.train import audio, clip, export, prepare, transformer, upsampler, video_vae

    return {
        "video": lambda: video_vae.train(state, until),
        "prepare": lambda: prepare.prepare(state),
        "transformer": lambda: transformer.train(state, until),
        "transformer-refine": lambda: transformer.train(state, until, "transformer_refine"),
        "transformer-palette": lambda: transformer.train(state, until, "transformer_palette"),
        "palette": lambda: video_vae.train_refine(state, until, "video_palette"),
        "refine": lambda: video_vae.train_refine(state, until),
        "decoder": lambda: video_vae.train_decoder(state, until),
        "audio": lambda: audio.train_decoder(state, prepare.audio_statistics(state), until),
        "vocoder": lambda: audio.train_vocoder(state, until),
        "upsampler": lambda: upsampler.train(state, until),
        "clip": lambda: clip.train(state, until),
        "export": lambda: export.export(state, out),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the named stages in the order of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m parity.world.train", description=__doc__)
    parser.add_argument("stage", nargs="+", choices=[*dict.fromkeys(ORDER), "all"], help="what to run; `all` runs everything")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable state and the caches")
    parser.add_argument("--out", type=Path, help="folder to export to; the CLIP goes to `clip` beside it")
    parser.add_argument("--rehearsal", type=int, metavar="N", help="N steps a stage: does the whole chain run?")
    parser.add_argument("--minutes", type=float, help="stop each training stage after this time; resume later")
    args = parser.parse_args(argv)
    try:
        import ltx_core  # noqa: F401
        import torch
    except ImportError as error:
        print(f"world train: {error}; run this with the reference environment's Python", file=sys.stderr)
        return 2
    if args.out is None and {"export", "all"} & set(args.stage):
        print("world train: the stage export needs --out FOLDER", file=sys.stderr)
        return 2
    if args.rehearsal is not None:
        if args.rehearsal < 1:
            print(f"world train: --rehearsal is {args.rehearsal}, expected 1 or more steps a stage", file=sys.stderr)
            return 2
        rehearse(args.rehearsal)
    torch.set_num_threads(1)  # more threads spin against each other on small shapes
    args.state.mkdir(parents=True, exist_ok=True)
    for name in ORDER if "all" in args.stage else [n for n in ORDER if n in args.stage]:
        until = time.time() + 60.0 * args.minutes if args.minutes else None
        started = time.time()
        result = stages(args.state, args.out or args.state / "export", until)[name]()
        print(f"world train: {name} {result} after {(time.time() - started) / 60:.1f} min", file=sys.stderr)
        if result is False:
            print(f"world train: {name} is not finished; run the same command again to go on", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
