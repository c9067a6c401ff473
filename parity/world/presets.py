"""Configs of the checkpoints that the project makes: small sizes, every switch of LTX-2.3 on, as the published file spells
them."""

from __future__ import annotations

import copy
from typing import Any

MODEL_VERSION = "2.3.0"


def _generator(initial: int, rates: list[int], kernels: list[int], **extra: Any) -> dict[str, Any]:
    return {
        "upsample_initial_channel": initial,
        "resblock": "AMP1",
        "upsample_rates": rates,
        "resblock_kernel_sizes": [3, 7, 11],
        "upsample_kernel_sizes": kernels,
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "stereo": True,
        "use_tanh_at_final": False,
        "activation": "snakebeta",
        "use_bias_at_final": False,
        **extra,
    }


TINY: dict[str, Any] = {
    "transformer": {
        "_class_name": "AVTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": True,
        "attention_head_dim": 16, "attention_type": "default", "caption_channels": 32, "cross_attention_dim": 64,
        "double_self_attention": False, "dropout": 0.0, "in_channels": 128, "norm_elementwise_affine": False,
        "norm_eps": 1e-06, "norm_num_groups": 32, "num_attention_heads": 4, "num_embeds_ada_norm": 1000,
        "num_layers": 2, "num_vector_embeds": None, "only_cross_attention": False, "cross_attention_norm": True,
        "out_channels": 128, "upcast_attention": False, "use_linear_projection": False, "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm", "positional_embedding_type": "rope", "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0, "causal_temporal_positioning": True,
        "audio_num_attention_heads": 4, "audio_attention_head_dim": 8, "use_audio_video_cross_attention": True,
        "share_ff": False, "audio_in_channels": 128, "audio_out_channels": 128, "audio_cross_attention_dim": 32,
        "audio_positional_embedding_max_pos": [20], "av_cross_ada_norm": True, "use_embeddings_connector": True,
        "connector_attention_head_dim": 16, "connector_num_attention_heads": 4, "connector_num_layers": 2,
        "connector_positional_embedding_max_pos": [4096], "connector_num_learnable_registers": 128,
        "connector_norm_output": True, "use_middle_indices_grid": True, "apply_gated_attention": True,
        "connector_apply_gated_attention": True, "caption_projection_first_linear": False,
        "caption_projection_second_linear": False, "caption_proj_input_norm": False,
        "connector_learnable_registers_std": 1, "caption_proj_before_connector": True,
        "audio_connector_attention_head_dim": 8, "audio_connector_num_attention_heads": 4,
        "audio_connector_num_layers": 2, "cross_attention_adaln": True, "text_encoder_norm_type": "per_token_rms",
        "rope_type": "split", "frequencies_precision": "float64",
    },
    "vae": {
        "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}], ["compress_space_res", {"multiplier": 1}], ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 1}], ["compress_all_res", {"multiplier": 1}],
            ["compress_all_res", {"multiplier": 1}], ["res_x", {"num_layers": 1}],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 1}], ["compress_space", {"multiplier": 2}], ["res_x", {"num_layers": 1}],
            ["compress_time", {"multiplier": 2}], ["res_x", {"num_layers": 2}], ["compress_all", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}], ["compress_all", {"multiplier": 2}], ["res_x", {"num_layers": 1}],
        ],
        "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
        "use_quant_conv": False, "causal_decoder": False, "timestep_conditioning": False,
        "normalize_latent_channels": False, "encoder_base_channels": 128, "decoder_base_channels": 4,
        "spatial_padding_mode": "zeros",
    },
    "scheduler": {
        "_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000, "shifting": None, "base_resolution": None,
        "sampler": "LinearQuadratic",
    },
    "audio_vae": {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
                    "in_channels": 2, "out_ch": 2, "ch": 128, "ch_mult": [2, 1, 1], "num_res_blocks": 1,
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
        "vocoder": _generator(64, [5, 2, 2, 2, 2, 2], [11, 4, 4, 4, 4, 4]),
        "bwe": _generator(
            32, [6, 5, 2, 2, 2], [12, 11, 4, 4, 4], apply_final_activation=False, input_sampling_rate=16000,
            output_sampling_rate=48000, hop_length=80, n_fft=512, win_size=512, num_mels=64,
        ),
    },
}  # fmt: skip

TINY_GEMMA: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": 506, "eoi_token_index": 507, "image_token_index": 508, "mm_tokens_per_image": 4,
    "eos_token_id": [1, 505], "initializer_range": 0.02, "torch_dtype": "float32",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 6, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 512, "rms_norm_eps": 1e-06,
        "query_pre_attn_scalar": 16, "sliding_window": 1024, "sliding_window_pattern": 6,
        "max_position_embeddings": 4096, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_channels": 3, "image_size": 28, "patch_size": 14, "layer_norm_eps": 1e-06,
        "hidden_act": "gelu_pytorch_tanh", "vision_use_head": False,
    },
}  # fmt: skip

_UPSAMPLER: dict[str, Any] = {
    "in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3, "spatial_upsample": True,
    "temporal_upsample": False, "spatial_scale": 2.0, "rational_resampler": False,
}  # fmt: skip

#: By the stem of the file they go to.
UPSAMPLERS: dict[str, dict[str, Any]] = {
    "ltx-2.3-spatial-upscaler-x2": _UPSAMPLER,
    "ltx-2.3-spatial-upscaler-x1.5": _UPSAMPLER | {"spatial_scale": 1.5, "rational_resampler": True},
    "ltx-2.3-temporal-upscaler-x2": _UPSAMPLER | {"spatial_upsample": False, "temporal_upsample": True},
}


def preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(official config, Gemma config) of `tiny` (under 60 MB on disk) or `mid` (wider and deeper, for timings)."""
    config, gemma = copy.deepcopy(TINY), copy.deepcopy(TINY_GEMMA)
    if name == "tiny":
        return config, gemma
    if name != "mid":
        raise KeyError(name)
    config["transformer"] |= {
        "num_attention_heads": 16, "attention_head_dim": 64, "cross_attention_dim": 1024, "num_layers": 8,
        "audio_num_attention_heads": 16, "audio_attention_head_dim": 32, "audio_cross_attention_dim": 512,
        "connector_num_attention_heads": 16, "connector_attention_head_dim": 64, "audio_connector_num_attention_heads": 16,
        "audio_connector_attention_head_dim": 32, "caption_channels": 64,
    }  # fmt: skip
    config["vae"]["decoder_base_channels"] = 16
    config["audio_vae"]["model"]["params"]["ddconfig"]["ch_mult"] = [1, 2, 4]
    config["vocoder"]["vocoder"]["upsample_initial_channel"] = 128
    config["vocoder"]["bwe"]["upsample_initial_channel"] = 64
    gemma["text_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    gemma["text_config"] |= {"num_key_value_heads": 2}
    return config, gemma
