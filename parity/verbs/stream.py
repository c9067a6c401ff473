"""`parity compare --stream`: the transformer block by block, one block of weights in memory on each side."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx_native.progress import Bar
from parity.checkpoints import tiny
from parity.verbs.common import STATUS, show

if TYPE_CHECKING:
    from parity.stream import StreamResult
    from parity.stream_request import StreamRequest

GB = 1e9
_FIELDS = {"width": "width", "height": "height", "frames": "frames", "frame_rate": "frame_rate", "seed": "seed"}


def add_stream_arguments(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("one block at a time")
    add = group.add_argument
    add("--stream", action="store_true", help="compare the transformer with one block of weights in memory on each side")
    add("--blocks", metavar="LIST", help="which blocks, like 0-3,37 (default: all)")
    add("--text-tokens", type=int, help="length of the drawn contexts")
    add("--sigma", type=float, help="noise level of the drawn tokens, 0 to 1")
    add("--trace", type=Path, metavar="DIR", help="start from this recorded run of the official code instead of drawn tokens")
    add("--step", type=int, default=0, help="with --trace: the denoising step")
    add("--pass", dest="guidance_pass", choices=("cond", "uncond", "stg", "modality"), default="cond", help="with --trace")
    add("--plant", metavar="[NAME:]BLOCK", help="make a mistake in this native block, to see it named")
    add("--local-only", action="store_true", help="do not run native on its own tokens, too: half the time, no pass")
    add("--scratch", type=Path, metavar="DIR", help="folder for one block's float32 weights (default: the system's)")


def run(args: argparse.Namespace) -> int:
    """Compare, write results and page, print verdict, guilty site, errors, memory and time. Status as of `compare`."""
    from ltx_native.checkpoint import Checkpoint
    from parity.stream import compare_streamed

    checkpoint = Checkpoint.open(str(args.checkpoint or tiny().model))
    with Bar(sys.stderr, not args.quiet) as bar:
        found = compare_streamed(checkpoint, request_of(args), args.output, args.scratch, bar.update)
    next_step = f"parity report {args.output / 'results.json'}" if found.case.finding else "parity compare"
    show(args, summary(found) | {"report": str(args.output / "report.html")}, next_step)
    return STATUS[found.judgement.verdict]


def request_of(args: argparse.Namespace) -> StreamRequest:
    """The options as a `StreamRequest`. Raises ValueError on sizes that no clip has."""
    from ltx_native.patchify import SPACE_SCALE, TIME_SCALE
    from parity.faults.blocks import parse_plant
    from parity.stream_request import StreamRequest, parse_blocks

    given = {field: getattr(args, name) for name, field in _FIELDS.items() if getattr(args, name) is not None}
    given |= {name: getattr(args, name) for name in ("text_tokens", "sigma") if getattr(args, name) is not None}
    request = replace(
        StreamRequest(step=args.step, guidance_pass=args.guidance_pass, trace=args.trace, own_run=not args.local_only), **given
    )
    for name in ("width", "height"):
        value = getattr(request, name)
        if value < SPACE_SCALE or value % SPACE_SCALE:
            raise ValueError(f"--{name}: found {value}, expected a multiple of {SPACE_SCALE}")
    if request.frames < 1 or (request.frames - 1) % TIME_SCALE:
        raise ValueError(f"--frames: found {request.frames}, expected {TIME_SCALE}k + 1")
    if not 0 < request.sigma <= 1 or request.text_tokens < 1 or request.frame_rate < 1 or request.seed < 0:
        raise ValueError("--sigma above 0 and up to 1, --text-tokens and --frame-rate from 1, --seed from 0")
    return replace(
        request,
        blocks=parse_blocks(args.blocks) if args.blocks else (),
        plant=parse_plant(args.plant) if args.plant else None,
    )


def summary(found: StreamResult) -> dict[str, Any]:
    """What the command prints, by name."""
    blocks = [row for row in found.case.rows if row.type == "BasicAVTransformerBlock"]
    local = max((row.local.rel_l2 for row in blocks if row.local is not None), default=float("nan"))
    totals = [row.total.rel_l2 for row in blocks if row.total is not None]
    seconds = {side: sum(row[f"{side}_s"] for row in found.seconds) for side in ("native", "official")}
    return {
        "verdict": found.judgement.verdict,
        "found": found.sentence(),
        "because": None if found.case.finding else "; ".join(found.judgement.reasons) or None,
        "blocks": len(found.seconds),
        "tokens": ", ".join(f"{count} {name}" for name, count in found.tokens.items()),
        "largest local rel_l2 of a block": f"{local:.3g}",
        "largest total rel_l2 of a block": f"{max(totals):.3g}" if totals else "not run (--local-only)",
        "peak memory": ", ".join(f"{side} {peak / GB:.2f} GB" for side, peak in found.peak_bytes.items()),
        "seconds in blocks": ", ".join(f"{side} {value:.1f}" for side, value in seconds.items()),
    }
