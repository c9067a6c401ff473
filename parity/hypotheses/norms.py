"""Norms, products and feed-forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from parity.hypotheses.base import Array, Candidate, Suspect, hypotheses, roundings
from parity.hypotheses.functions import ACTIVATIONS, layer_norm, linear, rms_norm

EPS = (0.0, 1e-3, 1e-5, 1e-6, 1e-8, 1e-12)


def _input(suspect: Suspect) -> Array:
    return next(np.asarray(v) for v in suspect.given.values() if isinstance(v, np.ndarray))


def _eps(suspect: Suspect, default: float) -> float:
    return float(suspect.given.get("eps", suspect.config.get("eps", default)))


@hypotheses("RMSNorm", "Gemma3RMSNorm")
def rms(suspect: Suspect) -> Iterator[Candidate]:
    x, weight = _input(suspect), suspect.weight("weight").astype(np.float64)
    eps, gemma = _eps(suspect, 1e-6), suspect.type.startswith("Gemma")
    official = 1 + weight if gemma else weight

    def normed(scale: Array | float, e: float = eps) -> Array:
        return rms_norm(x, e, scale)

    yield from _other_eps(lambda e: rms_norm(x, e, official), eps)
    if gemma:
        yield Candidate("norm.plus-one-missing", "the weight w instead of 1 + w", lambda: normed(weight))
        yield Candidate("norm.plus-one-twice", "the weight 2 + w instead of 1 + w", lambda: normed(2 + weight))
    else:
        yield Candidate("norm.plus-one-added", "the weight 1 + w instead of w", lambda: normed(1 + weight))
    yield Candidate("norm.weight-missing", "no weight on the norm", lambda: normed(1.0))
    yield Candidate("norm.mean-subtracted", "a layer norm instead of an RMS norm", lambda: layer_norm(x, eps, official))
    yield Candidate("norm.missing", "no norm at all", lambda: x)
    yield from roundings(lambda x, weight: rms_norm(x, eps, 1 + weight if gemma else weight), x=x, weight=weight)


@hypotheses("LayerNorm")
def layer(suspect: Suspect) -> Iterator[Candidate]:
    x, eps = _input(suspect), _eps(suspect, 1e-6)
    yield from _other_eps(lambda e: layer_norm(x, e), eps)
    yield Candidate("norm.mean-kept", "an RMS norm instead of a layer norm", lambda: rms_norm(x, eps))
    yield Candidate("norm.missing", "no norm at all", lambda: x)
    yield from roundings(lambda x: layer_norm(x, eps), x=x)


@hypotheses("PixelNorm", "GroupNorm")
def over_channels(suspect: Suspect) -> Iterator[Candidate]:
    """Channels are last here. A pixel norm is an RMS norm over channels; a group norm goes over places and part of them."""
    x = _input(suspect)
    places = tuple(range(1, x.ndim))
    pixel = suspect.type == "PixelNorm"
    weight, bias = suspect.parameter("weight"), suspect.parameter("bias")
    eps = _eps(suspect, 1e-8 if pixel else 1e-5)

    def affine(normed: Array) -> Array:
        return normed if weight is None else normed * weight + (0 if bias is None else bias)

    def grouped(count: int, e: float = eps) -> Array:
        parts = x.reshape(*x.shape[:-1], count, -1).astype(np.float64)
        axes = (*places[:-1], x.ndim)
        return affine(layer_norm(parts, e, axis=axes).reshape(x.shape))

    if pixel:
        yield from _other_eps(lambda e: rms_norm(x, e), eps)
    else:
        yield from _other_eps(lambda e: grouped(min(32, x.shape[-1]), e), eps)
        yield Candidate("norm.pixel", "an RMS norm over channels in its place", lambda: affine(rms_norm(x, eps)))
    for count in (1, 8, 16, 32):
        if x.shape[-1] % count == 0:
            yield Candidate("norm.group", f"a group norm of {count} groups", lambda c=count: grouped(c))  # type: ignore[misc]
    for e in (eps, 1e-6, 1e-5):
        yield Candidate("norm.layer", "a layer norm over channels", lambda e=e: affine(layer_norm(x, e)))  # type: ignore[misc]
        yield Candidate("norm.group", "a group norm over everything", lambda e=e: affine(layer_norm(x, e, axis=places)))  # type: ignore[misc]
    yield Candidate("norm.axis", "the norm over places instead of channels", lambda: rms_norm(x, eps, axis=places[:-1]))
    yield Candidate("norm.weight-missing", "no weight and bias", lambda: layer_norm(x, eps))
    yield Candidate("norm.missing", "no norm at all", lambda: x)
    yield from roundings(lambda x: rms_norm(x, eps) if pixel else affine(layer_norm(x, eps)), x=x)


def _other_eps(norm: Callable[[float], Array], official: float) -> Iterator[Candidate]:
    for eps in EPS:
        if eps != official:
            yield Candidate("norm.eps", f"eps {eps:g} instead of {official:g}", lambda e=eps: norm(e))  # type: ignore[misc]


@hypotheses("Linear")
def product(suspect: Suspect) -> Iterator[Candidate]:
    x, weight, bias = _input(suspect), suspect.weight("weight"), suspect.parameter("bias")
    if bias is not None:
        yield Candidate("linear.bias-missing", "no bias", lambda: linear(x, weight))
        yield Candidate("linear.bias-twice", "the bias added twice", lambda: linear(x, weight, 2 * bias))
    yield Candidate("weights.transposed", "its weight transposed", lambda: linear(x, weight.T, bias))
    yield from roundings(lambda x, weight: linear(x, weight, bias), x=x, weight=weight)


@hypotheses("GELUApprox", "FeedForward", "Gemma3MLP", "TimestepEmbedding", "GELUTanh", "SiLU")
def activated(suspect: Suspect) -> Iterator[Candidate]:
    """Another activation, gate and value swapped, an activation forgotten."""
    x, p = _input(suspect), suspect.parameter
    name = {"TimestepEmbedding": "silu", "SiLU": "silu"}.get(suspect.type, "gelu-tanh")

    def run(x: Array, act: Callable[[Array], Array], swap: bool = False) -> Array:
        if suspect.type in ("GELUTanh", "SiLU"):
            return act(x.astype(np.float64))
        if suspect.type == "GELUApprox":
            return act(linear(x, suspect.weight("proj.weight"), p("proj.bias")))
        if suspect.type == "Gemma3MLP":
            gate, up = (linear(x, suspect.weight(f"{n}_proj.weight")) for n in ("gate", "up"))
            return linear(act(up) * gate if swap else act(gate) * up, suspect.weight("down_proj.weight"))
        first, second = ("linear_1", "linear_2") if suspect.type == "TimestepEmbedding" else ("net.0.proj", "net.2")
        hidden = act(linear(x, suspect.weight(f"{first}.weight"), p(f"{first}.bias")))
        return linear(hidden, suspect.weight(f"{second}.weight"), p(f"{second}.bias"))

    for other, function in ACTIVATIONS.items():
        if other != name:
            words = "no activation" if other == "none" else f"{other} instead of {name}"
            yield Candidate(f"activation.{other}", words, lambda f=function: run(x, f))  # type: ignore[misc]
    if suspect.type == "Gemma3MLP":
        yield Candidate("activation.gate-swapped", "gate and value swapped", lambda: run(x, ACTIVATIONS[name], True))
    yield from roundings(lambda x: run(x, ACTIVATIONS[name]), x=x)
