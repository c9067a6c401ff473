"""Where noise comes from: drawn from a seed as the external CLI draws it, or given from outside for a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from ltx_native.errors import RequestError

#: The sampler's own noise is float64, which MLX does not read from files.
Draw = mx.array | NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Standard normal tokens (1, T, C) from outside. Every mode draws video, then audio; ``later`` has draws 2, 3, …"""

    video: Draw | None = None
    audio: Draw | None = None
    later: Mapping[int, Draw] = field(default_factory=dict)

    def draw(self, index: int) -> Draw | None:
        return {0: self.video, 1: self.audio}.get(index, self.later.get(index))

    @classmethod
    def load(cls, path: str | Path) -> Noise:
        """Read a safetensors file with keys ``video``, ``audio`` or ``draw.00000``, ``draw.00001``, …"""
        try:
            tensors = _read(str(path))
            named = {{"video": 0, "audio": 1}.get(k, int(k.removeprefix("draw.") if k[:5] == "draw." else -1)): v
                     for k, v in tensors.items()}  # fmt: skip
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise RequestError(
                "the noise file cannot be read", str(path), str(error), "a safetensors file", "Write it again"
            ) from error
        if -1 in named:
            found = ", ".join(tensors)
            raise RequestError("the noise file has unknown keys", str(path), found, "video, audio or draw.NNNNN", "Rename them")
        return cls(named.pop(0, None), named.pop(1, None), named)


@dataclass
class Draws:
    """The draws of one run in their order; what was given from outside replaces what would be drawn."""

    seed: int
    given: Noise | None = None
    count: int = 0

    def initial(self, shape: tuple[int, ...], dtype: mx.Dtype, seed_offset: int) -> mx.array:
        """(1, T, C) standard normal. Drawn values are rounded to bfloat16 in every dtype, because the CLI has them so."""
        given = self._next(shape)
        if given is not None:
            return mx.array(given).astype(dtype)
        key = mx.random.split(mx.random.key(self.seed + seed_offset))[1]
        return mx.random.normal(shape, key=key).astype(mx.bfloat16).astype(dtype)

    def sde(self, seed: int, shapes: tuple[tuple[int, ...], ...]) -> list[NDArray[np.float64]]:
        """Noise that res_2s injects, one array per shape from one seed, each with mean 0 and deviation 1 per channel."""
        state, drawn = mx.random.key(seed), []
        for shape in shapes:
            state, key = mx.random.split(state)
            given = self._next(shape)
            if given is None:
                drawn.append(_normalized(np.array(mx.random.normal(shape, key=key), dtype=np.float64)))
            else:
                drawn.append(np.array(given, dtype=np.float64))
        return drawn

    def _next(self, shape: tuple[int, ...]) -> Draw | None:
        index, self.count = self.count, self.count + 1
        given = self.given.draw(index) if self.given else None
        if given is not None and tuple(given.shape) != tuple(shape):
            raise RequestError(
                "the given noise does not fit the request",
                f"noise draw {index}",
                tuple(given.shape),
                tuple(shape),
                "Make the noise for the same mode, size, frame count and frame rate",
            )
        if given is None and self.given is not None:
            raise RequestError(
                "the given noise has too few draws", f"noise draw {index}", "nothing", tuple(shape), "Add the draw"
            )
        return given


def _read(path: str) -> dict[str, Draw]:
    with safe_open(path, "numpy") as file:
        doubles = any(file.get_slice(key).get_dtype() == "F64" for key in file.keys())  # noqa: SIM118
    read = load_file(path) if doubles else mx.load(path)
    return dict(cast(dict[str, Draw], read))


def _normalized(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero mean and unit deviation over everything, then over the last two axes, as the official sampler does."""
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    axes = (-2, -1)
    return (noise - noise.mean(axis=axes, keepdims=True)) / noise.std(axis=axes, ddof=1, keepdims=True)


def add_noise(noise: mx.array, latent: mx.array, denoise_mask: mx.array, noise_scale: float = 1.0) -> mx.array:
    """Tokens at ``noise_scale`` where the mask is 1, clean where it is 0; blended in float32, returned as ``latent``."""
    amount = denoise_mask * noise_scale
    return (noise * amount + latent * (1 - amount)).astype(latent.dtype)
