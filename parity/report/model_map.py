"""The model map: which blocks at which steps are off, on their own (local) and along the run (total)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from parity.report.plots import number
from parity.report.rows import Rows

Array = npt.NDArray[Any]
LEVELS = 9
FAIL = 9  # the class of a cell out of bound
REST = "transformer"


@dataclass(frozen=True)
class Link:
    """One component outside the denoising loop (or the loop itself): its worst row and how it stands."""

    name: str
    count: int
    failing: int
    position: int  # of its worst row
    ratio: float
    total: float


@dataclass(frozen=True)
class Unit:
    """One row of the map in words."""

    label: str
    failing: int
    position: int
    ratio: float
    total: float


@dataclass(frozen=True)
class ModelMap:
    """Chain of components, two heat maps as SVG, and the same as a table."""

    chain: tuple[Link, ...]
    local: Markup | None
    total: Markup | None
    units: tuple[Unit, ...]
    text: str


def model_map(rows: Rows, case: int) -> ModelMap:
    """Heat maps over everything that has a step; the rest is a chain of components in execution order."""
    steps = [(str(s), t) for s, t in zip(rows.columns["stage"], rows.columns["step"], strict=True)]
    columns = sorted({key for key in steps if key[1] is not None}, key=lambda key: (key[0], int(key[1])))
    chain = _chain(rows)
    if not columns:
        return ModelMap(chain, None, None, (), "No site of this run belongs to a denoising step.")
    places = {key: i for i, key in enumerate(columns)}
    labels = _ordered([unit for unit, key in zip(rows.unit, steps, strict=True) if key[1] is not None])
    lines = {label: i for i, label in enumerate(labels)}
    shape = (len(labels), len(columns))
    ratio, total = np.full(shape, np.nan), np.full(shape, np.nan)
    worst, failing = np.full(shape, -1), np.zeros(shape, int)
    # Worst last, so that it is what remains in its cell.
    for position in rows.order[::-1]:
        key = steps[position]
        if key[1] is None:
            continue
        at = lines[rows.unit[position]], places[key]
        ratio[at] = np.fmax(ratio[at], rows.ratio[position])
        total[at] = np.fmax(total[at], rows.total[position])
        failing[at] += rows.failed[position]
        worst[at] = position
    heads = [str(step) if len({key[0] for key in columns}) == 1 else f"{stage} {step}" for stage, step in columns]
    rank = _rank(rows)
    units = tuple(
        Unit(_label(label), int(failing[i].sum()), _worst_of(rank, worst[i]), _top(ratio[i]), _top(total[i]))
        for i, label in enumerate(labels)
    )
    guilty = [unit.label for unit in units if unit.failing]
    text = (
        f"{len(labels)} rows by {len(columns)} steps. "
        + (
            f"Out of bound in: {', '.join(guilty[:12])}{' …' if len(guilty) > 12 else ''}. "
            if guilty
            else "No cell is out of bound. "
        )
        + f"{_local_words(_top(ratio))}; the largest total error is {number(_top(total))}."
    )
    local_levels = [[local_level(ratio[i, j], failing[i, j]) for j in range(shape[1])] for i in range(shape[0])]
    total_levels = [[total_level(total[i, j]) for j in range(shape[1])] for i in range(shape[0])]
    shown = [_label(label) for label in labels]
    return ModelMap(
        chain,
        _heat(shown, heads, local_levels, worst.tolist(), case),
        _heat(shown, heads, total_levels, worst.tolist(), case),
        units,
        text,
    )


def _local_words(ratio: float) -> str:
    if math.isinf(ratio):
        return "Some tensors could not be measured or are not finite"
    return f"The largest local error is {number(ratio)} × its bound"


def local_level(ratio: float, failing: int) -> int | None:
    """0 … 8 from a thousandth of the bound to the bound, 9 beyond it, None where nothing is replayed."""
    if failing or ratio > 1:
        return FAIL
    if math.isnan(ratio):
        return None
    return 0 if ratio <= 0 else min(LEVELS - 1, max(0, round((math.log10(ratio) + 3) / 3 * (LEVELS - 1))))


def total_level(total: float) -> int | None:
    """0 … 8 from 1e-8 to 1."""
    if math.isnan(total):
        return None
    if math.isinf(total):
        return LEVELS - 1
    return 0 if total <= 0 else min(LEVELS - 1, max(0, round((math.log10(total) + 8) / 8 * (LEVELS - 1))))


def _chain(rows: Rows) -> tuple[Link, ...]:
    loop = {c for c, step in zip(rows.component, rows.columns["step"], strict=True) if step is not None}
    names = ["denoising loop" if component in loop else component for component in rows.component]
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
    rank, links = _rank(rows), []
    for name, positions in found.items():
        at = np.array(positions)
        worst = int(at[rank[at].argmin()])
        links.append(Link(name, len(at), int(rows.failed[at].sum()), worst, _top(rows.ratio[at]), _top(rows.total[at])))
    return tuple(links)


def _ordered(labels: Sequence[str]) -> list[str]:
    """The transformer's other parts, its blocks by number, then what follows it in each step."""
    distinct = list(dict.fromkeys(labels))
    blocks = sorted((label for label in distinct if label.isdigit()), key=int)
    return [*(label for label in distinct if label == REST), *blocks, *(x for x in distinct if x != REST and not x.isdigit())]


