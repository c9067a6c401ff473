"""The transformer's, the connectors' and Gemma's attention: layout of the rotation, mask, scale, gate, norms, dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit

from parity.hypotheses.base import Array, Candidate, Suspect, bfloat16, float16, hypotheses
from parity.hypotheses.functions import heads_of, linear, merged, rms_norm, softmax

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Edits:
    """Switches of `attend`; the defaults are the official formula."""

    rotation: str = "split"  # split, interleaved, none, inverse, keys-only
    scale: str = "head"  # head: head_dim ** -0.5; none, twice, inner: by the width of all heads
    norms: tuple[str, str] = ("q_norm", "k_norm")  # what norms the queries, what the keys
    keep_only: bool = False  # perturbed samples zero instead of their values
    mask: str = "official"  # official, none, bias, inverted, causal, raw
    gate: str = "official"  # official, none, sigmoid, output, projected
    q_norm: bool = True
    k_norm: bool = True
    norm_after_rotation: bool = False
    norm_eps: float | None = None
    norm_per_head: bool = False
    keys: int | None = None  # only so many keys are seen
    heads_last: bool = False  # heads split as (D, H) instead of (H, D)
    context: str = "official"  # official, self
    perturbed: str = "official"  # official, ignored, always
    values_from_keys: bool = False
    transposed_output: bool = False
    groups: str = "repeat"  # repeat: neighbours share a key head; tile: every n-th does
    softmax: Callable[[Array], Array] | None = None  # rounding of scores before the softmax
    tables: Callable[[Array], Array] | None = None  # rounding of cos and sin
    operands: Callable[[Array], Array] | None = None  # rounding of q, k, v


# cause, words, switches
EDITS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rope.layout", "RoPE interleaved instead of split", {"rotation": "interleaved"}),
    ("rope.missing", "no RoPE", {"rotation": "none"}),
    ("rope.inverse", "RoPE turned the other way", {"rotation": "inverse"}),
    ("rope.keys-only", "RoPE on the keys only", {"rotation": "keys-only"}),
    ("attention.scale", "no scale on the scores", {"scale": "none"}),
    ("attention.scale", "the scale applied twice", {"scale": "twice"}),
    ("attention.scale", "a scale by the width of all heads instead of one", {"scale": "inner"}),
    ("norm.swapped", "the norms of queries and keys swapped", {"norms": ("k_norm", "q_norm")}),
    ("norm.swapped", "the keys' norm on the queries, too", {"norms": ("k_norm", "k_norm")}),
    ("norm.swapped", "the queries' norm on the keys, too", {"norms": ("q_norm", "q_norm")}),
    ("perturbation.zero", "zeros instead of the values where attention is skipped", {"keep_only": True}),
    ("attention.mask-missing", "no mask", {"mask": "none"}),
    ("attention.mask-as-bias", "the boolean mask added as 0 and 1", {"mask": "bias"}),
    ("attention.mask-inverted", "the mask's polarity inverted", {"mask": "inverted"}),
    ("attention.mask-unguarded", "an additive -inf mask, which leaves rows without keys undefined", {"mask": "raw"}),
    ("attention.mask-uniform", "rows without keys averaged over all keys", {"mask": "lowest"}),
    ("attention.causal", "a causal mask", {"mask": "causal"}),
    ("attention.gate-missing", "no gate", {"gate": "none"}),
    ("attention.gate-factor", "the gate sigmoid(x) instead of 2·sigmoid(x)", {"gate": "sigmoid"}),
    ("attention.gate-source", "the gate computed from the attention's output instead of its input", {"gate": "output"}),
    ("attention.gate-source", "the gate computed from, and applied to, the projected output", {"gate": "projected"}),
    ("norm.missing", "no norm of the queries", {"q_norm": False}),
    ("norm.missing", "no norm of the keys", {"k_norm": False}),
    ("norm.missing", "no norm of queries and keys", {"q_norm": False, "k_norm": False}),
    ("norm.order", "queries and keys normed after the rotation", {"norm_after_rotation": True}),
    ("norm.per-head", "queries and keys normed per head", {"norm_per_head": True}),
    ("norm.eps", "norms with eps 1e-5", {"norm_eps": 1e-5}),
    ("norm.eps", "norms with eps 1e-3", {"norm_eps": 1e-3}),
    ("attention.context", "itself as the context", {"context": "self"}),
    ("attention.heads", "heads split as (D, H) instead of (H, D)", {"heads_last": True}),
    ("attention.groups", "key heads tiled instead of repeated", {"groups": "tile"}),
    ("attention.values-from-keys", "the keys as values", {"values_from_keys": True}),
    ("attention.output-layout", "heads and tokens not swapped back", {"transposed_output": True}),
    ("perturbation.ignored", "the perturbation (skipped attention) ignored", {"perturbed": "ignored"}),
    ("perturbation.always", "attention skipped although the pass does not ask for it", {"perturbed": "always"}),
    ("dtype.bfloat16", "the softmax in bfloat16", {"softmax": bfloat16}),
    ("dtype.float16", "the softmax in float16", {"softmax": float16}),
    ("dtype.bfloat16", "cos and sin rounded to bfloat16", {"tables": bfloat16}),
    ("dtype.float16", "cos and sin rounded to float16", {"tables": float16}),
    ("dtype.bfloat16", "queries, keys and values in bfloat16", {"operands": bfloat16}),
    ("dtype.float16", "queries, keys and values in float16", {"operands": float16}),
)


@hypotheses("Attention", "Gemma3Attention")
def attention(suspect: Suspect) -> Iterator[Candidate]:
    call = _gemma if suspect.type.startswith("Gemma") else _official
    for cause, words, switches in EDITS:
        yield Candidate(cause, words, lambda s=switches: call(suspect, Edits(**s)))  # type: ignore[misc]
    keys = next(np.asarray(v).shape[1] for k, v in suspect.given.items() if k in ("context", "x", "hidden_states") and
                isinstance(v, np.ndarray))  # fmt: skip
    for count in (64, 128, 256, 512, 1024):
        if count < keys:
            words = f"the first {count} keys only"
            yield Candidate("attention.keys-lost", words, lambda c=count: call(suspect, replace(Edits(), keys=c)))  # type: ignore[misc]


def _official(suspect: Suspect, e: Edits) -> Array:
    g, p = suspect.given, suspect.parameter
    x = np.asarray(g["x"])
    context = g.get("context")
    source = x if context is None or e.context == "self" else np.asarray(context)

    def project(name: str, value: Array) -> Array:
        return linear(value, suspect.weight(f"{name}.weight"), p(f"{name}.bias"))

    logits = p("to_gate_logits.weight")
    heads = logits.shape[0] if logits is not None else np.asarray(g["pe.0"]).shape[1]
    q, k = project("to_q", x), project("to_k", source)
    v = k if e.values_from_keys else project("to_v", source)
    skipped = g.get("all_perturbed", False) if e.perturbed == "official" else e.perturbed == "always"
    eps = e.norm_eps or 1e-6

    def normed(value: Array, name: str, on: bool) -> Array:
        if not on:
            return value
        weight = suspect.weight(f"{e.norms[name == 'k_norm']}.weight")
        if e.norm_per_head:
            return rms_norm(value.reshape(*value.shape[:2], heads, -1), eps).reshape(value.shape) * weight
        return rms_norm(value, eps, weight)

    def placed(value: Array, prefix: str, name: str, on: bool, turn: bool) -> Array:
        cos, sin = g.get(f"{prefix}.0"), g.get(f"{prefix}.1")
        value = value if e.norm_after_rotation else normed(value, name, on)
        if cos is not None and turn:
            narrow = e.tables or (lambda t: t)
            value = rotated(value, narrow(np.asarray(cos)), narrow(np.asarray(sin)), e.rotation)
        return normed(value, name, on) if e.norm_after_rotation else value

    q = placed(q, "pe", "q_norm", e.q_norm, e.rotation not in ("none", "keys-only"))
    k = placed(k, "k_pe" if g.get("k_pe.0") is not None else "pe", "k_norm", e.k_norm, e.rotation != "none")
    split = _heads_last if e.heads_last else heads_of
    qh, kh, vh = (split(value, heads) for value in (q, k, v))
    out = vh if skipped else scored(qh, kh, vh, g.get("mask"), e)
    perturbation = g.get("perturbation_mask")
    if isinstance(perturbation, np.ndarray) and e.perturbed == "official" and not skipped:
        keep = perturbation.reshape(perturbation.shape[0], 1, 1, 1)
        out = out * keep + vh * (1 - keep) * (not e.keep_only)
    flat = out.reshape(out.shape[0], out.shape[2], -1) if e.transposed_output else merged(out)
    if logits is None or e.gate == "none":
        return project("to_out.0", flat)
    done = project("to_out.0", flat) if e.gate == "projected" else flat
    source = x if e.gate in ("official", "sigmoid") else done
    gate = expit(linear(source, logits, p("to_gate_logits.bias"))) * (1 if e.gate == "sigmoid" else 2)
    gated = done * np.repeat(gate, done.shape[-1] // heads, axis=-1)
    return gated if e.gate == "projected" else project("to_out.0", gated)


def _heads_last(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:2], -1, heads).transpose(0, 3, 1, 2)


def rotated(x: Array, cos: Array, sin: Array, rotation: str) -> Array:
    """(B, T, H*D) turned by per-head tables (B, H, T, D/2)."""
    sin = -sin if rotation == "inverse" else sin
    heads = heads_of(x, cos.shape[1])  # (B, H, T, D)
    if rotation == "interleaved":
        first, second = heads[..., 0::2], heads[..., 1::2]
        turned = np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(heads.shape)
    else:
        first, second = np.split(heads, 2, axis=-1)
        turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return merged(turned)


def scored(q: Array, k: Array, v: Array, mask: Any, e: Edits) -> Array:
    """softmax(q k^T / sqrt(D) + mask) v, with rows that see nothing as PyTorch's kernel has them (zeros, boolean masks)."""
    if e.operands is not None:
        q, k, v = (e.operands(value) for value in (q, k, v))
    if e.keys is not None:
        k, v = k[:, :, : e.keys], v[:, :, : e.keys]
    width = q.shape[-1] * (q.shape[1] if e.scale == "inner" else 1)
    scale = width ** (-0.5 * {"none": 0, "twice": 2}.get(e.scale, 1))
    scores = (q @ k.swapaxes(-1, -2)) * scale
    blind = None
    if e.mask == "causal":
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, LOWEST)
    elif isinstance(mask, np.ndarray) and e.mask != "none":
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape) if mask.ndim != 3 else mask[:, None]
        mask = mask[..., : scores.shape[-1]]
        if mask.dtype == bool:
            allowed = ~mask if e.mask == "inverted" else mask
            if e.mask == "bias":
                scores = scores + allowed
            else:
                scores = np.where(allowed, scores, -np.inf if e.mask == "raw" else LOWEST)
                blind = None if e.mask in ("raw", "lowest") else ~allowed.any(-1, keepdims=True)
        else:
            scores = scores + (-mask if e.mask == "inverted" else mask)
    if e.softmax is not None:
        weights = e.softmax(softmax(e.softmax(scores)))
    else:
        weights = softmax(scores)
    out = weights @ v
    return out if blind is None else np.where(blind, 0, out)


