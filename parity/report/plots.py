"""Matplotlib figures as inline SVG: text stays text, colours follow the page's theme, ids are unique on the page.

A figure is drawn with stand-in colours that become the page's CSS variables: one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

matplotlib.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

Array = npt.NDArray[Any]

# Stand-in colour -> CSS variable.
COLOURS = {
    "text": ("#010101", "var(--soft)"),
    "grid": ("#020202", "var(--line)"),
    "native": ("#030303", "var(--native)"),
    "reference": ("#040404", "var(--reference)"),
    "difference": ("#050505", "var(--difference)"),
    "bound": ("#060606", "var(--fail)"),
    "faint": ("#070707", "var(--faint)"),
    "page": ("#080808", "var(--page)"),
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "parity",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.labelcolor": COLOURS["text"][0],
    "axes.edgecolor": COLOURS["grid"][0],
    "xtick.color": COLOURS["text"][0],
    "ytick.color": COLOURS["text"][0],
    "text.color": COLOURS["text"][0],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"][0],
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class Plot:
    """A figure and what it says in words."""

    svg: Markup
    text: str


def colour(name: str) -> str:
    return COLOURS[name][0]


@contextmanager
def drawing(
    width: float, height: float, columns: int = 1, rows: int = 1, left: float = 0.5, bottom: float = 0.4, top: float = 0.3
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of so many inches with its axes, in the page's style; margins in inches.

    Margins are fixed and labels are plain text: fitting them to the text takes most of the time a small figure costs.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False)
        wide = (width - left - 0.1 - (columns - 1) * (left + 0.15)) / columns
        tall = (height - top - bottom - (rows - 1) * (top + bottom)) / rows
        figure.subplots_adjust(
            left=left / width,
            right=1 - 0.1 / width,
            bottom=bottom / height,
            top=1 - top / height,
            wspace=(left + 0.15) / wide,
            hspace=(top + bottom) / tall,
        )
        for plot in axes.ravel():
            plot.xaxis.set_major_locator(MaxNLocator(6, integer=False))
            plot.tick_params(length=2, width=0.6)
        yield figure, list(axes.ravel())


def log_axis(plot: Axes) -> None:
    """A logarithmic y axis with few, plain labels, for what is drawn already; a narrow range is marked within its decades."""
    plot.set_yscale("log")
    low, high = plot.get_ylim()
    spread = high / low if low > 0 else float("inf")
    marks = (1.0,) if spread > 50 else (1.0, 2.0, 5.0) if spread > 5 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    plot.yaxis.set_major_locator(LogLocator(subs=marks, numticks=6))
    plot.yaxis.set_minor_locator(NullLocator())
    plot.yaxis.set_major_formatter(FuncFormatter(_decade))


def _decade(value: float, position: int | None) -> str:
    return (
        f"{value:g}"
        if 0.1 <= value < 1e4
        else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    )


def label(plot: Axes, title: str = "", below: str = "") -> None:
    """A title over the axes' left end, and the name of the x axis under its right end."""
    if title:
        plot.annotate(title, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", va="bottom")
    if below:
        plot.annotate(below, (1, 0), (0, -17), xycoords="axes fraction", textcoords="offset points", va="top", ha="right")


def legend(plot: Axes, columns: int = 6) -> None:
    """A legend in one line over the axes' right end."""
    plot.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=columns, borderaxespad=0.2, handlelength=1.6, columnspacing=1.2
    )


def to_svg(figure: Figure, name: str, text: str) -> Plot:
    """Inline SVG. ``name`` is unique on the page and prefixes every id; ``text`` says the same in words."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    for stand_in, variable in COLOURS.values():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"font: (\d[\d.]*px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    # The words under the figure are its text equivalent; reading every tick aloud would only be in the way.
    svg = svg.replace("<svg", '<svg class="plot" aria-hidden="true" focusable="false"', 1)
    return Plot(Markup(svg.strip()), text)


def raised(values: Sequence[float] | Array, least: float = 1e-9) -> Array:
    """Values for a logarithmic axis: nothing below ``least``, infinity drawn at the top of the others."""
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    top = max(1.0, float(finite.max()) * 10) if finite.size else 1.0
    return np.maximum(np.where(np.isfinite(array), array, top), least)


def bars(plot: Axes, counts: Sequence[int], low: float, high: float, name: str, style: Any = "-") -> None:
    """A histogram's outline over equal bins."""
    edges = np.linspace(low, high, len(counts) + 1)
    plot.stairs(counts, edges, color=colour(name), linewidth=1.3, linestyle=style)


def number(value: Any) -> str:
    """A number as people read it; `–` for nothing."""
    if value is None or value == "":
        return "–"
    value = float(value)
    if value == 0 or value != value or value in (float("inf"), float("-inf")):
        return {"inf": "∞", "-inf": "−∞", "nan": "not a number"}.get(str(value), "0")
    if value < 0:
        return f"−{number(-value)}"
    if abs(value) < 1e-2 or abs(value) >= 1e4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"
