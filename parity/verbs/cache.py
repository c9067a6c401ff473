"""`parity cache`: list, verify or prune kept captures of the reference."""

from __future__ import annotations

import argparse

from parity.verbs.common import reference_cache, show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("action", choices=("list", "verify", "prune"), help="prune removes damaged and stale captures")


def run(args: argparse.Namespace) -> int:
    """Status 1 when `verify` finds damaged captures."""
    cache = reference_cache()
    entries = cache.entries()
    if args.action == "prune":
        removed = cache.prune()
        show(args, {"removed": removed, "kept": len(entries) - len(removed)}, "parity cache list")
        return 0
    bad = [entry["key"] for entry in entries if entry["problem"]]
    found = {"folder": str(cache.folder), "entries": entries, "damaged": bad}
    show(args, found, "parity cache prune" if bad else "parity compare")
    return 1 if bad and args.action == "verify" else 0
