"""A run in a few words and numbers: the banner, the cards, and what a history or a comment on a commit keeps of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.report.plots import number
from parity.report.rows import Rows

Results = Mapping[str, Any]
EXACT_COMPONENTS = ("tokenizer", "schedule", "state")
MISSING = "not measured in this run"


@dataclass(frozen=True)
class Card:
    """One of the numbers that a verdict rests on. ``state`` is pass, fail, inconclusive or none."""

    title: str
    state: str
    figure: str
    label: str
    target: str


def engine_in_force(results: Results) -> tuple[str, str]:
    """(engine, why): as dispatch told it, else what follows from the verdict."""
    engine = results.get("engine")
    if engine:
        return str(engine["engine"]), str(engine.get("reason", ""))
    verdict = results["verdict"]
    if verdict == "pass":
        return "native", "the verdict is pass; it holds as long as code, checkpoint, reference, MLX and policy stay as they are"
    return "bridge", f"the verdict is {verdict}"


def headline(results: Results) -> str:
    """The answer in one sentence."""
    return {
        "pass": "The port may ship.",
        "fail": "The port must not ship.",
        "inconclusive": "There is not enough evidence to ship the port.",
    }.get(str(results["verdict"]), f"Unknown verdict {results['verdict']!r}.")


def cards(results: Results, tables: Sequence[Rows]) -> list[Card]:
    """Inputs, tensors, trajectory, fidelity, coverage and certificate, in this order."""
    return [
        _inputs(tables),
        _tensors(tables),
        _trajectory(results["cases"]),
        _fidelity(results.get("fidelity")),
        _coverage(results["cases"]),
        _certificate(results.get("certificate")),
    ]


def _inputs(tables: Sequence[Rows]) -> Card:
    total, off = 0, 0
    for rows in tables:
        exact = np.array([component in EXACT_COMPONENTS for component in rows.component], bool)
        total += int(exact.sum())
        off += int((exact & rows.failed).sum())
    if not total:
        return Card("Inputs", "inconclusive", "–", "no token, mask, position or sigma was compared", "#sites")
    label = "tokens, masks, positions, sigmas and initial states are exact"
    if off:
        label = "tokens, masks, positions, sigmas or initial states differ"
    return Card("Inputs", "fail" if off else "pass", f"{total - off} of {total}", label, "#sites")


def _tensors(tables: Sequence[Rows]) -> Card:
    count = sum(len(rows) for rows in tables)
    failing = sum(int(rows.failed.sum()) for rows in tables)
    if not count:
        return Card("Tensors", "inconclusive", "0", "no tensor was compared", "#sites")
    if failing:
        return Card("Tensors", "fail", f"{failing:,} out", f"of {count:,} compared leave their bound", "#sites")
    ratios = [float(np.nanmax(rows.ratio)) for rows in tables if len(rows) and not np.isnan(rows.ratio).all()]
    worst = f"; the worst stands at {max(ratios):.0%} of its bound" if ratios else ""
    return Card("Tensors", "pass", f"{count:,}", f"compared, all in bound{worst}", "#sites")


def _trajectory(cases: Sequence[Mapping[str, Any]]) -> Card:
    items = [{**item, "case": case["name"]} for case in cases for item in case["end_to_end"]]
    if not items:
        return Card("Trajectory", "inconclusive", "–", "the end of the run was not compared", "#growth")

    def share(item: Mapping[str, Any]) -> float:
        value = float(item["value"])
        return math.inf if value != value else value / float(item["bound"]) if item["bound"] else value

    worst = max(items, key=lambda item: (not item["passed"], share(item)))
    failing = [item for item in items if not item["passed"]]
    label = f"{worst['name']} {worst['metric']}, limit {number(worst['bound'])}"
    if not failing:
        label = f"nearest to its limit: {label}"
    return Card("Trajectory", "fail" if failing else "pass", number(worst["value"]), label, "#growth")


def _fidelity(fidelity: Mapping[str, Any] | None) -> Card:
    if not fidelity:
        return Card("Fidelity", "none", "–", MISSING, "#fidelity")
    score = (fidelity.get("metrics") or {}).get("clip_score") or {}
    if not fidelity.get("size"):
        made = len(fidelity.get("shown") or ())
        label = f"no result of a whole suite is at hand; {made} prompts made here to look at" if made else MISSING
        return Card("Fidelity", str(fidelity["verdict"]), "–", label, "#fidelity")
    label = f"{fidelity.get('seen', 0)} of {fidelity['size']} prompts"
    if "mean" in score:
        label += f"; margin −{number(score['margin'])} CLIP points"
    figure = f"{float(score['mean']):+.2f}" if "mean" in score else str(fidelity["verdict"])
    return Card("Fidelity", str(fidelity["verdict"]), figure, label, "#fidelity")


def _coverage(cases: Sequence[Mapping[str, Any]]) -> Card:
    known = [case["coverage"] for case in cases if case.get("coverage")]
    if not known:
        return Card("Coverage", "inconclusive", "–", "no case was aligned", "#provenance")
    missing = sum(len(c["unmatched_reference"]) + len(c["unmatched_native"]) for c in known)
    compared, records = sum(c["compared"] for c in known), sum(c["reference_records"] for c in known)
    skipped = sum(sum(c["skipped"].values()) for c in known)
    label = f"{compared:,} of {records:,} reference records compared, {skipped:,} skipped by rule"
    return Card("Coverage", "fail" if missing else "pass", f"{missing} unmatched", label, "#coverage")


def _certificate(certificate: Mapping[str, Any] | None) -> Card:
    if not certificate:
        return Card("Certificate", "none", "–", MISSING, "#certificate")
    if certificate.get("problem"):
        return Card("Certificate", "inconclusive", "–", str(certificate["problem"]), "#certificate")
    faults, caught = int(certificate["faults"]), int(certificate["caught"])
    alarms = int(certificate.get("false_alarms", 0))
    state = "pass" if caught == faults and not alarms else "fail"
    return Card("Certificate", state, f"{caught} of {faults}", f"seeded faults caught, {alarms} false alarms", "#certificate")


def reproduce(case: Mapping[str, Any]) -> str:
    """The command that looks closer at a case's finding, to be run in the folder of results.json."""
    finding = case["finding"]
    if finding.get("reproduce"):
        return str(finding["reproduce"])
    key = finding["key"]
    parts = ["parity", "explain", key["site"], "--results", "results.json", "--case", case["name"]]
    if key.get("step") is not None:
        parts += ["--step", str(key["step"])]
    if key.get("guidance_pass"):
        parts += ["--pass", key["guidance_pass"]]
    return shlex.join(parts)


