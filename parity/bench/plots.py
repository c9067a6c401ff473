"""Growth of cost on logarithmic axes, ratios by subject, stages of whole processes, as SVG files."""

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
    """Write `growth.svg`, `ratios.svg` and `stages.svg`, those for which there are numbers; returns the paths."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        if "growth" in found:
            drawn.append(_save(_growth(found["growth"]), folder / "growth.svg"))
        ratios = _all_ratios(found)
        if ratios:
            drawn.append(_save(_ratios(ratios), folder / "ratios.svg"))
        if "cli" in found:
            drawn.append(_save(_stages(found["cli"]), folder / "stages.svg"))
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
    for name, row in found.get("modes", {}).items():
        ratios |= {f"mode {name}": told["step"]["cpu"] for pair, told in row.items() if " ÷ " in pair}
    for name, row in found.get("cli", {}).items():
        pairs = {pair.split(" ÷ ")[1]: told for pair, told in row.items() if " ÷ " in pair}
        for what in ("step", "process"):
            ratios |= {f"{name}, {what} ({other})": told[what] for other, told in pairs.items() if what in told}
    return ratios


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


def _stages(found: Mapping[str, Any]) -> Figure:
    """A bar for every whole process, made of its stages."""
    bars = [(name, engine, row[engine]) for name, row in found.items() for engine in COLOURS if engine in row]
    figure = Figure(figsize=(7.0, 0.9 + 0.3 * len(bars)), layout="constrained")
    plot = figure.subplots()
    start = [0.0] * len(bars)
    for number, stage in enumerate(bars[0][2]["stages_cpu_s"]):
        widths = [told["stages_cpu_s"][stage]["median"] for _, _, told in bars]
        plot.barh(range(len(bars)), widths, left=start, height=0.7, color=f"C{number}", label=stage)
        start = [left + width for left, width in zip(start, widths, strict=True)]
    plot.set_yticks(range(len(bars)), [f"{name}, {engine}" for name, engine, _ in bars])
    plot.invert_yaxis()
    plot.set_xlabel("processor time of the whole process by stage, s")
    figure.legend(loc="outside upper center", ncols=7, frameon=False, fontsize=8)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    partial.replace(path)
    return path
