"""The parts of the command line that look at a finished run: report, history, and the gate's check and promotion."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ltx_native.verdict import default_path
from parity.gate_check import check
from parity.history import load_history, promote, write_history
from parity.report import build_report
from parity.report.markdown import summarise_file

PROMOTED = Path("reports") / "promoted"


def add_report_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("results", type=Path, help="results.json of a run")
    verb.add_argument("-o", "--output", type=Path, help="the page (default: report.html beside the results)")
    verb.add_argument("--markdown", action="store_true", help="print a summary in Markdown and write no page")


def run_report(args: argparse.Namespace) -> int:
    """Make the page again, or print the summary that CI posts."""
    if args.markdown:
        print(summarise_file(args.results), end="")
        return 0
    page = build_report(args.results, args.output)
    print(json.dumps({"report": str(page)}) if args.json else f"report: {page}\nnext: open it in a browser")
    return 0


def add_history_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--promoted", type=Path, default=PROMOTED, metavar="DIR", help="promoted runs (default: reports/promoted)"
    )
    verb.add_argument("-o", "--output", type=Path, default=Path("reports") / "history.html", help="the page")


def run_history(args: argparse.Namespace) -> int:
    """One page of all promoted runs."""
    page = write_history(args.promoted, args.output)
    entries = load_history(args.promoted)
    if args.json:
        rows = [{"created": e.created, "commit": e.commit, "verdict": e.verdict, **dict(e.numbers)} for e in entries]
        print(json.dumps({"page": str(page), "runs": rows}, indent=1))
        return 0
    for entry in entries:
        print(
            f"{entry.created}  {entry.commit[:12] or 'no commit':12}  {entry.verdict:12}  worst {entry.numbers['worst_local']}"
        )
    print(f"page: {page}\nnext: open it in a browser")
    return 0


def add_gate_arguments(verb: argparse.ArgumentParser) -> None:
    """`--check` and `--promote`, beside `--verdict` and `--checkpoint` of the gate itself."""
    either = verb.add_mutually_exclusive_group()
    either.add_argument("--check", action="store_true", help="does the verdict still hold? lists what changed since")
    either.add_argument(
        "--promote", type=Path, metavar="VERDICT", help="put this verdict into reports/promoted, to be committed"
    )
    verb.add_argument("--promoted", type=Path, default=PROMOTED, metavar="DIR", help="where to (default: reports/promoted)")


def run_gate_check(args: argparse.Namespace, checkpoint: str | None = None) -> int:
    """0 when the verdict holds, 1 when something changed or it fails, 3 when it is missing or inconclusive."""
    found = check(args.verdict or default_path(), checkpoint)
    if args.json:
        content = {"holds": found.holds, "verdict": found.verdict, "reasons": found.reasons, "changed": found.changed}
        print(json.dumps({**content, "unknown": found.unknown}, indent=1))
    else:
        print("\n".join(found.lines()))
    return found.exit_status


def run_promote(args: argparse.Namespace) -> int:
    """Copy a verdict and its results to where they are committed and reviewed."""
    entry = promote(args.promote, args.promoted)
    next_step = f"git add {args.promoted} && git commit"
    found = {"promoted": str(args.promoted / "verdict.json"), "entry": str(entry), "next": next_step}
    print(json.dumps(found, indent=1) if args.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0
