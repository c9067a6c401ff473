"""`parity fidelity`: the prompt-fidelity gate on a checkpoint, from the command line.

    parity fidelity                                  the shipped world, whole suite, ladder first
    parity fidelity --prompts 12                     short form: can fail, cannot pass
    parity fidelity --degrade no-cfg --degrade q4-weights    only these rungs of the ladder: a table
    parity fidelity --model M --gemma DIR --clip DIR --suite SUITE.json --width 704 --height 480 --frames 97 --steps 30

Writes fidelity.json (verdict, sealed by a digest) and scores.json (for `parity.simulate`) to the output folder. Videos and
scores are kept in its `store`, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ltx_native.errors import ConfigError, UserError
from parity.cases import Case, Guidance
from parity.fidelity_gate import Pilot, write_result
from parity.fidelity_policy import read_policy
from parity.fidelity_run import Run, run_fidelity, run_ladder, run_pilot, score_rows
from parity.fidelity_store import Side, Store, write_whole
from parity.fidelity_suite import Suite, read_suite
from parity.fidelity_world import world_suite

ROOT: Final = Path(__file__).resolve().parents[1]
WORLD: Final = Path(__file__).with_name("world") / "checkpoint"
WORLD_CLIP: Final = Path(__file__).with_name("world") / "clip"
EXIT: Final = {"pass": 0, "fail": 1, "inconclusive": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `parity fidelity`; defaults are those of the shipped world."""
    parser.add_argument("--model", type=Path, help="official single-file checkpoint (default: the shipped world)")
    parser.add_argument("--gemma", type=Path, help="folder of its text encoder")
    parser.add_argument("--clip", type=Path, default=WORLD_CLIP, help="Hugging Face folder of the CLIP that judges")
    parser.add_argument("--suite", type=Path, help="prompt suite (default: the world's 100 held-out captions)")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "fidelity", help="folder for verdict, scores, videos")
    parser.add_argument("--prompts", type=int, metavar="N", help="short form: the first N prompts only; cannot pass")
    parser.add_argument("--to-the-end", action="store_true", help="make every video, though the verdict is clear before")
    parser.add_argument("--degrade", action="append", metavar="RUNG", help="run only this rung, or `all`; may be repeated")
    parser.add_argument("--no-ladder", action="store_true", help="leave the ladder out; cannot pass")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the native engine")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--frame-rate", type=float, default=24.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0, help="classifier-free guidance of video and audio")
    parser.add_argument("--stg", type=float, default=0.0, help="spatio-temporal guidance, off by default")
    parser.add_argument("--stg-block", type=int, default=1)
    parser.add_argument("--modality", type=float, default=1.0, help="modality guidance; 1 is off")
    parser.add_argument("--rescale", type=float, default=0.0)
    parser.add_argument("--negative-prompt", default="")


