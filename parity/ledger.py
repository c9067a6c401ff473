"""The error ledger: what a module makes itself, what it received and carries on, and by how much it amplifies that.

With f the reference module, g the native one, r the reference's input and n the native one:
``local = g(r) − f(r)``, ``inherited = g(n) − g(r)``, ``total = g(n) − f(r)`` and ``gain = ‖inherited‖ / ‖incoming‖``.
``local + inherited = total`` holds exactly in arithmetic; `Entry.identity` says how far the tensors at hand are from it, and
anything above `IDENTITY` means that the three were not taken from the same call. NumPy only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from parity.compare import Row

Array = npt.NDArray[Any]
IDENTITY = 1e-6
_CHUNK = 1 << 16


class LedgerError(ValueError):
    """Tensors that are no three results of one call."""


@dataclass(frozen=True)
class Entry:
    """Norms of the three errors over the norm of f(r); ``incoming`` is the relative error of the input, where it is known.

    ``identity`` = ‖local + inherited − total‖ over the larger of ‖f(r)‖ and the three.
    """

    local: float
    inherited: float
    total: float
    identity: float
    incoming: float | None = None

    @property
    def gain(self) -> float | None:
        """How much larger the error is behind the module than before it; None without an incoming error."""
        return self.inherited / self.incoming if self.incoming else None

    @property
    def holds(self) -> bool:
        return self.identity <= IDENTITY

    @property
    def consistent(self) -> bool:
        """The norms alone: no side of the triangle is longer than the two others."""
        a, b, c = self.local, self.inherited, self.total
        slack = IDENTITY * max(1.0, a, b, c)
        return max(a, b, c) <= a + b + c - max(a, b, c) + slack


def entry(own: Array, run: Array, reference: Array, mask: Array | None = None, incoming: float | None = None) -> Entry:
    """One row of the ledger from g(r), g(n) and f(r), all of one shape; ``mask`` (bool) keeps valid tokens.

    Raises `LedgerError` on different shapes, on nothing to compare and on values that are not finite.
    """
    if not own.shape == run.shape == reference.shape:
        raise LedgerError(f"g(r) has shape {own.shape}, g(n) {run.shape}, f(r) {reference.shape}")
    if mask is not None:
        keep = np.broadcast_to(mask.reshape(mask.shape + (1,) * (own.ndim - mask.ndim)), own.shape)
        own, run, reference = own[keep], run[keep], reference[keep]
    if own.size == 0:
        raise LedgerError("nothing to compare")
    sums = np.zeros(5)  # of squares: f(r), local, inherited, total, what is left over
    for g, n, f in _pieces(own, run, reference):
        # The differences are rounded once each, as they would be stored: an identity that is true by notation tests nothing.
        local, inherited, total = g - f, n - g, n - f
        with np.errstate(invalid="ignore"):
            left = local.astype(np.float64) + inherited - total
        sums += [float(np.square(part, dtype=np.float64).sum()) for part in (f, local, inherited, total, left)]
    if not np.isfinite(sums).all():
        raise LedgerError("values that are not finite")
    norm, a, b, c, rest = (math.sqrt(value) for value in sums)
    scale = norm or max(a, b, c) or 1.0
    return Entry(a / scale, b / scale, c / scale, rest / max(norm, a, b, c, 1e-300), incoming)


def _pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The arrays side by side in cache-sized pieces, in the wider of their floating types."""
    dtype = np.result_type(*arrays, np.float32)
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _CHUNK):
        yield tuple(one[start : start + _CHUNK].astype(dtype, copy=False) for one in flat)


def identity_problem(found: Entry) -> str:
    """Why a row must not be believed; empty when the ledger adds up."""
    if found.holds:
        return ""
    return (
        f"the error ledger does not add up: local {found.local:.3g} + inherited {found.inherited:.3g} misses total "
        f"{found.total:.3g} by {found.identity:.3g} of the tensor (bound {IDENTITY:g})"
    )


def profile(own: Array, run: Array, reference: Array, axis: int) -> dict[str, list[float]]:
    """The three errors per index of one axis (frame, token, channel …), over the RMS of the whole reference."""
    from parity.metrics import along_axis

    rms = math.sqrt(float(np.mean(np.square(reference, dtype=np.float64)))) or 1.0
    other = tuple(i for i in range(own.ndim) if i != axis % own.ndim)
    moved = np.sqrt(np.mean(np.square(run.astype(np.float64) - own), axis=other)) / rms
    return {
        "local": [float(v) for v in along_axis(own, reference, axis)],
        "inherited": [float(v) for v in np.atleast_1d(moved)],
        "total": [float(v) for v in along_axis(run, reference, axis)],
    }


def modality(site: str, output: str = "") -> str:
    """video or audio, by the names that both sides give their streams; empty where a site serves both."""
    parts = site.split(".") + output.split(".")
    if any(part.startswith(("audio", "v2a", "video_to_audio", "vocoder", "waveform", "bwe")) for part in parts):
        # Audio to video attention answers to the video stream.
        return "video" if "audio_to_video_attn" in parts else "audio"
    if parts[-2:] == ["1", "x"] or (site == "transformer" and output == "1"):
        return "audio"
    video = any(part.startswith(("video", "upsampler", "frames", "attn", "ff", "patchify", "proj_out")) for part in parts)
    return "video" if video or parts[-2:] == ["0", "x"] or (site == "transformer" and output == "0") else ""


@dataclass(frozen=True)
class Line:
    """The ledger of all rows that share an index: the largest errors and where, and the median gain."""

    index: str
    rows: int
    local: float
    inherited: float
    total: float
    gain: float | None
    worst: str


AXES = ("component", "stage", "step", "pass", "modality", "site")


def by(rows: Iterable[Row], axis: str) -> list[Line]:
    """The ledger along one of `AXES`, in the order of first appearance. Raises `LedgerError` for another axis."""
    if axis not in AXES:
        raise LedgerError(f"axis {axis!r}, expected one of {', '.join(AXES)}")
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        index = _indices(row)[axis]
        if index:
            groups[index].append(row)
    return [_line(index, group) for index, group in groups.items()]


def _indices(row: Row) -> Mapping[str, str]:
    key = row.key
    return {
        "component": row.component,
        "stage": key.stage,
        "step": "" if key.step is None else f"{key.stage} step {key.step}",
        "pass": key.guidance_pass or "",
        "modality": modality(key.site, row.output),
        "site": key.site,
    }


def _line(index: str, group: list[Row]) -> Line:
    local = [row.local.rel_l2 if row.local else 0.0 for row in group]
    total = [row.total.rel_l2 if row.total else 0.0 for row in group]
    inherited = [row.inherited or 0.0 for row in group]
    gains = sorted(row.gain for row in group if row.gain is not None and math.isfinite(row.gain))
    worst = group[max(range(len(group)), key=lambda i: (local[i], total[i]))]
    median = gains[len(gains) // 2] if gains else None
    return Line(index, len(group), max(local), max(inherited), max(total), median, f"{worst.key}")
