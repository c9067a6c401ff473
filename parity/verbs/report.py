"""`parity report`: make the page of a run again, or its summary in Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from parity.verbs.common import show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("results", type=Path, help="results.json of a run")
    verb.add_argument("-o", "--output", type=Path, help="the page (default: report.html beside the results)")
    verb.add_argument("--markdown", action="store_true", help="print the summary that CI posts and write no page")


def run(args: argparse.Namespace) -> int:
    """Status 0: the page says the verdict, not the status."""
    from parity.report import build_report
    from parity.report.markdown import summarise_file

    if args.markdown and not args.json:
        print(summarise_file(args.results), end="")
        return 0
    found = {"markdown": summarise_file(args.results)} if args.markdown else {}
    if not args.markdown:
        found["report"] = str(build_report(args.results, args.output))
    show(args, found, "open the report in a browser")
    return 0
