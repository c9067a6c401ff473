"""The table of compared tensors, column by column: what is derived from it, and how it is packed for the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_BLOCK = re.compile(r"^transformer\.transformer_blocks\.(\d+)(?:\.|$)")
NEEDED = ("site", "type", "output", "stage", "step", "pass", "call", "local", "total", "bound", "failed", "problem")
_SHARED = ("site", "type", "output", "stage", "pass", "dtype", "shape", "incoming_name", "problem")
_NUMBERS = ("local", "total", "bound", "inherited", "incoming", "gain", "max_abs", "cosine", "bias", "floor")
_WHOLE = ("step", "call")


class RowsError(ValueError):
    """A table without a column that the page needs."""


@dataclass(frozen=True)
class Rows:
    """The rows of one case in execution order, as columns of equal length."""

    columns: Mapping[str, list[Any]]

    @classmethod
    def of(cls, case: Mapping[str, Any]) -> Rows:
        """From a case of results.json. Raises `RowsError` when a column is missing or a row has another length."""
        names = list(case.get("columns", ()))
        table = case.get("rows", [])
        missing = [name for name in NEEDED if name not in names]
        if missing and table:
            raise RowsError(f"case {case.get('name')!r}: rows without {', '.join(missing)}")
        if any(len(row) != len(names) for row in table):
            raise RowsError(f"case {case.get('name')!r}: a row has another length than its {len(names)} columns")
        return cls({name: [row[i] for row in table] for i, name in enumerate(names)} if table else {n: [] for n in NEEDED})

    def __len__(self) -> int:
        return len(self.columns["site"])

    def row(self, position: int) -> dict[str, Any]:
        return {name: values[position] for name, values in self.columns.items()}

    def floats(self, name: str) -> Array:
        """(n,) float64: NaN where there is no value, infinity where it is written as text."""
        values = self.columns.get(name)
        if values is None:
            return np.full(len(self), np.nan)
        return np.array([math.nan if v is None else float(v) for v in values], dtype=np.float64)

    @cached_property
    def local(self) -> Array:
        return self.floats("local")

    @cached_property
    def total(self) -> Array:
        return self.floats("total")

    @cached_property
    def bound(self) -> Array:
        return self.floats("bound")

    @cached_property
    def failed(self) -> Array:
        return np.array([bool(v) for v in self.columns["failed"]], dtype=bool)

    @cached_property
    def problem(self) -> Array:
        return np.array([bool(v) for v in self.columns["problem"]], dtype=bool)

    @cached_property
    def ratio(self) -> Array:
        """Own error over bound; the local error where a site can be replayed, else the total where it is judged (exact)."""
        judged = np.where(np.isnan(self.local) & (self.bound == 0), self.total, self.local)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(judged == 0, 0.0, judged / self.bound)
        ratio = np.where(self.problem, np.inf, ratio)
        return np.where(self.failed & ~(ratio > 1), np.inf, ratio)

    @cached_property
    def order(self) -> Array:
        """Positions, worst first: failing rows, then by own error over bound, then by total error."""
        ratio = np.nan_to_num(self.ratio, nan=-1.0, posinf=np.inf)
        total = np.nan_to_num(self.total, nan=-1.0, posinf=np.inf)
        return np.lexsort((np.arange(len(self)), -total, -ratio, ~self.failed))

    @cached_property
    def component(self) -> list[str]:
        return [str(site).split(".", 1)[0] for site in self.columns["site"]]

    @cached_property
    def unit(self) -> list[str]:
        """Row of the model map: a transformer block's number, else the component."""
        found: dict[str, str] = {}
        for site in self.columns["site"]:
            if site not in found:
                block = _BLOCK.match(str(site))
                found[site] = block.group(1) if block else str(site).split(".", 1)[0]
        return [found[site] for site in self.columns["site"]]

    def name(self, position: int) -> str:
        site, output = self.columns["site"][position], self.columns["output"][position]
        return f"{site}:{output}" if output else str(site)

    def where(self, position: int) -> str:
        """Stage, step, guidance pass and call in words."""
        row = {name: self.columns[name][position] for name in ("stage", "step", "pass", "call")}
        parts = [str(row["stage"])]
        if row["step"] is not None:
            parts.append(f"step {row['step']}")
        if row["pass"]:
            parts.append(str(row["pass"]))
        if row["call"]:
            parts.append(f"call {row['call']}")
        return ", ".join(parts)

    def find(self, site: str, stage: str, step: int | None, guidance_pass: str | None, call: int, output: str) -> int | None:
        """Position of the row with this key and output."""
        wanted = (site, stage, step, guidance_pass, call, output)
        names = ("site", "stage", "step", "pass", "call", "output")
        columns = zip(*(self.columns[name] for name in names), strict=True)
        return next((i for i, values in enumerate(columns) if values == wanted), None)

    def pack(self) -> str:
        """Compact JSON, safe inside a script element: repeated texts once, numbers to three digits, columns not rows.

        Infinity is written as 1e999, which JavaScript reads as infinity.
        """
        parts = [f'"n":{len(self)}', f'"unit":{_indexed(self.unit)}']
        columns = dict(self.columns)
        if "local_max_abs" in columns:
            pairs = zip(columns["local_max_abs"], columns["total_max_abs"], strict=True)
            columns["max_abs"] = [total if local is None else local for local, total in pairs]
        for name in _SHARED:
            if name in columns:
                texts = ["×".join(map(str, v)) if isinstance(v, list) else v for v in columns[name]]
                parts.append(f'"{name}":{_indexed(texts)}')
        for name in _NUMBERS:
            if name in columns:
                parts.append(f'"{name}":[{",".join(_digits(v) for v in columns[name])}]')
        parts += [f'"{name}":[{",".join("null" if v is None else str(int(v)) for v in columns[name])}]' for name in _WHOLE]
        parts.append(f'"failed":{[int(i) for i in np.flatnonzero(self.failed)]}')
        parts.append(f'"order":[{",".join(map(str, self.order))}]')
        return "{" + ",".join(parts) + "}"


def _indexed(values: Sequence[Any]) -> str:
    """{"t": distinct texts, "i": index of each value}."""
    index: dict[str, int] = {}
    positions = [index.setdefault("" if value is None else str(value), len(index)) for value in values]
    return f'{{"t":{script_json(list(index))},"i":[{",".join(map(str, positions))}]}}'


def _digits(value: Any) -> str:
    if value is None:
        return "null"
    value = float(value)
    if math.isnan(value):
        return "null"
    if math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return "0" if value == 0 else f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def script_json(value: Any) -> str:
    """JSON that cannot end a script element or start a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(character, code)
    return text
