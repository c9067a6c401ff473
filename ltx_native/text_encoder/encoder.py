"""Gemma over the prompts' own tokens only, where nobody looks at the padding."""

from __future__ import annotations

import mlx.core as mx

from ltx_native.text_encoder.gemma3 import GemmaTextModel


def hidden_states_of_tail(gemma: GemmaTextModel, input_ids: mx.array, attention_mask: mx.array) -> list[mx.array]:
    """Hidden states from the first column on that is valid in any of the left-padded prompts: (B, T - padding, D) each.

    No valid token attends to padding, and registers replace it after the feature extractor: the embeddings processor
    takes these states in place of all 1024 columns and gives the same context. A trace to compare needs all of them.
    """
    first = int((attention_mask.max(axis=0) == 0).sum())
    positions = mx.arange(first, input_ids.shape[1])[None]
    return gemma(input_ids[:, first:], attention_mask[:, first:], position_ids=positions)
