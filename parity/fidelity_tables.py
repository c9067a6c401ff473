"""What a fidelity run found, as lines for people and shares for the result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from parity.fidelity_gate import PairResult
from parity.fidelity_run import Run
from parity.fidelity_world import is_world, reading

LABELS: Final = {
    "clip_score": "CLIPScore",
    "r_precision": "R-precision",
    "oracle": "all four attributes right, by the pixel oracle",
}


def shares(run: Run, pairs: Sequence[PairResult]) -> dict[str, Any]:
    """Means per side over all videos that were scored, those after the verdict, too; the pixel oracle on the world's suite."""
    items = {item.id: item for item in run.suite.items}
    readable = is_world(run.suite)
    found: dict[str, Any] = {"videos": len(pairs)}
    for side in (run.native, run.reference):
        scores = [(p.prompt_id, score) for p in pairs if (score := getattr(p, side.name)) is not None]
        if not scores:
            continue
        found.setdefault("clip_score", {})[side.name] = float(np.mean([s.clip_score for _, s in scores]))
        found.setdefault("r_precision", {})[side.name] = float(np.mean([s.first for _, s in scores]))
        if readable:
            right = [reading(items[name], run.store.video(side, items[name]).frames)["right"] for name, _ in scores]
            found.setdefault("oracle", {})[side.name] = float(np.mean(right))
    return found


def result_lines(content: Mapping[str, Any]) -> list[str]:
    """The ladder, every metric, the shares of both sides, the reasons."""
    lines = [ladder_table(content["ladder"])] if content["ladder"] else []
    for name, metric in content.get("metrics", {}).items():
        mean = f"mean {metric['mean']:+.4g}" if "mean" in metric else metric["reason"]
        lines.append(f"{name:22} {mean}  margin -{metric['margin']:.3g}  {metric['verdict']}")
    scored = content["scored"]
    for name, label in LABELS.items():
        if name in scored:
            sides = ", ".join(f"{side} {value:.2f}" for side, value in scored[name].items())
            lines.append(f"{label}: {sides} ({scored['videos']} videos each)")
    return lines + [f"- {reason}" for reason in content["reasons"]]


def ladder_table(table: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per rung: CLIPScore, R-precision, temporal consistency, videos until the verdict, verdict."""
    lines = [f"{'rung':22} {'CLIPScore':>9} {'R-precision':>11} {'consistency':>11} {'videos':>6}  verdict"]
    for name, row in table.items():
        numbers = f"{row['clip_score']:9.2f} {row['r_precision']:11.2f} {row['temporal_consistency']:11.4f} {row['videos']:6}"
        lines.append(f"{name:22} {numbers}  {row['verdict']} {row['reason']}".rstrip())
    return "\n".join(lines)
