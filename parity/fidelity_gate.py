"""The judge of prompt fidelity: from paired differences to `pass`, `fail` or `inconclusive`. It computes no scores.

Intersection-union: every metric must show non-inferiority on its own, so no correction of alpha is needed. Lack of evidence
never passes: a missing metric or a failed generation is a fail, an undecided or blind test is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parity import stats
from parity.fidelity import METRICS, Scores, differences
from parity.fidelity_policy import FidelityPolicy
from parity.gate import Judgement
from parity.stats import Bet


@dataclass(frozen=True)
class Pilot:
    """What is fixed before the run, from prompts outside the suite: one test per metric, and whether the CLIP sees prompts."""

    bets: Mapping[str, Bet]
    control_points: float  # mean cost of a wrong prompt, reference videos, CLIP points
    control_lower_bound: float  # one-sided 95 %
    videos: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "bets": {name: asdict(bet) for name, bet in self.bets.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pilot:
        bets = {name: Bet(**bet) for name, bet in values["bets"].items()}
        return cls(bets, values["control_points"], values["control_lower_bound"], values["videos"])


@dataclass(frozen=True)
class PairResult:
    """One prompt: both sides' scores, or why there are none."""

    prompt_id: str
    native: Scores | None
    reference: Scores | None
    problem: str = ""


def plan(pilot: Sequence[PairResult], policy: FidelityPolicy) -> Pilot | Judgement:
    """Margins and spreads from the pilot; a Judgement where it shows that no run could mean anything."""
    whole = [p for p in pilot if p.native is not None and p.reference is not None and not p.problem]
    if len(whole) < len(pilot) or not whole:
        bad = next((p for p in pilot if p not in whole), None)
        return Judgement("fail", (f"pilot: {bad.prompt_id}: {bad.problem or 'no scores'}" if bad else "pilot: no videos",))
    costs = [p.reference.clip_score - p.reference.control_score for p in whole if p.reference]
    floor = stats.mean_lower_bound(costs, 0.05)
    if not floor > 0:
        return Judgement(
            "inconclusive",
            (
                f"the CLIP does not tell the reference's videos from a wrong prompt: cost {np.mean(costs):.2f} points, "
                f"lower bound {floor:.2f} over {len(whole)} pilot videos",
            ),
        )
    margins = {
        "clip_score": min(policy.clip_score.margin_points, policy.clip_score.control_share * floor),
        "r_precision": policy.r_precision.margin,
        "temporal_consistency": policy.temporal_consistency.margin,
        "motion": policy.motion.margin,
    }
    rows = [_differences(p, policy) for p in whole]
    bets = {}
    for name in METRICS:
        values = np.array([row[name] for row in rows])
        if not np.isfinite(values).all():
            return Judgement("fail", (f"pilot: {name} is missing",))
        bets[name] = policy.bet(name, margins[name], float(values.std(ddof=1)) if len(values) > 1 else 0.0)
    return Pilot(bets, float(np.mean(costs)), floor, len(whole))


def judge(
    pairs: Sequence[PairResult], size: int, pilot: Pilot, policy: FidelityPolicy, detail: bool = True
) -> tuple[Judgement, dict[str, Any]]:
    """(verdict on what was seen of a suite of `size` prompts, in its frozen order; the numbers behind it).

    Without `detail`, what costs time and decides nothing is left out: confidence bounds and forecasts.
    """
    evidence: dict[str, Any] = {"seen": len(pairs), "size": size, "metrics": {}}
    problems = [f"{pair.prompt_id}: {text}" for pair in pairs for text in smoke(pair, policy)]
    if problems:
        return Judgement("fail", tuple(problems)), evidence
    if not pairs:
        return Judgement("inconclusive", ("no video was compared",)), evidence

    rows = [_differences(pair, policy) for pair in pairs]
    reasons: list[str] = []
    verdicts: list[str] = []
    for name in METRICS:
        metric = _judge_metric(np.array([row[name] for row in rows]), size, pilot.bets[name], policy.alpha, detail)
        evidence["metrics"][name] = metric
        verdicts.append(metric["verdict"])
        if metric["verdict"] != "pass":
            reasons.append(f"{name}: {metric['reason']}")
    if detail:
        evidence["advisory"] = _advisory(pairs, policy)
    if "fail" in verdicts:
        failed = [name for name in METRICS if evidence["metrics"][name]["verdict"] == "fail"]
        return Judgement("fail", tuple(f"{name}: {evidence['metrics'][name]['reason']}" for name in failed)), evidence
    least = min(policy.min_videos, size)
    if len(pairs) < least:
        reasons.insert(0, f"{len(pairs)} videos seen, at least {least} wanted: {least - len(pairs)} more videos needed")
    return Judgement("inconclusive" if reasons else "pass", tuple(reasons)), evidence


