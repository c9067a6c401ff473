"""Mistakes between the prompt and the text contexts: tokenizer, Gemma, feature extractor, connectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_native.layers import GELUApprox
from ltx_native.text_encoder import gemma3
from ltx_native.text_encoder.processor import EmbeddingsProcessor
from parity.faults.registry import patched, register


@register("GEM-05", "gemma", "one added twice to the weights of Gemma's norms")
def doubly_added_one() -> Iterator[None]:
    def call(self: gemma3.RMSNorm, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x.astype(mx.float32), 2.0 + self.weight.astype(mx.float32), self.eps).astype(x.dtype)

    with patched(gemma3.RMSNorm, __call__=call):
        yield


class ErfGELU(GELUApprox):
    """The exact GELU where the checkpoint was trained with the tanh form."""

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu(self.proj(x))


@register("CON-03", "embeddings_processor", "erf instead of tanh GELU in the connectors")
def erf_gelu_in_connectors() -> Iterator[None]:
    original = EmbeddingsProcessor.__init__

    def init(self: EmbeddingsProcessor, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for _, module in self.named_modules():
            if type(module) is GELUApprox:
                module.__class__ = ErfGELU

    with patched(EmbeddingsProcessor, __init__=init):
        yield
