"""`parity compare`: run both sides on one request, measure every site, judge, write results, page and verdict."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parity.gate_check import maker
from parity.results import CaseResult
from parity.verbs.common import REPORTS, STATUS, add_request_arguments, case_of, checkpoint_of, reference_cache, show
from parity.verbs.stream import add_stream_arguments
from parity.verbs.stream import run as run_streamed

if TYPE_CHECKING:
    from parity.cases import Case
    from parity.session import Session


def add_arguments(verb: argparse.ArgumentParser) -> None:
    add_request_arguments(verb)
    verb.add_argument("-o", "--output", type=Path, default=REPORTS / "compare", help="folder for results, page and media")
    verb.add_argument("--bfloat16", action="store_true", help="judge every module in bfloat16, too")
    verb.add_argument(
        "--sketch", action="store_true", help="find the first wrong module by sketches: no tensors kept, no verdict"
    )
    add_stream_arguments(verb)


def run(args: argparse.Namespace) -> int:
    """Status 0 pass, 1 fail, 3 inconclusive."""
    if args.stream:
        return run_streamed(args)
    from parity.session import Session

    case = case_of(args)
    session = Session(checkpoint_of(args), args.output, reference_cache(), quiet=args.quiet)
    if args.sketch:
        return _search(args, session, case)
    result = session.compare(case)
    if args.bfloat16:
        session.compare_bfloat16(case, (0, case.steps - 1))
    verdict = session.finish()
    found = {
        "verdict": verdict["verdict"],
        "reasons": verdict["reasons"],
        "coverage": result.coverage.sentence() if result.coverage else None,
        "because": _because(session.cases),
        "report": str(args.output / "report.html"),
    }
    show(args, found, _next_step(args.output, verdict["verdict"], verdict["reasons"], session.cases))
    return STATUS[verdict["verdict"]]


def _search(args: argparse.Namespace, session: Session, case: Case) -> int:
    """Status 0 when no site differs along the run by more than a module may, else 1."""
    found = session.search(case)
    site = found.finding.key.site if found.finding else None
    shown = {
        "guilty": found.guilty,
        "module": site,
        "sentence": found.sentence(),
        "coverage": found.coverage.sentence(),
        "rows": str(args.output / "search.json"),
    }
    show(args, shown, shlex.join(["parity", "explain", site]) if site else "parity compare")
    return STATUS["fail" if found.found else "pass"]


def _because(cases: Sequence[CaseResult]) -> str | None:
    """The cause of the first finding, where an executed hypothesis names one."""
    return next((str(row["edit"]) for case in cases for row in case.hypotheses[:1]), None)


def _next_step(output: Path, verdict: str, reasons: Sequence[str], cases: Sequence[CaseResult]) -> str:
    """Promote what passed, explain what was found, make the evidence that is missing, else look at the machine."""
    if verdict == "pass":
        return shlex.join(["parity", "gate", "--promote", str(output / "verdict.json")])
    site = next((case.finding.key.site for case in cases if case.finding is not None), None)
    if site:
        return shlex.join(["parity", "explain", site, "--results", str(output / "results.json")])
    return maker(reasons) or "parity doctor"
