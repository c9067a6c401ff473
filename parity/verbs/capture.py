"""`parity capture`: run the reference on one request and keep its trace."""

from __future__ import annotations

import argparse

from parity.verbs.common import add_request_arguments, case_of, checkpoint_of, reference_cache, show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    add_request_arguments(verb)
    verb.add_argument("--sites", nargs="+", default=[], metavar="GLOB", help="record these sites only")


def run(args: argparse.Namespace) -> int:
    """Status 0 when there is a whole trace, kept from before or made now."""
    trace, video = reference_cache().capture(case_of(args), checkpoint_of(args), args.sites, args.quiet)
    found = {"trace": str(trace.folder), "records": len(trace.records), "video": str(video), "engine": trace.manifest["engine"]}
    show(args, found, "parity compare with the same options")
    return 0
