"""The configs of what is trained, in the official files' own words: small sizes, every switch of LTX-2.3 on."""

from __future__ import annotations

from typing import Any, Final

VAE: Final[dict[str, Any]] = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "patch_size": 4,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "spatial_padding_mode": "zeros",
    "decoder_base_channels": 12,
    # Compression first: a residual block at the patch grid would cost more than all the rest together.
    "encoder_blocks": [
        ["compress_space_res", {"multiplier": 1}],
        ["compress_time_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["compress_all_res", {"multiplier": 1}],
    ],
    "decoder_blocks": [  # the decoder walks this list backwards
        ["res_x", {"num_layers": 3}],
        ["compress_space", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}],
        ["compress_time", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
    ],
}

# The first stage trains encoder and decoder with one residual block a level and shortcuts around two upsamplers; the
# second freezes the encoder (and with it the latents), folds the shortcuts into their convolutions and grows the decoder
# to the depth above: neither changes what it computes.
FIRST_BLOCKS: Final[dict[str, dict[str, Any]]] = {
    "res_x": {"num_layers": 1},
    "compress_all": {"multiplier": 2, "residual": True},
}
VAE_FIRST: Final[dict[str, Any]] = {
    **VAE,
    "decoder_blocks": [[name, FIRST_BLOCKS.get(name, config)] for name, config in VAE["decoder_blocks"]],
}

GEMMA: Final[dict[str, Any]] = {
    "pieces": 504,
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
}

TRANSFORMER: Final[dict[str, Any]] = {
    "_class_name": "AVTransformer3DModel",
    "num_attention_heads": 4,
    "attention_head_dim": 40,
    "in_channels": 128,
    "out_channels": 128,
    "num_layers": 4,
    "cross_attention_dim": 160,
    "norm_eps": 1e-6,
    "attention_type": "default",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
    "use_middle_indices_grid": True,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 16,
    "audio_in_channels": 128,
    "audio_out_channels": 128,
    "audio_cross_attention_dim": 64,
    "audio_positional_embedding_max_pos": [20],
    "av_ca_timestep_scale_multiplier": 1000.0,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
    "connector_num_attention_heads": 4,
    "connector_attention_head_dim": 40,
    "connector_num_layers": 2,
    "connector_apply_gated_attention": True,
    "connector_positional_embedding_max_pos": [4096],
    "connector_num_learnable_registers": 128,
    "audio_connector_num_attention_heads": 4,
    "audio_connector_attention_head_dim": 16,
    "audio_connector_num_layers": 2,
    # ltx-core refuses a checkpoint in which these are absent or different.
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
    "caption_channels": 64,
}

AUDIO_VAE: Final[dict[str, Any]] = {
    "model": {
        "params": {
            "sampling_rate": 16000,
            "ddconfig": {
                "double_z": True,
                "mel_bins": 64,
                "z_channels": 8,
                "resolution": 256,
                "in_channels": 2,
                "out_ch": 2,
                "ch": 128,  # must equal z_channels * mel_bins / 4: the latents' statistics have that size
                "ch_mult": [1, 1, 1],
                "num_res_blocks": 0,
                "attn_resolutions": [],
                "dropout": 0.0,
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "causality_axis": "height",
            },
        }
    },
    "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160, "causal": True}, "mel": {"n_mel_channels": 64}},
}

VOCODER: Final[dict[str, Any]] = {
    "vocoder": {
        "upsample_initial_channel": 64,
        "resblock": "AMP1",
        "upsample_rates": [5, 2, 2, 2, 2, 2],
        "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "stereo": True,
        "use_tanh_at_final": False,
        "activation": "snakebeta",
        "use_bias_at_final": False,
    },
    "bwe": {
        "upsample_initial_channel": 32,
        "resblock": "AMP1",
        "upsample_rates": [6, 5, 2, 2, 2],
        "upsample_kernel_sizes": [12, 11, 4, 4, 4],
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "stereo": True,
        "use_tanh_at_final": False,
        "activation": "snakebeta",
        "use_bias_at_final": False,
        "input_sampling_rate": 16000,
        "output_sampling_rate": 48000,
        "n_fft": 160,
        "hop_length": 80,
        "win_size": 160,
        "num_mels": 64,
    },
}

UPSAMPLER: Final[dict[str, Any]] = {
    "in_channels": 128,
    "mid_channels": 32,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 2.0,
    "rational_resampler": False,
}

CLIP: Final[dict[str, Any]] = {
    "projection_dim": 64,
    "text": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
    "vision": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 96,
        "patch_size": 16,
        "hidden_act": "quick_gelu",
    },
}
