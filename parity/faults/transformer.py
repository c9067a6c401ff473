"""Mistakes in the audio-video transformer: modulation, attention, gates, feed-forward, numerics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_native import kernels, layers
from ltx_native.layers import Attention, GELUApprox
from ltx_native.transformer import args as transformer_args
from ltx_native.transformer import block as blocks
from ltx_native.transformer import model as models
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.block import BasicAVTransformerBlock
from ltx_native.transformer.model import LTXModel
from ltx_native.transformer.perturbations import Perturbation, PerturbationType
from parity.faults.registry import everywhere, patched, register, swapping


@register("TIM-01")
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


@register("ADA-03")
def text_without_modulation() -> Iterator[None]:
    original = BasicAVTransformerBlock._text

    def text(self: Any, args: TransformerArgs, attn: Attention, table: mx.array, prompt_table: mx.array | None) -> Any:
        return original(self, args, attn, table, None)

    with patched(BasicAVTransformerBlock, _text=text):
        yield


def _ada(rows: int, change: Any) -> Any:
    original = blocks.ada_values

    def values(table: mx.array, timestep: mx.array, which: mx.array | None, part: slice) -> Sequence[mx.array]:
        found = original(table, timestep, which, part)
        return change(table, timestep, list(found)) if table.shape[0] == rows else found

    return patched(blocks, ada_values=values)


@register("ADA-04")
def gate_multiplied() -> Iterator[None]:
    with _ada(1, lambda table, timestep, found: [table[0] * timestep]):
        yield


@register("ADA-06")
def shift_and_scale_swapped() -> Iterator[None]:
    with _ada(4, lambda table, timestep, found: [found[i] for i in (1, 0, 3, 2)]):
        yield


@register("ADA-08")
def table_promotes_activations() -> Iterator[None]:
    original = blocks.modulate

    def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
        return original(x.astype(mx.float32), scale.astype(mx.float32), shift.astype(mx.float32))

    with patched(blocks, modulate=modulate):
        yield


class SiLUProjection(GELUApprox):
    def __call__(self, x: mx.array) -> mx.array:
        return nn.silu(self.proj(x))


class ErfGELU(GELUApprox):
    """The exact GELU where the checkpoint was trained with the tanh form."""

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu(self.proj(x))


@register("FFN-01")
def silu_feed_forward() -> Iterator[None]:
    with swapping(LTXModel, GELUApprox, SiLUProjection):
        yield


@register("FFN-03")
def erf_feed_forward() -> Iterator[None]:
    with swapping(LTXModel, GELUApprox, ErfGELU):
        yield


def _attends(function: Any) -> Any:
    """The transformer's attentions (not the connectors') with another kernel."""

    class Changed(Attention):
        def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
            with patched(layers, attention=function):
                return Attention.__call__(self, *args, **kwargs)

    Changed.__call__.__wrapped__ = Attention.__call__  # type: ignore[attr-defined]
    return swapping(LTXModel, Attention, Changed)


@register("ATT-02")
def padding_masked_in_cross_attention() -> Iterator[None]:
    original = LTXModel._prepare

    def prepare(self: LTXModel, *args: Any, **kwargs: Any) -> TransformerArgs:
        prepared = original(self, *args, **kwargs)
        padding = mx.arange(prepared.context.shape[1]) >= 20
        return replace(prepared, context_mask=mx.where(padding, -1e9, 0.0)[None, None, None])

    with patched(LTXModel, _prepare=prepare):
        yield


@register("ATT-05")
def keys_of_the_first_tile_only() -> Iterator[None]:
    def tiled(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Any) -> mx.array:
        if k.shape[2] > 1024 and mask is None:
            k, v = k[:, :, :1024], v[:, :, :1024]
        return kernels.attention(q, k, v, scale, mask)

    with patched(layers, attention=tiled):
        yield


@register("ATT-06")
def softmax_in_bfloat16() -> Iterator[None]:
    def rounded(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Any) -> mx.array:
        scores = (q * scale) @ k.swapaxes(-1, -2)
        scores = scores if mask is None else scores + mask
        return mx.softmax(scores.astype(mx.bfloat16), axis=-1).astype(q.dtype) @ v

    with _attends(rounded):
        yield


@register("ATT-07")
def boolean_mask_as_small_bias() -> Iterator[None]:
    def bias(mask: mx.array | None, dtype: mx.Dtype) -> mx.array | None:
        return None if mask is None else mask.astype(dtype)[:, None]

    with everywhere("self_attention_bias", bias, transformer_args, models):
        yield


class Ungated(Attention):
    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        gate, self.to_gate_logits = self.to_gate_logits, None
        try:
            return Attention.__call__(self, *args, **kwargs)
        finally:
            self.to_gate_logits = gate

    __call__.__wrapped__ = Attention.__call__  # type: ignore[attr-defined]


@register("GAT-01")
def no_gate() -> Iterator[None]:
    with swapping(LTXModel, Attention, Ungated):
        yield


class GateOfOutput(Attention):
    """The gate's logits computed from what attention gives instead of from what it is given."""

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        ungated = Ungated.__call__(self, x, *args, **kwargs)
        logits = self.to_gate_logits
        assert logits is not None
        gate = 2.0 * mx.sigmoid(logits(ungated))
        return ungated * mx.repeat(gate, ungated.shape[-1] // gate.shape[-1], axis=-1)

    __call__.__wrapped__ = Attention.__call__  # type: ignore[attr-defined]


@register("GAT-03")
def gate_from_output() -> Iterator[None]:
    with swapping(LTXModel, Attention, GateOfOutput):
        yield


@register("XMA-01")
def no_video_to_audio() -> Iterator[None]:
    original = BasicAVTransformerBlock._exchange

    def exchange(self: Any, video: Any, audio: Any, *args: Any) -> Any:
        return original(self, video, audio, *args)[0], audio

    with patched(BasicAVTransformerBlock, _exchange=exchange):
        yield


@register("XMA-02")
def perturbation_blended_inside() -> Iterator[None]:
    original = BasicAVTransformerBlock._exchange

    def mean_of_values(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Any) -> mx.array:
        return mx.broadcast_to(v.mean(axis=2, keepdims=True), (*v.shape[:2], q.shape[2], v.shape[3]))

    def exchange(self: Any, video: Any, audio: Any, run_video: bool, run_audio: bool, perturbations: Any) -> Any:
        cross = PerturbationType.SKIP_A2V_CROSS_ATTN
        if perturbations is None or not perturbations.all_in_batch(cross, self.idx):
            return original(self, video, audio, run_video, run_audio, perturbations)
        with patched(layers, attention=mean_of_values):
            return original(self, video, audio, run_video, run_audio, None)

    with patched(BasicAVTransformerBlock, _exchange=exchange):
        yield


@register("XMA-05")
def option_by_slot() -> Iterator[None]:
    def is_perturbed(self: Perturbation, perturbation_type: PerturbationType, block: int) -> bool:
        slot = 0  # a pool of one slot: every block is resident in the same place
        return self.type == perturbation_type and (self.blocks is None or slot in self.blocks)

    with patched(Perturbation, is_perturbed=is_perturbed):
        yield


@register("DTY-02")
def half_precision_blocks() -> Iterator[None]:
    original = BasicAVTransformerBlock.__call__

    def call(self: Any, video: Any, audio: Any, perturbations: Any = None) -> Any:
        given = [replace(one, x=one.x.astype(mx.float16).astype(one.x.dtype)) for one in (video, audio)]
        return original(self, given[0], given[1], perturbations)

    with patched(BasicAVTransformerBlock, __call__=call):
        yield


@register("DTY-09")
def looser_eps() -> Iterator[None]:
    original = BasicAVTransformerBlock.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "norm_eps": 1e-5})

    with patched(BasicAVTransformerBlock, __init__=init):
        yield


class RoundedLayerNorm(nn.LayerNorm):
    def __call__(self, x: mx.array) -> mx.array:
        low = x.astype(mx.bfloat16)
        mean, variance = low.mean(-1, keepdims=True), low.var(-1, keepdims=True)
        return ((low - mean) * mx.rsqrt(variance + self.eps)).astype(x.dtype)


@register("DTY-10")
def output_norm_in_bfloat16() -> Iterator[None]:
    with swapping(LTXModel, nn.LayerNorm, RoundedLayerNorm):
        yield
