"""Gemma 3's text model, run once over the prompt for all of its hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_native.config import GemmaConfig
from ltx_native.kernels import attention, gelu_tanh
from ltx_native.layers import Linear

Masks = Mapping[str, mx.array | None]
Rotation = tuple[mx.array, mx.array]


class ScaledWordEmbedding(nn.Embedding):
    def __call__(self, input_ids: mx.array) -> mx.array:
        # the scale is rounded to the weights' dtype before it multiplies (in bfloat16 sqrt(3840) becomes 62)
        embed_scale = mx.array(self.weight.shape[1] ** 0.5, dtype=self.weight.dtype)
        return super().__call__(input_ids) * embed_scale

    def to_quantized(self, *args: Any, **kwargs: Any) -> nn.Module:
        layer = super().to_quantized(*args, **kwargs)
        layer.__class__ = QuantizedScaledWordEmbedding
        return layer


class QuantizedScaledWordEmbedding(nn.QuantizedEmbedding):
    def __call__(self, input_ids: mx.array) -> mx.array:
        return super().__call__(input_ids) * mx.array(self.dims**0.5, dtype=self.scales.dtype)


class RMSNorm(nn.Module):
    """Gemma stores the weight less one, and multiplies by it before rounding to the input's dtype."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.zeros((dim,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x.astype(mx.float32), 1.0 + self.weight.astype(mx.float32), self.eps).astype(x.dtype)


class RotaryEmbedding(nn.Module):
    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self._inv_freq = {
            "full_attention": inverse_frequencies(config.rope_theta, config.head_dim, config.rope_scaling_factor),
            "sliding_attention": inverse_frequencies(config.rope_local_base_freq, config.head_dim, 1.0),
        }

    def __call__(self, x: mx.array, position_ids: mx.array, layer_type: str) -> Rotation:
        freqs = position_ids[..., None].astype(mx.float32) * self._inv_freq[layer_type]  # (1, T, D/2)
        emb = mx.concatenate([freqs, freqs], axis=-1)
        return mx.cos(emb).astype(x.dtype), mx.sin(emb).astype(x.dtype)  # (1, T, D)


class MLP(nn.Module):
    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(gelu_tanh(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scaling = config.query_pre_attn_scalar**-0.5
        self.q_proj = Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def __call__(
        self, hidden_states: mx.array, position_embeddings: Rotation, attention_mask: mx.array | None
    ) -> tuple[mx.array, None]:
        q = rotate(self.q_norm(self._heads(self.q_proj(hidden_states))), position_embeddings)
        k = rotate(self.k_norm(self._heads(self.k_proj(hidden_states))), position_embeddings)
        v = self._heads(self.v_proj(hidden_states))

        mask = "causal" if attention_mask is None else attention_mask
        out = attention(q, k, v, self.scaling, mask)  # (B, H, T, D)
        if attention_mask is not None:
            # a query that may attend to nothing (padding) gives zeros, as in PyTorch's kernel
            out = mx.where(attention_mask.any(axis=-1, keepdims=True), out, mx.array(0, out.dtype))
        # the second value is where the reference returns its (never asked for) attention weights
        return self.o_proj(out.swapaxes(1, 2).flatten(2)), None  # (B, T, D)

    def _heads(self, x: mx.array) -> mx.array:
        b, t, _ = x.shape
        return x.reshape(b, t, -1, self.head_dim).swapaxes(1, 2)  # (B, H, T, D)


class DecoderLayer(nn.Module):
    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, hidden_states: mx.array, position_embeddings: Rotation, attention_mask: mx.array | None) -> mx.array:
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
        )
        hidden_states = hidden_states + self.post_attention_layernorm(attended)
        return hidden_states + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(hidden_states)))


class GemmaTextModel(nn.Module):
    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = ScaledWordEmbedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)

    def __call__(
        self,
        input_ids: mx.array | None = None,
        attention_mask: mx.array | Masks | None = None,
        position_ids: mx.array | None = None,
        inputs_embeds: mx.array | None = None,
    ) -> list[mx.array]:
        """All hidden states, (B, T, D) each: the embedding's, each layer's, the last one after the final norm.

        attention_mask is the tokenizer's (B, T), or the boolean (B, 1, T, T) mask of each layer type.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("GemmaTextModel needs input_ids or inputs_embeds")
            inputs_embeds = self.embed_tokens(input_ids)  # (B, T, D)
        length = inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = mx.arange(length)[None]
        masks = attention_mask if isinstance(attention_mask, Mapping) else self.masks(attention_mask, length)
        kinds = sorted(set(self.config.layer_types))
        rotations = {kind: self.rotary_emb(inputs_embeds, position_ids, kind) for kind in kinds}

        states = [inputs_embeds]
        for layer, kind in zip(self.layers, self.config.layer_types, strict=True):
            states.append(layer(states[-1], position_embeddings=rotations[kind], attention_mask=masks[kind]))
        states[-1] = self.norm(states[-1])
        return states

    def masks(self, attention_mask: mx.array | None, length: int) -> dict[str, mx.array | None]:
        """Boolean (B, 1, T, T), True where a query may attend; None stands for plain causal attention."""
        query, key = mx.arange(length)[:, None], mx.arange(length)[None]
        windowed = length > self.config.sliding_window
        if attention_mask is None and not windowed:
            return {"full_attention": None, "sliding_attention": None}
        causal = key <= query  # (T, T)
        full = causal[None, None] if attention_mask is None else causal & attention_mask.astype(mx.bool_)[:, None, None]
        sliding = full & (key > query - self.config.sliding_window) if windowed else full
        return {"full_attention": full, "sliding_attention": sliding}


def rotate(x: mx.array, position_embeddings: Rotation) -> mx.array:
    cos, sin = (wave[:, None] for wave in position_embeddings)  # (1, 1, T, D)
    first, second = mx.split(x, 2, axis=-1)
    return x * cos + mx.concatenate([-second, first], axis=-1) * sin


def inverse_frequencies(theta: float, head_dim: int, factor: float) -> mx.array:
    # each step rounds to float32, as in the reference: a last-bit difference would grow with the position
    exponents = (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)).astype(np.float64)
    frequencies = np.float32(1) / np.power(theta, exponents).astype(np.float32)
    return mx.array(frequencies / np.float32(factor))  # (D/2,)
