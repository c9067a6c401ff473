"""The fidelity run: pilot, ladder, then prompt by prompt in the frozen order until the verdict is clear.

Takes both engines as callables, so it runs without either. Everything it makes lies in a Store, so a killed run resumes and
ends in the same verdict: at most the videos in flight (one per side) are made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from parity.fidelity import Embedder, Scores
from parity.fidelity_gate import PairResult, Pilot, Rung, judge, judge_ladder, judge_scope, plan, smoke
from parity.fidelity_policy import FidelityPolicy
from parity.fidelity_store import Side, Store
from parity.fidelity_suite import Item, Suite
from parity.gate import Judgement

SHUFFLED: Final = "shuffled-prompts"  # the one rung that needs no engine's help: the engine is told another prompt
Say = Callable[[str], None]


@dataclass(frozen=True)
class FidelityResult:
    """What a run found. `as_dict` depends on nothing but inputs: no clock, no path, no machine."""

    judgement: Judgement
    evidence: dict[str, Any]
    pilot: Pilot | None
    ladder: dict[str, dict[str, Any]]
    fingerprints: dict[str, str]
    pairs: tuple[PairResult, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON object: verdict, reasons, metrics, margins, ladder, fingerprints, all scores but embeddings, digest of all."""
        scored = score_rows(self.pairs)
        rows = json.dumps(scored, sort_keys=True)
        return {
            "schema": 1,
            "verdict": self.judgement.verdict,
            "reasons": list(self.judgement.reasons),
            **self.evidence,
            "pilot": None if self.pilot is None else self.pilot.as_dict(),
            "ladder": self.ladder,
            "fingerprints": self.fingerprints,
            "scores_sha256": hashlib.sha256(rows.encode()).hexdigest(),
            "pairs": [{key: _without_embedding(value) for key, value in row.items()} for row in scored],
        }


def score_rows(pairs: Iterable[PairResult]) -> list[dict[str, Any]]:
    """One JSON object per prompt, both sides' scores; what `parity.simulate` replays."""
    return [
        {
            "id": pair.prompt_id,
            "problem": pair.problem,
            "native": None if pair.native is None else pair.native.as_dict(),
            "reference": None if pair.reference is None else pair.reference.as_dict(),
        }
        for pair in pairs
    ]


@dataclass(frozen=True)
class Run:
    """Everything a run needs. `ahead`: the reference makes the next video while the native side makes this one.
    `context`: what else the result depends on, by name (`ltx_native.verdict.current_fingerprints`), for those who join it.
    """

    suite: Suite
    native: Side
    reference: Side
    embedder: Embedder
    policy: FidelityPolicy
    store: Store
    say: Say = lambda text: None
    ahead: bool = False
    context: Mapping[str, str] = field(default_factory=dict)

    def fingerprints(self) -> dict[str, str]:
        return {
            **self.context,
            "native_side": self.native.fingerprint,
            "reference_side": self.reference.fingerprint,
            "clip": self.embedder.fingerprint,
            "suite": self.suite.sha256,
            "policy": self.policy.sha256,
        }


def run_fidelity(
    run: Run, rungs: Mapping[str, Side] | None = None, limit: int | None = None, to_the_end: bool = False
) -> FidelityResult:
    """The whole gate: pilot, ladder of degraded natives (`rungs`, by name), suite. `limit` takes the first prompts only;
    `to_the_end` makes and scores all of them, though the verdict stays that of the moment it became clear.

    Without `rungs` nothing shows that the gate can see damage, so a pass becomes inconclusive.
    """
    items = run.suite.items[: limit or run.policy.suite_size]
    run.embedder.embed_texts(
        [item.prompt for item in run.suite.items + run.suite.pilot]
    )  # all must be readable, else say so now
    pilot = run_pilot(run)
    if isinstance(pilot, Judgement):
        return FidelityResult(pilot, {"seen": 0, "size": len(items)}, None, {}, run.fingerprints(), ())
    ladder: dict[str, dict[str, Any]] = {}
    assay = Judgement("inconclusive", ("assay: no ladder was run, so a pass would mean nothing",))
    if rungs is not None:
        ladder = run_ladder(run, rungs, pilot)
        assay = judge_ladder({n: Rung(r["verdict"], r["clip_score"]) for n, r in ladder.items()}, run.policy)
        if assay.verdict != "pass":
            return FidelityResult(assay, {"seen": 0, "size": len(items)}, pilot, ladder, run.fingerprints(), ())
    judgement, evidence, pairs = run_suite(run, run.native, items, pilot, to_the_end=to_the_end)
    whole = judge_scope(judgement, len(items), run.policy).join(assay)
    evidence["within_scope"] = judgement.verdict
    return FidelityResult(whole, evidence, pilot, ladder, run.fingerprints(), tuple(pairs))


