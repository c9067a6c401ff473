"""How the error grows: along the run, from step to step, and from block to block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.report.plots import Plot, colour, drawing, label, legend, log_axis, number, raised, to_svg
from parity.report.rows import Rows

Array = npt.NDArray[Any]
BINS = 360
LEAST = 1e-9


def growth(rows: Rows, case: Mapping[str, Any], name: str, latent_limit: float | None) -> list[Plot]:
    """All growth curves for which the run holds numbers."""
    plots = [_along_the_run(rows, f"{name}-run")]
    steps = [step for step in rows.columns["step"] if step is not None]
    if len(set(steps)) > 1:
        plots.append(_along_the_steps(rows, case, f"{name}-steps", latent_limit))
    blocks = {unit for unit, total in zip(rows.unit, rows.total, strict=True) if unit.isdigit() and not np.isnan(total)}
    if len(blocks) > 1:
        plots.append(_through_the_blocks(rows, f"{name}-blocks"))
    return plots


def _binned(values: Array, bins: int) -> Array:
    """Largest value of each bin; NaN where it holds none."""
    parts = np.array_split(values, bins)
    return np.array([np.nanmax(part) if not np.isnan(part).all() else math.nan for part in parts])


def _along_the_run(rows: Rows, name: str) -> Plot:
    bins = min(BINS, len(rows))
    x = (np.arange(bins) + 0.5) * len(rows) / bins
    with drawing(10.6, 3.0, bottom=0.62) as (figure, (plot,)):
        for name_, values, kind in (("total", rows.total, "difference"), ("local", rows.local, "native")):
            shown = _binned(values, bins)
            if np.isnan(shown).all():
                continue
            plot.plot(
                x, np.where(np.isnan(shown), np.nan, raised(shown, LEAST)), color=colour(kind), label=name_, linewidth=1.1
            )
        judged = np.where(rows.bound > 0, rows.bound, np.nan)
        if np.isfinite(judged).any():
            plot.plot(x, _binned(judged, bins), "--", color=colour("bound"), label="bound of local", linewidth=1.0)
        floor = rows.floats("floor")
        if np.isfinite(floor).any():
            plot.plot(
                x, raised(_binned(floor, bins), LEAST), ":", color=colour("reference"), label="floor: reference against itself"
            )
        bad = np.flatnonzero(rows.failed)
        if bad.size:
            first = int(bad[0])
            plot.axvline(first, color=colour("bound"), linewidth=0.8)
            side = "right" if first > 0.7 * len(rows) else "left"
            at = (first, 0.97)
            box = {"facecolor": colour("page"), "edgecolor": "none", "pad": 1.5}
            place = ("data", "axes fraction")
            plot.annotate("first out of bound", at, xycoords=place, ha=side, va="top", fontsize=8.5, bbox=box)
        _component_ticks(rows, plot)
        log_axis(plot)
        plot.set_xlim(0, len(rows))
        plot.grid(axis="x", visible=False)
        label(plot, "rel_l2 along the run")
        legend(plot)
        text = (
            f"Error along the run, {len(rows)} tensors in execution order: largest local {number(_top(rows.local))}, "
            f"largest total {number(_top(rows.total))}. " + _failing_text(rows)
        )
        return to_svg(figure, name, text)


def _failing_text(rows: Rows) -> str:
    bad = np.flatnonzero(rows.failed)
    if not bad.size:
        return "Nothing leaves its bound."
    return f"{bad.size} leave their bound, first {rows.name(int(bad[0]))} ({rows.where(int(bad[0]))})."


def _component_ticks(rows: Rows, plot: Any) -> None:
    """Names of the components where they start, the loop as steps, on two lines; what would overlap is left out."""
    starts: list[tuple[int, str]] = []
    last = None
    for i, (component, step) in enumerate(zip(rows.component, rows.columns["step"], strict=True)):
        name = f"step {step}" if step is not None else component
        if name != last:
            starts.append((i, name))
            last = name
    ends = [start for start, _ in starts[1:]] + [len(rows)]
    free = [-math.inf, -math.inf]  # where the text of each line ends
    shown: list[tuple[int, str]] = []
    for (start, name), end in zip(starts, ends, strict=True):
        width = len(name) * len(rows) / 165
        line = next((i for i, taken in enumerate(free) if start >= taken), None)
        if line is None or end - start < len(rows) / 200 or start + width > 1.02 * len(rows):
            continue
        free[line] = start + width
        shown.append((start, "\n" * line + name))
    plot.set_xticks([i for i, _ in shown], [name for _, name in shown], ha="left", fontsize=8)


def _per_step(rows: Rows, values: Array, keep: Array) -> tuple[list[str], Array]:
    keys = list(zip(rows.columns["stage"], rows.columns["step"], strict=True))
    ordered = sorted({key for key in keys if key[1] is not None}, key=lambda key: (str(key[0]), int(key[1])))
    place = {key: i for i, key in enumerate(ordered)}
    found = np.full(len(ordered), np.nan)
    for i in np.flatnonzero(keep):
        if keys[i][1] is not None:
            at = place[keys[i]]
            found[at] = np.fmax(found[at], values[i])
    stages = {str(stage) for stage, _ in ordered}
    return [str(step) if len(stages) == 1 else f"{stage} {step}" for stage, step in ordered], found


def _along_the_steps(rows: Rows, case: Mapping[str, Any], name: str, limit: float | None) -> Plot:
    sites = np.array([str(site) for site in rows.columns["site"]])
    everywhere = np.ones(len(rows), bool)
    words = []
    with drawing(5.2, 3.2, top=0.5) as (figure, (plot,)):
        lines = (
            ("video latent", rows.total, sites == "sampler.video", "native", "-"),
            ("audio latent", rows.total, sites == "sampler.audio", "reference", "-"),
            ("worst local", rows.local, everywhere, "difference", "-."),
        )
        for name_, values, keep, kind, style in lines:
            heads, found = _per_step(rows, values, keep)
            if np.isnan(found).all():
                continue
            plot.plot(
                range(len(heads)), raised(found, LEAST), style, color=colour(kind), label=name_, marker="o", markersize=2.5
            )
            words.append(f"{name_} {number(found[0])} at the first and {number(found[-1])} at the last step")
        for modality, values in (case.get("self_divergence") or {}).items():
            plot.plot(
                range(len(values)),
                raised(values, LEAST),
                ":",
                color=colour("text"),
                label=f"self, {modality}",
            )
            words.append(f"self, {modality}: the reference against itself {number(values[-1])} at the last step")
        if limit:
            plot.axhline(limit, linestyle="--", color=colour("bound"), linewidth=1.0, label="limit")
        every = max(1, -(-len(heads) // 12))
        plot.set_xticks(range(0, len(heads), every), heads[::every])
        log_axis(plot)
        label(plot, "", "denoising step")
        legend(plot, 3)
        return to_svg(figure, name, f"Error from step to step: {'; '.join(words)}.")


def _through_the_blocks(rows: Rows, name: str) -> Plot:
    units = rows.unit
    blocks = sorted({int(unit) for unit in units if unit.isdigit()})
    heads = sorted(
        {(str(s), int(t)) for s, t in zip(rows.columns["stage"], rows.columns["step"], strict=True) if t is not None}
    )
    chosen = [heads[0], heads[len(heads) // 2], heads[-1]] if len(heads) > 2 else heads
    of = {key: np.full(len(blocks), np.nan) for key in chosen}
    place = {block: i for i, block in enumerate(blocks)}
    whole = {f"transformer.transformer_blocks.{block}" for block in blocks}
    for i, site in enumerate(rows.columns["site"]):
        key = (str(rows.columns["stage"][i]), rows.columns["step"][i])
        if site in whole and key in of:
            at = place[int(units[i])]
            of[key][at] = np.fmax(of[key][at], rows.total[i])
    with drawing(5.2, 3.2, top=0.5) as (figure, (plot,)):
        for (key, values), kind, style in zip(
            of.items(), ("native", "reference", "difference"), ("-", "--", "-."), strict=False
        ):
            plot.plot(
                blocks, raised(values, LEAST), style, color=colour(kind), label=f"step {key[1]}", marker="o", markersize=2.5
            )
        log_axis(plot)
        plot.set_xticks(blocks[:: max(1, -(-len(blocks) // 12))])
        label(plot, "total", "transformer block")
        legend(plot)
        words = [f"step {key[1]} from {number(values[0])} to {number(values[-1])}" for key, values in of.items()]
        return to_svg(figure, name, f"Total error from the first to the last block: {'; '.join(words)}.")


def _top(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else None
