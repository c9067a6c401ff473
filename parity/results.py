"""What a run found, as data: the record from which the verdict, the report and the history are made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parity.align import Coverage
from parity.bounds import Bounds
from parity.compare import Row
from parity.files import write_text
from parity.localise import Finding, own_error, row_bound
from parity.metrics import Metrics
from parity.trace import Key

SCHEMA = 1
COLUMNS = (
    "index",
    "site",
    "type",
    "output",
    "stage",
    "step",
    "pass",
    "call",
    "shape",
    "dtype",
    "local",
    "local_max_abs",
    "total",
    "total_max_abs",
    "cosine",
    "bias",
    "inherited",
    "incoming",
    "incoming_name",
    "gain",
    "bound",
    "floor",
    "failed",
    "problem",
)


@dataclass(frozen=True)
class EndToEnd:
    """A number at the end of the run and the limit the policy sets for it."""

    name: str
    metric: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.value <= self.bound


@dataclass(frozen=True)
class CaseResult:
    """One request compared on both sides. ``problem`` is set when it could not be compared at all."""

    name: str
    request: Mapping[str, Any]
    dtype: str
    coverage: Coverage | None = None
    rows: tuple[Row, ...] = ()
    failed: frozenset[int] = frozenset()  # positions in rows
    finding: Finding | None = None
    end_to_end: tuple[EndToEnd, ...] = ()
    media: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    details: tuple[Mapping[str, Any], ...] = ()  # tensors kept for site pages
    self_divergence: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by modality and step, where measured
    hypotheses: tuple[Mapping[str, Any], ...] = ()  # causes of the finding, the best first


def worst(rows: Iterable[Row]) -> Row | None:
    """The row with the largest own error (problems first)."""
    ranked = sorted(rows, key=lambda row: (not row.problem, -(own_error(row) or 0.0)))
    return ranked[0] if ranked else None


def case_to_json(case: CaseResult, bounds: Bounds) -> dict[str, Any]:
    """The case as JSON; rows are a table (names once, then lists) because a long run has tens of thousands of them."""
    finding = asdict(case.finding) if case.finding else None
    if finding and case.finding:
        finding["key"] = asdict(case.finding.key)
        finding["hypotheses"] = [dict(row) for row in case.hypotheses]
    return {
        "name": case.name,
        "request": dict(case.request),
        "dtype": case.dtype,
        "problem": case.problem,
        "coverage": _coverage_to_json(case.coverage),
        "columns": COLUMNS,
        "rows": [_row_to_json(row, bounds, i in case.failed) for i, row in enumerate(case.rows)],
        "finding": finding,
        "end_to_end": [{**asdict(item), "passed": item.passed} for item in case.end_to_end],
        "media": dict(case.media),
        "timings": dict(case.timings),
        "provenance": dict(case.provenance),
        "details": list(case.details),
        **({"self_divergence": dict(case.self_divergence)} if case.self_divergence else {}),
    }


def _coverage_to_json(coverage: Coverage | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    return {
        "reference_records": coverage.reference_records,
        "compared": coverage.compared,
        "skipped": coverage.skipped,
        "unmatched_reference": [str(key) for key in coverage.unmatched_reference],
        "unmatched_native": [str(key) for key in coverage.unmatched_native],
        "complete": coverage.complete,
        "sentence": coverage.sentence(),
    }


def _row_to_json(row: Row, bounds: Bounds, failed: bool) -> list[Any]:
    key: Key = row.key
    shown: Metrics | None = row.local or row.total
    return [
        row.index,
        key.site,
        row.type,
        row.output,
        key.stage,
        key.step,
        key.guidance_pass,
        key.call,
        list(row.shape),
        row.dtype,
        row.local and row.local.rel_l2,
        row.local and row.local.max_abs,
        row.total and row.total.rel_l2,
        row.total and row.total.max_abs,
        shown and shown.cosine,
        shown and shown.bias,
        row.inherited,
        row.incoming,
        row.incoming_name,
        row.gain,
        row_bound(row, bounds),
        row.floor,
        failed,
        row.problem,
    ]


def _jsonable(value: Any) -> Any:
    """JSON has no infinity: write it as the strings a reader can turn back with float()."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _jsonable(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(child) for child in value]
    return value


def write_json(path: Path, data: Mapping[str, Any], indent: int | None = None) -> None:
    """Write JSON under a temporary name and rename, so that a reader never meets half a file."""
    write_text(path, json.dumps(_jsonable(data), indent=indent, allow_nan=False))
