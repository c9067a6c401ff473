"""Prompt ids to video and audio context, leaving out the padding where nothing can tell the difference."""

from __future__ import annotations

import mlx.core as mx

from ltx_native.text_encoder.gemma3 import GemmaTextModel
from ltx_native.text_encoder.processor import EmbeddingsProcessor, EmbeddingsProcessorOutput, additive_mask


def encode_tokens(
    gemma: GemmaTextModel,
    embeddings_processor: EmbeddingsProcessor,
    input_ids: mx.array,
    attention_mask: mx.array,
    *,
    skip_padding: bool,
) -> EmbeddingsProcessorOutput:
    """Left-padded ids and mask (B, T) -> encodings (B, T, width).

    No valid token attends to padding, and registers replace it after the feature extractor: with `skip_padding` Gemma
    and the extractor run on the columns from the first valid token on. A trace that is compared site by site needs all.
    """
    if not skip_padding:
        return embeddings_processor.process_hidden_states(gemma(input_ids, attention_mask), attention_mask)

    length = input_ids.shape[1]
    first = int((attention_mask.max(axis=0) == 0).sum())  # columns that are padding in every prompt
    ids, mask = input_ids[:, first:], attention_mask[:, first:]
    hidden_states = gemma(ids, mask, position_ids=mx.arange(first, length)[None])
    video, audio = (
        mx.pad(features, ((0, 0), (first, 0), (0, 0)))  # (B, T, width)
        for features in embeddings_processor.feature_extractor(hidden_states, mask)
    )
    return embeddings_processor.create_embeddings(video, audio, additive_mask(attention_mask, video.dtype))
