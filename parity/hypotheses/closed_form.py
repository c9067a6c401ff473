"""Probes for any pair of tensors: what native would be if it were the reference scaled, shifted, reordered, cut, rounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from parity.details import axis_names
from parity.hypotheses.base import FITTED, PROBE, ROUNDINGS, VALUE, Array, Candidate, Suspect, hypotheses

MOST_PERMUTED = 512  # channels among which a permutation is looked for
MOST_SHIFT = 9


@hypotheses("*")
def any_pair(suspect: Suspect) -> Iterator[Candidate]:
    native, reference = suspect.native, suspect.reference
    if native.dtype == bool:
        yield Candidate("mask.inverted", "the mask's polarity inverted", lambda: ~reference.astype(bool), VALUE)
        return
    if native.shape != reference.shape:
        yield from _other_tensor(suspect)
        yield from _other_length(suspect)
        return
    if native.size == 0:
        return
    yield from _pointwise(native.astype(np.float64), reference.astype(np.float64))
    yield from _rounded(suspect)
    names = axis_names(suspect.site, reference.ndim)
    for axis, name in enumerate(names):
        if reference.shape[axis] > 1:
            yield from _along(native, reference, axis, name)
    yield from _reordered(native, reference)
    yield from _other_tensor(suspect)


def _pointwise(native: Array, reference: Array) -> Iterator[Candidate]:
    if not (np.isfinite(native).all() and np.isfinite(reference).all()):
        spoiled = np.where(np.isfinite(native), reference, native)
        yield Candidate("value.not-finite", "values that are not finite", lambda: spoiled, PROBE)
        return
    yield Candidate("value.zero", "zeros in its place", lambda: np.zeros_like(reference), PROBE)
    yield Candidate("value.negated", "the sign turned", lambda: -reference, PROBE)
    yield Candidate("value.doubled", "twice the value", lambda: 2 * reference, PROBE)
    if not reference.any():
        return
    scale = float((native.ravel() @ reference.ravel()) / (reference.ravel() @ reference.ravel()))
    yield Candidate("value.scale", f"a factor of {scale:.6g}", lambda: scale * reference, FITTED)
    offset = float((native - reference).mean())
    yield Candidate("value.offset", f"{offset:+.6g} added", lambda: reference + offset, FITTED)
    if np.ptp(reference) > 0:
        a = float(np.cov(native.ravel(), reference.ravel(), bias=True)[0, 1] / reference.var())
        b = float(native.mean() - a * reference.mean())
        one = min(np.linalg.norm(native - scale * reference), np.linalg.norm(native - reference - offset))
        if np.linalg.norm(native - a * reference - b) < 0.5 * one - 1e-7 * np.linalg.norm(native):  # two numbers have to pay
            yield Candidate("value.affine", f"a·x + b with a = {a:.6g}, b = {b:.6g}", lambda: a * reference + b, FITTED)
        low, high = float(native.min()), float(native.max())
        if low > reference.min() or high < reference.max():
            text = f"values limited to [{low:.4g}, {high:.4g}]"
            yield Candidate("value.clipped", text, lambda: np.clip(reference, low, high), FITTED)


def _rounded(suspect: Suspect) -> Iterator[Candidate]:
    native, reference = suspect.native, suspect.reference
    if native.dtype.kind != "f":
        return
    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"its result rounded to {dtype}", lambda n=narrow: n(reference), PROBE)  # type: ignore[misc]
        on_grid = np.array_equal(narrow(native), native.astype(np.float32)) and np.ptp(native) > 0
        if on_grid and not np.array_equal(narrow(reference), reference.astype(np.float32)):
            scale = np.abs(reference).max() or 1.0
            if float(np.abs(native - reference).max()) < 0.1 * scale:  # else some other mistake left few values
                text = f"a computation in {dtype}: every native value is a {dtype} number, the reference's are not"
                yield Candidate(cause, text, lambda: native, PROBE)


def _along(native: Array, reference: Array, axis: int, name: str) -> Iterator[Candidate]:
    length = reference.shape[axis]
    yield Candidate("order.reversed", f"the {name} axis reversed", lambda: np.flip(reference, axis), PROBE)
    first = np.take(reference, [0], axis)
    yield Candidate("order.first-for-all", f"the first {name} in every place", lambda: np.broadcast_to(first, reference.shape),
                    PROBE)  # fmt: skip
    if length % 2 == 0:
        yield Candidate("order.halves", f"the two halves of the {name} axis swapped",
                        lambda: np.roll(reference, length // 2, axis), PROBE)  # fmt: skip
    for step in [s for s in range(-MOST_SHIFT, MOST_SHIFT + 1) if s and abs(s) < length]:
        words = f"everything {step:+d} along the {name} axis"
        yield Candidate("order.shift", words, partial(_moved, reference, native, step, axis), PROBE)
    centred = reference - reference.mean(axis, keepdims=True)
    yield Candidate("value.centred", f"the mean over the {name} axis taken away", lambda: centred, PROBE)
    spread = np.sqrt(np.mean(np.square(centred), axis, keepdims=True))
    if (spread > 0).all():
        yield Candidate("value.whitened", f"mean 0 and deviation 1 along the {name} axis", lambda: centred / spread, PROBE)
    lost = ~np.any(np.moveaxis(native, axis, 0).reshape(length, -1), axis=1)
    if 0 < lost.sum() < length and np.any(np.moveaxis(reference, axis, 0).reshape(length, -1)[lost]):
        yield Candidate("value.partly-zero", f"{int(lost.sum())} of {length} places of the {name} axis zero",
                        lambda: reference * _shaped(~lost, reference.ndim, axis), FITTED)  # fmt: skip
    if axis == reference.ndim - 1 and 1 < length <= MOST_PERMUTED and reference.size // length >= 8:
        order = _permutation(native, reference)
        if order is not None:
            yield Candidate("order.permuted", "its channels in another order", lambda: reference[..., order], FITTED)


def _shaped(flags: Array, ndim: int, axis: int) -> Array:
    return flags.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _moved(reference: Array, native: Array, step: int, axis: int) -> Array:
    """The reference moved by ``step``; what comes in from outside is not held against the hypothesis."""
    out = np.roll(reference, step, axis)
    edge = [slice(None)] * reference.ndim
    edge[axis] = slice(0, step) if step > 0 else slice(step, None)
    out[tuple(edge)] = native[tuple(edge)]
    return out


def _permutation(native: Array, reference: Array) -> Array | None:
    """The channels of the reference that native's are, by nearest column, if each is taken once."""
    ours, theirs = (a.reshape(-1, a.shape[-1]).astype(np.float64) for a in (native, reference))
    gap = np.square(ours).sum(0)[:, None] + np.square(theirs).sum(0)[None] - 2 * ours.T @ theirs
    order = gap.argmin(axis=1)
    moved = np.unique(order).size == order.size and not np.array_equal(order, np.arange(order.size))
    return order if moved else None


