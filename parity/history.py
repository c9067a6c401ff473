"""Promoted verdicts over time: what is kept of each, and one page with trend lines.

`reports/promoted/` holds the verdict in force (`verdict.json` with its `results.json` and `badge.svg`) and below `history/` one
small folder per promotion. Promoting is a change to these files, so it happens by a reviewed commit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ltx_native.verdict import Verdict, file_sha256, load_verdict
from parity.badge import write_badge
from parity.files import write_text
from parity.report.build import ReportError, read_results, template_environment
from parity.report.plots import Plot, colour, drawing, label, legend, log_axis, raised, to_svg
from parity.report.summary import digest

ENTRIES = "history"


class HistoryError(ValueError):
    """A run that cannot be promoted, or an entry that cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One promoted run: when, on which commit, its verdict and the numbers that are followed."""

    name: str
    created: str
    commit: str
    verdict: str
    numbers: Mapping[str, Any]


def promote(verdict_path: Path, promoted: Path) -> Path:
    """Make a verdict the one in force, with the results it rests on, and add it to the history; the new entry's folder.

    Raises `HistoryError` when the verdict is not sound or its results are not those it was given on.
    """
    verdict = load_verdict(verdict_path)
    if verdict.problem:
        raise HistoryError(f"{verdict.problem}; expected a run that was judged; run the comparison again")
    relative = _results_path(verdict)
    results = verdict_path.parent / relative
    try:
        numbers = digest(read_results(results))
    except (ReportError, KeyError) as error:
        raise HistoryError(f"{results}: results that cannot be promoted ({error})") from error
    content = json.loads(verdict_path.read_text(encoding="utf-8"))
    stamp = str(content["created"]).replace(":", "").replace("+0000", "Z").replace("-", "")
    folder = promoted / ENTRIES / f"{stamp}-{str(content.get('commit') or 'no-commit')[:12]}"
    if folder.exists():
        raise HistoryError(f"{folder.name} was promoted before; nothing was changed")
    folder.mkdir(parents=True)
    write_text(folder / "summary.json", json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    shutil.copyfile(verdict_path, folder / "verdict.json")
    # Results first: a verdict must never stand beside results that are not its own.
    for source, name in ((results, relative), (verdict_path, Path("verdict.json"))):
        target = promoted / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
    write_badge(promoted / "badge.svg", verdict.verdict)
    return folder


def _results_path(verdict: Verdict) -> Path:
    """Where the results lie, seen from the verdict; they must be there, unaltered."""
    behind = verdict.evidence.get("results") or {}
    relative = Path(str(behind.get("path") or ""))
    if not relative.name or relative.is_absolute() or ".." in relative.parts:
        raise HistoryError(f"{verdict.path}: results at {behind.get('path')!r}, expected a path below the verdict's folder")
    results = verdict.path.parent / relative
    if not results.is_file():
        raise HistoryError(f"{results}: the results behind the verdict are gone; run the comparison again")
    if file_sha256(results) != behind.get("sha256"):
        raise HistoryError(f"{results} was altered after the verdict; run the comparison again")
    return relative


def load_history(promoted: Path) -> list[Entry]:
    """Every promoted run, oldest first. Raises `HistoryError` on an entry that cannot be read: none is left out silently."""
    entries = []
    for folder in sorted(path for path in (promoted / ENTRIES).glob("*") if path.is_dir()):
        try:
            verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
            numbers = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            entries.append(
                Entry(folder.name, verdict["created"], str(verdict.get("commit") or ""), verdict["verdict"], numbers)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"{folder}: no readable entry ({error!r}); restore it from version control") from error
    return sorted(entries, key=lambda entry: entry.created)


def write_history(promoted: Path, output: Path) -> Path:
    """One self-contained page of all promoted runs. Raises `HistoryError` when there are none."""
    entries = load_history(promoted)
    if not entries:
        raise HistoryError(
            f"{promoted / ENTRIES}: no promoted run; promote one first: parity gate --promote reports/verdict.json"
        )
    style = Path(__file__).parent / "report" / "templates" / "report.css"
    page = template_environment().get_template("history.html.j2")
    write_text(
        output,
        page.render(entries=entries[::-1], plots=trends(entries), style=Markup(style.read_text(encoding="utf-8"))),
    )
    return output


def trends(entries: Sequence[Entry]) -> list[Plot]:
    """Worst local error, the numbers at the end of the run, and fidelity, over the promoted commits."""
    ticks = [f"{entry.created[:10]}\n{entry.commit[:8]}" for entry in entries]
    marks = {"pass": "o", "fail": "X", "inconclusive": "s"}
    plots = []

    def finish(figure: Any, plot: Any, name: str, title: str, text: str) -> None:
        every = max(1, -(-len(ticks) // 8))
        plot.set_xticks(range(0, len(ticks), every), ticks[::every])
        plot.set_xlim(-0.5, len(ticks) - 0.5)
        label(plot, title)
        legend(plot)
        plots.append(to_svg(figure, name, text))

    with drawing(10.6, 2.7, bottom=0.5) as (figure, (plot,)):
        values = raised([_number(entry.numbers.get("worst_local")) for entry in entries])
        plot.plot(range(len(entries)), values, color=colour("native"), label="worst local")
        for i, entry in enumerate(entries):
            kind = "native" if entry.verdict == "pass" else "bound"
            plot.plot(i, values[i], marks.get(entry.verdict, "d"), color=colour(kind), markersize=6)
        log_axis(plot)
        text = f"Worst local rel_l2: {values[0]:.2e} at first, {values[-1]:.2e} now. Cross: failed run; square: open one."
        finish(figure, plot, "trend-local", "worst local rel_l2", text)
    shares = {}
    for name in dict.fromkeys(name for entry in entries for name in entry.numbers["end_to_end"]):
        items = [entry.numbers["end_to_end"].get(name) for entry in entries]
        shares[name] = [float("nan") if item is None else float(item["value"]) / float(item["bound"]) for item in items]
    worst = [max((s[i] for s in shares.values() if not np.isnan(s[i])), default=float("nan")) for i in range(len(entries))]
    if not np.isnan(worst).all():
        with drawing(10.6, 2.7, bottom=0.5) as (figure, (plot,)):
            plot.plot(range(len(entries)), raised(worst), color=colour("difference"), marker="o", label="nearest to its limit")
            plot.axhline(1, linestyle="--", color=colour("bound"), linewidth=1.0, label="limit")
            log_axis(plot)
            text = f"End of the run, value over limit, largest of all: {worst[0]:.2g} at first, {worst[-1]:.2g} now."
            finish(figure, plot, "trend-end", "end of the run: value ÷ limit", text)
    means = [_number((entry.numbers.get("fidelity") or {}).get("mean")) for entry in entries]
    if not np.isnan(means).all():
        lower = [_number((entry.numbers.get("fidelity") or {}).get("lower_bound")) for entry in entries]
        margin = [-_number((entry.numbers.get("fidelity") or {}).get("margin")) for entry in entries]
        with drawing(10.6, 2.7, bottom=0.5) as (figure, (plot,)):
            plot.plot(range(len(entries)), means, color=colour("native"), marker="o", label="mean")
            plot.plot(range(len(entries)), lower, ":", color=colour("native"), marker=".", label="lower bound")
            plot.plot(range(len(entries)), margin, "--", color=colour("bound"), label="margin")
            text = f"CLIPScore, native minus reference: {means[-1]:+.3g} points now; it must stay above the margin."
            finish(figure, plot, "trend-fidelity", "CLIPScore, native − reference", text)
    return plots


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
