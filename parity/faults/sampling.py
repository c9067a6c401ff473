"""Mistakes around the model: schedule, guidance, sampler, noise, conditioning."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ltx_native import guidance, schedule
from parity.faults.registry import patched, register


@register("GUI-01", "guidance", "root mean square instead of standard deviation in the rescale factor")
def uncentred_rescale() -> Iterator[None]:
    def rms(x: mx.array) -> mx.array:
        return mx.sqrt(mx.mean(mx.square(x.astype(mx.float32)))).astype(x.dtype)

    with patched(guidance, std=rms):
        yield


@register("SCH-05", "schedule", "base sigmas that end at 1/N instead of 0")
def base_sigmas_end_above_zero() -> Iterator[None]:
    def linspace(steps: int) -> NDArray[np.float32]:
        return np.append(np.linspace(1.0, 1.0 / steps, steps), 0.0).astype(np.float32)

    with patched(schedule, _linspace_1_to_0=linspace):
        yield
