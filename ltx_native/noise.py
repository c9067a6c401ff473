"""Where noise comes from: drawn from a seed as the external CLI draws it, or given from outside for a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import mlx.core as mx

from ltx_native.errors import RequestError

#: Added to the seed for each named draw, so that both engines start from the same noise.
SEED_OFFSETS = {"video": 0, "audio": 1, "stage_2.video": 2, "stage_2.audio": 2}


@dataclass(frozen=True)
class Noise:
    """Standard normal tokens (1, T, C) from outside, by the name of the draw; ``more`` holds later stages' draws."""

    video: mx.array | None = None
    audio: mx.array | None = None
    more: Mapping[str, mx.array] = field(default_factory=dict)

    def get(self, name: str) -> mx.array | None:
        return {"video": self.video, "audio": self.audio}.get(name, self.more.get(name))

    @classmethod
    def load(cls, path: str | Path) -> Noise:
        """Read keys ``video``, ``audio``, ``stage_2.video`` ... from a safetensors file."""
        try:
            tensors = dict(cast(dict[str, mx.array], mx.load(str(path))))
        except Exception as error:
            raise RequestError(
                "the noise file cannot be read", str(path), str(error), "a safetensors file", "write it again"
            ) from error
        return cls(tensors.pop("video", None), tensors.pop("audio", None), tensors)


@dataclass(frozen=True)
class NoiseSource:
    """Draws by name; what was given from outside comes first."""

    seed: int
    given: Noise | None = None

    def draw(self, name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """(1, T, C) standard normal. Drawn values are rounded to bfloat16 whatever ``dtype`` is, as the CLI has them."""
        given = self.given.get(name) if self.given else None
        if given is None:
            key = mx.random.split(mx.random.key(self.seed + SEED_OFFSETS[name]))[1]
            return mx.random.normal(shape, key=key).astype(mx.bfloat16).astype(dtype)
        if tuple(given.shape) != tuple(shape):
            raise RequestError(
                "the given noise does not fit the request",
                f"noise {name!r}",
                tuple(given.shape),
                tuple(shape),
                "make the noise for the same size, frame count and frame rate",
            )
        return given.astype(dtype)


def add_noise(noise: mx.array, latent: mx.array, denoise_mask: mx.array, noise_scale: float = 1.0) -> mx.array:
    """Tokens at ``noise_scale`` where the mask is 1, clean where it is 0; blended in float32, returned as ``latent``."""
    amount = denoise_mask * noise_scale
    return (noise * amount + latent * (1 - amount)).astype(latent.dtype)