def run_pilot(run: Run) -> Pilot | Judgement:
    """Spread and control from the pilot prompts, fixed from then on: a stored plan is never made again."""
    key = hashlib.sha256(json.dumps(run.fingerprints(), sort_keys=True).encode()).hexdigest()[:16]
    stored = run.store.read_note(f"pilot-{key}.json")
    if stored is not None:
        return Pilot.from_dict(stored)
    items = run.suite.pilot[: run.policy.pilot_videos]
    if len(items) < run.policy.pilot_videos:
        text = f"pilot: the suite has {len(items)} pilot prompts, the policy asks for {run.policy.pilot_videos}"
        return Judgement("inconclusive", (text,))
    run.say(f"pilot: {len(items)} prompts outside the suite")
    pairs = []
    for pair in made_pairs(run, run.native, items):
        pairs.append(pair)
        run.say(f"pilot {len(pairs)}/{len(items)} {pair.prompt_id} {_line(pair)}")
    problems = [f"pilot: {p.prompt_id}: {text}" for p in pairs for text in smoke(p, run.policy)]
    if problems:
        return Judgement("fail", tuple(problems))
    pilot = plan(pairs, run.policy)
    if isinstance(pilot, Pilot):
        run.store.write_note(f"pilot-{key}.json", pilot.as_dict())
        bet = pilot.bets["clip_score"]
        run.say(f"pilot: sigma {bet.sigma:.2f}, margin {bet.margin:.2f}, control {pilot.control_points:.1f} CLIP points")
    return pilot


def run_suite(
    run: Run, native: Side, items: Sequence[Item], pilot: Pilot, *, shuffled: bool = False, to_the_end: bool = False
) -> tuple[Judgement, dict[str, Any], list[PairResult]]:
    """Pair after pair, judged after each; stops when the verdict is pass or fail, unless `to_the_end`."""
    pairs: list[PairResult] = []
    decided_after: int | None = None
    for pair in made_pairs(run, native, items, shuffled):
        pairs.append(pair)
        if decided_after is None:
            judgement, _ = judge(pairs, len(items), pilot, run.policy, detail=False)
        run.say(f"{len(pairs)}/{len(items)} {pair.prompt_id} {_line(pair)} -> {judgement.verdict}")
        if decided_after is None:
            decided_after = None if judgement.verdict == "inconclusive" else len(pairs)
        if pair.problem or (decided_after and not to_the_end):
            break
    judgement, evidence = judge(pairs[:decided_after], len(items), pilot, run.policy)
    return judgement, evidence, pairs


def run_ladder(
    run: Run, rungs: Mapping[str, Side], pilot: Pilot, only: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Every rung on the first prompts of the suite: verdict, mean CLIPScore and R-precision of the degraded videos.

    `none` and `shuffled-prompts` are the plain native side and need no entry in `rungs`. `only` takes some, to the last video.
    """
    items = run.suite.items[: run.policy.ladder.videos]
    sides = {**rungs, "none": run.native, SHUFFLED: run.native}
    sides = {name: sides[name] for name in only} if only is not None else sides
    table: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        run.say(f"ladder: {name}")
        whole = only is not None or name in run.policy.ladder.order
        judgement, _, pairs = run_suite(run, side, items, pilot, shuffled=name == SHUFFLED, to_the_end=whole)
        scores = [pair.native for pair in pairs if pair.native is not None]
        table[name] = {
            # A rung that could not be generated shows nothing about the gate.
            "verdict": "not generated" if any(pair.problem for pair in pairs) else judgement.verdict,
            "videos": len(pairs),
            "clip_score": _mean([s.clip_score for s in scores]),
            "r_precision": _mean([float(s.first) for s in scores]),
            "temporal_consistency": _mean([s.temporal_consistency for s in scores]),
            "reason": judgement.reasons[0] if judgement.reasons else "",
        }
    return table


def made_pairs(run: Run, native: Side, items: Sequence[Item], shuffled: bool = False) -> Iterator[PairResult]:
    """Generate (or find), score and pair, in order. A side that raises ends the run with a failed pair."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        waiting: dict[int, Future[None]] = {}
        try:
            for index, item in enumerate(items):
                if run.ahead:
                    for near in range(index, min(index + 2, len(items))):
                        if near not in waiting:
                            waiting[near] = worker.submit(_make, run, items[near])
                yield _pair(run, native, item, waiting.get(index), shuffled)
        finally:
            worker.shutdown(wait=True, cancel_futures=True)


def _make(run: Run, item: Item) -> None:
    if not run.store.has(run.reference, item):
        run.store.video(run.reference, item)


def _pair(run: Run, native: Side, item: Item, reference_made: Future[None] | None, shuffled: bool) -> PairResult:
    control = run.suite.control(item)
    scores: dict[str, Scores] = {}
    for side in (native, run.reference):
        try:
            if side is run.reference and reference_made is not None:
                reference_made.result()
            told = control if shuffled and side is native else None
            scores[side.name] = run.store.scores(side, item, control, run.embedder, told)
        except Exception as error:  # whatever an engine throws is a failed generation, and a failed generation is a fail
            return PairResult(item.id, None, None, f"{side.name}: generation failed: {type(error).__name__}: {error}")
    return PairResult(item.id, scores[native.name], scores[run.reference.name])


def _line(pair: PairResult) -> str:
    if pair.native is None or pair.reference is None:
        return pair.problem
    return f"CLIPScore {pair.native.clip_score:.2f} against {pair.reference.clip_score:.2f}"


def _without_embedding(value: Any) -> Any:
    return {name: score for name, score in value.items() if name != "embedding"} if isinstance(value, dict) else value


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