def _gemma(suspect: Suspect, e: Edits) -> Array:
    g, head = suspect.given, suspect.weight("q_norm.weight").shape[0]
    x = np.asarray(g["hidden_states"])
    eps = e.norm_eps or float(suspect.config.get("rms_norm_eps", 1e-6))

    def project(name: str) -> Array:
        value = linear(x, suspect.weight(f"{name}_proj.weight"))
        return heads_of(value, value.shape[-1] // head)

    def normed(value: Array, name: str, on: bool) -> Array:
        return rms_norm(value, eps, 1 + suspect.weight(f"{name}.weight")) if on else value

    cos, sin = (np.asarray(g[f"position_embeddings.{i}"])[:, None] for i in (0, 1))
    if e.tables is not None:
        cos, sin = e.tables(cos), e.tables(sin)

    def turned(value: Array) -> Array:
        if e.rotation == "none":
            return value
        if e.rotation == "interleaved":
            other = np.stack([-value[..., 1::2], value[..., 0::2]], axis=-1).reshape(value.shape)
        else:
            first, second = np.split(value, 2, axis=-1)
            other = np.concatenate([-second, first], axis=-1)
        return value * cos + other * (-sin if e.rotation == "inverse" else sin)

    q, k = normed(project("q"), "q_norm", e.q_norm), normed(project("k"), "k_norm", e.k_norm)
    q, k = q if e.rotation == "keys-only" else turned(q), turned(k)
    v = k if e.values_from_keys else project("v")
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = (np.repeat(a, repeats, 1) if e.groups == "repeat" else np.tile(a, (1, repeats, 1, 1)) for a in (k, v))
    scaling = float(suspect.config.get("query_pre_attn_scalar", head)) ** -0.5
    out = scored(q * scaling * head**0.5, k, v, g.get("attention_mask"), e)
    return linear(merged(out), suspect.weight("o_proj.weight"))
