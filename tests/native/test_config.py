"""The checkpoint's config: the published LTX-2.3 values are read, everything else is refused by name."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from ltx_native.config import GemmaConfig, ModelConfig, TransformerConfig, UpsamplerConfig
from ltx_native.errors import ConfigError

DILATIONS = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]


def generator(**extra: Any) -> dict[str, Any]:
    return {
        "resblock": "AMP1",
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": DILATIONS,
        "stereo": True,
        "use_tanh_at_final": False,
        "activation": "snakebeta",
        "use_bias_at_final": False,
        **extra,
    }


#: The values of the published LTX-2.3 file.
PUBLISHED: dict[str, Any] = {
    "transformer": {
        "_class_name": "AVTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": True,
        "attention_head_dim": 128, "attention_type": "default", "caption_channels": 3840, "cross_attention_dim": 4096,
        "double_self_attention": False, "dropout": 0.0, "in_channels": 128, "norm_elementwise_affine": False,
        "norm_eps": 1e-06, "norm_num_groups": 32, "num_attention_heads": 32, "num_embeds_ada_norm": 1000,
        "num_layers": 48, "num_vector_embeds": None, "only_cross_attention": False, "cross_attention_norm": True,
        "out_channels": 128, "upcast_attention": False, "use_linear_projection": False, "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm", "positional_embedding_type": "rope", "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0, "causal_temporal_positioning": True,
        "audio_num_attention_heads": 32, "audio_attention_head_dim": 64, "use_audio_video_cross_attention": True,
        "share_ff": False, "audio_out_channels": 128, "audio_cross_attention_dim": 2048,
        "audio_positional_embedding_max_pos": [20], "av_cross_ada_norm": True, "use_embeddings_connector": True,
        "connector_attention_head_dim": 128, "connector_num_attention_heads": 32, "connector_num_layers": 8,
        "connector_positional_embedding_max_pos": [4096], "connector_num_learnable_registers": 128,
        "connector_norm_output": True, "use_middle_indices_grid": True, "apply_gated_attention": True,
        "connector_apply_gated_attention": True, "caption_projection_first_linear": False,
        "caption_projection_second_linear": False, "caption_proj_input_norm": False,
        "connector_learnable_registers_std": 1, "caption_proj_before_connector": True,
        "audio_connector_attention_head_dim": 64, "audio_connector_num_attention_heads": 32,
        "cross_attention_adaln": True, "text_encoder_norm_type": "PER_TOKEN_RMS", "rope_type": "split",
        "frequencies_precision": "float64",
    },
    "vae": {
        "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3,
        "latent_channels": 128,
        "encoder_blocks": [
            ["res_x", {"num_layers": 4}], ["compress_space_res", {"multiplier": 2}], ["res_x", {"num_layers": 6}],
            ["compress_time_res", {"multiplier": 2}], ["res_x", {"num_layers": 4}],
            ["compress_all_res", {"multiplier": 2}], ["res_x", {"num_layers": 2}],
            ["compress_all_res", {"multiplier": 1}], ["res_x", {"num_layers": 2}],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 4}], ["compress_space", {"multiplier": 2}], ["res_x", {"num_layers": 6}],
            ["compress_time", {"multiplier": 2}], ["res_x", {"num_layers": 4}], ["compress_all", {"multiplier": 1}],
            ["res_x", {"num_layers": 2}], ["compress_all", {"multiplier": 2}], ["res_x", {"num_layers": 2}],
        ],
        "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
        "use_quant_conv": False, "causal_decoder": False, "timestep_conditioning": False,
        "normalize_latent_channels": False, "encoder_base_channels": 128, "decoder_base_channels": 128,
        "spatial_padding_mode": "zeros",
    },
    "scheduler": {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000},
    "audio_vae": {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
                    "in_channels": 2, "out_ch": 2, "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2,
                    "attn_resolutions": [], "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": 16000,
            }
        },
        "preprocessing": {
            "audio": {
                "sampling_rate": 16000, "max_wav_value": 32768.0, "duration": 5.12, "stereo": True, "causal_padding": 3,
            },
            "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        },
    },
    "vocoder": {
        "vocoder": generator(
            upsample_initial_channel=1536, upsample_rates=[5, 2, 2, 2, 2, 2], upsample_kernel_sizes=[11, 4, 4, 4, 4, 4]
        ),
        "bwe": generator(
            upsample_initial_channel=512, upsample_rates=[6, 5, 2, 2, 2], upsample_kernel_sizes=[12, 11, 4, 4, 4],
            apply_final_activation=False, input_sampling_rate=16000, output_sampling_rate=48000, hop_length=80,
            n_fft=512, win_size=512, num_mels=64,
        ),
    },
}  # fmt: skip


def read(config: dict[str, Any]) -> ModelConfig:
    return ModelConfig.from_official(config, num_states=49, model_version="2.3.0", where="ltx.safetensors")


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(PUBLISHED)
    *sections, key = path.split("/")
    target = config
    for section in sections:
        target = target[section]
    target[key] = value
    return config


def test_published_config_is_read() -> None:
    config = read(PUBLISHED)
    assert config.transformer.inner_dim == 4096
    assert config.transformer.audio_inner_dim == 2048
    assert config.transformer.av_ca_timestep_scale_multiplier == 1000.0
    assert config.transformer.audio_in_channels == 128, "absent in the file, ltx-core's value"
    assert config.audio_connector.num_layers == 8, "absent in the file, follows the video connector"
    assert config.feature_extractor.flat_dim == 188160
    assert config.video_vae.encoder_blocks[1] == ("compress_space_res", {"multiplier": 2})
    assert config.audio_vae.ch_mult == (1, 2, 4)
    assert config.vocoder.apply_final_activation
    assert not config.bwe.apply_final_activation
    assert not config.vocoder.use_tanh_at_final
    assert config.bwe.output_sampling_rate == 48000
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model_version = "2.4"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("transformer/surprise", 1),
        ("vae/surprise", 1),
        ("audio_vae/surprise", 1),
        ("audio_vae/model/params/ddconfig/surprise", 1),
        ("audio_vae/preprocessing/mel/surprise", 1),
        ("vocoder/surprise", 1),
        ("vocoder/bwe/surprise", 1),
        ("surprise", {}),
    ],
)
def test_unknown_key_is_refused_by_name(path: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="Unknown config key 'surprise'") as caught:
        read(changed(path, value))
    assert caught.value.where.startswith("ltx.safetensors")
    assert caught.value.value == value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("transformer/rope_type", "interleaved"),
        ("transformer/frequencies_precision", "float32"),
        ("transformer/apply_gated_attention", False),
        ("transformer/cross_attention_adaln", False),
        ("transformer/caption_proj_before_connector", False),
        ("transformer/connector_num_learnable_registers", 64),
        ("transformer/ff_bias", False),
        ("transformer/use_keyframes_abs_pos_embedding", True),
        ("transformer/dropout", 0.1),
        ("transformer/attention_bias", 1),
        ("transformer/num_layers", 0),
        ("transformer/num_layers", "48"),
        ("transformer/num_layers", True),
        ("transformer/norm_eps", float("nan")),
        ("transformer/positional_embedding_max_pos", [20, 2048]),
        ("transformer/cross_attention_dim", 2048),
        ("vae/spatial_padding_mode", "reflect"),
        ("vae/timestep_conditioning", True),
        ("vae/decoder_blocks", [["res_x", {"num_layers": 4}], ["attn", {"num_layers": 1}]]),
        ("vae/decoder_blocks", [["res_x", {"num_layers": 4, "inject_noise": True}]]),
        ("vae/encoder_blocks", [["compress_all", {"multiplier": 2}]]),
        ("audio_vae/model/params/ddconfig/norm_type", "group"),
        ("audio_vae/preprocessing/mel/mel_fmax", 7600),
        ("vocoder/vocoder/resblock", "1"),
        ("vocoder/bwe/apply_final_activation", True),
        ("vocoder/bwe/win_size", 400),
        ("vocoder/vocoder/upsample_kernel_sizes", [11, 4]),
        ("vocoder/vocoder/upsample_initial_channel", 48),
        ("transformer", []),
    ],
)
def test_value_that_is_not_implemented_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read(changed(path, value))
    message = str(caught.value)
    assert path.split("/")[-1] in message
    assert "expected" in message
    assert "ltx.safetensors" in message


@pytest.mark.parametrize("key", ["timestep_scale_multiplier", "av_ca_timestep_scale_multiplier", "rope_type", "dropout"])
def test_missing_key_is_never_guessed(key: str) -> None:
    config = copy.deepcopy(PUBLISHED)
    del config["transformer"][key]
    with pytest.raises(ConfigError, match=f"'{key}' is missing"):
        TransformerConfig.from_official(config)


def test_missing_section() -> None:
    with pytest.raises(ConfigError, match="section is missing"):
        read({key: value for key, value in PUBLISHED.items() if key != "vocoder"})


def test_upsampler() -> None:
    config = {
        "_class_name": "LatentUpsampler", "in_channels": 128, "mid_channels": 1024, "num_blocks_per_stage": 4,
        "dims": 3, "spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0,
        "rational_resampler": False,
    }  # fmt: skip
    assert UpsamplerConfig.from_official(config).mid_channels == 1024
    with pytest.raises(ConfigError, match="dims"):
        UpsamplerConfig.from_official(config | {"dims": 2})


GEMMA_12B = {
    "hidden_size": 3840, "intermediate_size": 15360, "model_type": "gemma3_text", "num_attention_heads": 16,
    "num_hidden_layers": 48, "num_key_value_heads": 8, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}  # fmt: skip


def test_gemma_published_and_new_spelling_mean_the_same() -> None:
    published = GemmaConfig.from_hf({"model_type": "gemma3", "text_config": GEMMA_12B, "vision_config": {}})
    assert published.num_states == 49
    assert published.head_dim == 256
    assert published.layer_types[:6] == ("sliding_attention",) * 5 + ("full_attention",)
    new = {key: value for key, value in GEMMA_12B.items() if key != "rope_scaling"} | {
        "layer_types": list(published.layer_types),
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    assert GemmaConfig.from_hf(new) == published


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"factor": 8.0, "rope_type": "yarn"}},
        {"hidden_activation": "relu"},
        {"attn_logit_softcapping": 50.0},
        {"surprise": 1},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["chunked"] * 48},
    ],
)
def test_gemma_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GemmaConfig.from_hf(GEMMA_12B | change)
