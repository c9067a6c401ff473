"""The whole latent upsampler from its own file: norms, residuals, shuffles, the blur, the frame that is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.hypotheses.base import Array, Candidate, Suspect, hypotheses
from parity.hypotheses.conv import convolved, shuffled
from parity.hypotheses.functions import layer_norm, silu

GROUPS = 32
RATIOS = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}


@dataclass(frozen=True)
class Edits:
    """Switches of `upsample`; the defaults are the official network."""

    blur: bool = True
    drop_first: bool = True
    drop_last: bool = False
    minor: bool = False  # channel-minor pixel shuffle
    grouped: bool = True
    residual: bool = True
    padding: str = "constant"
    ratio: tuple[int, int] | None = None


EDITS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("upsampler.blur-missing", "the blur before places are skipped left out", {"blur": False}),
    ("length.head-kept", "the first frame kept, which the official code drops", {"drop_first": False}),
    ("length.tail-cut", "the last frame dropped instead of the first", {"drop_first": False, "drop_last": True}),
    ("shuffle.order", "channel-minor instead of channel-major pixel shuffle", {"minor": True}),
    ("norm.group", "norms over all channels instead of 32 groups", {"grouped": False}),
    ("block.residual", "no residuals", {"residual": False}),
    ("padding.reflect", "borders mirrored instead of zero", {"padding": "reflect"}),
    ("padding.edge", "borders repeated instead of zero", {"padding": "edge"}),
    ("upsampler.ratio", "twice the size instead of the stated ratio", {"ratio": (2, 1)}),
)


@hypotheses("LatentUpsampler")
def whole(suspect: Suspect) -> Iterator[Candidate]:
    latent = np.asarray(suspect.given["latent"])
    if latent.size > 1 << 14:
        return
    parameters, config = suspect.known, suspect.config
    for cause, words, switches in EDITS:
        yield Candidate(cause, words, lambda s=switches: upsample(latent, parameters, config, Edits(**s)))  # type: ignore[misc]


def upsample(latent: Array, p: Mapping[str, Array], config: Mapping[str, Any], e: Edits) -> Array:
    """(B, F, H, W, C) latents through the official network of ``config``; ``p`` in PyTorch's axes."""

    def conv(x: Array, name: str) -> Array:
        flat = p[f"{name}.weight"].ndim == 4
        value = x.reshape(-1, *x.shape[2:]) if flat else x
        padding = [(k - 1) // 2 for k in p[f"{name}.weight"].shape[2:]]
        out = convolved(value, p[f"{name}.weight"], p[f"{name}.bias"], padding, mode=e.padding)
        return out.reshape(*x.shape[:2], *out.shape[1:]) if flat else out

    def norm(x: Array, name: str) -> Array:
        count = GROUPS if e.grouped else 1
        parts = x.reshape(*x.shape[:-1], count, -1)
        normed = layer_norm(parts, 1e-5, axis=(1, 2, 3, 5)).reshape(x.shape)
        return normed * p[f"{name}.weight"] + p[f"{name}.bias"]

    def block(x: Array, name: str) -> Array:
        h = silu(norm(conv(x, f"{name}.conv1"), f"{name}.norm1"))
        h = norm(conv(h, f"{name}.conv2"), f"{name}.norm2")
        return silu(h + x) if e.residual else silu(h)

    count = int(config.get("num_blocks_per_stage", 4))
    x = silu(norm(conv(latent, "initial_conv"), "initial_norm"))
    for i in range(count):
        x = block(x, f"res_blocks.{i}")
    temporal, spatial = bool(config.get("temporal_upsample")), bool(config.get("spatial_upsample", True))
    if temporal:
        factors = (2, 2, 2) if spatial else (2, 1, 1)
        x = shuffled(conv(x, "upsampler.0"), factors, not e.minor)
        x = x[:, 1:] if e.drop_first else x[:, :-1] if e.drop_last else x
    elif config.get("rational_resampler"):
        up, down = e.ratio or RATIOS[float(config.get("spatial_scale", 2.0))]
        x = shuffled(conv(x, "upsampler.conv"), (1, up, up), not e.minor)
        x = _skipped(x, p, down, e) if down > 1 else x
    else:
        x = shuffled(conv(x, "upsampler.0"), (1, 2, 2), not e.minor)
    for i in range(count):
        x = block(x, f"post_upsample_res_blocks.{i}")
    return conv(x, "final_conv")


def _skipped(x: Array, p: Mapping[str, Array], step: int, e: Edits) -> Array:
    """Every ``step``-th place, after a blur of 5 x 5."""
    if not e.blur:
        return x[:, :, ::step, ::step]
    kernel = p["upsampler.blur_down.kernel"].reshape(1, 1, 5, 5)
    b, f, h, w, c = x.shape
    planes = x.transpose(0, 1, 4, 2, 3).reshape(-1, h, w, 1)
    out = convolved(planes, kernel, None, [2, 2], step)
    return np.asarray(out.reshape(b, f, c, *out.shape[1:3]).transpose(0, 1, 3, 4, 2))
