"""SigLIP (Zhai et al. 2023): CLIP's blocks without a class token, an attention-pooling head, no causal mask."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from parity.clip.config import ClipConfig, TextConfig, VisionConfig
from parity.clip.towers import MLP, Encoder, TextEmbeddings


class SiglipTextModel(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.projection_dim)

    def __call__(self, input_ids: mx.array) -> mx.array:
        hidden_states = self.final_layer_norm(self.encoder(self.embeddings(input_ids)))
        return self.head(hidden_states[:, -1])


class SiglipVisionEmbeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        patch = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2, config.hidden_size)

    def __call__(self, pixel_values: mx.array) -> mx.array:
        return self.patch_embedding(pixel_values).flatten(1, 2) + self.position_embedding.weight


class PackedAttention(nn.Module):
    """Attention of one learned query, with PyTorch's packed q, k, v projection."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.in_proj_weight = mx.zeros((3 * width, width))
        self.in_proj_bias = mx.zeros((3 * width,))
        self.out_proj = nn.Linear(width, width)

    def __call__(self, query: mx.array, context: mx.array) -> mx.array:
        weights, biases = mx.split(self.in_proj_weight, 3), mx.split(self.in_proj_bias, 3)
        q, k, v = (
            mx.unflatten(x @ w.T + b, -1, (self.num_heads, -1)).swapaxes(1, 2)  # (B, H, T, D/H)
            for x, w, b in zip((query, context, context), weights, biases, strict=True)
        )
        probabilities = mx.softmax((q @ k.swapaxes(-1, -2)) * q.shape[-1] ** -0.5, axis=-1, precise=True)
        return self.out_proj((probabilities @ v).swapaxes(1, 2).flatten(-2))


class PoolingHead(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.probe = mx.zeros((1, 1, config.hidden_size))
        self.attention = PackedAttention(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def __call__(self, hidden_states: mx.array) -> mx.array:
        probe = mx.broadcast_to(self.probe, (hidden_states.shape[0], 1, hidden_states.shape[2]))
        pooled = self.attention(probe, hidden_states)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class SiglipVisionModel(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = PoolingHead(config)

    def __call__(self, pixel_values: mx.array) -> mx.array:
        return self.head(self.post_layernorm(self.encoder(self.embeddings(pixel_values))))


class SiglipModel(nn.Module):
    def __init__(self, config: ClipConfig):
        super().__init__()
        self.text_model = SiglipTextModel(config.text)
        self.vision_model = SiglipVisionModel(config.vision)
        self.logit_scale = mx.zeros((1,))
        self.logit_bias = mx.zeros((1,))

    def text_features(self, input_ids: mx.array) -> mx.array:
        return self.text_model(input_ids)

    def image_features(self, pixel_values: mx.array) -> mx.array:
        return self.vision_model(pixel_values)
