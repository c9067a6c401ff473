"""The transformer between the text features and the audio-video model; learnable registers take the padding's place."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import ConnectorConfig
from ltx_native.layers import Attention, FeedForward, rms_norm
from ltx_native.rope import FreqsCis, generate_freq_grid_float32, generate_freq_grid_np, precompute_freqs_cis


class BasicTransformerBlock1D(nn.Module):
    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.attn1 = Attention(
            query_dim=config.inner_dim,
            context_dim=None,
            heads=config.num_attention_heads,
            dim_head=config.attention_head_dim,
            norm_eps=config.norm_eps,
            rope_type=config.rope_type,
            apply_gated_attention=config.apply_gated_attention,
        )
        self.ff = FeedForward(config.inner_dim, dim_out=config.inner_dim)

    def __call__(self, hidden_states: mx.array, attention_mask: mx.array | None = None, pe: FreqsCis | None = None) -> mx.array:
        hidden_states = hidden_states + self.attn1(rms_norm(hidden_states, eps=self.norm_eps), mask=attention_mask, pe=pe)
        return hidden_states + self.ff(rms_norm(hidden_states, eps=self.norm_eps))


class Embeddings1DConnector(nn.Module):
    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer_1d_blocks = [BasicTransformerBlock1D(config) for _ in range(config.num_layers)]
        self.learnable_registers = mx.zeros((config.num_learnable_registers, config.inner_dim))

    def __call__(self, hidden_states: mx.array, attention_mask: mx.array) -> tuple[mx.array, mx.array]:
        """Features (B, T, D) and their additive mask (B, 1, 1, T) -> encoding (B, T, D) and the mask left to apply: none."""
        hidden_states = self.replace_padding(hidden_states, attention_mask)
        pe = self.positions(hidden_states.shape[1], hidden_states.dtype)

        for block in self.transformer_1d_blocks:
            hidden_states = block(hidden_states, pe=pe)

        return rms_norm(hidden_states, eps=self.config.norm_eps), mx.zeros_like(attention_mask)

    def replace_padding(self, hidden_states: mx.array, attention_mask: mx.array) -> mx.array:
        """The valid tokens of each prompt move to the front, registers fill the rest; prompts may differ in length."""
        b, t, _ = hidden_states.shape
        registers = self.learnable_registers.shape[0]
        if t % registers:
            raise ValueError(f"The connector needs a multiple of {registers} tokens, not {t}: registers repeat to fill them")
        valid = attention_mask.reshape(b, t) >= -9000.0
        index = mx.arange(t)
        order = mx.argsort(mx.where(valid, index, index + t), axis=-1)  # valid first, both parts in order
        packed = mx.take_along_axis(hidden_states, order[..., None], axis=1)  # (B, T, D)
        # as officially: left padding, mirrored, says where the packed tokens are
        return mx.where(valid[:, ::-1, None], packed, mx.tile(self.learnable_registers, (t // registers, 1)))

    def positions(self, length: int, dtype: mx.Dtype) -> FreqsCis:
        config = self.config
        double = config.frequencies_precision == "float64"
        return precompute_freqs_cis(
            mx.arange(length, dtype=mx.float32)[None, None],  # (1, 1, T)
            dim=config.inner_dim,
            out_dtype=dtype,
            theta=config.positional_embedding_theta,
            max_pos=config.positional_embedding_max_pos,
            use_middle_indices_grid=False,
            num_attention_heads=config.num_attention_heads,
            rope_type=config.rope_type,
            freq_grid_generator=generate_freq_grid_np if double else generate_freq_grid_float32,
        )
