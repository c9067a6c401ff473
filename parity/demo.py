"""`make demo`: the trained world on both engines, module by module and prompt by prompt, and a verdict that dispatch obeys."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("MLX_ENABLE_TF32", "0")

from ltx_native.dispatch import BridgeFailed, InferenceEngine
from ltx_native.errors import UserError
from ltx_native.verdict import current_fingerprints
from parity.capture.native import request_of
from parity.capture.reference import Checkpoint, ReferenceCache, ReferenceUnavailable
from parity.capture.sides import ReferenceServer
from parity.cases import Case
from parity.checkpoints import WORLD, named
from parity.fidelity_command import both_sides
from parity.fidelity_evidence import OUTPUT
from parity.fidelity_policy import read_policy
from parity.fidelity_shown import Shown, show_prompts
from parity.fidelity_store import Store
from parity.fidelity_world import CASE, world_suite
from parity.folders import ROOT, cache_folder
from parity.session import Session

PROMPTS: Final = 4
STEPS: Final = 4  # of the comparison module by module; the prompts get the gate's 20


def main() -> int:
    started = time.perf_counter()
    checkpoint, reports = named(WORLD), ROOT / "reports"
    session = Session(checkpoint, reports / "demo", ReferenceCache(cache_folder() / "reference"), quiet=False)
    item = world_suite().items[0]
    case = replace(CASE, name="world", prompt=item.prompt, seed=item.seed, steps=STEPS)
    result = session.compare(case)
    try:
        session.shown = side_by_side(session, CASE, say)
    except ReferenceUnavailable as error:
        say(str(error))
    verdict = session.finish(reports / "verdict.json")

    if result.coverage is not None:
        print(result.coverage.sentence())
    for end in result.end_to_end:
        print(f"{end.name:13} {end.metric:8} {end.value:.2e}  (bound {end.bound:.2e})")
    for row in session.shown.rows if session.shown else ():
        print(line(row))
    for basis in verdict["evidence"]["rests_on"]:
        print(f"rests on: {basis}")
    for reason in verdict["reasons"]:
        print(f"reason: {reason}")
    serve(reports, case, checkpoint)
    print(f"took {time.perf_counter() - started:.0f} s")
    print(f"verdict: {verdict['verdict']}")
    print(f"report:  {reports / 'demo' / 'report.html'}")
    return 0 if verdict["verdict"] == "pass" else 1


def side_by_side(session: Session, case: Case, say: Callable[[str], None]) -> Shown:
    """The suite's first prompts on both engines, in the settings of `parity fidelity`, whose videos are found again."""
    opened = session.native_checkpoint()
    with ReferenceServer(session.checkpoint, case) as server:
        context, store = current_fingerprints(opened.fingerprint()), Store(OUTPUT / "store")
        run = both_sides(server, "bfloat16", read_policy(), store, say=say, context=context)
        rate = opened.config.bwe.output_sampling_rate
        return show_prompts(run, PROMPTS, session.output, case.frame_rate, rate, session.fidelity().content)


def line(row: dict[str, Any]) -> str:
    """One prompt: CLIPScore and the oracle's reading of both sides."""
    sides = [
        f"{side} {row[side]['clip_score']:.1f} {'✓' if row['oracle'][side]['right'] else '✕'}"
        for side in ("native", "reference")
    ]
    return f"{row['prompt']:52} CLIPScore, as asked: {', '.join(sides)}"


def serve(reports: Path, case: Case, checkpoint: Checkpoint) -> None:
    """What a user would get now: dispatch reads the verdict just written."""
    request = request_of(case, reports / "demo" / "video.mp4", checkpoint)
    try:
        print(InferenceEngine(verdict=reports / "verdict.json").generate_video(request).last_line())
    except (BridgeFailed, UserError) as error:
        print(f"no video was served: {error}")


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
