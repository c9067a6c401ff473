"""Numbers that say how far two tensors are apart. No bounds live here: the gate judges, metrics measure.

Every function takes native first, reference second. Float tensors are walked in cache-sized pieces, so memory beyond the
two tensors stays constant; sums are carried in float64.
"""

from __future__ import annotations

import math
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
    if mask is not None:
        keep = np.broadcast_to(mask.reshape(mask.shape + (1,) * (native.ndim - mask.ndim)), native.shape)
        native, reference = native[keep], reference[keep]
    if native.size == 0:
        raise MetricError("nothing to compare: the tensors are empty or every token is masked")
    flat_native, flat_reference = _as_float(native), _as_float(reference)
    sums = _accumulate(flat_native, flat_reference)
    if not all(map(math.isfinite, (sums.error, sums.native, sums.reference))):
        # Either a NaN or infinity in the data, or squares beyond float32: the slow road tells which.
        wide_native, wide_reference = flat_native.astype(np.float64), flat_reference.astype(np.float64)
        if not (np.isfinite(wide_native).all() and np.isfinite(wide_reference).all()):
            return _not_finite(native.size, flat_native, flat_reference)
        sums = _accumulate(wide_native, wide_reference)
    return _summarise(native.size, sums)


def _as_float(array: Array) -> Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float64)


def _accumulate(native: Array, reference: Array) -> _Sums:
    sums = _Sums()
    dtype = np.result_type(native, reference)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, native.size, _CHUNK):
            n = native[start : start + _CHUNK].astype(dtype, copy=False)
            r = reference[start : start + _CHUNK].astype(dtype, copy=False)
            error = n - r
            sums.error += float(error @ error)
            sums.native += float(n @ n)
            sums.reference += float(r @ r)
            sums.cross += float(n @ r)
            sums.difference += float(error.sum(dtype=np.float64))
            sums.max_abs = max(sums.max_abs, float(error.max()), -float(error.min()))
    return sums


def _summarise(count: int, sums: _Sums) -> Metrics:
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


def _not_finite(count: int, native: Array, reference: Array) -> Metrics:
    def rms(values: Array) -> float:
        finite = values[np.isfinite(values)].astype(np.float64)
        return float(np.sqrt(np.mean(finite**2))) if finite.size else math.nan

    return Metrics(count, math.inf, math.inf, 0.0, math.inf, -400.0, rms(reference), rms(native), False, False)


def psnr_db(native: Array, reference: Array, peak: float) -> float:
    """Peak signal-to-noise ratio in dB for pixels with the given peak value; 400 when identical."""
    error = float(np.mean((native.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return 400.0 if error == 0 else 10.0 * math.log10(peak * peak / error)


def along_axis(native: Array, reference: Array, axis: int) -> Array:
    """rel_l2 per index of one axis, against the RMS of the whole reference: where in time, space or channel it sits."""
    other = tuple(i for i in range(native.ndim) if i != axis % native.ndim)
    error = np.sqrt(np.mean((native.astype(np.float64) - reference.astype(np.float64)) ** 2, axis=other))
    rms = math.sqrt(float(np.mean(reference.astype(np.float64) ** 2)))
    return np.asarray(error / rms if rms else np.where(error > 0, np.inf, 0.0))
