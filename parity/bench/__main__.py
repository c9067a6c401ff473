"""`make bench`: `python -m parity.bench [WHAT …]`. Findings are kept in reports/bench/bench.json, beside a table and plots."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx_native.checkpoint import Checkpoint
from ltx_native.errors import UserError
from parity import provenance
from parity.bench import external, growth, modes, one_block, recording, steps, throughput
from parity.bench.plots import draw
from parity.bench.tables import SECTIONS, table
from parity.capture.reference import ReferenceUnavailable
from parity.folders import ROOT, cache_folder
from parity.results import write_json

SCHEMA = 1  # of bench.json; findings of another one are dropped
# What `make bench` runs, `cli` only where there is one; the true-size block needs a checkpoint of that size (`make full-size`).
DEFAULT = ("steps", "modes", "cli", "growth", "recording", "throughput")


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when everything asked for was measured, 2 on bad input, 3 when another side cannot be run."""
    parser = argparse.ArgumentParser(prog="parity.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(SECTIONS)} (default: {', '.join(DEFAULT)})")
    parser.add_argument("--rounds", type=int, help="runs of every subject, in turns")
    parser.add_argument("--mode", action="append", default=[], help="modes, cli: this one only; repeatable")
    parser.add_argument("--checkpoint", type=Path, help="block: official file or folder (default: the full-size one)")
    parser.add_argument("--block", type=int, default=0, help="block: which one")
    parser.add_argument("--megabytes", type=int, default=256, help="throughput: size of a tensor")
    parser.add_argument(
        "--pin", action="store_true", help="one core, and ahead of all other work where the system lets us (Linux)"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "reports" / "bench")
    args = parser.parse_args(argv)
    wanted = args.what or list(DEFAULT)
    unknown = [what for what in wanted if what not in SECTIONS]
    if unknown or (args.rounds is not None and args.rounds < 1) or args.megabytes < 1:
        print(f"bench: found {' '.join(unknown) or 'a number below 1'}, expected {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    if not args.what and (why := external.left_out()):
        wanted.remove("cli")
        print(f"cli: left out, {why}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    pinned = pin() if args.pin else "no"
    try:
        for what in wanted:
            row = _measure(what, args)
            _keep(args.output, what, row, pinned)
            print(table({what: row}), flush=True)
    except (ReferenceUnavailable, UserError, KeyError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3 if isinstance(error, ReferenceUnavailable) else 2
    found = _kept(args.output)
    (args.output / "bench.txt").write_text(table(found), encoding="utf-8")
    drawn = draw(found, args.output)
    print(f"kept: {', '.join(str(path) for path in (args.output / 'bench.json', args.output / 'bench.txt', *drawn))}")
    return 0


def pin() -> str:
    """Keep this process and those it starts on one core, with real-time priority where that is allowed; says what holds.

    On a machine with other work, times then are those of an idle one, and that work waits meanwhile.
    """
    if not hasattr(os, "sched_setaffinity"):
        return "no: this system has no processor affinity"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    try:
        # In turns: two of one priority, one of which waits busily for the other, would otherwise stand still for ever.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError as error:
        return f"one core, usual priority ({error.strerror})"
    return "one core, real-time priority"


def _measure(what: str, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measures: Mapping[str, Callable[[], dict[str, Any]]] = {
            "steps": lambda: steps.measure(args.rounds or 25, Path(folder)),
            "block": lambda: _block(args),
            "modes": lambda: modes.measure(args.rounds or 3, args.mode),
            "cli": lambda: external.measure(args.rounds or 3, args.mode),
            "growth": lambda: growth.measure(args.rounds or 3, Path(folder)),
            "recording": lambda: recording.measure(args.rounds or 5),
            "throughput": lambda: throughput.measure(args.megabytes, args.rounds or 5),
        }
        return measures[what]()


def _block(args: argparse.Namespace) -> dict[str, Any]:
    model = args.checkpoint or cache_folder() / "full-size"
    if not model.exists():
        raise ValueError(f"block: there is no {model}; `make full-size` writes it, or name another with --checkpoint")
    config = Checkpoint.open(str(model)).located.raw_config
    return one_block.measure(model, config, args.rounds or 3, index=args.block)


def _kept(folder: Path) -> dict[str, Any]:
    path = folder / "bench.json"
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    return found if found.get("schema") == SCHEMA else {}


def _keep(folder: Path, what: str, row: Mapping[str, Any], pinned: str) -> None:
    """Replace one section; each says what was in force when it was measured."""
    write_json(
        folder / "bench.json",
        {**_kept(folder), "schema": SCHEMA, what: row, f"{what} environment": provenance.environment() | {"pinned": pinned}},
        indent=1,
    )


if __name__ == "__main__":
    sys.exit(main())
