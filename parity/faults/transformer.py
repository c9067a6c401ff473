"""Mistakes in the audio-video transformer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ltx_native.transformer.model import LTXModel
from parity.faults.registry import patched, register


@register("TIM-01", "transformer", "sigma instead of sigma × 1000 in the audio-video gates")
def unscaled_gate_timestep() -> Iterator[None]:
    original = LTXModel._prepare

    def prepare(self: LTXModel, *args: Any, **kwargs: Any) -> Any:
        right = self.config
        self.config = replace(right, av_ca_timestep_scale_multiplier=1.0)
        try:
            return original(self, *args, **kwargs)
        finally:
            self.config = right

    with patched(LTXModel, _prepare=prepare):
        yield
