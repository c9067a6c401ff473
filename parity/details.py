"""What a site page shows of one compared tensor: where the error sits, its distribution, its worst elements, small images.

NumPy only, and everything is small enough for results.json (some 20 kB per site): profiles have at most 256 bins, images at
most 64 x 96 cells of 8 bits.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.align import Alignment
from parity.bounds import Bounds
from parity.compare import Row, spread
from parity.localise import Finding, own_error, row_bound
from parity.measure_case import Masks, Replay, tensors
from parity.metrics import along_axis
from parity.sites import compared_outputs, component_of
from parity.trace import Key, Trace

Array = npt.NDArray[Any]
PROFILE_BINS = 256
IMAGE_SIZE = (64, 96)
HISTOGRAM_BINS = 48
WORST = 10

# Names of the axes after the batch, by component; others by rank.
_AXES: dict[str, dict[int, tuple[str, ...]]] = {
    "vocoder": {3: ("sample", "channel"), 4: ("time", "bin", "channel")},
    "waveform": {2: ("sample",), 3: ("channel", "sample")},
    "audio_decoder": {4: ("time", "bin", "channel")},
    "audio_encoder": {4: ("time", "bin", "channel")},
    "latent": {4: ("time", "bin", "channel"), 5: ("frame", "row", "column", "channel")},
}
_BY_RANK: dict[int, tuple[str, ...]] = {
    2: ("channel",),
    3: ("token", "channel"),
    4: ("head", "token", "channel"),
    5: ("frame", "row", "column", "channel"),
}


def axis_names(site: str, rank: int) -> tuple[str, ...]:
    """Names of all axes of a tensor in the native layout, the batch first."""
    known = _AXES.get(component_of(site), {}).get(rank) or _BY_RANK.get(rank)
    return ("batch", *known) if known else tuple(f"axis {i}" for i in range(rank))


def worth_showing(
    rows: Sequence[Row], failed: Collection[int], bounds: Bounds, finding: Finding | None = None, limit: int = 12
) -> list[int]:
    """Positions of the rows that deserve a site page: the finding's, the first failing, then the worst of each site."""

    def badness(position: int) -> float:
        row = rows[position]
        error, bound = own_error(row), row_bound(row, bounds)
        if row.problem or error is None:
            return float("inf")
        if bound == 0:  # must be exact
            return float("inf") if error else 0.0
        return 0.0 if row.local is None else error / bound

    ranked = sorted(range(len(rows)), key=lambda i: (i not in failed, -badness(i), i))
    guilty = [i for i, row in enumerate(rows) if finding and (row.key, row.output) == (finding.key, finding.output)]
    first = guilty + ([min(failed)] if failed else [])
    chosen: dict[str, int] = {}
    for position in first + ranked:
        if len(chosen) >= limit:
            break
        chosen.setdefault(rows[position].name, position)
    return sorted(chosen.values(), key=lambda i: (i not in guilty, i not in first, i not in failed, -badness(i), i))


def collect_details(
    rows: Sequence[Row],
    wanted: Collection[int],
    alignment: Alignment,
    reference: Trace,
    native: Trace,
    replay: Replay,
) -> list[dict[str, Any]]:
    """Details of the wanted rows, by another look at their tensors (local where the site can be replayed, else the run's).

    ``rows`` must come from `measure_pairs` on the same alignment and traces. A tensor that cannot be read again becomes an
    entry with its ``problem``, never a missing one.
    """
    by_key: dict[Key, list[int]] = {}
    for position in wanted:
        by_key.setdefault(rows[position].key, []).append(position)
    found: dict[int, dict[str, Any]] = {}
    masks = Masks(reference)
    for record, partner in alignment.pairs:
        positions = by_key.get(record.key)
        if not positions:
            continue
        theirs = tensors(reference, record.outputs, record.key.site)
        replayed = replay(record)
        ours = replayed if isinstance(replayed, dict) else tensors(native, partner.outputs) if partner else {}
        paths = compared_outputs(record, list(theirs))
        for position in positions:
            output = rows[position].output
            expected, given = theirs.get(output), ours.get(paths.get(output, output))
            mask = masks.of(record.key)
            if expected is None or mask is None or mask.shape != expected.shape[: mask.ndim]:
                mask = None
            detail = site_details(record.key.site, given, expected, mask)
            found[position] = {"row": position, "local": isinstance(replayed, dict), **detail}
    return [found.get(i, {"row": i, "local": False, "problem": "its tensors were not found again"}) for i in wanted]


def site_details(site: str, native: Array | None, reference: Array | None, mask: Array | None = None) -> dict[str, Any]:
    """Profiles, histograms, worst elements and images of native against reference, as JSON.

    ``mask`` (B, T) keeps valid tokens: masked ones count as equal. Both tensors are in the native layout.
    """
    if native is None or reference is None:
        return {"problem": f"{'native' if native is None else 'reference'} has no such tensor"}
    native = spread(np.asarray(native), reference.shape)
    if native.shape != reference.shape:
        return {"problem": f"native has shape {native.shape}, reference {reference.shape}"}
    if native.size == 0:
        return {"problem": "the tensor is empty"}
    ours, theirs = native.astype(np.float64), reference.astype(np.float64)
    if mask is not None:
        keep = mask.reshape(mask.shape + (1,) * (ours.ndim - mask.ndim))
        ours = np.where(keep, ours, theirs)
    names = axis_names(site, ours.ndim)
    difference = ours - theirs
    return {
        "shape": list(ours.shape),
        "not_finite": {"native": int((~np.isfinite(ours)).sum()), "reference": int((~np.isfinite(theirs)).sum())},
        "profiles": list(_profiles(ours, theirs, names)),
        "histogram": _histogram(ours, theirs),
        "difference": _spread_of(difference),
        "worst": _worst(ours, theirs, difference),
        "images": _images(ours, theirs, difference, names),
    }


