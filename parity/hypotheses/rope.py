"""Rotary tables from positions: which point of a token's interval, limits, base, spacing, heads, precision."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.hypotheses.base import Array, Candidate, Suspect, bfloat16, float16, hypotheses


@dataclass(frozen=True)
class Tables:
    """The official table of one modality; fields are what a port can get wrong. Shapes: positions (B, axes, T[, 2])."""

    positions: Array
    dim: int
    heads: int
    theta: float
    max_pos: Sequence[float]
    point: str = "middle"  # middle, start, end
    layout: str = "split"  # split, interleaved
    spacing: str = "log"  # log, linear
    grid: type = np.float64
    axes: Sequence[int] | None = None  # another order of the axes
    per_head: bool = False  # the table of one head for all of them
    order: str = "frequency"  # frequency-major, or axis-major
    padding_last: bool = False
    centred: bool = True  # fractions mapped to [-1, 1]
    first_sample: bool = False
    unit: float = math.pi / 2

    def cos_sin(self) -> tuple[Array, Array]:
        p = np.asarray(self.positions, dtype=np.float64)
        if p.ndim == 4:
            p = {"middle": p.mean(-1), "start": p[..., 0], "end": p[..., 1]}[self.point]  # (B, axes, T)
        if self.first_sample:
            p = np.broadcast_to(p[:1], p.shape)
        if self.axes is not None:
            p = p[:, list(self.axes)]
        dim = self.dim // self.heads if self.per_head else self.dim
        count = dim // (2 * p.shape[1])
        exponents = np.linspace(0.0, 1.0, count, dtype=np.float64)
        powers = self.theta**exponents if self.spacing == "log" else 1 + exponents * (self.theta - 1)
        indices: Array = (powers * self.unit).astype(np.float32).astype(self.grid)
        fractions = np.stack([p[:, i] / limit for i, limit in enumerate(self.max_pos)], axis=-1)  # (B, T, axes)
        fractions = fractions * 2 - 1 if self.centred else fractions
        freqs = indices * fractions[..., None]  # (B, T, axes, count)
        freqs = freqs.swapaxes(-1, -2) if self.order == "frequency" else freqs
        freqs = freqs.reshape(*freqs.shape[:2], -1)
        return self._laid_out(np.cos(freqs), 1.0, dim), self._laid_out(np.sin(freqs), 0.0, dim)

    def _laid_out(self, wave: Array, filler: float, dim: int) -> Array:
        b, t, n = wave.shape
        pad = np.full((b, t, (dim if self.layout == "interleaved" else dim // 2) - n * (1 + (self.layout == "interleaved"))),
                      filler)  # fmt: skip
        wave = np.repeat(wave, 2, axis=-1) if self.layout == "interleaved" else wave
        wave = np.concatenate([wave, pad] if self.padding_last else [pad, wave], axis=-1)
        if self.layout == "interleaved":
            return wave  # (B, T, H*D)
        heads = 1 if self.per_head else self.heads
        wave = wave.reshape(b, t, heads, -1).swapaxes(1, 2)
        return np.repeat(wave, self.heads, axis=1) if self.per_head else wave  # (B, H, T, D/2)


# cause, words, changed fields; positions are changed by functions
EDITS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rope.interval", "RoPE at the start instead of the middle of each token's interval", {"point": "start"}),
    ("rope.interval", "RoPE at the end instead of the middle of each token's interval", {"point": "end"}),
    ("rope.layout", "RoPE interleaved instead of split", {"layout": "interleaved"}),
    ("rope.spacing", "frequencies in linear instead of geometric steps", {"spacing": "linear"}),
    ("rope.precision", "the frequency grid in float16", {"grid": np.float16}),
    ("rope.heads", "a frequency table of one head's size for every head", {"per_head": True}),
    ("rope.order", "frequencies axis by axis instead of axis within frequency", {"order": "axis"}),
    ("rope.padding", "the padding at the end instead of the start", {"padding_last": True}),
    ("rope.fraction", "positions as fractions in [0, 1] instead of [-1, 1]", {"centred": False}),
    ("rope.batch", "the first sample's positions for all samples", {"first_sample": True}),
)
UNITS = ((math.pi, "pi"), (1.0, "1"), (2 * math.pi, "2 pi"), (math.pi / 4, "pi / 4"))
THETAS = (100.0, 1000.0, 10000.0, 20000.0, 100000.0, 500000.0, 1e6)
FACTORS = (0.25, 0.5, 2.0, 4.0, 24.0, 25.0, 30.0, 1 / 24, 1 / 25, 1 / 30, 8.0, 1 / 8, 100.0, 0.01, 1000.0)
LIMITS = (1, 10, 16, 20, 24, 30, 32, 64, 128, 512, 1024, 2048, 4096)


@hypotheses("*:*positional_embeddings.[01]", "*:*pe.[01]")
def tables(suspect: Suspect) -> Iterator[Candidate]:
    official, part = suspect.given["rope"], int(suspect.name[-1])
    assert isinstance(official, Tables)

    def edited(**changes: Any) -> Array:
        from dataclasses import replace

        return replace(official, **changes).cos_sin()[part]

    for cause, words, changes in EDITS:
        yield Candidate(cause, words, lambda c=changes: edited(**c))  # type: ignore[misc]
    axes = official.positions.shape[1]
    if axes == 3:
        for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
            yield Candidate("rope.axes", f"position axes in the order {order}", lambda o=order: edited(axes=o))  # type: ignore[misc]
    for dtype, narrow in (("bfloat16", bfloat16), ("float16", float16)):
        low = narrow(official.positions)
        yield Candidate("rope.precision", f"positions rounded to {dtype} before RoPE", lambda p=low: edited(positions=p))  # type: ignore[misc]
        yield Candidate("rope.precision", f"cos and sin rounded to {dtype}", lambda n=narrow: n(official.cos_sin()[part]))  # type: ignore[misc]
    for theta in THETAS:
        if theta != official.theta:
            words = f"theta {theta:g} instead of {official.theta:g}"
            yield Candidate("rope.theta", words, lambda t=theta: edited(theta=t))  # type: ignore[misc]
    for limit in LIMITS:
        for axis, now in enumerate(official.max_pos):
            if limit != now:
                limits = [limit if i == axis else m for i, m in enumerate(official.max_pos)]
                words = f"max_pos {limit} instead of {now:g} on axis {axis}"
                yield Candidate("rope.max-pos", words, lambda m=limits: edited(max_pos=m))  # type: ignore[misc]
    for unit, name in UNITS:
        yield Candidate("rope.frequency", f"frequencies in units of {name} instead of pi / 2", lambda u=unit: edited(unit=u))  # type: ignore[misc]
    for factor in FACTORS:
        times = np.array([factor] + [1.0] * (axes - 1)).reshape(1, axes, *[1] * (official.positions.ndim - 2))
        words = f"times in RoPE multiplied by {factor:.4g}"
        yield Candidate("rope.position-scale", words, lambda f=times: edited(positions=official.positions * f))  # type: ignore[misc]
        words = f"positions in RoPE multiplied by {factor:.4g}"
        yield Candidate("rope.position-scale", words, lambda f=factor: edited(positions=official.positions * f))  # type: ignore[misc]


def of_stream(config: Any, given: Any, stream: str, cross: bool) -> Tables:
    """The official table of a stream of the transformer (its own, or the one both streams share across modalities)."""
    positions = np.asarray(given[f"{stream}.positions"])
    audio = "audio_" if stream == "audio" else ""
    heads = int(config[f"{audio}num_attention_heads"])
    dim = heads * int(config[f"{audio}attention_head_dim"])
    limits = list(config[f"{audio}positional_embedding_max_pos"])
    if cross:
        both = [config["positional_embedding_max_pos"][0], config["audio_positional_embedding_max_pos"][0]]
        positions, dim, limits = positions[:, :1], int(config["audio_cross_attention_dim"]), [max(both)]
    return Tables(positions, dim, heads, float(config["positional_embedding_theta"]), limits)


def of_connector(config: Any, stream: str, tokens: int) -> Tables:
    """The official table of a text connector: token numbers over `max_pos`."""
    prefix = "audio_connector_" if stream == "audio" else "connector_"
    heads, size = int(config[f"{prefix}num_attention_heads"]), int(config[f"{prefix}attention_head_dim"])
    limits = list(config.get("connector_positional_embedding_max_pos", (4096,)))
    theta = float(config.get("positional_embedding_theta", 10000.0))
    return Tables(np.arange(tokens, dtype=np.float64)[None, None], heads * size, heads, theta, limits)


@hypotheses("Gemma3RotaryEmbedding")
def gemma(suspect: Suspect) -> Iterator[Candidate]:
    """cos and sin of Gemma: base, scaling, positions."""
    c, positions = suspect.config, np.asarray(suspect.given["position_ids"], dtype=np.float64)
    size = suspect.reference.shape[-1]
    scaling = c.get("rope_scaling") or {}
    factor = float(scaling.get("factor", 1.0)) if isinstance(scaling, dict) else 1.0
    full = suspect.given.get("layer_type") == "full_attention"
    own = (float(c["rope_theta"]), factor) if full else (float(c["rope_local_base_freq"]), 1.0)
    wave = np.cos if re.fullmatch("0", suspect.name or "0") else np.sin

    def table(theta: float, factor: float, shift: float = 0.0, interleaved: bool = False) -> Array:
        inverse = theta ** (-np.arange(0, size, 2) / size) / factor
        angle = (positions[..., None] + shift) * inverse
        return wave(np.repeat(angle, 2, -1) if interleaved else np.concatenate([angle, angle], -1))

    theta, scale = own
    global_, local = float(c["rope_theta"]), float(c["rope_local_base_freq"])
    both = ((local, 1.0), (local, factor), (global_, 1.0), (global_, factor))
    for base, by in both:
        if base != theta and (base, by) != own:
            words = f"theta {base:g} (scaling {by:g}) of the other kind of layer instead of {theta:g} (scaling {scale:g})"
            yield Candidate("rope.theta", words, lambda b=base, f=by: table(b, f))  # type: ignore[misc]
    for by in (1.0, 2.0, 4.0, 8.0, 16.0, 1 / factor):
        if by != scale:
            words = f"positions scaled by {by:g} instead of {scale:g}"
            yield Candidate("rope.scaling", words, lambda f=by: table(theta, f))  # type: ignore[misc]
    for base in THETAS:
        if base != theta:
            yield Candidate("rope.theta", f"theta {base:g} instead of {theta:g}", lambda b=base: table(b, scale))  # type: ignore[misc]
    yield Candidate("rope.layout", "RoPE interleaved instead of halves", lambda: table(theta, scale, interleaved=True))
    yield Candidate("rope.offset", "positions that begin at 1", lambda: table(theta, scale, 1.0))
    yield Candidate("rope.offset", "positions that begin at -1", lambda: table(theta, scale, -1.0))
    for dtype, narrow in (("bfloat16", bfloat16), ("float16", float16)):
        words = f"cos and sin rounded to {dtype}"
        yield Candidate("rope.precision", words, lambda n=narrow: n(table(theta, scale)))  # type: ignore[misc]
