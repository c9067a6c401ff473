"""Numbers that say how far two tensors are apart. No bounds live here: the gate judges, metrics measure.

Every function takes native first, reference second. Tensors are walked in cache-sized pieces, masked, strided or not, so
memory beyond the two tensors stays constant; sums are carried in float64 from piece to piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_CHUNK = 1 << 15


class MetricError(ValueError):
    """Two tensors that cannot be compared: other shapes, or nothing in them."""


@dataclass(frozen=True)
class Metrics:
    """Difference of two tensors of equal shape.

    ``rel_l2`` = ‖n − r‖ / ‖r‖ (0 when both are zero, inf when only r is zero); ``max_abs`` = max |n − r|;
    ``cosine`` of the flattened tensors; ``bias`` = mean(n − r) / rms(r); ``snr_db`` = −20·log10(rel_l2), capped at 400;
    ``exact`` says bit-equal values; ``finite`` says neither side holds NaN or infinity. Not finite → distances are inf.
    """

    count: int
    rel_l2: float
    max_abs: float
    cosine: float
    bias: float
    snr_db: float
    reference_rms: float
    native_rms: float
    exact: bool
    finite: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Sums:
    count: int = 0
    error: float = 0.0
    native: float = 0.0
    reference: float = 0.0
    cross: float = 0.0
    difference: float = 0.0
    max_abs: float = 0.0


def measure(native: Array, reference: Array, mask: Array | None = None) -> Metrics:
    """Compare two tensors of one shape; ``mask`` (bool, broadcastable to the leading axes) keeps valid tokens only.

    Raises `MetricError` on different shapes and on an empty comparison: no evidence is not agreement.
    """
    if native.shape != reference.shape:
        raise MetricError(f"native has shape {native.shape}, reference {reference.shape}")
    keep = None if mask is None else np.broadcast_to(mask, native.shape[: mask.ndim])
    dtype = np.float32 if native.dtype == reference.dtype == np.float32 else np.float64
    sums = _accumulate(_pieces(native, reference, keep, dtype))
    if sums.count == 0:
        raise MetricError("nothing to compare: the tensors are empty or every token is masked")
    if not all(map(math.isfinite, (sums.error, sums.native, sums.reference))):
        # Either a NaN or infinity in the data, or squares beyond float32: the slow road tells which.
        pieces = _pieces(native, reference, keep, np.float64)
        if not all(np.isfinite(n).all() and np.isfinite(r).all() for n, r in pieces):
            return _not_finite(sums.count, _pieces(native, reference, keep, np.float64))
        sums = _accumulate(_pieces(native, reference, keep, np.float64))
    return _summarise(sums)


def _pieces(
    native: Array, reference: Array, keep: Array | None, dtype: type[np.floating[Any]]
) -> Iterator[tuple[Array, Array]]:
    """Both tensors in flat pieces of at most ``_CHUNK`` values, without ever copying more than one piece.

    ``keep`` has the shape of the leading axes. Strided and broadcast views are cut along their axes until a piece fits.
    """
    if keep is not None:
        if keep.all():
            keep = None
        elif not keep.any():
            return
    if native.size <= _CHUNK:
        if keep is not None:
            native, reference = native[keep], reference[keep]
        if native.size:
            yield _flat(native, dtype), _flat(reference, dtype)
        return
    if keep is None and not reference.flags.c_contiguous:
        # Numbers do not depend on the order of axes: take the one in which the reference lies in memory.
        order = sorted(range(reference.ndim), key=lambda i: -abs(reference.strides[i]))
        native, reference = native.transpose(order), reference.transpose(order)
    if keep is None and native.flags.c_contiguous and reference.flags.c_contiguous:
        native, reference, step, axis = native.reshape(-1), reference.reshape(-1), _CHUNK, 0
    else:
        # Halves of the longest axis end in boxes that are long along each side's fast axis.
        axis = int(np.argmax(native.shape))
        step = (native.shape[axis] + 1) // 2
    for start in range(0, native.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        yield from _pieces(native[part], reference[part], keep[part] if keep is not None and axis < keep.ndim else keep, dtype)


def _flat(array: Array, dtype: type[np.floating[Any]]) -> Array:
    return np.ascontiguousarray(array).reshape(-1).astype(dtype, copy=False)


def _accumulate(pieces: Iterable[tuple[Array, Array]]) -> _Sums:
    sums = _Sums()
    with np.errstate(over="ignore", invalid="ignore"):
        for n, r in pieces:
            error = n - r
            sums.count += n.size
            sums.error += float(error @ error)
            sums.native += float(n @ n)
            sums.reference += float(r @ r)
            sums.cross += float(n @ r)
            sums.difference += float(error.sum(dtype=np.float64))
            sums.max_abs = max(sums.max_abs, float(error.max()), -float(error.min()))
    return sums


def _summarise(sums: _Sums) -> Metrics:
    count = sums.count
    if sums.error == 0.0 and sums.max_abs > 0.0:
        # The square of a tiny difference underflowed: bound the norm from above by the largest element.
        sums.error = sums.max_abs**2 * count or math.ulp(0.0)
    error, reference, native = math.sqrt(sums.error), math.sqrt(sums.reference), math.sqrt(sums.native)
    rel_l2 = error / reference if reference else (0.0 if error == 0 else math.inf)
    product = native * reference
    cosine = min(1.0, max(-1.0, sums.cross / product)) if product else (1.0 if error == 0 else 0.0)
    rms = reference / math.sqrt(count)
    bias = sums.difference / count / rms if rms else (0.0 if error == 0 else math.inf)
    snr = 400.0 if rel_l2 == 0 else (-400.0 if math.isinf(rel_l2) else -20.0 * math.log10(rel_l2))
    return Metrics(count, rel_l2, sums.max_abs, cosine, bias, snr, rms, native / math.sqrt(count), sums.max_abs == 0.0, True)


def _not_finite(count: int, pieces: Iterable[tuple[Array, Array]]) -> Metrics:
    squares, finite = [0.0, 0.0], [0, 0]
    for pair in pieces:
        for side, values in enumerate(pair):
            kept = values[np.isfinite(values)]
            squares[side] += float(kept @ kept)
            finite[side] += kept.size
    native, reference = (math.sqrt(s / n) if n else math.nan for s, n in zip(squares, finite, strict=True))
    return Metrics(count, math.inf, math.inf, 0.0, math.inf, -400.0, reference, native, False, False)


def psnr_db(native: Array, reference: Array, peak: float) -> float:
    """Peak signal-to-noise ratio in dB for pixels with the given peak value; 400 when identical."""
    sums = _accumulate(_pieces(native, reference, None, np.float64))
    return 400.0 if sums.error == 0 else 10.0 * math.log10(peak * peak * sums.count / sums.error)


def along_axis(native: Array, reference: Array, axis: int) -> Array:
    """rel_l2 per index of one axis, against the RMS of the whole reference: where in time, space or channel it sits."""
    axis %= native.ndim
    other = tuple(i for i in range(native.ndim) if i != axis)
    longest = int(np.argmax(native.shape))
    step = max(1, _CHUNK * native.shape[longest] // native.size)
    error, square = np.zeros(native.shape[axis]), 0.0
    for start in range(0, native.shape[longest], step):
        part = (slice(None),) * longest + (slice(start, start + step),)
        r = reference[part].astype(np.float64)
        square += float(np.vdot(r, r))
        error[part[axis] if axis == longest else slice(None)] += np.square(native[part] - r).sum(axis=other)
    rms = math.sqrt(square / native.size)
    error = np.sqrt(error / (native.size // native.shape[axis]))
    return np.asarray(error / rms if rms else np.where(error > 0, np.inf, 0.0))
