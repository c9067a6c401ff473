"""From all of Gemma's hidden states to one feature vector per token and modality."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import FeatureExtractorConfig
from ltx_native.layers import Linear, rms_norm


class FeatureExtractorV2(nn.Module):
    def __init__(self, config: FeatureExtractorConfig) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.video_aggregate_embed = Linear(config.flat_dim, config.video_dim)
        self.audio_aggregate_embed = Linear(config.flat_dim, config.audio_dim)

    def __call__(
        self, hidden_states: Sequence[mx.array], attention_mask: mx.array, padding_side: str = "left"
    ) -> tuple[mx.array, mx.array]:
        """L states (B, T, D) and the mask (B, T) -> video and audio features; the padding side does not matter here."""
        normed = norm_and_concat_per_token_rms(hidden_states, attention_mask)  # (B, T, D*L)
        return self._project(self.video_aggregate_embed, normed), self._project(self.audio_aggregate_embed, normed)

    def _project(self, embed: nn.Module, normed: mx.array) -> mx.array:
        # projecting to another width must not change the variance
        return embed(normed * math.sqrt(embed.weight.shape[0] / self.embedding_dim))


def norm_and_concat_per_token_rms(hidden_states: Sequence[mx.array], attention_mask: mx.array) -> mx.array:
    # each state is normalised by itself; side by side, the state's index varies fastest
    normed = mx.stack([rms_norm(state) for state in hidden_states], axis=-1).flatten(2)  # (B, T, D*L)
    return mx.where(attention_mask[..., None] != 0, normed, mx.array(0, normed.dtype))
