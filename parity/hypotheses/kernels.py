"""Attention as a kernel of its own, masks as biases, and pixels as bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.hypotheses.base import ROUNDINGS, Array, Candidate, Suspect, hypotheses
from parity.hypotheses.functions import softmax


@hypotheses("attention kernel")
def kernel(suspect: Suspect) -> Iterator[Candidate]:
    q, k, v = (np.asarray(suspect.given[n], dtype=np.float64) for n in ("q", "k", "v"))
    keys = k.shape[2]

    def attend(k: Array = k, v: Array = v, scale: float = q.shape[-1] ** -0.5, q: Array = q) -> Array:
        return np.asarray(softmax(q @ k.swapaxes(-1, -2) * scale) @ v)

    for tile in (128, 256, 512, 1024, 2048):
        if tile < keys:
            for cause, words, kept in (
                ("attention.keys-lost", f"the first {tile} of {keys} keys only", slice(0, tile)),
                ("attention.keys-lost", f"the last {tile} of {keys} keys only", slice(keys - tile, keys)),
                (
                    "attention.keys-lost",
                    f"the {keys % tile} keys behind the last whole tile of {tile} lost",
                    slice(0, keys - keys % tile),
                ),
            ):
                yield Candidate(cause, words, lambda s=kept: attend(k[:, :, s], v[:, :, s]))  # type: ignore[misc]
            repeated = np.concatenate([k[:, :, :tile]] * (-(-keys // tile)), axis=2)[:, :, :keys]
            yield Candidate("attention.keys-lost", f"the first {tile} keys in every tile", lambda r=repeated: attend(r))  # type: ignore[misc]
    yield Candidate("attention.scale", "no scale on the scores", lambda: attend(scale=1.0))
    for cause, dtype, narrow in ROUNDINGS:
        yield Candidate(cause, f"queries, keys and values in {dtype}", lambda n=narrow: attend(n(k), n(v), q=n(q)))  # type: ignore[misc]


@hypotheses("*:self_attention_bias")
def bias(suspect: Suspect) -> Iterator[Candidate]:
    """What weights between tokens mean to the attention: their logarithm is added, so that exp(bias) is the weight."""
    weights = suspect.reference.astype(np.float64)
    yield Candidate(
        "attention.mask-as-bias", "the mask's weights added as they are instead of their logarithm", lambda: np.exp(weights)
    )
    yield Candidate("mask.inverted", "the mask's polarity inverted", lambda: 1 - weights)
    yield Candidate("mask.binary", "every weight above 0 as 1", lambda: (weights > 0).astype(np.float64))
    yield Candidate("mask.ignored", "no mask", lambda: np.ones_like(weights))


@hypotheses("frames")
def pixels(suspect: Suspect) -> Iterator[Candidate]:
    """[-1, 1] to bytes: clipped, then truncated."""
    given = np.asarray(suspect.given["pixels"], dtype=np.float64)
    full = (given + 1) * 127.5 if given.min() < -0.05 else given * 255.0
    clipped = np.clip(full, 0, 255)
    yield Candidate("pixels.rounding", "pixels rounded instead of truncated", lambda: np.rint(clipped))
    yield Candidate("pixels.clip-missing", "pixels not clipped", lambda: np.trunc(full).astype(np.int64) % 256)
    yield Candidate(
        "pixels.rounding", "pixels rounded instead of truncated, and not clipped", lambda: np.rint(full).astype(np.int64) % 256
    )
    yield Candidate("pixels.range", "pixels of [0, 1] taken for [-1, 1]", lambda: np.trunc((clipped / 255 + 1) * 127.5))
    yield Candidate(
        "pixels.range", "pixels of [-1, 1] taken for [0, 1]", lambda: np.trunc(np.clip(full / 127.5 - 1, 0, 1) * 255)
    )
    yield Candidate("pixels.range", "limited range", lambda: np.trunc(16 + clipped * 219 / 255))
    yield Candidate("pixels.channels", "red and blue swapped", lambda: np.trunc(clipped)[..., ::-1])


@hypotheses("quantised layer")
def quantised(suspect: Suspect) -> Iterator[Candidate]:
    """x times the weight that packed 4-bit words, scales and biases stand for."""
    g = suspect.given
    x, packed, scales, biases = (np.asarray(g[n]) for n in ("x", "packed", "scales", "biases"))

    def product(lowest_first: bool = True, scale: Array = scales, bias: Array = biases, signed: bool = False) -> Array:
        shifts = 4 * np.arange(8, dtype=np.uint32)
        q = (packed[..., None] >> (shifts if lowest_first else shifts[::-1])) & np.uint32(15)
        q = q.reshape(packed.shape[0], scales.shape[1], -1).astype(np.float64)
        q = np.where(q > 7, q - 16, q) if signed else q
        return np.asarray(x @ (q * scale[..., None] + bias[..., None]).reshape(packed.shape[0], -1).T)

    yield Candidate("quantisation.bias-missing", "packed weights without their biases", lambda: product(bias=0 * biases))
    yield Candidate(
        "quantisation.scale-missing", "packed weights without their scales", lambda: product(scale=np.ones_like(scales))
    )
    yield Candidate("quantisation.order", "the highest bits of a word first", lambda: product(False))
    yield Candidate("quantisation.signed", "packed values read as signed", lambda: product(signed=True))
    yield Candidate("quantisation.swapped", "scales and biases swapped", lambda: product(scale=biases, bias=scales))
