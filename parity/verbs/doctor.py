"""`parity doctor`: what is in force on this machine."""

from __future__ import annotations

import argparse
import json


def add_arguments(verb: argparse.ArgumentParser) -> None:
    return None


def run(args: argparse.Namespace) -> int:
    """Status 0: what is missing is said in its line."""
    from ltx_native.doctor import examine, table

    found = examine()
    next_step = "parity compare"
    print(json.dumps({**found, "next": next_step}, indent=1) if args.json else f"{table(found)}\nnext: {next_step}")
    return 0
