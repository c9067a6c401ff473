"""The simulation must decide as the judge decides, and must be able to say that the gate is bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity import simulate
from parity.fidelity import METRICS, Scores
from parity.fidelity_gate import PairResult, Pilot, judge
from parity.fidelity_policy import read_policy
from parity.stats import Bet

POLICY = read_policy()
BASE = Scores(30.0, 20.0, True, "", 0.95, 4.0, 250.0, 60.0, 9, True, 0.1, 0.5, (1.0, 0.0))


def recorded(rng: np.random.Generator, count: int = 100) -> dict[str, np.ndarray]:
    return {
        "clip_score": rng.normal(0, 1.0, count),
        "r_precision": rng.choice([-1.0, 0.0, 1.0], count, p=[0.02, 0.96, 0.02]),
        "temporal_consistency": rng.normal(0, 0.003, count),
        "motion": rng.normal(0, 0.01, count),
    }


def as_pairs(rows: dict[str, np.ndarray]) -> list[PairResult]:
    """Scores whose paired differences are the rows, to the last digit that matters."""
    pairs = []
    for i in range(len(rows["clip_score"])):
        d = {name: float(rows[name][i]) for name in METRICS}
        native = replace(
            BASE,
            clip_score=30.0 + d["clip_score"],
            first=d["r_precision"] >= 0,
            temporal_consistency=0.95 * (1 + d["temporal_consistency"]),
            motion=4.0 * (1 + d["motion"]),
        )
        reference = replace(BASE, first=d["r_precision"] <= 0)
        pairs.append(PairResult(f"p{i}", native, reference))
    return pairs


@pytest.mark.parametrize("worse", ["", *METRICS])
def test_the_simulation_decides_as_the_judge_does(worse: str) -> None:
    rng = np.random.default_rng(5)
    rows = recorded(rng)
    bets = simulate.bets_for(rows, POLICY)
    pilot = Pilot(bets, 10.0, 8.0, 12)
    for _ in range(2):
        suites = {}
        for name in METRICS:
            mean = -bets[name].margin if name == worse else 0.0
            suites[name] = simulate.replays(rows[name], 100, mean, 1, name == "r_precision", rng)
        outcome = simulate.decide(suites, bets, POLICY.alpha, POLICY.min_videos)
        pairs = as_pairs({name: values[0] for name, values in suites.items()})
        for seen in range(1, 101):
            judgement, _ = judge(pairs[:seen], 100, pilot, POLICY, detail=False)
            if judgement.verdict != "inconclusive":
                break
        assert (outcome.passed == 1.0) == (judgement.verdict == "pass")
        assert outcome.median_videos == seen


def test_replays_have_the_mean_they_should() -> None:
    rng = np.random.default_rng(6)
    rows = recorded(rng, 60)
    for name in METRICS:
        suites = simulate.replays(rows[name], 100, -0.05, 50, name == "r_precision", rng)
        np.testing.assert_allclose(suites.mean(axis=1), -0.05, atol=1e-12)
        if name == "r_precision":
            assert set(np.unique(suites)) <= {-1.0, 0.0, 1.0}
        else:
            assert suites.std() == pytest.approx(rows[name].std(), rel=0.15)


def test_the_gate_keeps_its_promises_on_recorded_scores() -> None:
    outcomes = simulate.simulate(recorded(np.random.default_rng(7)), POLICY, 2000, 0)
    assert outcomes["no difference"].passed >= 0.8
    for name, outcome in outcomes.items():
        if name != "no difference":
            assert outcome.passed <= POLICY.alpha + 2 * outcome.error, name
            assert outcome.failed >= 0.9, name


def test_a_careless_rule_is_found_out() -> None:
    """With an alpha of 0.5 the same simulation reports far more than 5 % false passes: it is able to fail."""
    rng = np.random.default_rng(8)
    noise = rng.normal(0, 1.5, (2000, 100))
    noise += -0.5 - noise.mean(axis=1, keepdims=True)
    careless = simulate.decide({"clip_score": noise}, {"clip_score": Bet(0.5, 4.5, 1.5)}, 0.5, 1)
    assert careless.passed > 0.2


def score_file(path: Path, pairs: list[PairResult]) -> Path:
    rows = [{"id": p.prompt_id, "problem": "", "native": p.native, "reference": p.reference} for p in pairs]
    path.write_text(json.dumps([{k: v.as_dict() if isinstance(v, Scores) else v for k, v in r.items()} for r in rows]))
    return path


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = score_file(tmp_path / "scores.json", as_pairs(recorded(np.random.default_rng(9))))
    assert simulate.main([str(path), "--replays", "20000"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("false pass at the margin <= 0.0")
    assert "power 1.000" in last or "power 0.9" in last


@pytest.mark.parametrize("content", [None, "{", "[]", '[{"native": {"a": 1}, "reference": {}}]'])
def test_unusable_scores_end_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None) -> None:
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    assert simulate.main([str(path)]) == 2
    assert "recorded scores" in capsys.readouterr().err
