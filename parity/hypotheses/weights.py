"""What a loaded parameter is, if it is not the checkpoint's: scaled, transposed, another one's, rounded, drawn anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np

from parity.hypotheses.base import FITTED, ROUNDINGS, VALUE, Array, Candidate, Suspect, hypotheses


@hypotheses("parameter")
def loaded(suspect: Suspect) -> Iterator[Candidate]:
    """``native`` and ``reference`` in PyTorch's axes; ``known`` holds the other official parameters of the component."""
    reference, native = suspect.reference, suspect.native
    if native.shape != reference.shape:
        for order in permutations(range(reference.ndim)):
            if tuple(reference.shape[i] for i in order) == native.shape:
                yield Candidate("weights.transposed", f"its axes in the order {order}", lambda o=order: reference.transpose(o))  # type: ignore[misc]
        return
    for order in permutations(range(reference.ndim)):
        if order != tuple(range(reference.ndim)) and tuple(reference.shape[i] for i in order) == reference.shape:
            yield Candidate("weights.transposed", f"its axes in the order {order}", lambda o=order: reference.transpose(o))  # type: ignore[misc]
    if native.ndim > 2:
        axes = tuple(range(2, native.ndim))
        yield Candidate("conv.flipped", "its kernel flipped", lambda: np.flip(reference, axes))
        moved = np.moveaxis(np.moveaxis(reference, 1, -1).reshape(reference.shape), -1, 1)
        if moved.shape == native.shape:
            yield Candidate("weights.transposed", "its axes moved twice", lambda: moved)
    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"the parameter rounded to {dtype}", lambda n=narrow: n(reference))  # type: ignore[misc]
    yield Candidate("weights.plus-one", "1 added to the parameter", lambda: reference + 1)
    a = float((native.ravel() @ reference.ravel()) / max(float(reference.ravel() @ reference.ravel()), 1e-30))
    yield Candidate(
        "weights.scaled", f"the parameter times {a:.6g} (another revision of the file?)", lambda: a * reference, VALUE
    )
    for name, other in suspect.known.items():
        if other.shape == native.shape and np.array_equal(other, native):
            yield Candidate("weights.duplicate", f"`{name}` in its place", lambda o=other: o)  # type: ignore[misc]
    yield from _strange(native.astype(np.float64), reference.astype(np.float64))


def _strange(native: Array, reference: Array) -> Iterator[Candidate]:
    """No formula leads from the official parameter to this one: say how far it is from it."""
    if not native.any():
        yield Candidate("weights.missing", "zeros: the parameter was never loaded", lambda: native, VALUE)
        return
    if native.std() == 0 and reference.std() > 0:
        yield Candidate("weights.missing", "a constant: the parameter was never loaded", lambda: native, VALUE)
        return
    norm = np.linalg.norm(native) * np.linalg.norm(reference)
    cosine = float((native.ravel() @ reference.ravel()) / norm) if norm else 0.0
    if native.size >= 16 and abs(cosine) < 4 / np.sqrt(native.size):
        words = f"numbers that have nothing to do with the checkpoint's (cosine {cosine:+.2f}): drawn anew or another file's"
        yield Candidate("weights.random", words, lambda: native, FITTED + 1)
    elif cosine > 0.9:
        words = f"a near relative of the parameter (cosine {cosine:.4f}): another revision of the file"
        yield Candidate("weights.revision", words, lambda: native, FITTED + 1)


@hypotheses("fused parameter")
def fused(suspect: Suspect) -> Iterator[Candidate]:
    """W + strength x alpha / rank x B A: which factor a fusion leaves out. ``given``: plain, a, b, strength, alpha."""
    g = suspect.given
    plain, a, b = (np.asarray(g[n], dtype=np.float64) for n in ("plain", "a", "b"))
    strength, alpha, rank = float(g["strength"]), float(g["alpha"]), a.shape[0]
    delta = b @ a

    def with_(factor: float) -> Array:
        return np.asarray(plain + factor * delta)

    whole = strength * alpha / rank
    yield Candidate("lora.not-applied", "no adapter: its keys found no layer", lambda: plain)
    yield Candidate("lora.alpha", "alpha / rank ignored", lambda: with_(strength))
    yield Candidate("lora.alpha", "alpha without its division by the rank", lambda: with_(strength * alpha))
    yield Candidate("lora.alpha", "1 / rank without alpha", lambda: with_(strength / rank))
    yield Candidate("lora.strength", "the strength ignored", lambda: with_(alpha / rank))
    yield Candidate("lora.strength", "the strength applied twice", lambda: with_(whole * strength))
    yield Candidate("lora.twice", "the adapter added twice", lambda: with_(2 * whole))
    yield Candidate("lora.sign", "the adapter subtracted", lambda: with_(-whole))
    if delta.shape[0] == delta.shape[1]:
        yield Candidate("lora.swapped", "A and B swapped", lambda: plain + whole * delta.T)
    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"the sum rounded to {dtype}", lambda n=narrow: n(with_(whole)))  # type: ignore[misc]
        yield Candidate(cause, f"the delta rounded to {dtype}", lambda n=narrow: plain + whole * n(delta))  # type: ignore[misc]


def siblings(parameters: Mapping[str, Array], name: str) -> dict[str, Array]:
    """Other parameters of a component that have the same shape."""
    shape = parameters[name].shape
    return {other: value for other, value in parameters.items() if other != name and value.shape == shape}
