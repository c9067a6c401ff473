"""Hand-made scores, pairs and a pilot, for tests of the fidelity gate."""

from __future__ import annotations

from dataclasses import replace

from parity.fidelity import METRICS, Scores
from parity.fidelity_gate import PairResult, Pilot
from parity.fidelity_policy import read_policy

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
