"""How often does the gate pass what it should not, and fail what it should not? Replays of recorded scores.

    python -m parity.simulate [SCORES.json] [--replays 20000] [--seed 0]

SCORES holds what `fidelity_run.score_rows` gives: both sides' scores of one run. Each replay is a suite of the policy's size
in a new random order, with the recorded spread and a mean difference that is set: 0, or one metric exactly at its margin.
The plan's normal differences come first, beside the sizes that a fixed test needs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltx_native.errors import ConfigError, UserError
from parity import stats
from parity.fidelity import METRICS, Scores, differences
from parity.fidelity_evidence import RECORDED
from parity.fidelity_policy import FidelityPolicy, read_policy
from parity.stats import Bet


@dataclass(frozen=True)
class Outcome:
    """Verdicts of many replays: shares that pass and fail (the rest never decides), and videos used until then."""

    passed: float
    failed: float
    median_videos: float
    q90_videos: float
    replays: int

    @property
    def error(self) -> float:
        """Standard error of `passed`."""
        return float(np.sqrt(max(self.passed * (1 - self.passed), 1e-12) / self.replays))


def recorded_differences(path: Path, policy: FidelityPolicy) -> dict[str, np.ndarray]:
    """(n,) paired differences per metric from a score file."""
    try:
        rows = [row for row in json.loads(path.read_text()) if row["native"] and row["reference"]]
        pairs = [(Scores.from_dict(row["native"]), Scores.from_dict(row["reference"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        next_step = "record them with `parity fidelity --to-the-end --promote`"
        raise ConfigError("recorded scores", str(path), repr(error), "score rows of a fidelity run", next_step) from error
    if len(pairs) < 8:
        raise ConfigError("recorded scores", str(path), f"{len(pairs)} pairs", "at least 8", "record a longer run")
    table = [differences(native, reference, policy.motion.still) for native, reference in pairs]
    return {name: np.array([row[name] for row in table]) for name in METRICS}


def bets_for(recorded: Mapping[str, np.ndarray], policy: FidelityPolicy) -> dict[str, Bet]:
    """The tests that a pilot with the recorded spread would have fixed."""
    margins = {"clip_score": policy.clip_score.margin_points, "r_precision": policy.r_precision.margin}
    margins |= {"temporal_consistency": policy.temporal_consistency.margin, "motion": policy.motion.margin}
    return {name: policy.bet(name, margins[name], float(recorded[name].std(ddof=1))) for name in METRICS}


def replays(values: np.ndarray, size: int, mean: float, count: int, binary: bool, rng: np.random.Generator) -> np.ndarray:
    """(count, size) suites with the recorded spread whose mean is `mean` to the last digit, in random order."""
    suites = rng.choice(values, (count, size)) if len(values) != size else rng.permuted(np.tile(values, (count, 1)), axis=1)
    if not binary:
        return np.asarray(suites - suites.mean(axis=1, keepdims=True) + mean)
    # Outcomes -1, 0, 1 cannot be shifted: keep the share of discordant pairs, balance them, then add net losses.
    discordant = round(float(np.mean(values != 0)) * size / 2)
    losses = int(np.ceil(-mean * size - 1e-9))
    row = np.zeros(size)
    row[:discordant], row[discordant : 2 * discordant] = 1, -1
    row[2 * discordant : 2 * discordant + losses] = -1
    return rng.permuted(np.tile(row, (count, 1)), axis=1)


def decide(suites: Mapping[str, np.ndarray], bets: Mapping[str, Bet], alpha: float, least: int) -> Outcome:
    """The judge's rule (fidelity_gate.judge) on many suites at once, metric by metric, all of the same shape (R, N)."""
    count, size = next(iter(suites.values())).shape
    may_pass, must_fail = np.ones((count, size), bool), np.zeros((count, size), bool)
    for name, values in suites.items():
        bet = bets[name]
        better = np.maximum.accumulate(stats.non_inferiority(values, size, bet), axis=1) >= 1 / alpha
        worse = np.maximum.accumulate(stats.inferiority(values, size, bet), axis=1) >= len(METRICS) / alpha
        means = np.cumsum(values, axis=1) / np.arange(1, size + 1)
        may_pass &= better & (means > -bet.margin)
        must_fail |= worse
    may_pass[:, : min(least, size) - 1] = False
    may_pass &= ~must_fail
    must_fail[:, -1] |= ~may_pass[:, -1]
    never = size + 1
    passed_at = np.where(may_pass.any(axis=1), may_pass.argmax(axis=1) + 1, never)
    failed_at = np.where(must_fail.any(axis=1), must_fail.argmax(axis=1) + 1, never)
    used = np.minimum(passed_at, failed_at)
    passed = passed_at < failed_at
    return Outcome(float(passed.mean()), float((~passed).mean()), float(np.median(used)), float(np.quantile(used, 0.9)), count)


