"""Scores of hand-made videos, and the judge's truth table."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity import fidelity
from parity.fidelity import METRICS, Scores
from parity.fidelity_gate import PairResult, Pilot, Rung, judge, judge_ladder, judge_scope, plan, smoke
from parity.gate import Judgement

sys.path.insert(0, str(Path(__file__).parent))
from score_parts import POLICY_NOW, pair, pilot, scores
from toy_engines import ToyClip, engine, toy_suite

# --- scores ----------------------------------------------------------------------------------------------------------


def test_clip_score_is_a_hundred_cosines() -> None:
    views = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert fidelity.clip_score(views, np.array([1.0, 0.0])) == pytest.approx(50.0)
    assert fidelity.clip_score(-views, np.array([1.0, 0.0])) == pytest.approx(-50.0)  # not clipped


def test_a_tie_with_a_hard_negative_is_lost() -> None:
    views, own = np.array([[1.0, 0.0]]), np.array([0.8, 0.6])
    assert fidelity.best_negative(views, own, np.array([[0.6, 0.8], [0.8, -0.6]])) == 1
    assert fidelity.best_negative(views, own, np.array([[0.6, 0.8], [0.7, -0.7]])) is None
    assert fidelity.retrieval_rank(views, np.array([[0.8, 0.6], [0.8, -0.6], [0.1, 0.9]]), own=0) == 1


def test_motion_and_contrast_do_not_depend_on_chunks() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (41, 6, 5, 3)).astype(np.uint8)
    plain = frames.astype(np.float64)
    assert fidelity.motion(frames) == pytest.approx(np.abs(np.diff(plain, axis=0)).mean())
    assert fidelity.contrast(frames) == pytest.approx(plain.std())
    assert math.isnan(fidelity.motion(frames[:1]))
    assert fidelity.motion(np.repeat(frames[:1], 9, axis=0)) == 0.0


def test_measure_sees_nan_frozen_black_and_silence() -> None:
    prompt = toy_suite().items[0]
    frames, sound = engine()(prompt.prompt, 1)

    def measured(f: np.ndarray, s: np.ndarray) -> Scores:
        return fidelity.measure(f, s, ToyClip(), prompt.prompt, "a wrong prompt", prompt.hard_negatives)

    good = measured(frames, sound)
    assert good.first
    assert good.clip_score > good.control_score + 10
    broken = frames.astype(np.float32) / 255
    broken[3, 0, 0, 0] = np.nan
    spoilt_sound = sound.copy()
    spoilt_sound[0, 5] = np.inf
    cases = {
        "NaN": measured(broken, sound),
        "infinity": measured(frames, spoilt_sound),
        "no sound": measured(frames, sound[:, :0]),
        "frozen": measured(np.repeat(frames[:1], 9, axis=0), sound),
        "black": measured(np.zeros_like(frames), sound),
        "flat": measured(np.full_like(frames, 90), sound),
        "silent": measured(frames, 0 * sound),
        "out of range": measured(frames, 20 * sound),
        "8 wanted": measured(frames[:5], sound),
    }
    assert smoke(PairResult("p", good, good), POLICY_NOW) == []
    for word, bad in cases.items():
        assert any(word in text for text in smoke(PairResult("p", bad, good), POLICY_NOW)), word
        assert judge([PairResult("p", bad, good)], 100, pilot(), POLICY_NOW)[0].verdict == "fail"


def test_frozen_counts_only_where_the_reference_moves() -> None:
    still = scores(motion=0.1)
    assert smoke(PairResult("p", scores(motion=0.0), still), POLICY_NOW) == []
    assert fidelity.differences(scores(motion=0.0), still, 0.5)["motion"] == 0.0
    assert fidelity.differences(scores(motion=1.0), scores(motion=4.0), 0.5)["motion"] == -0.75
    assert math.isnan(fidelity.differences(scores(motion=math.nan), still, 0.5)["motion"])


def test_scores_survive_a_file() -> None:
    again = Scores.from_dict(json.loads(json.dumps(scores(clip_score=0.1 + 0.2).as_dict())))
    assert again == scores(clip_score=0.1 + 0.2)
    with pytest.raises(KeyError):
        Scores.from_dict({"clip_score": 1.0})


# --- the judge -------------------------------------------------------------------------------------------------------

WORSE = {
    "clip_score": {"clip_score": 27.0},
    "r_precision": {"first": False},
    "temporal_consistency": {"temporal_consistency": 0.85},
    "motion": {"motion": 3.5},
}


def test_all_metrics_as_good_pass() -> None:
    judgement, evidence = judge([pair(i) for i in range(60)], 100, pilot(), POLICY_NOW)
    assert judgement == Judgement("pass")
    assert set(evidence["metrics"]) == set(METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_one_worse_metric_is_enough_to_fail(metric: str) -> None:
    """Intersection-union: three perfect metrics do not make up for one."""
    pairs = [pair(i, native=scores(**WORSE[metric])) for i in range(100)]
    judgement, evidence = judge(pairs, 100, pilot(), POLICY_NOW)
    assert judgement.verdict == "fail"
    assert all(metric in reason for reason in judgement.reasons)
    assert {m for m in METRICS if evidence["metrics"][m]["verdict"] != "pass"} == {metric}


@pytest.mark.parametrize("metric", METRICS)
def test_a_missing_metric_fails(metric: str) -> None:
    field = {"clip_score": "clip_score", "temporal_consistency": "temporal_consistency", "motion": "motion"}.get(metric)
    if field is None:
        pairs = [pair(i) for i in range(99)] + [PairResult("p099", None, scores())]
    else:
        pairs = [pair(i) for i in range(99)] + [pair(99, native=scores(**{field: math.nan}))]
    assert judge(pairs, 100, pilot(), POLICY_NOW)[0].verdict == "fail"


def test_verdicts_by_evidence() -> None:
    assert judge([], 100, pilot(), POLICY_NOW)[0].verdict == "inconclusive"
    few, evidence = judge([pair(i) for i in range(19)], 100, pilot(), POLICY_NOW)
    assert few.verdict == "inconclusive"
    assert any("more videos needed" in reason for reason in few.reasons)
    assert evidence["metrics"]["r_precision"]["more_videos"] > 0
    failed = judge([*(pair(i) for i in range(90)), pair(90, problem="native: out of memory")], 100, pilot(), POLICY_NOW)[0]
    assert failed.verdict == "fail"
    assert "out of memory" in failed.reasons[0]


def test_at_the_margin_the_whole_suite_fails() -> None:
    """Mean exactly -margin: not shown to be better than the margin, and nothing is left to see."""
    pairs = [pair(i, native=scores(clip_score=29.5)) for i in range(100)]
    assert judge(pairs, 100, pilot(), POLICY_NOW)[0].verdict == "fail"


def test_short_form_cannot_pass_but_can_fail() -> None:
    assert judge_scope(Judgement("pass"), 12, POLICY_NOW).verdict == "inconclusive"
    assert "12 of 100" in judge_scope(Judgement("pass"), 12, POLICY_NOW).reasons[0]
    assert judge_scope(Judgement("fail", ("x",)), 12, POLICY_NOW).verdict == "fail"
    assert judge_scope(Judgement("pass"), 100, POLICY_NOW).verdict == "pass"


def whole_ladder() -> dict[str, Rung]:
    names = POLICY_NOW.ladder.needed
    rungs = {name: Rung("fail", 10.0) for name in names}
    for place, name in enumerate(POLICY_NOW.ladder.order):
        rungs[name] = Rung("pass" if name == "none" else "fail", 30.0 - 5 * place)
    return rungs


def test_ladder_in_order_with_severe_rungs_failing() -> None:
    assert judge_ladder(whole_ladder(), POLICY_NOW).verdict == "pass"


@pytest.mark.parametrize("damage", ["missing", "unseen", "out of order", "nan"])
def test_a_blind_assay_is_inconclusive(damage: str) -> None:
    rungs = whole_ladder()
    severe = POLICY_NOW.ladder.severe[-1]
    if damage == "missing":
        del rungs[severe]
    elif damage == "unseen":
        rungs[severe] = Rung("pass", 10.0)
    else:
        last = POLICY_NOW.ladder.order[-1]
        rungs[last] = replace(rungs[last], clip_score=math.nan if damage == "nan" else 35.0)
    judgement = judge_ladder(rungs, POLICY_NOW)
    assert judgement.verdict == "inconclusive"
    assert judgement.join(Judgement("pass")).verdict == "inconclusive"
    assert judgement.join(Judgement("fail")).verdict == "fail"


def test_plan_takes_the_smaller_margin() -> None:
    rng = np.random.default_rng(0)
    pairs = [pair(i, native=scores(clip_score=30 + rng.normal(0, 0.3))) for i in range(12)]
    made = plan(pairs, POLICY_NOW)
    assert isinstance(made, Pilot)
    assert made.bets["clip_score"].margin == 0.5
    costs = [replace(p, reference=scores(control_score=29.5 + rng.normal(0, 0.01))) for p in pairs]
    tight = plan(costs, POLICY_NOW)
    assert isinstance(tight, Pilot)
    assert tight.bets["clip_score"].margin == pytest.approx(0.25, abs=0.01)
    assert Pilot.from_dict(json.loads(json.dumps(tight.as_dict()))) == tight


def test_a_clip_that_sees_no_prompt_is_inconclusive() -> None:
    blind = [pair(i, reference=scores(control_score=30.0 + (-1) ** i)) for i in range(12)]
    judgement = plan(blind, POLICY_NOW)
    assert isinstance(judgement, Judgement)
    assert judgement.verdict == "inconclusive"
    assert "does not tell" in judgement.reasons[0]
