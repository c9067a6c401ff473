"""Tiny networks with random weights for tests that need no checkpoint."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
from mlx.utils import tree_map

from ltx_native.config import TransformerConfig
from ltx_native.transformer.model import LTXModel

CONFIG = TransformerConfig(
    num_attention_heads=4,
    attention_head_dim=16,
    in_channels=128,
    out_channels=128,
    num_layers=2,
    cross_attention_dim=64,
    norm_eps=1e-6,
    positional_embedding_theta=10000.0,
    positional_embedding_max_pos=(20, 2048, 2048),
    timestep_scale_multiplier=1000,
    use_middle_indices_grid=True,
    audio_num_attention_heads=4,
    audio_attention_head_dim=8,
    audio_in_channels=128,
    audio_out_channels=128,
    audio_cross_attention_dim=32,
    audio_positional_embedding_max_pos=(20,),
    av_ca_timestep_scale_multiplier=1000.0,
    rope_type="split",
    frequencies_precision="float64",
    apply_gated_attention=True,
    cross_attention_adaln=True,
)


@cache
def tiny_transformer(config: TransformerConfig = CONFIG, dtype: mx.Dtype = mx.float32) -> LTXModel:
    """A transformer whose every parameter is random, so that nothing can hide behind zeros or ones."""
    mx.random.seed(0)
    model = LTXModel(config)
    model.update(tree_map(lambda p: (0.15 * mx.random.normal(p.shape)).astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    return model
