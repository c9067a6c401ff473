"""Scores of hand-made videos, the judge's truth table, and the runner, which stops early and resumes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ltx_native.errors import ConfigError
from parity import fidelity
from parity.fidelity import METRICS, Scores
from parity.fidelity_gate import (
    PairResult,
    Pilot,
    Rung,
    judge,
    judge_ladder,
    judge_scope,
    plan,
    read_result,
    smoke,
    write_result,
)
from parity.fidelity_policy import POLICY, read_policy
from parity.fidelity_run import run_fidelity, run_suite
from parity.fidelity_store import Side
from parity.fidelity_suite import read_suite
from parity.fidelity_world import world_suite
from parity.gate import Judgement

sys.path.insert(0, str(Path(__file__).parent))
import toy_engines
from toy_engines import ToyClip, engine, toy_policy, toy_run, toy_suite

POLICY_NOW = read_policy()


def scores(**changes: object) -> Scores:
    base = Scores(30.0, 20.0, True, "", 0.95, 4.0, 250.0, 60.0, 9, True, 0.1, 0.5, (1.0, 0.0))
    return replace(base, **changes)  # type: ignore[arg-type]


def pair(index: int = 0, native: Scores | None = None, reference: Scores | None = None, problem: str = "") -> PairResult:
    return PairResult(f"p{index:03d}", native or scores(), reference or scores(), problem)


def pilot(sigma: float = 0.5) -> Pilot:
    margins = {"clip_score": 0.5, "r_precision": 0.05, "temporal_consistency": 0.01, "motion": 0.01}
    sigmas = {"clip_score": sigma, "r_precision": 0.0, "temporal_consistency": 0.002, "motion": 0.002}
    return Pilot({name: POLICY_NOW.bet(name, margins[name], sigmas[name]) for name in METRICS}, 10.0, 8.0, 12)


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
    names = POLICY_NOW.ladder.order + POLICY_NOW.ladder.severe
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


def test_a_result_is_believed_only_as_written(tmp_path: Path) -> None:
    path = tmp_path / "fidelity.json"
    made_with = {"native": "n1", "policy": "p1"}
    assert read_result(path, made_with).verdict == "inconclusive"
    write_result(path, {"verdict": "pass", "reasons": [], "fingerprints": made_with, "metrics": {}})
    assert read_result(path, made_with) == Judgement("pass")
    stale = read_result(path, {**made_with, "native": "n2"})
    assert stale.verdict == "inconclusive"
    assert "another native" in stale.reasons[0]
    path.write_text(path.read_text().replace('"reasons": []', '"reasons": ["x"]'))
    assert "altered" in read_result(path, made_with).reasons[0]
    path.write_text("[]")
    assert read_result(path, made_with).verdict == "inconclusive"
    write_result(path, {"verdict": "fail", "reasons": ["worse"], "fingerprints": made_with})
    assert read_result(path, made_with) == Judgement("fail", ("fidelity: worse",))


# --- policy and suite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin_points = 0.5", "margin_point = 0.5", "clip_score"),
        ("alpha = 0.05", "alpha = 0.5", "alpha"),
        ("min_frames = 8", 'min_frames = "8"', "smoke.min_frames"),
        ("[fidelity.ladder]", "[fidelity.stairs]", "ladder"),
        ("[fidelity]", "[", "readable TOML"),
    ],
)
def test_a_damaged_policy_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = POLICY.read_text()
    assert old in text
    (tmp_path / "policy.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        read_policy(tmp_path / "policy.toml")


def test_the_worlds_suite_is_whole() -> None:
    suite = world_suite()
    assert len(suite.items) == POLICY_NOW.suite_size
    assert len(suite.pilot) >= POLICY_NOW.pilot_videos
    assert not {i.prompt for i in suite.items} & {i.prompt for i in suite.pilot}
    for item in suite.items + suite.pilot:
        assert {"shape", "colour", "motion", "background"} <= {attribute for attribute, _ in item.hard_negatives}
        assert suite.control(item) != item.prompt


def test_suite_files(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "one", "seed": 1, "hard_negatives": [{"attribute": "n", "prompt": "two"}]}
    good = {"schema": 1, "name": "x", "attributes": ["n"], "prompts": [row, {**row, "id": "b", "prompt": "two words"}]}
    good["pilot"] = [{**row, "id": "c", "prompt": "three"}, {**row, "id": "d", "prompt": "four"}]
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(good))
    assert [item.id for item in read_suite(path).items] == ["a", "b"]
    for damage in (
        {"pilot": [row]},
        {"prompts": [row, row]},
        {"attributes": ["n", "m"]},
        {"schema": 2},
        {"prompts": [{**row, "id": "../x"}, row]},
    ):
        path.write_text(json.dumps({**good, **damage}))
        with pytest.raises(ConfigError):
            read_suite(path)


# --- the runner ------------------------------------------------------------------------------------------------------


def test_equal_engines_pass_early(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path), {})
    assert result.judgement == Judgement("pass")
    assert result.evidence["seen"] < 40
    assert result.ladder["shuffled-prompts"]["verdict"] == "fail"
    assert result.ladder["none"]["clip_score"] > result.ladder["shuffled-prompts"]["clip_score"] + 10


def test_a_drifting_engine_fails_early(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path, engine(drift=0.3, tag="n")), {})
    assert result.judgement.verdict == "fail"
    assert result.judgement.reasons[0].startswith("clip_score")
    assert result.evidence["seen"] < 30


def test_without_a_ladder_there_is_no_pass(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path))
    assert result.judgement.verdict == "inconclusive"
    assert "no ladder" in result.judgement.reasons[-1]
    assert result.evidence["within_scope"] == "pass"


def test_a_short_form_is_inconclusive(tmp_path: Path) -> None:
    result = run_fidelity(toy_run(tmp_path), {}, limit=12)
    assert result.judgement.verdict == "inconclusive"
    assert "short form: 12 of 40" in result.judgement.reasons[0]


def test_an_engine_that_throws_fails(tmp_path: Path) -> None:
    good = engine(tag="n")

    def moody(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if seed == 10:
            raise MemoryError("no room")
        return good(prompt, seed)

    result = run_fidelity(toy_run(tmp_path, moody), {})
    assert result.judgement.verdict == "fail"
    assert "MemoryError: no room" in result.judgement.reasons[0]
    assert result.evidence["seen"] == 11


def test_a_ladder_that_sees_nothing_stops_the_run(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    policy = replace(run.policy, ladder=replace(run.policy.ladder, severe=("none",)))
    result = run_fidelity(replace(run, policy=policy), {})
    assert result.judgement.verdict == "inconclusive"
    assert "severe rung none came out as pass" in result.judgement.reasons[0]
    assert result.evidence["seen"] == 0


def test_a_rung_that_cannot_be_generated_shows_nothing(tmp_path: Path) -> None:
    """An exception is a fail for the native engine, but no evidence that the gate sees damage."""

    def broken(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        raise RuntimeError("rung changed no layer")

    run = toy_run(tmp_path)
    policy = replace(run.policy, ladder=replace(run.policy.ladder, severe=("shuffled-prompts", "q4")))
    result = run_fidelity(replace(run, policy=policy), {"q4": Side("native", "toy-q4", broken)})
    assert result.judgement.verdict == "inconclusive"
    assert "severe rung q4 came out as not generated" in result.judgement.reasons[0]


def test_stored_videos_are_not_made_again(tmp_path: Path) -> None:
    first = run_fidelity(toy_run(tmp_path), {})

    def never(prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("generated again")

    again = run_fidelity(toy_run(tmp_path, never), {})
    assert again.as_dict() == first.as_dict()


def test_a_damaged_video_is_made_again(tmp_path: Path) -> None:
    first = run_fidelity(toy_run(tmp_path), {})
    video = sorted(tmp_path.glob("native-*/p003*.safetensors"))[0]
    video.write_bytes(video.read_bytes()[:200])
    video.with_suffix(".json").write_text("{")
    assert run_fidelity(toy_run(tmp_path), {}).as_dict() == first.as_dict()


def test_another_fingerprint_is_another_video(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    item = run.suite.items[0]
    one = run.store.scores(run.native, item, "x", run.embedder)
    changed = Side("native", "toy-native-v2", engine(drift=1.0, tag="n"))
    assert run.store.scores(changed, item, "x", run.embedder).clip_score < one.clip_score - 5
    assert run.store.scores(run.native, item, "x", run.embedder) == one


def test_order_of_judging_is_the_frozen_order(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    made = plan([pair(i) for i in range(12)], toy_policy())
    assert isinstance(made, Pilot)
    _, _, pairs = run_suite(run, run.native, run.suite.items, made)
    assert [p.prompt_id for p in pairs] == [i.id for i in run.suite.items[: len(pairs)]]


def test_kill_9_loses_at_most_the_videos_in_flight(tmp_path: Path) -> None:
    """Killed twice in the middle, then resumed: same verdict to the last digit, at most one video per side and kill lost."""
    script = Path(toy_engines.__file__)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(name: str, delay: str) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / name), str(tmp_path / f"{name}.log"), str(tmp_path / f"{name}.out"), delay]
        return subprocess.Popen([sys.executable, str(script), *arguments], env=environment)

    def made(name: str) -> list[str]:
        log = tmp_path / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []

    assert start("whole", "0").wait(timeout=120) == 0
    for wanted in (15, 40):
        process = start("killed", "0.05")
        deadline = time.monotonic() + 60
        while len(made("killed")) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed.out").exists()
    assert start("killed", "0").wait(timeout=120) == 0
    assert (tmp_path / "killed.out").read_text() == (tmp_path / "whole.out").read_text()
    lost = len(made("killed")) - len(set(made("killed")))
    assert lost <= 4, f"{lost} videos made twice after two kills with two sides"
    assert set(made("killed")) == set(made("whole"))
    assert not list((tmp_path / "killed").glob("*/*.partial*"))