def ledger_words(row: Mapping[str, Any]) -> str:
    """What a row of the ledger says: made here, received, amplified."""
    local, inherited, gain = (None if row.get(n) is None else float(row[n]) for n in ("local", "inherited", "gain"))
    if local is None:
        return "This site cannot be run on the reference's own inputs, so only its error along the run is known."
    made = f"Made here: {number(local)}"
    if inherited is None:
        return f"{made}."
    incoming = row.get("incoming")
    received = f"carried over from its input: {number(inherited)}"
    if gain is None or incoming is None:
        return f"{made}; {received}."
    verb = "amplified" if gain > 1.05 else "damped" if gain < 0.95 else "passed on"
    source = f"an incoming {number(incoming)} ({row['incoming_name']})"
    return f"{made}; {received}, which is {source} {verb} by a factor {number(gain)}."


def digest(results: Results) -> dict[str, Any]:
    """The few numbers by which runs are compared over time; JSON."""
    tables = [Rows.of(case) for case in results["cases"]]
    locals_ = [(float(np.nanmax(t.local)), t) for t in tables if len(t) and not np.isnan(t.local).all()]
    worst, table = max(locals_, key=lambda pair: pair[0]) if locals_ else (None, None)
    score = ((results.get("fidelity") or {}).get("metrics") or {}).get("clip_score") or {}
    return {
        "schema": 1,
        "verdict": results["verdict"],
        "reasons": list(results["reasons"]),
        "cases": [case["name"] for case in results["cases"]],
        "compared": sum(len(t) for t in tables),
        "failing": sum(int(t.failed.sum()) for t in tables),
        "worst_local": worst,
        "worst_site": table.name(int(np.nanargmax(table.local))) if table else "",
        "end_to_end": {
            f"{case['name']}: {item['name']}": {"value": float(item["value"]), "bound": float(item["bound"])}
            for case in results["cases"]
            for item in case["end_to_end"]
        },
        "fidelity": {"mean": score.get("mean"), "margin": score.get("margin"), "lower_bound": score.get("lower_bound")}
        if score
        else None,
        "commit": (results.get("environment") or {}).get("commit"),
        "versions": (results.get("environment") or {}).get("versions", {}),
    }
