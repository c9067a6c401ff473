"""`parity fidelity`: the prompt-fidelity gate on a checkpoint, from the command line.

    parity fidelity                                  the shipped world, whole suite, ladder first
    parity fidelity --prompts 12                     short form: can fail, cannot pass
    parity fidelity --ladder                         every rung of the degradation ladder: a table
    parity fidelity --degrade no-cfg --degrade q4-weights    only these rungs
    parity fidelity --model M --gemma DIR --clip DIR --suite SUITE.json --width 704 --height 480 --frames 97 --steps 30

Writes fidelity.json (verdict, sealed by a digest; short.json for a short form) and scores.json (for `parity.simulate`) to the
output folder. Videos and scores are kept in its `store`, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ltx_native.errors import ConfigError, UserError
from parity.cases import Case, Guidance
from parity.fidelity_evidence import OUTPUT, RESULT, promote, write_result
from parity.fidelity_gate import Pilot, Rung, judge_ladder
from parity.fidelity_policy import FidelityPolicy, read_policy
from parity.fidelity_run import FidelityResult, Run, Say, run_fidelity, run_ladder, run_pilot, score_rows
from parity.fidelity_store import Side, Store, write_whole
from parity.fidelity_suite import Suite, read_suite
from parity.fidelity_tables import ladder_table, result_lines, shares
from parity.fidelity_world import CASE, world_suite
from parity.progress import counting

if TYPE_CHECKING:
    from parity.capture.sides import ReferenceServer

WORLD: Final = Path(__file__).with_name("world") / "checkpoint"
WORLD_CLIP: Final = Path(__file__).with_name("world") / "clip"
EXIT: Final = {"pass": 0, "fail": 1, "inconclusive": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `parity fidelity`; defaults are those of the shipped world."""
    add = parser.add_argument
    add("--model", type=Path, help="official single-file checkpoint (default: the shipped world)")
    add("--gemma", type=Path, help="folder of its text encoder")
    add("--clip", type=Path, default=WORLD_CLIP, help="Hugging Face folder of the CLIP that judges")
    add("--suite", type=Path, help="prompt suite (default: the world's 100 held-out captions)")
    add("--output", type=Path, default=OUTPUT, help="folder for verdict, scores, videos")
    add("--prompts", type=int, metavar="N", help="short form: the first N prompts only; cannot pass")
    add("--to-the-end", action="store_true", help="make every video, though the verdict is clear before")
    add("--ladder", action="store_true", help="run every rung of the degradation ladder, and nothing else")
    add("--degrade", action="append", metavar="RUNG", help="run only this rung, or `all`; may be repeated")
    add("--no-ladder", action="store_true", help="leave the ladder out; cannot pass")
    add("--promote", action="store_true", help="put the result where it is committed, for verdicts on other machines")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the native engine")
    add("--width", type=int, default=CASE.width)
    add("--height", type=int, default=CASE.height)
    add("--frames", type=int, default=CASE.num_frames)
    add("--frame-rate", type=float, default=CASE.frame_rate)
    add("--steps", type=int, default=CASE.steps)
    add("--cfg", type=float, default=CASE.video.cfg, help="classifier-free guidance of video and audio")
    add("--stg", type=float, default=CASE.video.stg, help="spatio-temporal guidance, off by default")
    add("--stg-block", type=int, default=CASE.video.stg_blocks[0])
    add("--modality", type=float, default=CASE.video.modality, help="modality guidance; 1 is off")
    add("--rescale", type=float, default=CASE.video.rescale)
    add("--negative-prompt", default=CASE.negative_prompt)


def run(options: argparse.Namespace) -> int:
    """0 pass, 1 fail, 3 inconclusive; 2 bad input. The last line is the verdict. `options.json`: the whole result instead."""
    try:
        return _run(options)
    except (UserError, FileNotFoundError) as error:
        print(f"parity fidelity: {error}", file=sys.stderr)
        return 2


def case_of(options: argparse.Namespace) -> Case:
    """The request that every prompt is put into."""
    guidance = Guidance(options.cfg, options.stg, options.modality, options.rescale, (options.stg_block,))
    return Case(
        "fidelity",
        negative_prompt=options.negative_prompt,
        width=options.width,
        height=options.height,
        num_frames=options.frames,
        frame_rate=options.frame_rate,
        steps=options.steps,
        video=guidance,
        audio=guidance,
    )


def both_sides(
    server: ReferenceServer,
    dtype: str,
    policy: FidelityPolicy,
    store: Store,
    *,
    suite: Suite | None = None,
    clip: Path = WORLD_CLIP,
    say: Say = lambda text: None,
    context: Mapping[str, str] | None = None,
) -> Run:
    """Native against the server's reference in the server's case, the world's suite unless another one is given.

    The reference makes its next video while native makes this one.
    """
    from parity.capture.sides import native_side, reference_side
    from parity.clip import Clip

    return Run(
        suite=suite or world_suite(),
        native=native_side(server.checkpoint, server.case, dtype),
        reference=reference_side(server),
        embedder=Clip.open(clip),
        policy=policy,
        store=store,
        say=say,
        ahead=True,
        context=context or {},
    )


