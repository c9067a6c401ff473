"""`parity gate`: which engine a verdict puts in force, whether it still holds, and its promotion."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ltx_native import verdict as verdicts
from parity.gate_check import check, maker
from parity.verbs.common import REPORTS, checkpoint_of, show

PROMOTED = REPORTS / "promoted"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--verdict", type=Path, help="verdict.json (default: the one dispatch reads)")
    verb.add_argument("--checkpoint", type=Path, metavar="DIR", help="the checkpoint it must hold for (default: tiny)")
    either = verb.add_mutually_exclusive_group()
    either.add_argument("--check", action="store_true", help="does the verdict still hold? lists what changed since")
    either.add_argument(
        "--promote", type=Path, metavar="VERDICT", help="put this verdict into reports/promoted, to be committed"
    )
    verb.add_argument("--promoted", type=Path, default=PROMOTED, metavar="DIR", help="where to (default: reports/promoted)")


def run(args: argparse.Namespace) -> int:
    """Status 0 when native may serve (or the verdict holds), 1 when it must not, 3 when the evidence is missing or open."""
    from ltx_native.checkpoint import Checkpoint

    if args.promote:
        return _promote(args)
    if args.check and args.checkpoint is None:
        return _check(args, None)
    paths = checkpoint_of(args)
    opened = Checkpoint.open(str(paths.model), str(paths.gemma), str(paths.upsampler) if paths.upsampler else None)
    if args.check:
        return _check(args, opened.fingerprint())
    verdict = verdicts.load_verdict(args.verdict)
    usable, reasons = verdicts.judge(verdict, verdicts.current_fingerprints(opened.fingerprint()))
    found = {"engine": "native" if usable else "bridge", "verdict": verdict.verdict, "reasons": list(reasons)}
    show(args, found, "ltx-native generate" if usable else maker(reasons) or "parity compare")
    return 0 if usable else 1 if verdict.verdict == "fail" else 3


def _check(args: argparse.Namespace, checkpoint: str | None) -> int:
    found = check(args.verdict or verdicts.default_path(), checkpoint)
    if args.json:
        content = {"holds": found.holds, "verdict": found.verdict, "reasons": found.reasons, "changed": found.changed}
        print(json.dumps({**content, "unknown": found.unknown, "next": found.next_step}, indent=1))
    else:
        print("\n".join(found.lines()))
    return found.exit_status


def _promote(args: argparse.Namespace) -> int:
    """Copy a verdict and its results to where they are committed and reviewed."""
    from parity.history import promote

    entry = promote(args.promote, args.promoted)
    found = {"promoted": str(args.promoted / "verdict.json"), "entry": str(entry)}
    show(args, found, f"git add {args.promoted} && git commit")
    return 0