def simulate(
    recorded: Mapping[str, np.ndarray], policy: FidelityPolicy, count: int, seed: int, size: int | None = None
) -> dict[str, Outcome]:
    """Outcomes by scenario: "no difference", and "<metric> at the margin" with all others at 0."""
    rng = np.random.default_rng(seed)
    n = size or policy.suite_size
    bets = bets_for(recorded, policy)
    out = {}
    for worse in ("", *METRICS):
        suites = {}
        for name in METRICS:
            mean = -bets[name].margin if name == worse else 0.0
            suites[name] = replays(recorded[name], n, mean, count, name == "r_precision", rng)
        out[f"{worse} at the margin" if worse else "no difference"] = decide(suites, bets, policy.alpha, policy.min_videos)
    return out


def simulate_plan(policy: FidelityPolicy, sigma: float, margin: float, count: int, seed: int) -> dict[str, Outcome]:
    """The CLIPScore test alone on normal differences: the plan's figures."""
    rng = np.random.default_rng(seed)
    bets = {"clip_score": Bet(margin, 3 * sigma, sigma)}
    noise = rng.normal(0, sigma, (count, policy.suite_size))
    noise -= noise.mean(axis=1, keepdims=True)
    return {
        "no difference": decide({"clip_score": noise}, bets, policy.alpha, 1),
        "at the margin": decide({"clip_score": noise - margin}, bets, policy.alpha, 1),
        "at twice the margin": decide({"clip_score": noise - 2 * margin}, bets, policy.alpha, 1),
    }


def table(title: str, outcomes: Mapping[str, Outcome]) -> str:
    """Rows for people."""
    lines = [title, f"  {'true difference':38} {'passes':>14} {'fails':>7} {'videos: median':>15} {'90 %':>5}"]
    for name, o in outcomes.items():
        share = f"{o.passed:.3f} ± {o.error:.3f}"
        lines.append(f"  {name:38} {share:>14} {o.failed:7.3f} {o.median_videos:15.0f} {o.q90_videos:5.0f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.simulate", description="false-pass and false-fail rates of the fidelity gate")
    parser.add_argument("scores", nargs="?", type=Path, default=RECORDED, help="score rows of a fidelity run (JSON)")
    parser.add_argument("--replays", type=int, default=20000, help="replays per scenario (default 20000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        policy = read_policy()
        recorded = recorded_differences(options.scores, policy)
        if options.replays < 100:
            raise ConfigError("replays", "--replays", options.replays, "at least 100", "ask for more")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for sigma in (1.0, 1.5, 2.0):
        fixed = stats.fixed_size(sigma, 0.5)
        title = f"CLIPScore alone, normal differences, sigma {sigma}, margin 0.5 (a fixed test needs {fixed} videos)"
        print(table(title, simulate_plan(policy, sigma, 0.5, options.replays, options.seed)), end="\n\n")
    outcomes = simulate(recorded, policy, options.replays, options.seed)
    pairs = len(recorded["clip_score"])
    print(table(f"the gate on {pairs} recorded pairs, {options.replays} replays of {policy.suite_size} prompts", outcomes))
    spread = ", ".join(f"{name} {recorded[name].std(ddof=1):.3g}" for name in METRICS)
    false_pass = max(o.passed for name, o in outcomes.items() if name != "no difference")
    power = outcomes["no difference"]
    print(f"spread of the recorded differences: {spread}")
    print(
        f"false pass at the margin <= {false_pass:.3f} (limit {policy.alpha}), power {power.passed:.3f} (limit 0.8), ", end=""
    )
    print(f"median {power.median_videos:.0f} videos")
    return 0 if false_pass <= policy.alpha and power.passed >= 0.8 else 1


if __name__ == "__main__":
    sys.exit(main())