def _profiles(native: Array, reference: Array, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for axis, name in enumerate(names):
        if native.shape[axis] < 2:
            continue
        values = _finite_or_large(along_axis(native, reference, axis))
        per_bin = -(-len(values) // PROFILE_BINS)
        padded = np.pad(values, (0, -len(values) % per_bin), mode="edge")
        shown = padded.reshape(-1, per_bin).max(axis=1)
        yield {"axis": name, "length": len(values), "per_bin": per_bin, "rel_l2": [float(f"{v:.4g}") for v in shown]}


def _finite_or_large(values: Array) -> Array:
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 1.0
    return np.where(np.isfinite(values), values, max(10 * top, 1.0))


def _histogram(native: Array, reference: Array) -> dict[str, Any]:
    both = np.concatenate([native.ravel(), reference.ravel()])
    both = both[np.isfinite(both)]
    if not both.size:
        return {}
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)
    counts = {
        side: np.histogram(values[np.isfinite(values)], edges)[0].tolist()
        for side, values in (("native", native), ("reference", reference))
    }
    return {"low": float(edges[0]), "high": float(edges[-1]), **counts}


def _spread_of(difference: Array) -> dict[str, Any]:
    values = np.abs(difference[np.isfinite(difference)])
    values = values[values > 0]
    if not values.size:
        return {"zero_share": 1.0, "counts": [], "low": 0.0, "high": 0.0}
    decades = np.log10(values)
    low, high = float(np.floor(decades.min())), float(np.ceil(decades.max()))
    counts, _ = np.histogram(decades, np.linspace(low, max(high, low + 1), HISTOGRAM_BINS + 1))
    return {
        "zero_share": 1.0 - values.size / difference.size,
        "counts": counts.tolist(),
        "low": low,  # decades of |native - reference|
        "high": max(high, low + 1),
    }


def _worst(native: Array, reference: Array, difference: Array) -> list[dict[str, Any]]:
    size = np.where(np.isfinite(difference), np.abs(difference), np.inf).ravel()
    count = min(WORST, size.size)
    top = np.argpartition(size, -count)[-count:]
    top = top[np.argsort(-size[top], kind="stable")]
    return [
        {
            "index": [int(i) for i in np.unravel_index(position, native.shape)],
            "native": float(native.flat[position]),
            "reference": float(reference.flat[position]),
        }
        for position in top
        if size[position] > 0
    ]


def _images(native: Array, reference: Array, difference: Array, names: Sequence[str]) -> dict[str, Any]:
    """A plane through the worst element: rows x columns, other axes held at the worst element's index."""
    size = np.where(np.isfinite(difference), np.abs(difference), np.inf)
    at = [int(i) for i in np.unravel_index(int(size.argmax()), native.shape)]
    plane = _plane(names, native.shape)
    cut: tuple[Any, ...] = tuple(slice(None) if axis in plane else at[axis] for axis in range(native.ndim))
    ours, theirs, error = (np.atleast_2d(np.nan_to_num(array[cut])) for array in (native, reference, difference))
    pooled = [_pool(array, absolute) for array, absolute in ((ours, False), (theirs, False), (error, True))]
    low, high = min(pooled[0].min(), pooled[1].min()), max(pooled[0].max(), pooled[1].max())
    held = [f"{names[axis]} {at[axis]}" for axis in range(native.ndim) if axis not in plane and native.shape[axis] > 1]
    return {
        "rows": names[plane[0]] if len(plane) > 1 else "",
        "columns": names[plane[-1]],
        "held": held,
        "size": list(ours.shape),
        "native": _bytes(pooled[0], low, high),
        "reference": _bytes(pooled[1], low, high),
        "difference": _bytes(pooled[2], 0.0, float(pooled[2].max())),
    }


def _plane(names: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
    if "row" in names:
        return names.index("row"), names.index("column")
    if "bin" in names:
        return names.index("time"), names.index("bin")
    wide = [axis for axis in range(len(shape)) if axis > 0 or len(shape) == 1]
    return tuple(wide[-2:]) if len(wide) > 1 else (0, 1) if len(shape) > 1 else (0,)


def _pool(array: Array, absolute: bool) -> Array:
    """Shrink to `IMAGE_SIZE`: means of cells, or their largest magnitude."""
    array = np.abs(array) if absolute else array
    for axis, most in enumerate(IMAGE_SIZE):
        if array.shape[axis] > most:
            starts = np.linspace(0, array.shape[axis], most + 1).astype(int)
            if absolute:
                array = np.maximum.reduceat(array, starts[:-1], axis=axis)
            else:
                counts = np.diff(starts).reshape([-1 if i == axis else 1 for i in range(2)])
                array = np.add.reduceat(array, starts[:-1], axis=axis) / counts
    return array


def _bytes(array: Array, low: float, high: float) -> dict[str, Any]:
    scaled = np.rint((array - low) / (high - low) * 255) if high > low else np.zeros_like(array)
    data = base64.b64encode(scaled.astype(np.uint8).tobytes()).decode()
    return {"shape": list(array.shape), "low": float(low), "high": float(high), "data": data}