def _judge_metric(values: np.ndarray, size: int, bet: Bet, alpha: float, detail: bool) -> dict[str, Any]:
    """One metric's verdict. Failing is tested at alpha / 4 each, so that four tests together raise few false alarms."""
    if not np.isfinite(values).all():
        missing = int(np.flatnonzero(~np.isfinite(values))[0]) + 1
        return {"verdict": "fail", "reason": f"missing for video {missing}", "margin": bet.margin}
    better = stats.non_inferiority(values, size, bet)
    worse = stats.inferiority(values, size, bet)
    passed_after = stats.crossing(better, alpha)
    mean = float(values.mean())
    out: dict[str, Any] = {
        "mean": mean,
        "margin": bet.margin,
        "bound": bet.bound,
        "sigma": bet.sigma,
        "wealth": _finite(better.max()),
        "wealth_against": _finite(worse.max()),
        "passed_after": passed_after,
    }
    if detail:
        out["lower_bound"] = _finite(stats.lower_bound(values, size, bet, alpha))
    if stats.crossing(worse, alpha / len(METRICS)) is not None:
        return {**out, "verdict": "fail", "reason": f"worse than the margin: mean {mean:+.4g}, margin -{bet.margin:g}"}
    if passed_after is not None and mean > -bet.margin:
        return {**out, "verdict": "pass", "reason": ""}
    if len(values) == size:
        text = f"not shown to be within the margin in the whole suite: mean {mean:+.4g}, margin -{bet.margin:g}"
        return {**out, "verdict": "fail", "reason": text}
    needed = stats.videos_needed(values, size, bet, alpha) if detail else None
    more = f"about {needed} more videos needed" if needed is not None else f"not within the {size - len(values)} videos left"
    return {**out, "verdict": "inconclusive", "reason": f"undecided: mean {mean:+.4g}, {more}", "more_videos": needed}


def smoke(pair: PairResult, policy: FidelityPolicy) -> list[str]:
    """What is plainly wrong with one pair, in words; empty when nothing is."""
    if pair.problem or pair.native is None or pair.reference is None:
        return [pair.problem or "generation failed: no scores"]
    native, reference, limit = pair.native, pair.reference, policy.smoke
    problems = []
    for side, scores in (("native", native), ("reference", reference)):
        if not scores.finite:
            problems.append(f"{side}: NaN or infinity in frames or sound, or no sound at all")
        if scores.frames < limit.min_frames:
            problems.append(f"{side}: {scores.frames} frames, at least {limit.min_frames} wanted")
    if native.brightest < limit.min_brightest <= reference.brightest:
        problems.append(f"native: black, brightest level {native.brightest:.0f} of 255")
    if native.contrast < limit.min_contrast <= reference.contrast:
        problems.append(f"native: one flat colour, contrast {native.contrast:.2f} levels")
    if reference.motion >= policy.motion.still and native.motion < limit.min_motion * reference.motion:
        problems.append(f"native: frozen, motion {native.motion:.3f} levels, reference {reference.motion:.3f}")
    if native.audio_rms < limit.min_audio_rms <= reference.audio_rms:
        problems.append(f"native: silent, RMS {native.audio_rms:.1e}, reference {reference.audio_rms:.1e}")
    if native.audio_peak > limit.max_audio_peak >= reference.audio_peak:
        problems.append(f"native: sound out of range, peak {native.audio_peak:.3f}")
    return problems


def judge_scope(judgement: Judgement, size: int, policy: FidelityPolicy) -> Judgement:
    """A pass on less than the whole suite is no pass for dispatch; a fail stays one."""
    if size >= policy.suite_size:
        return judgement
    return judgement.join(Judgement("inconclusive", (f"short form: {size} of {policy.suite_size} prompts",)))


@dataclass(frozen=True)
class Rung:
    """One degraded run: its verdict, and the native videos' mean CLIPScore over the ladder's prompts."""

    verdict: str
    clip_score: float


def judge_ladder(rungs: Mapping[str, Rung], policy: FidelityPolicy) -> Judgement:
    """Does the gate see damage? `none` is the native as it is. Anything missing, out of order or unseen: inconclusive."""
    ladder = policy.ladder
    reasons = [f"assay: rung {name} was not run" for name in ladder.needed if name not in rungs]
    for name in ladder.severe:
        if name in rungs and rungs[name].verdict != "fail":
            reasons.append(f"assay: severe rung {name} came out as {rungs[name].verdict}, expected fail")
    for better, worse in zip(ladder.order, ladder.order[1:], strict=False):
        if better not in rungs or worse not in rungs:
            continue
        high, low = rungs[better].clip_score, rungs[worse].clip_score
        if not (math.isfinite(high) and math.isfinite(low) and low <= high + ladder.tolerance_points):
            reasons.append(f"assay: {worse} scores {low:.2f}, above {better} with {high:.2f}: the ladder is out of order")
    return Judgement("inconclusive", tuple(reasons)) if reasons else Judgement("pass")


def _differences(pair: PairResult, policy: FidelityPolicy) -> dict[str, float]:
    assert pair.native is not None
    assert pair.reference is not None
    return differences(pair.native, pair.reference, policy.motion.still)


def _advisory(pairs: Sequence[PairResult], policy: FidelityPolicy) -> dict[str, Any]:
    """Numbers that inform and do not decide."""
    native = [p.native for p in pairs if p.native is not None]
    reference = [p.reference for p in pairs if p.reference is not None]
    embeddings = [np.array([s.embedding for s in side]) for side in (native, reference)]
    own_first = [np.array([s.first for s in side]) for side in (native, reference)]
    return {
        "cmmd": stats.paired_cmmd(embeddings[0], embeddings[1]) if len(pairs) > 1 else None,
        "mcnemar_p": stats.mcnemar_non_inferiority(own_first[0], own_first[1], policy.r_precision.margin),
        "clip_score": {"native": _mean(s.clip_score for s in native), "reference": _mean(s.clip_score for s in reference)},
        "r_precision": {"native": _mean(s.first for s in native), "reference": _mean(s.first for s in reference)},
    }


def _mean(values: Any) -> float:
    return float(np.mean([float(v) for v in values]))


def _finite(value: float) -> float | str:
    """JSON knows no infinity."""
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
