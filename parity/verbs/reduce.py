"""`parity reduce`: cut one module out of a run into a folder whose ten-line runner fails while native is wrong there."""

from __future__ import annotations

import argparse
from pathlib import Path

from parity.verbs.common import REPORTS, add_request_arguments, case_of, checkpoint_of, reference_cache, show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("site", metavar="SITE", help="a module or function, as `parity compare` names it")
    add_request_arguments(verb)
    verb.add_argument("-o", "--output", type=Path, help="the folder to write (default: reports/capsules/SITE)")


def run(args: argparse.Namespace) -> int:
    """Status 0 when the capsule was written, whether its runner fails or passes now."""
    from parity.reduce import reduce
    from parity.session import Session

    folder = args.output or REPORTS / "capsules" / args.site
    session = Session(checkpoint_of(args), folder.parent, reference_cache(), quiet=args.quiet)
    made = reduce(session, case_of(args), args.site, folder)
    shown = {
        "capsule": str(made.folder),
        "place": made.place,
        "error": f"rel_l2 {made.error:.3g} (bound {made.bound:.3g}): the runner {'fails' if made.fails else 'passes'} now",
        "weights": f"{made.tensors} tensors, {made.bytes / 1e6:.1f} MB in all",
    }
    show(args, shown, f"python {made.folder / 'run.py'}")
    return 0
