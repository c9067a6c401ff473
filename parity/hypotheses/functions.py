"""Pointwise functions, products, norms and attention in NumPy, as the official code defines them."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf, expit

from parity.hypotheses.base import Array


def silu(x: Array) -> Array:
    return x * expit(x)


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_quick(x: Array) -> Array:
    return x * expit(1.702 * x)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


ACTIVATIONS = {
    "gelu-tanh": gelu_tanh,
    "gelu-erf": gelu_erf,
    "gelu-quick": gelu_quick,
    "silu": silu,
    "relu": relu,
    "none": lambda x: x,
}


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    product = np.asarray(x, dtype=np.float64) @ np.asarray(weight, dtype=np.float64).T
    return product if bias is None else product + bias


def rms_norm(x: Array, eps: float, weight: Array | float = 1.0, axis: int | tuple[int, ...] = -1) -> Array:
    x = np.asarray(x, dtype=np.float64)
    return x / np.sqrt(np.mean(np.square(x), axis=axis, keepdims=True) + eps) * weight


def layer_norm(x: Array, eps: float, weight: Array | float = 1.0, axis: int | tuple[int, ...] = -1) -> Array:
    x = np.asarray(x, dtype=np.float64)
    centred = x - x.mean(axis=axis, keepdims=True)
    return rms_norm(centred, eps, weight, axis)


def softmax(scores: Array) -> Array:
    scores = scores - scores.max(-1, keepdims=True)
    weights = np.exp(scores)
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def heads_of(x: Array, heads: int) -> Array:
    """(B, T, H*D) -> (B, H, T, D)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def merged(x: Array) -> Array:
    """(B, H, T, D) -> (B, T, H*D)."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)
