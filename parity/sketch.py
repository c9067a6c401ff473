"""Error norms from sketches: how far two tensors are apart, without the tensors.

A sketch is `probe_sketch.sketch`'s: signed sums of a tensor in the reference's layout, with its exact norm. The sketch of a
difference is the difference of two, so its length estimates ‖n − r‖: with k = 509 sums the estimate has a relative standard
deviation of at most 1/√(2k) = 3.1 %, whatever the tensors. Tensors of up to k elements are kept whole, but for their signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.align import Alignment
from parity.compare import spread
from parity.metrics import MetricError
from parity.sites import compared_outputs, to_reference_layout
from parity.sketch_kernel import fast_sketch
from parity.trace import Key, Record, Trace, TraceWriter, Tree, leaves
from reference_bridge.probe_sketch import SKETCH_SEED, SKETCH_SUMS, Sketch, merge

__all__ = [
    "SKETCH_SEED",
    "SKETCH_SUMS",
    "Estimate",
    "Sketch",
    "SketchRow",
    "estimate",
    "estimates",
    "merge",
    "of",
    "read",
    "sketching",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Estimate:
    """Estimated difference of two tensors, native against reference.

    ``rel_l2`` = ‖n − r‖ / ‖r‖ as in `metrics`; ``deviation`` is its relative standard deviation (0: exact up to rounding).
    ``cosine`` comes from it and the exact norms, so that its own error is ``rel_l2``² · ``deviation`` · ‖r‖ / ‖n‖.
    """

    rel_l2: float
    cosine: float
    deviation: float
    finite: bool

    @property
    def cosine_deviation(self) -> float:
        return self.rel_l2**2 * self.deviation


def of(array: Array, mask: Array | None = None) -> Sketch:
    """Sketch of a tensor in the reference's layout, tokens outside ``mask`` (B, T) counted as 0."""
    if mask is not None and array.shape[:2] == mask.shape:
        array = np.where(mask.reshape(mask.shape + (1,) * (array.ndim - 2)).astype(bool), array, 0)
    return fast_sketch(np.ascontiguousarray(array).reshape(-1))


def sketching(writer: TraceWriter, site: str, mask: Array | None = None) -> Callable[[Array, str], dict[str, Any]]:
    """What stores a native tensor of a site as a sketch, in place of `TraceWriter.store`."""

    def store(array: Array, dtype: str) -> dict[str, Any]:
        moved = to_reference_layout(site, array)
        found = of(moved, mask)
        rest = {"shape": list(moved.shape), "dtype": dtype, "norm": math.sqrt(found.energy), "finite": found.finite}
        return {"sketch": writer.keep(found.sums[: moved.size]), **rest}

    return store


def read(trace: Trace, leaf: Tree) -> Sketch:
    """The sketch that a trace holds, or that of the tensor it holds."""
    if "sketch" not in leaf:
        return of(trace.tensor(leaf))
    sums = np.zeros(SKETCH_SUMS)
    kept = trace.tensor({"tensor": leaf["sketch"]})
    sums[: kept.size] = kept
    return Sketch(sums, float(leaf["norm"]) ** 2, int(leaf["finite"]))


def estimate(native: Sketch, reference: Sketch, size: int) -> Estimate:
    """Compare two sketches of tensors of ``size`` elements. Raises `MetricError` when there is nothing in them."""
    if size == 0:
        raise MetricError("nothing to compare: the tensors are empty")
    deviation = 0.0 if size <= SKETCH_SUMS else 1.0 / math.sqrt(2 * SKETCH_SUMS)
    if native.finite < size or reference.finite < size:
        return Estimate(math.inf, 0.0, deviation, False)
    difference = native.sums - reference.sums
    square = float(difference @ difference)
    ours, theirs = math.sqrt(native.energy), math.sqrt(reference.energy)
    if not theirs:
        same = square == 0.0
        return Estimate(0.0 if same else math.inf, 1.0 if same else 0.0, deviation, True)
    cosine = (native.energy + reference.energy - square) / (2 * ours * theirs) if ours else 0.0
    return Estimate(math.sqrt(square) / theirs, min(1.0, max(-1.0, cosine)), deviation, True)


@dataclass(frozen=True)
class SketchRow:
    """One compared output of one record; ``problem`` says why there is no estimate."""

    index: int
    key: Key
    output: str
    estimate: Estimate | None
    problem: str = ""

    @property
    def error(self) -> float:
        return math.inf if self.estimate is None else self.estimate.rel_l2


def estimates(alignment: Alignment, native: Trace, reference: Trace) -> list[SketchRow]:
    """Rows of every aligned pair in execution order; either trace may hold tensors or sketches."""
    rows = []
    for record, partner in alignment.pairs:
        if partner is not None:
            rows += _rows(record, partner, native, reference)
    return rows


def _rows(record: Record, partner: Record, native: Trace, reference: Trace) -> list[SketchRow]:
    theirs, ours = _leaves(record.outputs), _leaves(partner.outputs)
    rows = []
    for path, native_path in compared_outputs(record, list(theirs)).items():
        found: Estimate | None = None
        problem = ""
        try:
            leaf, other = theirs[path], ours[native_path]
            size, shape = math.prod(leaf["shape"]), tuple(leaf["shape"])
            if "sketch" in other:
                if math.prod(other["shape"]) != size:
                    raise MetricError(f"native has shape {other['shape']}, reference {list(shape)}")
                made = read(native, other)
            else:
                made = _of_shape(native.tensor(other), record.key.site, shape)
            found = estimate(made, read(reference, leaf), size)
        except (MetricError, KeyError) as error:
            problem = f"{error}"
        rows.append(SketchRow(record.index, record.key, path, found, problem))
    return rows


def _of_shape(array: Array, site: str, shape: tuple[int, ...]) -> Sketch:
    moved = spread(to_reference_layout(site, array), shape)
    if moved.shape != shape:
        raise MetricError(f"native has shape {array.shape}, reference {shape}")
    return of(moved)


def _leaves(tree: Tree) -> Mapping[str, Tree]:
    return {path: leaf for path, leaf in leaves(tree) if "tensor" in leaf or "sketch" in leaf}