def _reordered(native: Array, reference: Array) -> Iterator[Candidate]:
    for one in range(reference.ndim):
        for other in range(one + 1, reference.ndim):
            if reference.shape[one] == reference.shape[other] > 1:
                yield Candidate("order.transposed", f"axes {one} and {other} swapped",
                                lambda a=one, b=other: np.swapaxes(reference, a, b), PROBE)  # type: ignore[misc]  # fmt: skip
            if reference.shape[one] > 1 < reference.shape[other]:
                yield Candidate("order.reshaped", f"axes {one} and {other} taken for each other when flattened",
                                lambda a=one, b=other: np.swapaxes(reference, a, b).reshape(reference.shape), PROBE)  # type: ignore[misc]  # fmt: skip
                swapped = np.swapaxes(np.empty(reference.shape, dtype=bool), one, other).shape
                yield Candidate("order.reshaped", f"axes {other} and {one} taken for each other when read",
                                lambda a=one, b=other, s=swapped: np.swapaxes(reference.reshape(s), a, b), PROBE)  # type: ignore[misc]  # fmt: skip
    length = reference.shape[-1] if reference.ndim else 0
    for inner in [n for n in range(2, length) if length % n == 0 and n <= 1024]:
        shape = (*reference.shape[:-1], length // inner, inner)
        words = f"the last axis laid out as {inner} x {length // inner} instead of {length // inner} x {inner}"
        yield Candidate("order.interleaved", words, partial(_interleaved, reference, shape), PROBE)


def _interleaved(reference: Array, shape: tuple[int, ...]) -> Array:
    return reference.reshape(shape).swapaxes(-1, -2).reshape(reference.shape)


def _other_tensor(suspect: Suspect) -> Iterator[Candidate]:
    """Another tensor of the same call in this one's place."""
    others = {**{k: v for k, v in suspect.given.items() if isinstance(v, np.ndarray)}, **suspect.known}
    for name, tensor in others.items():
        if (
            name != suspect.name
            and not name.startswith("native")
            and tensor.shape == suspect.native.shape
            and not np.array_equal(tensor, suspect.reference)
        ):
            yield Candidate("wiring.other-tensor", f"`{name}` in its place", lambda t=tensor: t, PROBE)  # type: ignore[misc]


def _other_length(suspect: Suspect) -> Iterator[Candidate]:
    """Shapes that differ along one axis: something kept, lost, or padded at an end. Judged on the common part."""
    native, reference = suspect.native, suspect.reference
    if native.ndim != reference.ndim:
        return
    axes = [i for i in range(native.ndim) if native.shape[i] != reference.shape[i]]
    names = axis_names(suspect.site, reference.ndim)
    if len(axes) > 1:
        text = f"a leading part of {' x '.join(map(str, native.shape))} only"
        if all(n <= r for n, r in zip(native.shape, reference.shape, strict=True)):
            yield Candidate("length.cut", text, lambda: reference[tuple(slice(0, n) for n in native.shape)], PROBE)
        return
    axis = axes[0]
    more = native.shape[axis] - reference.shape[axis]

    def part(array: Array, start: int, stop: int) -> Array:
        return np.take(array, range(start, stop), axis)

    size, name = native.shape[axis], names[axis]
    if more > 0:
        kept = part(native, 0, more)
        yield Candidate("length.head-kept", f"{more} more at the start of the {name} axis",
                        lambda: np.concatenate([kept, reference], axis), PROBE)  # fmt: skip
        tail = part(native, size - more, size)
        yield Candidate("length.tail-kept", f"{more} more at the end of the {name} axis",
                        lambda: np.concatenate([reference, tail], axis), PROBE)  # fmt: skip
        if math.gcd(size, reference.shape[axis]) == reference.shape[axis]:
            yield Candidate("length.repeated", f"everything repeated along the {name} axis",
                            lambda: np.concatenate([reference] * (size // reference.shape[axis]), axis), PROBE)  # fmt: skip
    else:
        yield Candidate("length.head-cut", f"{-more} fewer at the start of the {name} axis",
                        lambda: part(reference, -more, reference.shape[axis]), PROBE)  # fmt: skip
        yield Candidate(
            "length.tail-cut", f"{-more} fewer at the end of the {name} axis", lambda: part(reference, 0, size), PROBE
        )
