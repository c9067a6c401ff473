"""The text half of a Hugging Face Gemma 3 config, in the spelling of transformers 4 (rope_theta, sliding_window_pattern)
or 5 (rope_parameters, layer_types)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx_native.config_reader import Section


@dataclass(frozen=True)
class GemmaConfig:
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    query_pre_attn_scalar: float
    sliding_window: int
    layer_types: tuple[str, ...]
    rope_theta: float
    rope_local_base_freq: float
    rope_scaling_factor: float
    max_position_embeddings: int
    pad_token_id: int
    bos_token_id: int

    @property
    def num_states(self) -> int:
        """Hidden states that the feature extractor takes: the embedding's and each layer's."""
        return self.num_hidden_layers + 1

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "gemma/config.json") -> GemmaConfig:
        """Read `config.json` of a Gemma 3 folder (`gemma3` with a `text_config`, or `gemma3_text`).

        transformers writes only what differs from Gemma3TextConfig's own defaults, so those are the absent values here.
        """
        text = Section.of(config, "text_config", where) if "text_config" in config else Section(config, where)
        text.describe("model_type", "gemma3_text")
        text.describe("hidden_activation", "gelu_pytorch_tanh")
        text.describe("attention_bias", False)
        text.describe("attn_logit_softcapping", None)
        text.describe("final_logit_softcapping", None)
        text.describe("use_bidirectional_attention", False)
        text.describe("tie_word_embeddings", True)
        text.skip(*_RUN_TIME_KEYS)
        layers = text.integer("num_hidden_layers", absent=26)
        theta, local, factor = _rope(text)
        return text.close(
            cls(
                hidden_size=text.integer("hidden_size", absent=2304),
                num_hidden_layers=layers,
                intermediate_size=text.integer("intermediate_size", absent=9216),
                num_attention_heads=text.integer("num_attention_heads", absent=8),
                num_key_value_heads=text.integer("num_key_value_heads", absent=4),
                head_dim=text.integer("head_dim", absent=256),
                vocab_size=text.integer("vocab_size", absent=262208),
                rms_norm_eps=text.number("rms_norm_eps", absent=1e-6),
                query_pre_attn_scalar=text.number("query_pre_attn_scalar", absent=256),
                sliding_window=text.integer("sliding_window", absent=4096),
                layer_types=_layer_types(text, layers),
                rope_theta=theta,
                rope_local_base_freq=local,
                rope_scaling_factor=factor,
                max_position_embeddings=text.integer("max_position_embeddings", absent=131072),
                pad_token_id=text.index("pad_token_id", absent=0),
                bos_token_id=text.index("bos_token_id", absent=2),
            )
        )


def _rope(text: Section) -> tuple[float, float, float]:
    """theta of the full and of the sliding layers, and the linear scaling of the full ones."""
    if "rope_parameters" in text.data:
        rope = text.child("rope_parameters")
        full, sliding = rope.child("full_attention"), rope.child("sliding_attention")
        sliding.describe("rope_type", "default")
        linear = full.data.get("rope_type") == "linear"
        full.describe("rope_type", "linear" if linear else "default")
        factor = full.number("factor") if linear else 1.0
        theta, local = full.number("rope_theta"), sliding.number("rope_theta")
        for part in (full, sliding, rope):
            part.close(None)
        text.skip("rope_theta", "rope_local_base_freq", "rope_scaling")  # older spelling of the same
        return theta, local, factor
    theta = text.number("rope_theta", absent=1_000_000.0)
    local = text.number("rope_local_base_freq", absent=10_000.0)
    if text.data.get("rope_scaling") is None:
        text.skip("rope_scaling")
        return theta, local, 1.0
    scaling = text.child("rope_scaling")
    scaling.describe("rope_type", "linear", required=True)
    scaling.skip("type")  # older spelling of rope_type, written beside it
    return theta, local, scaling.close(scaling.number("factor"))


def _layer_types(text: Section, layers: int) -> tuple[str, ...]:
    old = text.integer("sliding_window_pattern", absent=6)
    pattern = text.integer("_sliding_window_pattern", absent=old)
    text.skip("layer_types")
    types = text.data.get("layer_types")
    if types is None:
        return tuple("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers))
    text.equal("layer_types", len(types), layers)
    for kind in types:
        text.one_of("layer_types", kind, ("sliding_attention", "full_attention"))
    return tuple(types)


#: Keys of the class, of generation and of training: they do not change what the hidden states are.
_RUN_TIME_KEYS = (
    "architectures", "attention_dropout", "cache_implementation", "chunk_size_feed_forward", "dtype", "torch_dtype",
    "eos_token_id", "id2label", "label2id", "initializer_range", "is_encoder_decoder", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict", "transformers_version", "use_cache", "_name_or_path",
    "quantization", "quantization_config",
)  # fmt: skip
