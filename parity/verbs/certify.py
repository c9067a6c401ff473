"""`parity certify`: plant the known port mistakes one by one and see which the harness names."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

from parity import certify
from parity.certificate import CERTIFICATE, harness_code
from parity.progress import counting


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-o", "--output", type=Path, default=CERTIFICATE, help="the certificate, kept up fault by fault")
    verb.add_argument(
        "--only", nargs="+", default=[], metavar="ID", help="these faults only; others keep what was found before"
    )
    verb.add_argument("--fresh", action="store_true", help="forget finished faults")
    verb.add_argument("--list", action="store_true", help="say which faults there are and run nothing")


def run(args: argparse.Namespace) -> int:
    """Status 0 when every fault is caught and no control flagged, else 1; 3 when the reference cannot be run."""
    from parity.faults.registry import facts, load

    if args.list:
        return _list(args)
    unknown = sorted(set(args.only) - set(load()))
    if unknown:
        known = "it cannot exist here" if unknown[0] in facts("unrealisable") else "`parity certify --list` names them"
        raise ValueError(f"--only {' '.join(unknown)}: expected faults that can be planted; {known}")
    kept = set() if args.fresh else set(certify._finished(args.output, harness_code()))
    left = len(set(args.only or load()) - kept)
    try:
        with counting("faults", args.quiet) as say, contextlib.redirect_stderr(_Counted(say, left)):
            certificate = certify.certify(args.output, args.only, args.fresh, quiet=args.quiet)
    except RuntimeError as error:  # the port itself is wrong: no mistake can be planted in it
        print(f"parity certify: {error}", file=sys.stderr)
        if args.json:
            print(json.dumps({"error": str(error), "status": 1, "next": "parity compare"}))
        return 1
    total = certificate["summary"]
    missed = total["caught"] < total["faults"]
    next_step = (
        f"parity certify --only {_first_missed(certificate)} --output reports/again.json" if missed else "parity compare"
    )
    if args.json:
        print(json.dumps({**certificate, "certificate": str(args.output), "next": next_step}, indent=1))
    else:
        print(f"{certify.table(certificate)}\ncertificate: {args.output}\nnext: {next_step}")
    return 1 if missed or total["controls_flagged"] else 0


def _list(args: argparse.Namespace) -> int:
    from parity.faults.registry import load

    rows = [{"id": id, "component": fault.component, "effect": fault.effect} for id, fault in load().items()]
    next_step = "parity certify --only ID"
    if args.json:
        print(json.dumps({"faults": rows, "next": next_step}, indent=1))
    else:
        print("\n".join(f"{row['id']:8} {row['component']:22} {row['effect']}" for row in rows) + f"\nnext: {next_step}")
    return 0


def _first_missed(certificate: dict[str, object]) -> str:
    rows = certificate["faults"]
    assert isinstance(rows, list)
    return str(next(row["id"] for row in rows if row["effect"] != "none" and row["verdict"] == "pass"))


class _Counted(io.TextIOBase):
    """Hands each line on with its number, so that the bar knows how far it is."""

    def __init__(self, say: Callable[[str], None], total: int) -> None:
        self._say, self._total, self._count = say, total, 0

    def write(self, text: str) -> int:
        for line in filter(None, text.splitlines()):
            self._count += 1
            self._say(f"{self._count}/{self._total} {line}")
        return len(text)
