"""Where it starts: the first site, in execution order, whose own error leaves its bound.

Localisation walks the rows as the reference executed them. A *module* finding is a site wrong on the reference's own inputs;
a *wiring* finding is a site that is right on those inputs but was handed other ones, although everything before it agreed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parity.bounds import Bounds
from parity.compare import Row
from parity.sites import component_of, is_exact, judged_in_run
from parity.trace import Key


@dataclass(frozen=True)
class Finding:
    """The first guilty site and the sentence that says so."""

    kind: str  # "module", "wiring", "unmeasured"
    key: Key
    output: str
    component: str
    error: float
    bound: float
    sentence: str


def row_bound(row: Row, bounds: Bounds) -> float:
    return 0.0 if is_exact(row.key.site, row.output) else bounds.local(row.key.site, row.type, row.floor)


def own_error(row: Row) -> float | None:
    """The error a row answers for: local where it can be replayed, total for sites that only the run produces."""
    measured = row.local if row.local is not None else row.total
    return None if measured is None else measured.rel_l2


def failing(rows: Sequence[Row], bounds: Bounds) -> list[Row]:
    """Rows out of bound on their own account, in execution order; unmeasured and non-finite rows fail."""
    return [row for row in rows if _fails(row, bounds)]


def _fails(row: Row, bounds: Bounds) -> bool:
    if row.problem:
        return True
    if row.local is None and not judged_in_run(row.key, row.output):
        return row.total is not None and not row.total.finite
    error = own_error(row)
    return error is None or not error <= row_bound(row, bounds)


def first_guilty(rows: Sequence[Row], bounds: Bounds, wiring_bound: float) -> Finding | None:
    """The first finding in execution order, or None when every site is in bound and was handed the right tensors."""
    for row in rows:
        if row.problem:
            return _finding("unmeasured", row, float("inf"), 0.0, f"is not the reference's: {row.problem}")
        if _fails(row, bounds):
            error, bound = own_error(row), row_bound(row, bounds)
            error = float("inf") if error is None else error
            what = "on the reference's own inputs" if row.local is not None else "in the run"
            return _finding("module", row, error, bound, f"is off by rel_l2 {error:.3g} {what} (bound {bound:.3g})")
        if row.incoming is not None and row.incoming > wiring_bound:
            text = (
                f"computes the same as the reference but was handed another `{row.incoming_name}` "
                f"(rel_l2 {row.incoming:.3g}, bound {wiring_bound:.3g}); every site before it agrees"
            )
            return _finding("wiring", row, row.incoming, wiring_bound, text)
    return None


def _finding(kind: str, row: Row, error: float, bound: float, text: str) -> Finding:
    return Finding(kind, row.key, row.output, component_of(row.key.site), error, bound, f"{row.key} {text}")
