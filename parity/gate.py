"""The judge: from what was measured to `pass`, `fail` or `inconclusive`, by the rules of `policy.toml`.

It computes no metrics. Lack of evidence never passes: nothing compared, a case that did not run or a limit that is not in
the policy makes the verdict inconclusive or worse.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ltx_native.verdict import SCHEMA, digest
from parity.results import CaseResult, worst, write_json

POLICY = Path(__file__).with_name("policy.toml")
ORDER = ("pass", "inconclusive", "fail")


class PolicyError(ValueError):
    """A policy file that cannot be used."""


@dataclass(frozen=True)
class TensorPolicy:
    """Limits of the tensor part: ``latents`` rel_l2, ``frames`` and ``waveform`` max_abs (peak 1), ``wiring`` rel_l2."""

    latents: float
    frames: float
    waveform: float
    wiring: float


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reasons; two judgements join to the worse one with all reasons kept."""

    verdict: str
    reasons: tuple[str, ...] = ()

    def join(self, other: Judgement) -> Judgement:
        worse = max(self.verdict, other.verdict, key=ORDER.index)
        return Judgement(worse, self.reasons + other.reasons)


def load_policy(path: Path = POLICY) -> TensorPolicy:
    """Read the `[tensors]` table. Raises `PolicyError` when it is unreadable or incomplete."""
    try:
        table = tomllib.loads(path.read_text())["tensors"]
        return TensorPolicy(*(float(table[name]) for name in ("latents", "frames", "waveform", "wiring")))
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise PolicyError(f"{path}: no usable [tensors] table ({error!r})") from error


def judge_tensors(cases: Sequence[CaseResult]) -> Judgement:
    """Judge the tensor comparison of every case; no case at all is inconclusive."""
    if not cases:
        return Judgement("inconclusive", ("no case was compared",))
    verdict = Judgement("pass")
    for case in cases:
        verdict = verdict.join(_judge_case(case))
    return verdict


def judge_harness(problem: str) -> Judgement:
    """A harness that has not been shown to see mistakes cannot clear anything; ``problem`` is the certificate's, if any."""
    return Judgement("inconclusive", (problem,)) if problem else Judgement("pass")


def _judge_case(case: CaseResult) -> Judgement:
    if case.problem:
        return Judgement("inconclusive", (f"{case.name}: {case.problem}",))
    if case.coverage is None or not case.rows or case.coverage.compared == 0:
        return Judgement("inconclusive", (f"{case.name}: nothing was compared",))
    if not case.end_to_end and case.dtype == "float32":
        return Judgement("inconclusive", (f"{case.name}: the end of the run was not compared",))
    reasons = []
    if not case.coverage.complete:
        missing = (*case.coverage.unmatched_reference, *case.coverage.unmatched_native)
        reasons.append(f"{case.name}: {len(missing)} sites have no partner, first {missing[0]}")
    if case.finding is not None:
        reasons.append(f"{case.name}: {case.finding.sentence}")
    if case.failed:
        guilty = worst(case.rows[i] for i in case.failed)
        assert guilty is not None
        reasons.append(f"{case.name}: {len(case.failed)} of {len(case.rows)} rows out of bound, worst {guilty.key}")
    reasons += [
        f"{case.name}: {item.name} {item.metric} {item.value:.3g} exceeds {item.bound:.3g}"
        for item in case.end_to_end
        if not item.passed
    ]
    return Judgement("fail", tuple(reasons)) if reasons else Judgement("pass")


def write_verdict(
    path: Path, judgement: Judgement, fingerprints: Mapping[str, str | None], evidence: Mapping[str, Any], commit: str | None
) -> dict[str, Any]:
    """Write `verdict.json`, sealed by a digest over everything in it, and return what was written."""
    verdict: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "fingerprints": dict(fingerprints),
        "evidence": dict(evidence),
    }
    verdict["digest"] = digest(verdict)
    write_json(path, verdict, indent=1)
    return verdict
