"""`parity explain SITE`: why a site is wrong. Replays it on the reference's inputs under edited formulas and ranks them."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.verbs.common import add_request_arguments, case_of, checkpoint_of, reference_cache, show

if TYPE_CHECKING:
    from parity.cases import Case
    from parity.explain_site import Answer

SHOWN = 5


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("site", help="a site of the report, like transformer.transformer_blocks.7.attn1")
    add_request_arguments(verb)
    add = verb.add_argument
    add("--case", help="a case of the results, or of the case matrix, instead of the request's options")
    add("--results", type=Path, metavar="FILE", help="results.json of `parity compare`: its request, and its first finding")
    add("--step", type=int, help="of this denoising step only (default: the first at which the site is wrong)")
    add("--pass", dest="guidance_pass", choices=("cond", "uncond", "stg", "modality"), help="of this guidance pass only")


def run(args: argparse.Namespace) -> int:
    """Status 0 when the site agrees, 1 when it is wrong (explained or not)."""
    from parity.explain_site import explain_site

    case = _case(args)
    answer = explain_site(args.site, case, checkpoint_of(args), reference_cache(), args.step, args.guidance_pass, args.quiet)
    found = _found(answer)
    if answer.wrong and os.environ.get("MLX_ENABLE_TF32", "0") != "0":
        found["tf32"] = _without_tf32()
    if args.json:
        found["hypotheses"] = [one.row() for one in answer.explanations]
    show(args, found, _next_step(args, answer))
    return 1 if answer.wrong else 0


def _case(args: argparse.Namespace) -> Case:
    """The request to look at. Raises `ValueError` for a name that neither the results nor the matrix have."""
    from parity.cases import T2V_CASES
    from parity.matrix import matrix

    known = {case.name: case for case in (*T2V_CASES, *(entry.case for entry in matrix()))}
    if args.results is not None:
        rows = _read(args.results)
        if args.case is None and rows:
            args.case = next((row["name"] for row in rows if row.get("finding")), rows[0]["name"])
        known |= {row["name"]: _of_request(row["request"]) for row in rows}
    if args.case is None:
        return case_of(args)
    name = args.case.removesuffix("-bfloat16")
    if name not in known:
        raise ValueError(f"no case {args.case}; known: {', '.join(sorted(known))}")
    return known[name]


def _of_request(request: Mapping[str, Any]) -> Case:
    """A case as the results keep it."""
    from parity.cases import Case, Guidance, Image

    def guidance(values: Mapping[str, Any]) -> Guidance:
        kept: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return Guidance(**kept)

    values: dict[str, Any] = {name: v for name, v in request.items() if v is not None}
    values |= {stream: guidance(request[stream]) for stream in ("video", "audio")}
    values["images"] = tuple(Image(**image) for image in request.get("images", ()))
    for name in ("loras", "distilled_loras"):
        values[name] = tuple((str(path), float(strength)) for path, strength in request.get(name, ()))
    return Case(**values)


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        cases: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of a comparison ({error!r}); write them with `parity compare`") from None
    return cases


def _found(answer: Answer) -> dict[str, Any]:
    best = answer.explanations[0] if answer.explanations else None
    return {
        "site": answer.where,
        "found": answer.sentence,
        "cause": (best.cause or None) if best else None,
        "fault": best.fault if best and best.cause else None,
        "because": best.sentence if best else "no candidate edit accounts for the error" if answer.wrong else None,
        "also": [one.sentence for one in answer.explanations[1:SHOWN]],
    }


def _without_tf32() -> str:
    """The same question in a fresh process without TF32, which MLX latches at the first product of a process."""
    command = [sys.executable, "-m", "parity.cli", *sys.argv[1:]]
    environment = {**os.environ, "MLX_ENABLE_TF32": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode == 0:
        return "a fault of the backend: without TF32 the site agrees"
    return "without TF32 the site is wrong, too"


def _next_step(args: argparse.Namespace, answer: Answer) -> str:
    if not answer.wrong:
        return "parity compare"
    return shlex.join(["parity", "reduce", args.site])
