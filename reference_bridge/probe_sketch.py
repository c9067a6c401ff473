"""Sketches: a tensor's seeded signed sums, for error norms where the tensor itself is not kept.

Element i is multiplied by a seeded sign and added to sum number i mod `SKETCH_SUMS`. The dimension is a prime, so that no axis
of a tensor falls into few of the sums. Sketches are linear: that of a difference is the difference of two, and those of a
tensor's pieces add up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

SKETCH_SUMS = 509
SKETCH_SEED = 0x2545F4914F6CDD1D
PIECE = 2048 * SKETCH_SUMS  # elements taken at a time
_SIGNS: list[Any] = []  # those of the first rows, kept


class Sketch(NamedTuple):
    """Signed sums of a tensor's elements, the sum of their squares, and how many of them are finite (the rest count as 0)."""

    sums: Any
    energy: float
    finite: int


def signs(start: int, count: int) -> Any:
    """Seeded signs (+1 or -1, int8) of elements `start` to `start + count`: the bits of splitmix64 of every 64th index."""
    import numpy as np

    first = start // 64
    state = np.arange(first, (start + count + 63) // 64, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(SKETCH_SEED)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    bits = np.unpackbits(state.astype("<u8").view(np.uint8), bitorder="little")
    return (bits[start - 64 * first :][:count].astype(np.int8) << 1) - 1


def sketch(values: Any, start: int = 0) -> Sketch:
    """Sketch of a flat NumPy array whose first element is number `start` of the tensor.

    Sums are added up in float64, row by row and so in one order everywhere: the same values give the same bits.
    """
    import numpy as np

    total = Sketch(np.zeros(SKETCH_SUMS), 0.0, 0)
    for begin in range(0, values.size, PIECE):
        (piece,) = sketches(values[None, begin : begin + PIECE], start + begin)
        total = merge(total, piece)
    return total


def merge(one: Sketch, other: Sketch) -> Sketch:
    """The sketch of two pieces of a tensor together."""
    return Sketch(one.sums + other.sums, one.energy + other.energy, one.finite + other.finite)


def sketches(values: Any, start: int = 0) -> list[Sketch]:
    """Sketches of the rows of a (tensors, elements) array, all at once: what a call costs is shared by small tensors."""
    import numpy as np

    if not _SIGNS:
        _SIGNS.append(signs(0, PIECE).astype(np.float64))
    tensors, size = values.shape
    lead = start % SKETCH_SUMS  # a piece may begin within a row; the elements before it are zero
    rows = np.empty((tensors, -(-(lead + size) // SKETCH_SUMS), SKETCH_SUMS))
    flat = rows.reshape(tensors, -1)
    flat[:, :lead], flat[:, lead + size :] = 0.0, 0.0
    flat[:, lead : lead + size] = values
    origin = start - lead
    known = origin + flat.shape[1] <= _SIGNS[0].size
    sign = _SIGNS[0][origin : origin + flat.shape[1]] if known else signs(origin, flat.shape[1]).astype(np.float64)
    sign = sign.reshape(rows.shape[1:])
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.einsum("tre,re->te", rows, sign)
        finite = [size] * tensors
        if not np.isfinite(sums).all():
            good = np.isfinite(flat)
            finite = [size - flat.shape[1] + int(count) for count in good.sum(axis=1)]
            flat[~good] = 0.0
            sums = np.einsum("tre,re->te", rows, sign)
        energies = [float(one @ one) for one in flat]
    return [Sketch(*found) for found in zip(sums, energies, finite, strict=True)]
