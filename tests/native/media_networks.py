"""Tiny networks with random weights for the tests of the VAEs, the vocoder and the upsampler."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map_with_path

from ltx_native.config import AudioVAEConfig, BWEConfig, UpsamplerConfig, VideoVAEConfig, VocoderConfig

VIDEO = VideoVAEConfig(
    dims=3,
    in_channels=3,
    out_channels=3,
    latent_channels=16,
    patch_size=4,
    norm_layer="pixel_norm",
    latent_log_var="uniform",
    causal_decoder=False,
    timestep_conditioning=False,
    spatial_padding_mode="zeros",
    decoder_base_channels=2,
    encoder_blocks=(
        ("res_x", {"num_layers": 1}),
        ("compress_space_res", {"multiplier": 2}),
        ("compress_time_res", {"multiplier": 1}),
        ("compress_all_res", {"multiplier": 1}),
        ("compress_all_res", {"multiplier": 1}),
        ("res_x", {"num_layers": 1}),
    ),
    decoder_blocks=(
        ("res_x", {"num_layers": 1}),
        ("compress_space", {"multiplier": 2}),
        ("compress_time", {"multiplier": 2}),
        ("compress_all", {"multiplier": 1}),
        ("compress_all", {"multiplier": 2}),
        ("res_x", {"num_layers": 1}),
    ),
)
AUDIO = AudioVAEConfig(
    sampling_rate=16000,
    double_z=True,
    mel_bins=64,
    z_channels=2,
    resolution=256,
    in_channels=2,
    out_ch=2,
    ch=32,
    ch_mult=(1, 2, 2),
    num_res_blocks=1,
    norm_type="pixel",
    causality_axis="height",
    filter_length=1024,
    hop_length=160,
    win_length=1024,
    causal=True,
    mel_fmin=0,
    mel_fmax=8000,
)
GENERATOR: dict[str, Any] = {
    "resblock": "AMP1",
    "resblock_kernel_sizes": (3, 7),
    "resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5)),
    "stereo": True,
    "use_tanh_at_final": False,
    "activation": "snakebeta",
    "use_bias_at_final": False,
}
VOCODER = VocoderConfig(
    upsample_initial_channel=16,
    upsample_rates=(5, 4, 8),
    upsample_kernel_sizes=(11, 8, 16),
    apply_final_activation=True,
    **GENERATOR,
)
BWE = BWEConfig(
    upsample_initial_channel=16,
    upsample_rates=(6, 5, 8),
    upsample_kernel_sizes=(12, 11, 16),
    apply_final_activation=False,
    input_sampling_rate=16000,
    output_sampling_rate=48000,
    n_fft=512,
    hop_length=80,
    win_size=512,
    num_mels=64,
    **GENERATOR,
)
UPSAMPLER = UpsamplerConfig(
    in_channels=16,
    mid_channels=32,
    num_blocks_per_stage=1,
    dims=3,
    spatial_upsample=True,
    temporal_upsample=False,
    spatial_scale=2.0,
    rational_resampler=False,
)


def randomized(module: nn.Module, seed: int = 0, dtype: mx.Dtype = mx.float32) -> Any:
    """`module` with every parameter set so that activations stay near 1."""
    draw = np.random.default_rng(seed)

    def value(path: str, old: mx.array) -> mx.array:
        fan_in = max(1, old.size // old.shape[0]) if old.ndim > 1 else 100
        new = draw.standard_normal(old.shape) / np.sqrt(fan_in)
        if path.endswith("std_of_means") or ("norm" in path and path.endswith("weight")):
            new = 1 + 0.2 * new
        if path.endswith(("filter", "mel_basis")):  # low-pass filters and bands of energy, as in a checkpoint
            new = np.abs(new) / np.abs(new).sum(axis=-1 if path.endswith("mel_basis") else None, keepdims=True)
        return mx.array(new.astype(np.float32)).astype(dtype)

    module.update(tree_map_with_path(value, module.parameters()))
    return module


def normal(*shape: int, seed: int = 1) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def rel_l2(value: Any, expected: Any) -> float:
    value, expected = (np.asarray(a, dtype=np.float64) for a in (value, expected))
    assert value.shape == expected.shape, (value.shape, expected.shape)
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))
