"""`parity calibrate`: measure the reference's noise floors and self-divergence and write them to floors.toml."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from parity.bounds import FLOORS
from parity.verbs.common import add_request_arguments, case_of, checkpoint_of, reference_cache, show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    add_request_arguments(verb)
    verb.add_argument(
        "-o", "--output", type=Path, default=FLOORS, help="the file to write them to, a new one or (default) the one in force"
    )
    verb.add_argument("--name", help="what to call the checkpoint (default: its folder's name, or tiny)")
    verb.add_argument("--reason", default="", help="why a floor may grow; without one only smaller floors are taken")


def run(args: argparse.Namespace) -> int:
    """Status 0 when the floors were written; 1 when some grew without a reason, or a bound is below the self-divergence."""
    from parity.calibrate import calibrate, justification, unjustified
    from parity.floors import Floors, load_floors, save_floors
    from parity.gate import load_policy

    kept = load_floors(args.output) if args.output.is_file() else Floors()
    name = args.name or (args.checkpoint.resolve().name if args.checkpoint else "tiny")

    def say(text: str) -> None:
        if not args.quiet and sys.stderr.isatty():
            print(text, file=sys.stderr)

    found = replace(calibrate(checkpoint_of(args), case_of(args), reference_cache(), name, say), reason=args.reason)
    limits = vars(load_policy())
    shown = {
        "floors": [
            f"{floor.kind:48} float32 {floor.float32:.1e}  bfloat16 {floor.bfloat16:.1e}  run to run {floor.repeat:.1e}  "
            f"({floor.tensors} tensors)"
            for floor in found.floors
        ],
        "self_divergence": justification(found.divergence, limits),
    }
    grown = kept.loosened(found)
    if grown and not args.reason.strip():
        show(args, {**shown, "grown": grown}, 'parity calibrate --reason "…" where these floors may grow')
        return 1
    save_floors(kept.with_(found), args.output)
    short = unjustified(found.divergence, limits)
    show(args, {**shown, "written": str(args.output), "bounds_too_tight": short}, "parity compare")
    return 1 if short else 0
