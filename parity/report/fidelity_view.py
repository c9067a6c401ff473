"""The prompt-fidelity section: paired scores, the betting wealth after each video, margins, the degradation ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.fidelity import METRICS, Scores, differences
from parity.fidelity_policy import read_policy
from parity.report.plots import Plot, colour, drawing, label, legend, log_axis, number, raised, to_svg
from parity.report.prompts_view import PromptView, prompt_view
from parity.stats import Bet, non_inferiority

_LABELS = {
    "clip_score": "CLIPScore (points)",
    "r_precision": "R-precision",
    "temporal_consistency": "temporal consistency (relative)",
    "motion": "motion (relative)",
}


@dataclass(frozen=True)
class FidelityView:
    """Everything the page shows of the fidelity gate."""

    verdict: str
    reasons: tuple[str, ...]
    sentence: str
    metrics: tuple[Mapping[str, Any], ...]
    ladder: tuple[Mapping[str, Any], ...]
    plots: tuple[Plot, ...]
    fingerprints: Mapping[str, Any]
    shown: tuple[PromptView, ...]


def fidelity_view(fidelity: Mapping[str, Any], folder: Path) -> FidelityView:
    """From the `fidelity` section of results.json: a result's content, and in `shown` the prompts made in this run, whose
    media lie below `folder`."""
    metrics = [
        {"name": name, "label": _LABELS.get(name, name), **metric} for name, metric in (fidelity.get("metrics") or {}).items()
    ]
    ladder = [{"name": name, **rung} for name, rung in (fidelity.get("ladder") or {}).items()]
    plots = []
    pairs = [pair for pair in fidelity.get("pairs") or () if pair.get("native") and pair.get("reference")]
    if pairs:
        plots.append(_paired(pairs))
        path = _wealth(pairs, fidelity)
        plots += [path] if path else []
    if ladder:
        plots.append(_ladder(ladder))
    seen, size = fidelity.get("seen", 0), fidelity.get("size", 0)
    verdict = str(fidelity.get("verdict", "inconclusive"))
    more = [metric["more_videos"] for metric in metrics if metric.get("more_videos")]
    sentence = f"{seen} of {size} prompts seen." if size else "No result of a whole suite is at hand."
    sentence += f" About {max(more)} more videos needed." if more else ""
    sentence += f" Native ran in {fidelity['settings']['dtype']}." if fidelity.get("settings") else ""
    return FidelityView(
        verdict,
        tuple(fidelity.get("reasons", ())),
        sentence,
        tuple(metrics),
        tuple(ladder),
        tuple(plots),
        fidelity.get("fingerprints", {}),
        tuple(prompt_view(row, folder, f"prompt-{i}") for i, row in enumerate(fidelity.get("shown", ()))),
    )


def _paired(pairs: Sequence[Mapping[str, Any]]) -> Plot:
    native = np.array([float(pair["native"]["clip_score"]) for pair in pairs])
    reference = np.array([float(pair["reference"]["clip_score"]) for pair in pairs])
    gap = native - reference
    with drawing(10.6, 2.7, columns=2) as (figure, (scatter, path)):
        low, high = float(min(native.min(), reference.min())), float(max(native.max(), reference.max()))
        scatter.plot([low, high], [low, high], color=colour("faint"), linewidth=0.9)
        scatter.scatter(reference, native, s=14, color=colour("native"), alpha=0.8, linewidths=0)
        label(scatter, "native CLIPScore", "reference CLIPScore")
        order = np.arange(1, len(gap) + 1)
        path.axhline(0, color=colour("faint"), linewidth=0.9)
        path.vlines(order, 0, gap, color=colour("difference"), linewidth=1.0)
        path.plot(order, np.cumsum(gap) / order, color=colour("native"), label="mean so far")
        label(path, "native − reference", "video, in the frozen order")
        legend(path)
        lower = int((gap < 0).sum())
        text = (
            f"Paired CLIPScores of {len(gap)} videos: mean difference {gap.mean():+.3g} points, native lower in {lower}, "
            f"spread {gap.std(ddof=1) if len(gap) > 1 else 0:.3g}."
        )
        return to_svg(figure, "fidelity-pairs", text)


def _wealth(pairs: Sequence[Mapping[str, Any]], fidelity: Mapping[str, Any]) -> Plot | None:
    """log wealth of the bet on non-inferiority after each video; above 1 / alpha the metric passes."""
    pilot = fidelity.get("pilot")
    if not pilot:
        return None
    alpha, still = _limits(fidelity)
    rows = [
        differences(Scores.from_dict(_whole(pair["native"])), Scores.from_dict(_whole(pair["reference"])), still)
        for pair in pairs
    ]
    words = []
    with drawing(10.6, 2.6) as (figure, (plot,)):
        styles = (("native", "-"), ("reference", "--"), ("difference", "-."), ("text", ":"))
        for metric, (kind, style) in zip(METRICS, styles, strict=True):
            values = np.array([row[metric] for row in rows])
            if metric not in pilot["bets"] or not np.isfinite(values).all():
                continue
            path = non_inferiority(values, int(fidelity["size"]), Bet(**pilot["bets"][metric]))
            plot.plot(np.arange(1, len(path) + 1), raised(path, 1e-4), style, color=colour(kind), label=_LABELS[metric])
            words.append(f"{_LABELS[metric]} {number(path[-1])}")
        plot.axhline(1 / alpha, linestyle="--", color=colour("bound"), linewidth=1.0, label=f"passes above {1 / alpha:g}")
        log_axis(plot)
        label(plot, "wealth", "videos seen")
        legend(plot)
        return to_svg(figure, "fidelity-wealth", f"Wealth of the sequential bet after the last video: {'; '.join(words)}.")


def _limits(fidelity: Mapping[str, Any]) -> tuple[float, float]:
    """(alpha, stillness) as the run was judged by, else the policy of now."""
    if "alpha" in fidelity and "still" in fidelity:
        return float(fidelity["alpha"]), float(fidelity["still"])
    policy = read_policy()
    return policy.alpha, policy.motion.still


def _whole(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings are of no use on a page and may be left out of results.json."""
    return {"embedding": (), **scores}


def _ladder(ladder: Sequence[Mapping[str, Any]]) -> Plot:
    with drawing(10.6, 0.34 * len(ladder) + 0.7, left=1.5) as (figure, (plot,)):
        names = [str(rung["name"]) for rung in ladder]
        scores = [float(rung["clip_score"]) for rung in ladder]
        y = np.arange(len(names))
        plot.barh(y, scores, height=0.55, color=[colour("bound" if r["verdict"] == "fail" else "native") for r in ladder])
        for i, rung in enumerate(ladder):
            plot.annotate(f" {scores[i]:.1f}, {rung['verdict']}", (max(scores[i], 0), i), va="center", fontsize=8.5)
        plot.set_yticks(y, names)
        plot.invert_yaxis()
        plot.grid(axis="y", visible=False)
        plot.set_xlim(min(0, *scores), max(scores) * 1.15)
        label(plot, "", "mean CLIPScore of the degraded videos")
        text = "Degradation ladder, mean CLIPScore: " + "; ".join(f"{n} {s:.1f}" for n, s in zip(names, scores, strict=True))
        return to_svg(figure, "fidelity-ladder", text + ".")
