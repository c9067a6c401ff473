"""Feature extractor and both connectors: from Gemma's hidden states to what the audio-video model attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ltx_native.config import ModelConfig
from ltx_native.text_encoder.connector import Embeddings1DConnector
from ltx_native.text_encoder.feature_extractor import FeatureExtractorV2


class EmbeddingsProcessorOutput(NamedTuple):
    video_encoding: mx.array  # (B, T, video width)
    audio_encoding: mx.array  # (B, T, audio width)
    attention_mask: mx.array  # (B, T), all ones: registers have taken the padding's place


class EmbeddingsProcessor(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractorV2(config.feature_extractor)
        self.video_connector = Embeddings1DConnector(config.video_connector)
        self.audio_connector = Embeddings1DConnector(config.audio_connector)

    def __call__(
        self, hidden_states: Sequence[mx.array], attention_mask: mx.array, padding_side: str = "left"
    ) -> EmbeddingsProcessorOutput:
        """Hidden states (B, T, D) of the left-padded prompts and their mask (B, T).

        States may be shorter than the mask: then they are those of its last columns and the others are padding.
        """
        missing = attention_mask.shape[1] - hidden_states[0].shape[1]
        video, audio = self.feature_extractor(hidden_states, attention_mask[:, missing:], padding_side)
        if missing:
            video, audio = (mx.pad(features, [(0, 0), (missing, 0), (0, 0)]) for features in (video, audio))
        return self.create_embeddings(video, audio, additive_mask(attention_mask, video.dtype))

    def process_hidden_states(self, hidden_states: Sequence[mx.array], attention_mask: mx.array) -> EmbeddingsProcessorOutput:
        """The official entry's name for calling the module."""
        return self(hidden_states, attention_mask)

    def create_embeddings(
        self, video_features: mx.array, audio_features: mx.array, additive_attention_mask: mx.array
    ) -> EmbeddingsProcessorOutput:
        video, mask = self.video_connector(video_features, additive_attention_mask)
        audio, _ = self.audio_connector(audio_features, additive_attention_mask)
        binary = (mask < 0.000001).reshape(video.shape[:2])  # (B, T)
        return EmbeddingsProcessorOutput(video * binary[..., None], audio, binary.astype(mx.int64))


def additive_mask(attention_mask: mx.array, dtype: mx.Dtype) -> mx.array:
    """1 and 0 -> 0 and the lowest finite number, (B, T) -> (B, 1, 1, T)."""
    return ((attention_mask.astype(mx.int32) - 1).astype(dtype) * mx.finfo(dtype).max)[:, None, None]
