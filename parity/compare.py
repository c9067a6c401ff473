"""Measure every aligned pair in two ways: on the reference's own inputs (local) and along the run (total).

With f the reference module, g the native one, r the reference's input and n the native one:
``local = g(r) − f(r)``, ``inherited = g(n) − g(r)``, ``total = g(n) − f(r)``, so ``local + inherited = total`` exactly.
Nothing here knows a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.ledger import Entry, LedgerError, entry, identity_problem
from parity.metrics import MetricError, Metrics, measure
from parity.sites import compared_outputs, component_of
from parity.trace import Key, Record

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One compared tensor. ``local`` is None where the site cannot be replayed (a value the run produces once).

    ``incoming`` is the worst rel_l2 among the tensors handed to the site and ``incoming_name`` its argument;
    ``inherited`` = ‖g(n) − g(r)‖ / ‖f(r)‖; ``gain`` = inherited / incoming; ``floor`` is what the reference differs from itself
    here in the dtype under test. ``problem`` says why a pair could not be measured; ``identity`` is what local + inherited
    misses of total.
    """

    index: int
    key: Key
    type: str
    output: str
    shape: tuple[int, ...]
    dtype: str
    local: Metrics | None = None
    total: Metrics | None = None
    inherited: float | None = None
    incoming: float | None = None
    incoming_name: str = ""
    floor: float | None = None
    problem: str = ""
    identity: float | None = None

    @property
    def component(self) -> str:
        return component_of(self.key.site)

    @property
    def gain(self) -> float | None:
        if not self.incoming or self.inherited is None:
            return None
        return self.inherited / self.incoming

    @property
    def name(self) -> str:
        return f"{self.key.site}:{self.output}" if self.output else self.key.site


@dataclass(frozen=True)
class Sides:
    """The tensors of one pair, by output leaf (and input leaf), all in the native layout.

    ``local`` holds g(r), or None when the site has no replay; ``total`` holds g(n), or None for a site that is replayed only;
    ``mask`` marks the valid tokens of inputs, ``output_masks`` those of each output leaf that has any padding.
    """

    reference: Mapping[str, Array]
    total: Mapping[str, Array] | None
    local: Mapping[str, Array] | None
    dtypes: Mapping[str, str]
    inputs_reference: Mapping[str, Array]
    inputs_native: Mapping[str, Array]
    mask: Array | None = None
    output_masks: Mapping[str, Array] = field(default_factory=dict)
    problem: str = ""


def compare_pair(record: Record, sides: Sides) -> list[Row]:
    """Rows of one aligned pair, one per compared output tensor."""
    incoming, incoming_name = _incoming(sides)
    rows = []
    for path, native_path in compared_outputs(record, list(sides.reference)).items():
        reference = sides.reference[path]
        problem = sides.problem
        local, total, inherited, ledger = None, None, None, None
        mask = sides.output_masks.get(path)
        try:
            if sides.local is not None:
                local = measure(_leaf(sides.local, native_path, "replay"), reference, mask)
            if sides.total is not None:
                total = measure(spread(_leaf(sides.total, native_path, "run"), reference.shape), reference, mask)
                inherited = _inherited(sides.total[native_path], sides.local, native_path, total, mask)
                ledger = _ledger(sides, path, native_path, mask)
                problem = problem or (identity_problem(ledger) if ledger else "")
        except MetricError as error:
            problem = problem or str(error)
        rows.append(
            Row(
                record.index,
                record.key,
                record.type,
                path,
                reference.shape,
                sides.dtypes.get(path, str(reference.dtype)),
                local,
                total,
                inherited,
                incoming,
                incoming_name,
                problem=problem,
                identity=ledger.identity if ledger else None,
            )
        )
    return rows


def _ledger(sides: Sides, path: str, native_path: str, mask: Array | None) -> Entry | None:
    """The ledger of one output, where it has all three parts; values that are not finite are reported by their metrics."""
    if sides.local is None or sides.total is None:
        return None
    reference, own = sides.reference[path], sides.local[native_path]
    try:
        return entry(own, spread(sides.total[native_path], reference.shape), reference, mask)
    except LedgerError:
        return None


def spread(array: Array, shape: tuple[int, ...]) -> Array:
    """Repeat a single row along the token axis: native computes AdaLN once when every token shares its sigma.

    Only a row count of one may be spread; any other difference of shape stays and is reported.
    """
    if array.shape == shape or array.ndim != len(shape):
        return array
    same = all(a == b or a == 1 for a, b in zip(array.shape[:-1], shape[:-1], strict=True)) and array.shape[-1] == shape[-1]
    return np.broadcast_to(array, shape) if same else array


def _leaf(tensors: Mapping[str, Array], path: str, what: str) -> Array:
    try:
        return tensors[path]
    except KeyError:
        raise MetricError(f"the native {what} gives no output '{path}' (it gives {sorted(tensors)})") from None


def mask_for(mask: Array | None, tensor: Array) -> Array | None:
    """A mask (B, T) as it fits a tensor (B, T, …) or, split into heads, (B, H, T, D); None for any other shape."""
    if mask is None or tensor.ndim < 2:
        return None
    if tensor.shape[:2] == mask.shape:
        return mask
    split = tensor.ndim == 4 and (tensor.shape[0], tensor.shape[2]) == mask.shape
    return np.broadcast_to(mask[:, None], tensor.shape[:3]) if split else None


def _inherited(run: Array, local: Mapping[str, Array] | None, path: str, total: Metrics, mask: Array | None) -> float | None:
    """‖g(n) − g(r)‖ / ‖f(r)‖; ``total`` holds the size of f(r)."""
    if local is None:
        return None
    moved = measure(spread(run, local[path].shape), local[path], mask)
    error = moved.rel_l2 * moved.reference_rms if moved.reference_rms else moved.max_abs
    norm = total.reference_rms
    return error / norm if norm else (0.0 if error == 0 else float("inf"))


def _incoming(sides: Sides) -> tuple[float | None, str]:
    worst, name = None, ""
    for path, reference in sides.inputs_reference.items():
        native = sides.inputs_native.get(path)
        if native is None or native.size == 0:
            continue
        # A single number may come as a scalar on one side and as a row of one on the other.
        native = native.reshape(reference.shape) if native.size == reference.size == 1 else spread(native, reference.shape)
        if native.shape != reference.shape:
            return float("inf"), f"{path} (shape {native.shape} for {reference.shape})"
        error = measure(native, reference, mask_for(sides.mask, reference)).rel_l2
        if worst is None or error > worst:
            worst, name = error, path
    return worst, name
