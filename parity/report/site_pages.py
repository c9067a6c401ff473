"""Pages of the sites whose tensors were kept: distribution, profiles, worst elements, both tensors as images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from parity.report.media import png
from parity.report.plots import Plot, bars, colour, drawing, label, log_axis, number, raised, to_svg
from parity.report.rows import Rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """One plane of a tensor: data URI, caption, and words for who cannot see it."""

    uri: str
    caption: str
    text: str


@dataclass(frozen=True)
class SitePage:
    """Everything the page shows of one row."""

    position: int
    name: str
    where: str
    failed: bool
    on: str
    problem: str
    row: Mapping[str, Any]
    plot: Plot | None
    pictures: tuple[Picture, ...]
    plane: str
    worst: tuple[Mapping[str, Any], ...]
    axes: str


def site_page(detail: Mapping[str, Any], rows: Rows, name: str) -> SitePage:
    """The page of one entry of a case's `details`; ``name`` is unique on the page."""
    position = int(detail["row"])
    broken = bool(detail.get("problem"))
    pictures, plane = ((), "") if broken else _pictures(detail["images"])
    worst = () if broken else tuple({**w, "gap": float(w["native"]) - float(w["reference"])} for w in detail["worst"])
    return SitePage(
        position=position,
        name=rows.name(position),
        where=rows.where(position),
        failed=bool(rows.failed[position]),
        on="on the reference's own inputs" if detail.get("local") else "along the run",
        problem=str(detail.get("problem", "")),
        row=rows.row(position),
        plot=None if broken else _plot(detail, name),
        pictures=pictures,
        plane=plane,
        worst=worst,
        axes=", ".join(p["axis"] for p in detail.get("profiles", ())),
    )


def _plot(detail: Mapping[str, Any], name: str) -> Plot:
    profiles = detail["profiles"][:4]
    words = []
    columns, lines = (2 + len(profiles), 1) if len(profiles) < 3 else (3, 2)
    with drawing(10.6, 2.1 * lines, columns=columns, rows=lines, bottom=0.3) as (figure, axes):
        values, gaps, *others = axes
        histogram = detail["histogram"]
        if histogram:
            for side, style in (("native", "-"), ("reference", (0, (2, 1.5)))):
                bars(values, histogram[side], float(histogram["low"]), float(histogram["high"]), side, style)
            values.set_ylim(0.7, None)
            log_axis(values)
            values.xaxis.set_major_locator(MaxNLocator(4))
            label(values, "values (reference dashed)")
            words.append(f"values from {number(histogram['low'])} to {number(histogram['high'])}")
        gap = detail["difference"]
        if gap["counts"]:
            bars(gaps, gap["counts"], float(gap["low"]), float(gap["high"]), "difference")
            words.append(f"{float(gap['zero_share']):.0%} of the elements are equal")
        else:
            gaps.text(0.5, 0.5, "all equal", ha="center", transform=gaps.transAxes)
            words.append("all elements are equal")
        gaps.xaxis.set_major_locator(MaxNLocator(4))
        label(gaps, "log₁₀ |difference|")
        for profile, plot in zip(profiles, others, strict=False):
            errors = np.array([float(v) for v in profile["rel_l2"]])
            x = np.arange(len(errors)) * int(profile["per_bin"])
            plot.plot(x, raised(errors, 1e-10), color=colour("difference"), linewidth=1.1)
            plot.fill_between(x, 1e-10, raised(errors, 1e-10), color=colour("difference"), alpha=0.15, linewidth=0)
            positive = errors[errors > 0]
            low = positive.min() / 3 if positive.size else 1e-10
            plot.set_ylim(max(low, 1e-10), None)
            log_axis(plot)
            label(plot, f"error by {profile['axis']}")
            at = int(errors.argmax()) * int(profile["per_bin"])
            words.append(f"largest error by {profile['axis']} at {at} ({number(errors.max())})")
        for plot in others[len(profiles) :]:
            plot.set_axis_off()
        return to_svg(figure, name, f"{'; '.join(words)}.")


def _pictures(images: Mapping[str, Any]) -> tuple[tuple[Picture, ...], str]:
    found = []
    for side, palette in (("native", "cividis"), ("reference", "cividis"), ("difference", "inferno")):
        image = images[side]
        levels = np.frombuffer(base64.b64decode(image["data"]), np.uint8).reshape(image["shape"])
        picture = (matplotlib.colormaps[palette](levels)[..., :3] * 255).astype(np.uint8)
        caption = "|native − reference|" if side == "difference" else side
        text = f"{caption}, from {number(image['low'])} (dark) to {number(image['high'])} (bright)"
        found.append(Picture(png(picture), caption, text))
    rows, columns = images["size"]
    across = f"{columns} {images['columns']}s across" + (f", {rows} {images['rows']}s down" if images["rows"] else "")
    held = f" at {', '.join(images['held'])}" if images["held"] else ""
    return tuple(found), f"The plane through the worst element: {across}{held}."
