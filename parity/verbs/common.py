"""What verbs share: options of a request, the checkpoint and cache they name, and how a result is printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.checkpoints import named, tiny
from parity.folders import cache_folder

if TYPE_CHECKING:
    from parity.capture.reference import Checkpoint, ReferenceCache
    from parity.cases import Case

STATUS: Mapping[str, int] = {"pass": 0, "fail": 1, "inconclusive": 3}
REPORTS = Path("reports")


def add_request_arguments(verb: argparse.ArgumentParser) -> None:
    """Prompt, sizes and checkpoint of one comparison."""
    add = verb.add_argument
    add("-p", "--prompt", help="what both sides are asked for")
    add("-n", "--negative-prompt")
    add("--checkpoint", type=Path, metavar="DIR", help="model, gemma/ and upsampler (default: the made tiny checkpoint)")
    add("-W", "--width", type=int)
    add("-H", "--height", type=int)
    add("-f", "--frames", type=int, help="8k + 1")
    add("--frame-rate", type=float)
    add("--steps", type=int)
    add("--seed", type=int)


def case_of(args: argparse.Namespace) -> Case:
    """The request that the options describe. Raises `UserError` when no engine could run it."""
    from parity.capture.native import request_of
    from parity.cases import case_from

    case = case_from(vars(args))
    request_of(case).validate()
    return case


def checkpoint_of(args: argparse.Namespace) -> Checkpoint:
    """The folder that `--checkpoint` names, else the tiny one. Raises `FileNotFoundError` that says what is missing."""
    return named(args.checkpoint) if args.checkpoint else tiny()


def reference_cache() -> ReferenceCache:
    from parity.capture.reference import ReferenceCache

    return ReferenceCache(cache_folder() / "reference")


def show(args: argparse.Namespace, found: Mapping[str, Any], next_step: str) -> None:
    """Results on standard output, the next command last."""
    if args.json:
        print(json.dumps({**found, "next": next_step}, indent=1))
        return
    for name, value in found.items():
        if isinstance(value, (list, tuple)):
            print(f"{name}: {len(value)}" if not value else f"{name}:")
            for item in value:
                print(f"  {item}")
        elif value is not None:
            print(f"{name}: {value}")
    print(f"next: {next_step}")
