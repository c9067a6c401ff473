"""The sizes of a CLIP or SigLIP model, read from a Hugging Face folder's config.json.

Frozen and without defaults: what a checkpoint decides must come from the checkpoint. Keys that can change the result
and are not implemented here are refused; bookkeeping keys that `transformers` dumps into every config are known by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltx_native.errors import ConfigError

ACTIVATIONS: Final = ("quick_gelu", "gelu", "gelu_pytorch_tanh")


def _words(text: str) -> list[str]:
    return text.split()


# Options of generation and of the model hub: no bearing on the two towers' forward pass.
BOOKKEEPING: Final = frozenset(
    _words("""_name_or_path add_cross_attention architectures attention_dropout bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout dtype
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label initializer_factor initializer_range is_decoder is_encoder_decoder label2id
    length_penalty max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version transformers.js_config typical_p use_bfloat16 use_cache""")
)


@dataclass(frozen=True)
class TextConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float
    eos_token_id: int
    projection_dim: int


@dataclass(frozen=True)
class VisionConfig:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_channels: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float


@dataclass(frozen=True)
class ClipConfig:
    model_type: str  # "clip" or "siglip"
    projection_dim: int
    text: TextConfig
    vision: VisionConfig


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ConfigError when it is missing, unreadable or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            what="CLIP folder lacks a file",
            where=str(path),
            value="missing",
            expected=path.name,
            next_step="point at a Hugging Face model folder with config.json, model.safetensors, tokenizer and "
            "preprocessor_config.json",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            what="CLIP folder: unreadable JSON",
            where=str(path),
            value=str(error),
            expected="a JSON object",
            next_step="fetch the file again",
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(
            what="CLIP folder: unreadable JSON",
            where=str(path),
            value=type(value).__name__,
            expected="a JSON object",
            next_step="fetch the file again",
        )
    return value


def read_config(path: Path) -> ClipConfig:
    """Parse config.json. Unknown, missing or unsupported values raise ConfigError with file and key."""
    raw = read_json(path)
    model_type = raw.get("model_type")
    if model_type not in ("clip", "siglip"):
        raise _bad(path, "model_type", model_type, "'clip' or 'siglip'")
    top = {"model_type", "text_config", "vision_config", "text_config_dict", "vision_config_dict"}
    top |= {"projection_dim", "logit_scale_init_value"} if model_type == "clip" else set()
    _refuse_unknown(path, "", raw, top)
    sections = {}
    for name in ("text_config", "vision_config"):
        section = raw.get(name)
        if not isinstance(section, dict):
            raise _bad(path, name, section, "an object with the tower's sizes")
        override = raw.get(f"{name}_dict") or {}
        for key, value in override.items():  # transformers lets *_dict win: only accept it where there is nothing to win
            if key not in BOOKKEEPING and key in section and section[key] != value and key != "eos_token_id":
                raise _bad(path, f"{name}_dict.{key}", value, f"the value of {name}.{key}: {section[key]!r}")
        sections[name] = {**override, **section}

    width = _integer(path, "text_config", sections["text_config"], "hidden_size")
    if model_type == "clip":
        projection = _integer(path, "", raw, "projection_dim")
    else:
        projection = sections["text_config"].get("projection_size") or width
    text = sections["text_config"]
    if model_type == "siglip":  # the head's pooling position is the last one; no token id takes part
        text = {"eos_token_id": 1, **text}
    vision = {"num_channels": 3, **sections["vision_config"]}  # absent in old dumps; the weight's shape decides anyway
    if vision.get("vision_use_head") is False:
        raise _bad(path, "vision_config.vision_use_head", False, "true")
    allowed = {
        "text_config": set(TextConfig.__dataclass_fields__) | {"projection_size"},
        "vision_config": set(VisionConfig.__dataclass_fields__) | {"projection_dim", "vision_use_head"},
    }
    for name, section in (("text_config", text), ("vision_config", vision)):
        _refuse_unknown(path, name, section, allowed[name])
    return ClipConfig(
        model_type=model_type,
        projection_dim=projection,
        text=TextConfig(
            **_common(path, "text_config", text),
            vocab_size=_integer(path, "text_config", text, "vocab_size"),
            max_position_embeddings=_integer(path, "text_config", text, "max_position_embeddings"),
            eos_token_id=_integer(path, "text_config", text, "eos_token_id"),
            projection_dim=projection,
        ),
        vision=VisionConfig(
            **_common(path, "vision_config", vision),
            num_channels=_integer(path, "vision_config", vision, "num_channels"),
            image_size=_integer(path, "vision_config", vision, "image_size"),
            patch_size=_integer(path, "vision_config", vision, "patch_size"),
        ),
    )


def _common(path: Path, section: str, values: dict[str, Any]) -> dict[str, Any]:
    """The fields both towers share."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    fields: dict[str, Any] = {key: _integer(path, section, values, key) for key in sizes}
    if fields["hidden_size"] % fields["num_attention_heads"]:
        raise _bad(path, f"{section}.num_attention_heads", fields["num_attention_heads"], "a divisor of hidden_size")
    activation = values.get("hidden_act")
    if activation not in ACTIVATIONS:
        raise _bad(path, f"{section}.hidden_act", activation, "one of " + ", ".join(ACTIVATIONS))
    eps = values.get("layer_norm_eps")
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise _bad(path, f"{section}.layer_norm_eps", eps, "a float between 0 and 1")
    return {**fields, "hidden_act": activation, "layer_norm_eps": eps}


def _integer(path: Path, section: str, values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _bad(path, f"{section}.{key}" if section else key, value, "a positive integer")
    return value


def _refuse_unknown(path: Path, section: str, values: dict[str, Any], allowed: set[str]) -> None:
    for key in values:
        if key not in allowed and key not in BOOKKEEPING:
            name = f"{section}.{key}" if section else key
            raise _bad(path, name, values[key], "no such key: its meaning is not implemented here")


def _bad(path: Path, key: str, value: object, expected: str) -> ConfigError:
    return ConfigError(
        what=f"CLIP config: {key}",
        where=str(path),
        value=repr(value),
        expected=expected,
        next_step="use an OpenAI-layout CLIP or a SigLIP folder, or correct the file",
    )