def _label(unit: str) -> str:
    return f"block {unit}" if unit.isdigit() else "in, AdaLN, out" if unit == REST else unit


def _top(values: Array) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() or np.isinf(values).any() else math.nan


def _worst_of(rank: Array, positions: Array) -> int:
    known = positions[positions >= 0]
    return int(known[rank[known].argmin()])


def _rank(rows: Rows) -> Array:
    rank = np.empty(len(rows), int)
    rank[rows.order] = np.arange(len(rows))
    return rank


def _heat(
    labels: Sequence[str],
    heads: Sequence[str],
    levels: Sequence[Sequence[int | None]],
    worst: Sequence[Sequence[int]],
    case: int,
) -> Markup:
    """Cells as rectangles; a cell out of bound bears a cross, so colour alone says nothing."""
    width = min(44.0, max(9.0, 420 / len(heads)))
    height = min(22.0, max(10.0, 620 / len(labels)))
    left, top = 92.0, 20.0
    size = left + width * len(heads) + 4, top + height * len(labels) + 4
    parts = [
        f'<svg class="heat" viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" aria-hidden="true" '
        f'style="max-width:{size[0] * 1.15:.0f}px">'
    ]
    every = max(1, math.ceil(24 / width))
    for j in range(0, len(heads), every):
        parts.append(f'<text class="m" x="{left + (j + 0.5) * width:.1f}" y="13">{escape(heads[j])}</text>')
    skip = max(1, math.ceil(11 / height))
    for i, label in enumerate(labels):
        y = top + i * height
        if i % skip == 0:
            parts.append(f'<text class="e" x="{left - 6:.0f}" y="{y + height / 2 + 3.5:.1f}">{escape(label)}</text>')
        for j, level in enumerate(levels[i]):
            x = left + j * width
            if worst[i][j] < 0:
                continue
            name = "n" if level is None else str(level)
            parts.append(
                f'<rect class="h{name}" data-row="{case}:{worst[i][j]}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{width - 1:.1f}" height="{height - 1:.1f}"/>'
            )
            if level == FAIL:
                cx, cy, r = x + (width - 1) / 2, y + (height - 1) / 2, min(width, height) * 0.24
                parts.append(
                    f'<path class="x" d="M{cx - r:.1f} {cy - r:.1f}L{cx + r:.1f} {cy + r:.1f}'
                    f'M{cx + r:.1f} {cy - r:.1f}L{cx - r:.1f} {cy + r:.1f}"/>'
                )
    parts.append("</svg>")
    return Markup("".join(parts))
