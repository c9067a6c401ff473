"""The degradation ladder: ways to break the native engine that ports really were broken, each behind a name.

A gate that does not see these is blind, so its pass means nothing. Two kinds: what is asked of the engine (steps, guidance) and
what is done to its modules once they are loaded. `none` and `shuffled-prompts` need nothing from the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import mlx.core as mx
import mlx.nn as nn

from ltx_native.quantize import QuantizedLinear
from ltx_native.text_encoder.connector import Embeddings1DConnector
from ltx_native.text_encoder.gemma3 import RMSNorm
from parity.cases import Case

OnLoad = Callable[[str, nn.Module], int]  # (component, its module) to the number of layers changed


@dataclass(frozen=True)
class Degradation:
    """One rung: what it does, in words; a change of the request; a change of a loaded component."""

    says: str
    change_case: Callable[[Case], Case] = lambda case: case
    on_load: OnLoad | None = None


def _one_step(case: Case) -> Case:
    return replace(case, steps=1)


def _few_steps(case: Case) -> Case:
    return replace(case, steps=max(2, case.steps // 5))


def _no_cfg(case: Case) -> Case:
    return replace(case, video=replace(case.video, cfg=1.0), audio=replace(case.audio, cfg=1.0))


def _quantise(component: str, module: nn.Module) -> int:
    """4-bit weights in groups of 32 (published conversions have 64, which small widths do not divide by)."""
    if component != "transformer":
        return 0

    def fits(path: str, layer: nn.Module) -> bool:
        return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % 32 == 0

    nn.quantize(module, group_size=32, bits=4, class_predicate=fits)
    quantised = [layer for layer in module.modules() if type(layer) is nn.QuantizedLinear]
    for layer in quantised:
        layer.__class__ = QuantizedLinear
    return len(quantised)


def _interleave_rope(component: str, module: nn.Module) -> int:
    """Pairs (0, 1), (2, 3), … rotate where the checkpoint wants the two halves of a head."""
    if component != "transformer":
        return 0
    module.config = replace(module.config, rope_type="interleaved")
    split = [layer for layer in module.modules() if getattr(layer, "rope_type", "") == "split"]
    for layer in split:
        layer.rope_type = "interleaved"
    return len(split)


def _unscaled_gate(component: str, module: nn.Module) -> int:
    """The audio-video gate sees sigma instead of 1000 x sigma: a default of 1 where the checkpoint says 1000."""
    if component != "transformer" or module.config.av_ca_timestep_scale_multiplier == 1.0:
        return 0
    module.config = replace(module.config, av_ca_timestep_scale_multiplier=1.0)
    return 1


def _gemma_norm_twice(component: str, module: nn.Module) -> int:
    """Gemma's norm scales by 1 + weight; a loader that already added the 1 makes it 2 + weight."""
    if component != "gemma":
        return 0
    norms = [layer for layer in module.modules() if isinstance(layer, RMSNorm)]
    for layer in norms:
        layer.weight = layer.weight + mx.ones_like(layer.weight)
    return len(norms)


class _Flipped(Embeddings1DConnector):
    """Tokens reversed after the registers were filled in, so the prompt stands at the end, backwards."""

    def replace_padding(self, hidden_states: mx.array, attention_mask: mx.array) -> mx.array:
        return super().replace_padding(hidden_states, attention_mask)[:, ::-1]


def _flip_connectors(component: str, module: nn.Module) -> int:
    if component != "embeddings_processor":
        return 0
    connectors = [layer for layer in module.modules() if isinstance(layer, Embeddings1DConnector)]
    for layer in connectors:
        layer.__class__ = _Flipped
    return len(connectors)


RUNGS: Final[Mapping[str, Degradation]] = {
    "none": Degradation("the native engine as it is"),
    "shuffled-prompts": Degradation("every video is made from another prompt of the suite"),
    "no-cfg": Degradation("classifier-free guidance off", change_case=_no_cfg),
    "few-steps": Degradation("a fifth of the steps", change_case=_few_steps),
    "one-step": Degradation("one step", change_case=_one_step),
    "q4-weights": Degradation("the transformer's linear layers in 4 bits", on_load=_quantise),
    "rope-interleaved": Degradation(
        "interleaved instead of split rotary embeddings in the transformer", on_load=_interleave_rope
    ),
    "gate-sigma-unscaled": Degradation("sigma instead of 1000 x sigma in the audio-video gate", on_load=_unscaled_gate),
    "gemma-norm-twice": Degradation("2 + weight instead of 1 + weight in Gemma's norms", on_load=_gemma_norm_twice),
    "connector-order": Degradation("tokens reversed behind the connectors' registers", on_load=_flip_connectors),
}