def rungs_of(options: argparse.Namespace) -> list[str]:
    """The rungs asked for by name, none for a run of the gate. Raises ConfigError for one that does not exist."""
    from parity.capture.degrade import RUNGS

    asked = options.degrade or []
    for name in asked:
        if name not in RUNGS and name != "all":
            raise ConfigError("degradation", "--degrade", name, "one of " + ", ".join(RUNGS), "choose a rung")
    return list(RUNGS) if options.ladder or "all" in asked else asked


def _run(options: argparse.Namespace) -> int:
    from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
    from ltx_native.verdict import current_fingerprints
    from parity.capture.degrade import RUNGS
    from parity.capture.reference import Checkpoint
    from parity.capture.sides import ReferenceServer, native_side
    from parity.checkpoints import named

    policy = read_policy()
    suite = read_suite(options.suite) if options.suite else world_suite()
    if options.prompts is not None and not 1 <= options.prompts <= len(suite.items):
        raise ConfigError("prompts", "--prompts", options.prompts, f"1 to {len(suite.items)}", "ask for fewer")
    rungs = rungs_of(options)
    if options.model and not options.gemma:
        raise ConfigError("text encoder", "--gemma", "nothing", "the folder of the checkpoint's text encoder", "name it")
    if options.promote and (rungs or options.prompts or options.no_ladder):
        raise ConfigError(
            "promotion", "--promote", "a part of the run", "the whole suite with its ladder", "leave the rest out"
        )
    checkpoint = Checkpoint(options.model, options.gemma) if options.model else named(WORLD)
    case = case_of(options)
    upsampler = str(checkpoint.upsampler) if checkpoint.upsampler else None
    opened = NativeCheckpoint.open(str(checkpoint.model), str(checkpoint.gemma), upsampler)

    def side(rung: str) -> Side:
        return native_side(checkpoint, case, options.dtype, rung)

    with counting("prompts", options.quiet) as say, ReferenceServer(checkpoint, case) as server:
        context, store = current_fingerprints(opened.fingerprint()), Store(options.output / "store")
        work = both_sides(server, options.dtype, policy, store, suite=suite, clip=options.clip, say=say, context=context)
        if rungs:
            return _ladder(work, {name: side(name) for name in rungs}, options)
        needed = [name for name in policy.ladder.needed if name in RUNGS]
        ladder = None if options.no_ladder else {name: side(name) for name in needed}
        result = run_fidelity(work, ladder, options.prompts, options.to_the_end)
        content = result.as_dict() | settings(options, case, work, policy) | {"scored": shares(work, result.pairs)}
    return _report(options, content, result)


def settings(options: argparse.Namespace, case: Case, work: Run, policy: FidelityPolicy) -> dict[str, Any]:
    """What was asked, for whoever reads the result."""
    request = {name: value for name, value in case.request().items() if name not in ("name", "prompt", "seed") and value}
    asked = {"suite": work.suite.name, "dtype": options.dtype, "clip": options.clip.name, "request": request}
    return {"settings": asked, "alpha": policy.alpha, "still": policy.motion.still}


def _report(options: argparse.Namespace, content: dict[str, Any], result: FidelityResult) -> int:
    whole = options.prompts is None and not options.no_ladder
    path = options.output / (RESULT if whole else "short.json")
    write_result(path, content)
    rows = score_rows(result.pairs)
    write_whole(options.output / "scores.json", lambda partial: Path(partial).write_text(json.dumps(rows)))
    verdict = result.judgement.verdict
    if options.promote:
        promote(path, rows if options.suite is None and options.model is None else [])
    next_step = "parity compare" if whole else "parity fidelity"
    if getattr(options, "json", False):
        print(json.dumps(content | {"next": next_step}))
        return EXIT[verdict]
    for line in result_lines(content):
        print(line)
    print(f"fidelity: {verdict} after {content['seen']} of {content['size']} prompts, written to {path}")
    print(f"next: {next_step}")
    return EXIT[verdict]


def _ladder(work: Run, sides: dict[str, Side], options: argparse.Namespace) -> int:
    """Only the rungs asked for: a table, no verdict on the engine. With all of them: does the ladder hold?"""
    pilot = run_pilot(work)
    if not isinstance(pilot, Pilot):
        print("; ".join(pilot.reasons))
        return EXIT[pilot.verdict]
    table = run_ladder(work, sides, pilot, only=tuple(sides))
    judgement = judge_ladder({name: Rung(row["verdict"], row["clip_score"]) for name, row in table.items()}, work.policy)
    whole = set(work.policy.ladder.needed) <= set(table)
    content = {
        "schema": 1,
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "rungs": table,
        "fingerprints": work.fingerprints(),
        **settings(options, case_of(options), work, work.policy),
    }
    path = options.output / "ladder.json"
    write_result(path, content)
    next_step = "parity fidelity"
    if getattr(options, "json", False):
        print(json.dumps(content | {"next": next_step}))
    else:
        print(ladder_table(table))
    if not whole:
        if not getattr(options, "json", False):
            print(f"next: {next_step}")
        return 0
    for reason in judgement.reasons:
        print(f"- {reason}", file=sys.stderr)
    if not getattr(options, "json", False):
        print(f"ladder: {'every severe rung fails' if judgement.verdict == 'pass' else 'does not hold'}, written to {path}")
        print(f"next: {next_step}")
    return EXIT[judgement.verdict]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity fidelity", description="the prompt-fidelity gate", allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="the verdict only")
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
