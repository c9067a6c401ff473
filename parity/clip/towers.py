"""The two towers of CLIP (Radford et al. 2021) in MLX; names are those of the Hugging Face checkpoint."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from parity.clip.config import ClipConfig, TextConfig, VisionConfig


def quick_gelu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(1.702 * x)


ACTIVATION = {"quick_gelu": quick_gelu, "gelu": nn.gelu, "gelu_pytorch_tanh": nn.gelu_approx}


class Attention(nn.Module):
    def __init__(self, config: TextConfig | VisionConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def __call__(self, hidden_states: mx.array, mask: mx.array | None) -> mx.array:
        query, key, value = (
            mx.unflatten(proj(hidden_states), -1, (self.num_heads, -1)).swapaxes(1, 2)  # (B, H, T, D/H)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (query @ key.swapaxes(-1, -2)) * query.shape[-1] ** -0.5
        weights = mx.softmax(scores if mask is None else scores + mask, axis=-1, precise=True)
        return self.out_proj((weights @ value).swapaxes(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, config: TextConfig | VisionConfig):
        super().__init__()
        self.activation = ACTIVATION[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, hidden_states: mx.array) -> mx.array:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class EncoderLayer(nn.Module):
    def __init__(self, config: TextConfig | VisionConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, hidden_states: mx.array, mask: mx.array | None) -> mx.array:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), mask)
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class Encoder(nn.Module):
    def __init__(self, config: TextConfig | VisionConfig):
        super().__init__()
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, hidden_states: mx.array, mask: mx.array | None = None) -> mx.array:
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states


class TextEmbeddings(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def __call__(self, input_ids: mx.array) -> mx.array:
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class TextModel(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.eos_token_id = config.eos_token_id

    def __call__(self, input_ids: mx.array) -> mx.array:
        length = input_ids.shape[1]
        # Causal only: what pads a row stands after its end token, which is the one that is read.
        causal = mx.where(mx.tri(length, dtype=mx.bool_), 0.0, -mx.inf)
        hidden_states = self.final_layer_norm(self.encoder(self.embeddings(input_ids), causal))  # (B, T, D)

        # Checkpoints from before transformers 4.31 state 2 for the end token; there the highest id is it.
        is_end = input_ids if self.eos_token_id == 2 else input_ids == self.eos_token_id
        return hidden_states[mx.arange(input_ids.shape[0]), mx.argmax(is_end, axis=-1)]  # (B, D)


class VisionEmbeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        patch, width = config.patch_size, config.hidden_size
        self.class_embedding = mx.zeros((width,))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def __call__(self, pixel_values: mx.array) -> mx.array:
        patches = self.patch_embedding(pixel_values).flatten(1, 2)  # (B, H, W, C) -> (B, T, D)
        first = mx.broadcast_to(self.class_embedding, (patches.shape[0], 1, patches.shape[2]))
        return mx.concatenate([first, patches], axis=1) + self.position_embedding.weight


class VisionModel(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, pixel_values: mx.array) -> mx.array:
        hidden_states = self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)))
        return self.post_layernorm(hidden_states[:, 0])


class ClipModel(nn.Module):
    def __init__(self, config: ClipConfig):
        super().__init__()
        self.text_model = TextModel(config.text)
        self.vision_model = VisionModel(config.vision)
        self.text_projection = nn.Linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = mx.zeros(())

    def text_features(self, input_ids: mx.array) -> mx.array:
        return self.text_projection(self.text_model(input_ids))

    def image_features(self, pixel_values: mx.array) -> mx.array:
        return self.visual_projection(self.vision_model(pixel_values))