def run(options: argparse.Namespace) -> int:
    """0 pass, 1 fail, 3 inconclusive; 2 bad input. The last line is the verdict. `options.json`: the whole result instead."""
    try:
        return _run(options)
    except (UserError, FileNotFoundError) as error:
        print(f"parity fidelity: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
    from ltx_native.verdict import current_fingerprints
    from parity.capture.degrade import RUNGS
    from parity.capture.reference import Checkpoint
    from parity.capture.sides import ReferenceServer, native_side, reference_side
    from parity.checkpoints import named
    from parity.clip import Clip

    policy = read_policy()
    suite: Suite = read_suite(options.suite) if options.suite else world_suite()
    if options.prompts is not None and not 1 <= options.prompts <= len(suite.items):
        raise ConfigError("prompts", "--prompts", options.prompts, f"1 to {len(suite.items)}", "ask for fewer")
    rungs = list(RUNGS) if options.degrade and "all" in options.degrade else options.degrade or []
    for name in rungs:
        if name not in RUNGS:
            raise ConfigError("degradation", "--degrade", name, "one of " + ", ".join(RUNGS), "choose a rung")
    if options.model and not options.gemma:
        raise ConfigError("text encoder", "--gemma", "nothing", "the folder of the checkpoint's text encoder", "name it")
    checkpoint = Checkpoint(options.model, options.gemma) if options.model else named(WORLD)
    guidance = Guidance(options.cfg, options.stg, options.modality, options.rescale, (options.stg_block,))
    case = Case(
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
    clip = Clip.open(options.clip)
    upsampler = str(checkpoint.upsampler) if checkpoint.upsampler else None
    opened = NativeCheckpoint.open(str(checkpoint.model), str(checkpoint.gemma), upsampler)

    def side(rung: str) -> Side:
        return native_side(checkpoint, case, options.dtype, rung)

    with ReferenceServer(checkpoint, case) as server:
        work = Run(
            suite=suite,
            native=side("none"),
            reference=reference_side(server),
            embedder=clip,
            policy=policy,
            store=Store(options.output / "store"),
            say=(lambda text: None) if options.quiet else (lambda text: print(text, file=sys.stderr, flush=True)),
            ahead=True,
            context=current_fingerprints(opened.fingerprint()),
        )
        if rungs:
            return _ladder(work, {name: side(name) for name in rungs}, options.output)
        needed = [name for name in dict.fromkeys(policy.ladder.order + policy.ladder.severe) if name in RUNGS]
        ladder = None if options.no_ladder else {name: side(name) for name in needed}
        result = run_fidelity(work, ladder, options.prompts, options.to_the_end)
        content = result.as_dict()
        if options.suite is None and result.pairs:
            content["oracle"] = _oracle(work, len(result.pairs))
    write_result(options.output / "fidelity.json", content)
    rows = json.dumps(score_rows(result.pairs))
    write_whole(options.output / "scores.json", lambda partial: Path(partial).write_text(rows))
    if getattr(options, "json", False):
        print(json.dumps(content))
        return EXIT[result.judgement.verdict]
    if result.ladder:
        print(ladder_table(result.ladder))
    for name, metric in result.evidence.get("metrics", {}).items():
        print(f"{name:22} mean {metric['mean']:+.4g}  margin -{metric['margin']:.3g}  {metric['verdict']}")
    for name, value in content.get("oracle", {}).items():
        print(f"{name:22} all four attributes right in {value:.2f} of the videos, by the pixel oracle")
    for reason in result.judgement.reasons:
        print(f"- {reason}")
    seen = f"{result.evidence['seen']} of {result.evidence['size']} prompts"
    print(f"fidelity: {result.judgement.verdict} after {seen}, written to {options.output / 'fidelity.json'}")
    return EXIT[result.judgement.verdict]


def _oracle(work: Run, count: int) -> dict[str, float]:
    """The share of videos in which the world's pixel oracle reads colour, shape, motion and background as asked."""
    from parity.world.oracle import read
    from parity.world.scene import parse

    items = work.suite.items[:count]
    shares = {}
    for side in (work.native, work.reference):
        right = [read(work.store.video(side, item).frames).matches(parse(item.prompt)) for item in items]
        shares[side.name] = sum(right) / len(right)
    return shares


def _ladder(work: Run, sides: dict[str, Side], output: Path) -> int:
    """Only the rungs asked for: a table, no verdict on the engine."""
    pilot = run_pilot(work)
    if not isinstance(pilot, Pilot):
        print("; ".join(pilot.reasons))
        return EXIT[pilot.verdict]
    table = run_ladder(work, sides, pilot, only=tuple(sides))
    write_result(output / "ladder.json", {"schema": 1, "rungs": table, "fingerprints": work.fingerprints()})
    print(ladder_table(table))
    return 0


def ladder_table(table: dict[str, dict[str, object]]) -> str:
    """One line per rung: CLIPScore, R-precision, temporal consistency, videos until the verdict, verdict."""
    lines = [f"{'rung':22} {'CLIPScore':>9} {'R-precision':>11} {'consistency':>11} {'videos':>6}  verdict"]
    for name, row in table.items():
        numbers = f"{row['clip_score']:9.2f} {row['r_precision']:11.2f} {row['temporal_consistency']:11.4f} {row['videos']:6}"
        lines.append(f"{name:22} {numbers}  {row['verdict']} {row['reason']}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity fidelity", description="the prompt-fidelity gate", allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="the verdict only")
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
