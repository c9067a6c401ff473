"""Judge a lower precision by what the reference loses in it: per module, never end to end.

Two implementations that agree to the last bit in float32 end far apart in bfloat16 on random weights, so each module is run
in bfloat16 on the float32 run's inputs, on both sides, and both are measured against the reference's float32 output.
"""

from __future__ import annotations

from collections.abc import Callable

from parity.align import Coverage
from parity.compare import Row
from parity.measure_case import Array, Masks, tensors
from parity.metrics import MetricError, measure
from parity.sites import compared_outputs, skip_rule
from parity.trace import Record, Trace

Replay = Callable[[Record], "dict[str, Array] | str | None"]


def measure_precision(truth: Trace, lowered: Trace, replay: Replay) -> tuple[list[Row], Coverage]:
    """Rows whose ``floor`` is the reference's own error and whose ``local`` is native's, both against ``truth``.

    ``truth`` is the reference's float32 run, ``lowered`` its modules replayed in the lower precision.
    """
    sources = truth.by_key()
    masks = Masks(truth)
    rows: list[Row] = []
    skipped: dict[str, int] = {}
    unmatched = []
    for record in lowered.records:
        source = sources.get(record.key)
        rule = skip_rule(record)
        if rule is not None:
            skipped[rule.name] = skipped.get(rule.name, 0) + 1
        elif source is None:
            unmatched.append(record.key)
        else:
            rows += _rows(source, record, truth, lowered, replay(source), masks.of(source.key))
    total = len(lowered.records)
    compared = total - sum(skipped.values()) - len(unmatched)
    return rows, Coverage(total, compared, skipped, tuple(unmatched), ())


def _rows(
    source: Record, record: Record, truth: Trace, lowered: Trace, native: dict[str, Array] | str | None, mask: Array | None
) -> list[Row]:
    site = source.key.site
    exact = tensors(truth, source.outputs, site)
    theirs = tensors(lowered, record.outputs, site)
    rows = []
    for path, native_path in compared_outputs(source, list(exact)).items():
        reference = exact[path]
        local, floor, problem = None, None, native if isinstance(native, str) else ""
        try:
            here = mask if mask is not None and reference.ndim > 1 and reference.shape[:2] == mask.shape else None
            floor = measure(theirs[path], reference, here).rel_l2
            if isinstance(native, dict):
                local = measure(native[native_path], reference, here)
        except (MetricError, KeyError) as error:
            problem = problem or f"{error!r}"
        rows.append(
            Row(source.index, source.key, source.type, path, reference.shape, "bfloat16", local, floor=floor, problem=problem)
        )
    return rows
