"""`parity arbitrate`: the table from traces that are there, or from a run of all three sides now."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from parity.arbitration.departures import read_departures
from parity.arbitration.table import SIDES, Row, arbitrate, table
from parity.progress import shown
from parity.trace import Trace, TraceError


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--traces", type=Path, metavar="DIR", help="use the traces DIR/native, DIR/cli, DIR/official; run nothing"
    )
    verb.add_argument("-o", "--output", type=Path, default=Path("reports/arbitration"), help="folder for the traces of a run")
    verb.add_argument("--checkpoint", type=Path, metavar="DIR", help="checkpoint that all three load (made there when missing)")
    verb.add_argument("--steps", type=int, default=4)
    verb.add_argument("--seed", type=int, default=42)
    verb.add_argument(
        "--correct", nargs="+", default=[], metavar="NAME", help="take these departures of the CLI away in memory"
    )
    verb.add_argument("--imitate", nargs="+", default=[], metavar="NAME", help="make native depart as the CLI does, in memory")
    verb.add_argument("--mode", choices=("one-stage", "distilled"), default="one-stage")
    verb.add_argument("--sites", nargs="+", default=[], metavar="GLOB", help="arbitrate at these sites only (with --traces)")
    verb.add_argument("--all", action="store_true", help="every site, not only onsets and pipeline values")


def run(args: argparse.Namespace) -> int:
    """Status 0: the CLI departs where it is listed for its version; 1: native departs, or something is unlisted; 2: not run."""
    from reference_bridge.errors import BridgeError

    try:
        rows = _from_traces(args.traces, args.sites) if args.traces else _from_a_run(args)
    except (BridgeError, TraceError) as error:
        raise ValueError(str(error)) from error
    departing = next((row.site for row in rows if row.departs == "native"), None)
    next_step = f"parity explain {departing}" if departing else "parity compare"
    if args.json:
        print(json.dumps({"rows": [row.to_json() for row in rows], "next": next_step}, indent=1))
    else:
        print(f"{table(rows, args.all)}\nnext: {next_step}")
    return status(rows)


def status(rows: list[Row]) -> int:
    return int(any(row.departs == "native" or not row.excused for row in rows))


def _from_traces(folder: Path, sites: list[str]) -> list[Row]:
    return arbitrate({side: Trace(folder / side) for side in SIDES}, read_departures(), sites)


def _from_a_run(args: argparse.Namespace) -> list[Row]:
    from parity.arbitration import checkpoint
    from parity.arbitration import run as runner
    from parity.folders import cache_folder
    from reference_bridge.environment import cache_dir, find_cli

    # Without a CLI there is nothing to arbitrate: that is said before minutes go into a checkpoint.
    find_cli(os.environ, cache_dir(os.environ) / "surveys").require()

    def say(text: str) -> None:
        if shown(args.quiet):
            print(text, file=sys.stderr)

    say("checkpoint … (made once, 1.9 GB, minutes)")
    files = checkpoint.make(args.checkpoint or cache_folder() / "arbitration")
    case = replace(runner.case_for_cli(seed=args.seed, mode=args.mode), steps=args.steps)
    return runner.run(args.output, case, files, corrections=args.correct, imitate=args.imitate, say=say)
