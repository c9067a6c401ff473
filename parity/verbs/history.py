"""`parity history`: one page of all promoted verdicts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from parity.verbs.common import REPORTS
from parity.verbs.gate import PROMOTED


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--promoted", type=Path, default=PROMOTED, metavar="DIR", help="promoted runs (default: reports/promoted)"
    )
    verb.add_argument("-o", "--output", type=Path, default=REPORTS / "history.html", help="the page")


def run(args: argparse.Namespace) -> int:
    """Status 0; without a promoted run 2, with the command that makes one."""
    from parity.history import load_history, write_history

    page = write_history(args.promoted, args.output)
    entries = load_history(args.promoted)
    next_step = "open the page in a browser"
    if args.json:
        rows = [{"created": e.created, "commit": e.commit, "verdict": e.verdict, **dict(e.numbers)} for e in entries]
        print(json.dumps({"page": str(page), "runs": rows, "next": next_step}, indent=1))
        return 0
    for entry in entries:
        commit = entry.commit[:12] or "no commit"
        print(f"{entry.created}  {commit:12}  {entry.verdict:12}  worst local {entry.numbers['worst_local']}")
    print(f"page: {page}\nnext: {next_step}")
    return 0
