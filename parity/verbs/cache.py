"""`parity cache`: list, verify or prune kept captures of the reference."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from parity.verbs.common import reference_cache, show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("action", choices=("list", "verify", "prune"), help="prune removes damaged and stale captures")


def run(args: argparse.Namespace) -> int:
    """Status 1 when `verify` finds damaged captures."""
    cache = reference_cache()
    if args.action == "prune":
        removed = cache.prune()
        show(args, {"removed": removed, "kept": len(_listed(cache.folder))}, "parity cache list")
        return 0
    if args.action == "list":
        entries = _listed(cache.folder)
        rows = entries if args.json else [_line(entry) for entry in entries]
        show(args, {"folder": str(cache.folder), "entries": rows}, "parity cache verify")
        return 0
    entries = cache.entries()
    bad = [entry["key"] for entry in entries if entry["problem"]]
    found = {"folder": str(cache.folder), "entries": entries, "damaged": bad}
    show(args, found, "parity cache prune" if bad else "parity compare")
    return 1 if bad else 0


def _listed(folder: Path) -> list[dict[str, Any]]:
    """What the manifests say; only `verify` reads and hashes the tensors, which takes minutes for a large cache."""
    found = []
    for entry in sorted(folder.glob("[!.]*")):
        try:
            manifest = json.loads((entry / "trace" / "manifest.json").read_text(encoding="utf-8"))
            request = manifest["request"]
            about = {"records": manifest["records"], "mode": request.get("mode"), "prompt": request.get("prompt")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            about = {"problem": f"no readable manifest ({error!r})"}
        found.append({"key": entry.name, "bytes": sum(file.stat().st_size for file in entry.rglob("*.*")), **about})
    return found


def _line(entry: dict[str, Any]) -> str:
    about = entry.get("problem") or f"{entry['records']:6} records  {entry['mode']:12}  {str(entry['prompt'])[:60]}"
    return f"{entry['key']}  {entry['bytes'] / 1e6:8.1f} MB  {about}"
