"""Noise levels from 1 to 0: the LTX-2 schedule and the fixed levels of the distilled model. NumPy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BASE_SHIFT_TOKENS = 1024
MAX_SHIFT_TOKENS = 4096

DISTILLED_SIGMAS = np.array([1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0], dtype=np.float32)
STAGE_2_DISTILLED_SIGMAS = DISTILLED_SIGMAS[5:].copy()


def ltx2_sigmas(
    steps: int,
    tokens: int = MAX_SHIFT_TOKENS,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    stretch: bool = True,
    terminal: float = 0.1,
) -> NDArray[np.float32]:
    """``steps + 1`` noise levels, float32 at every operation as the official scheduler has them.

    The one-stage and two-stage pipelines do not pass a token count: they always shift for 4,096 tokens. A single step
    starts at ``terminal``: the official code stretches its own last rounding error to it, and so does this.
    """
    slope = (max_shift - base_shift) / (MAX_SHIFT_TOKENS - BASE_SHIFT_TOKENS)
    shift = np.float32(math.exp(tokens * slope + base_shift - slope * BASE_SHIFT_TOKENS))

    noisy = _linspace_1_to_0(steps)[:-1]
    # Reciprocal, then product: torch divides a number by a tensor this way, and the last bit shows it.
    noisy = np.reciprocal(shift + (np.float32(1) / noisy - np.float32(1))) * shift
    if stretch:
        done = np.float32(1) - noisy
        # Where a single step has no rounding error to stretch, the official code divides 0 by 0.
        stretched = done / (done[-1] / np.float32(1.0 - terminal)) if done[-1] else np.float32(1.0 - terminal)
        noisy = np.atleast_1d(np.float32(1) - stretched)
    return np.append(noisy, np.float32(0)).astype(np.float32)


def _linspace_1_to_0(steps: int) -> NDArray[np.float32]:
    # torch.linspace counts from the nearer end and rounds once per value (fused multiply-add): double here, then float32.
    step = float(np.float32(-1.0) / np.float32(steps))
    index = np.arange(steps + 1, dtype=np.float64)
    return np.where(index < (steps + 1) // 2, 1.0 + step * index, -step * (steps - index)).astype(np.float32)
