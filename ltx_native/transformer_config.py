"""The `transformer` section of an official config: the audio-video transformer and both embeddings connectors.

Re-exported by `ltx_native.config`, whose docstring states the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx_native.config_reader import Section

CONNECTOR_REGISTERS = 128  # ltx-core hard-codes it and ignores the config's key


@dataclass(frozen=True)
class TransformerConfig:
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    num_layers: int
    cross_attention_dim: int
    norm_eps: float
    positional_embedding_theta: float
    positional_embedding_max_pos: tuple[int, ...]
    timestep_scale_multiplier: float
    use_middle_indices_grid: bool
    audio_num_attention_heads: int
    audio_attention_head_dim: int
    audio_in_channels: int
    audio_out_channels: int
    audio_cross_attention_dim: int
    audio_positional_embedding_max_pos: tuple[int, ...]
    av_ca_timestep_scale_multiplier: float
    rope_type: str
    frequencies_precision: str
    apply_gated_attention: bool
    cross_attention_adaln: bool

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def audio_inner_dim(self) -> int:
        return self.audio_num_attention_heads * self.audio_attention_head_dim

    @classmethod
    def from_official(cls, config: Mapping[str, Any], where: str = "config") -> TransformerConfig:
        """Read the `transformer` section of an official config (the whole config, not the section, is given)."""
        return read_transformer(Section.of(config, "transformer", where))[0]


@dataclass(frozen=True)
class ConnectorConfig:
    """One embeddings connector (video or audio); keys `connector_*` and `audio_connector_*` without their prefix."""

    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    positional_embedding_max_pos: tuple[int, ...]
    positional_embedding_theta: float
    num_learnable_registers: int
    norm_eps: float
    rope_type: str
    frequencies_precision: str
    apply_gated_attention: bool

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


def read_transformer(section: Section) -> tuple[TransformerConfig, ConnectorConfig, ConnectorConfig, int]:
    """The transformer, both connectors, and the width of Gemma's states: one section of the official config."""
    section.describe("_class_name", "AVTransformer3DModel")
    for key, value in _TRANSFORMER_REQUIRED.items():
        section.describe(key, value, required=True)
    for key, value in _TRANSFORMER_DESCRIBED.items():
        section.describe(key, value)
    section.skip("norm_num_groups", "connector_learnable_registers_std")  # unused; initialisation only
    theta = section.number("positional_embedding_theta")
    rope_type = section.fixed("rope_type", "split")
    precision = section.fixed("frequencies_precision", "float64")
    transformer = TransformerConfig(
        num_attention_heads=section.integer("num_attention_heads"),
        attention_head_dim=section.integer("attention_head_dim"),
        in_channels=section.integer("in_channels"),
        out_channels=section.integer("out_channels"),
        num_layers=section.integer("num_layers"),
        cross_attention_dim=section.integer("cross_attention_dim"),
        norm_eps=section.number("norm_eps"),
        positional_embedding_theta=theta,
        positional_embedding_max_pos=section.integers("positional_embedding_max_pos", length=3),
        timestep_scale_multiplier=section.number("timestep_scale_multiplier"),
        use_middle_indices_grid=section.fixed("use_middle_indices_grid", True),
        audio_num_attention_heads=section.integer("audio_num_attention_heads"),
        audio_attention_head_dim=section.integer("audio_attention_head_dim"),
        audio_in_channels=section.integer("audio_in_channels", absent=128),
        audio_out_channels=section.integer("audio_out_channels"),
        audio_cross_attention_dim=section.integer("audio_cross_attention_dim"),
        audio_positional_embedding_max_pos=section.integers("audio_positional_embedding_max_pos", length=1),
        av_ca_timestep_scale_multiplier=section.number("av_ca_timestep_scale_multiplier"),
        rope_type=rope_type,
        frequencies_precision=precision,
        apply_gated_attention=section.fixed("apply_gated_attention", True),
        cross_attention_adaln=section.fixed("cross_attention_adaln", True),
    )
    section.equal("cross_attention_dim", transformer.cross_attention_dim, transformer.inner_dim)
    section.equal("audio_cross_attention_dim", transformer.audio_cross_attention_dim, transformer.audio_inner_dim)
    section.equal("audio_num_attention_heads", transformer.audio_num_attention_heads, transformer.num_attention_heads)
    gated = section.fixed("connector_apply_gated_attention", True)
    max_pos = section.integers("connector_positional_embedding_max_pos", length=1)
    layers = section.integer("connector_num_layers")

    def connector(prefix: str, num_layers: int) -> ConnectorConfig:
        return ConnectorConfig(
            num_attention_heads=section.integer(f"{prefix}connector_num_attention_heads"),
            attention_head_dim=section.integer(f"{prefix}connector_attention_head_dim"),
            num_layers=num_layers,
            positional_embedding_max_pos=max_pos,
            positional_embedding_theta=10000.0,  # ltx-core's connectors keep their own theta and norm_eps
            num_learnable_registers=CONNECTOR_REGISTERS,
            norm_eps=1e-6,
            rope_type=rope_type,
            frequencies_precision=precision,
            apply_gated_attention=gated,
        )

    video = connector("", layers)
    audio = connector("audio_", section.integer("audio_connector_num_layers", absent=layers))
    section.equal("connector width", video.inner_dim, transformer.cross_attention_dim)
    section.equal("audio_connector width", audio.inner_dim, transformer.audio_cross_attention_dim)
    caption_channels = section.integer("caption_channels")
    section.close(None)
    return transformer, video, audio, caption_channels


#: ltx-core refuses a file where one of these is absent or different.
_TRANSFORMER_REQUIRED: dict[str, object] = {
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
    "caption_proj_input_norm": False,
}

#: May be absent; a different value means another model (the last four are LTX-2.5's).
_TRANSFORMER_DESCRIBED: dict[str, object] = {
    "attention_type": "default",
    "causal_temporal_positioning": True,
    "use_embeddings_connector": True,
    "connector_norm_output": True,
    "connector_num_learnable_registers": CONNECTOR_REGISTERS,
    "text_encoder_norm_type": "per_token_rms",
    "use_prompt_adaln_single": True,
    "ff_bias": True,
    "audio_ff_bias": True,
    "use_keyframes_abs_pos_embedding": False,
}
