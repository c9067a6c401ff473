"""Growth of cost on logarithmic axes and ratios by subject, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

COLOURS = {"native": "#1f6feb", "official": "#d1571b", "ltx-2-mlx": "#3d8b40"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "parity",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `growth.svg` and `ratios.svg`, those for which there are numbers; returns the paths."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        if "growth" in found:
            drawn.append(_save(_growth(found["growth"]), folder / "growth.svg"))
        ratios = _all_ratios(found)
        if ratios:
            drawn.append(_save(_ratios(ratios), folder / "ratios.svg"))
    return drawn


def _growth(found: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(3.0 * len(found), 3.0), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, len(found), squeeze=False)[0])
    for plot, (axis, row) in zip(axes, found.items(), strict=True):
        for engine, power in row["exponents"].items():
            x = [point["x"] for point in row["points"]]
            spans = [{n: 1e3 * v for n, v in point[engine]["cpu_s"].items()} for point in row["points"]]
            middle = [span["median"] for span in spans]
            plot.plot(x, middle, "o-", color=COLOURS[engine], markersize=3.5, label=f"{engine}, x^{power:.2f}")
            plot.fill_between(x, [s["min"] for s in spans], [s["max"] for s in spans], color=COLOURS[engine], alpha=0.15)
        plot.set_xscale("log", base=2)
        plot.set_yscale("log")
        plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plot.yaxis.set_major_formatter(FuncFormatter(_plain))
        plot.yaxis.set_minor_locator(NullLocator())
        plot.set_xticks(x, [str(value) for value in x])
        plot.set_xlabel(axis)
        plot.grid(visible=True, linewidth=0.4, alpha=0.5)
        plot.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("processor time, ms")
    return figure


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _all_ratios(found: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Spread of native ÷ other by label, from every section that compares engines."""
    ratios: dict[str, Mapping[str, float]] = {}
    for section, label in (("steps", ""), ("block", "one block, ")):
        for name, row in found.get(section, {}).items():
            ratios |= {f"{label}{name} ({pair.split(' ÷ ')[1]})": told["cpu"] for pair, told in row.items() if " ÷ " in pair}
    return ratios | {f"mode {name}": row["native ÷ official"]["step"]["cpu"] for name, row in found.get("modes", {}).items()}


def _ratios(ratios: Mapping[str, Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(6.4, 0.6 + 0.26 * len(ratios)), layout="constrained")
    plot = figure.subplots()
    for y, span in enumerate(ratios.values()):
        plot.plot([span["min"], span["max"]], [y, y], color=COLOURS["native"], linewidth=3, alpha=0.35, solid_capstyle="round")
        plot.plot([span["median"]], [y], "o", color=COLOURS["native"], markersize=4)
    plot.axvline(1.0, color="#888888", linewidth=0.8)
    plot.set_yticks(range(len(ratios)), list(ratios))
    plot.invert_yaxis()
    plot.set_xlabel("native ÷ other, processor time: min, median, max")
    return figure


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    partial.replace(path)
    return path
