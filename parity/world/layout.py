"""The shape table of an official LTX-2.3 single file, derived from its config.

Written from the published key table alone: it shares nothing with the native modules, so a strict load of what it
describes is evidence about them. Every entry says how the tensor is to be drawn (see `random_checkpoint.draw`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["weight", "bias", "norm", "norm_offset", "table", "registers", "mean", "std", "log", "taps", "fixed"]


@dataclass(frozen=True)
class Tensor:
    """`key` with PyTorch axes in `shape`; `fan_in` and `gain` set the spread of a `weight`."""

    key: str
    shape: tuple[int, ...]
    kind: Kind
    fan_in: int = 1
    gain: float = 1.0


def official(config: dict[str, Any], num_states: int, widths: tuple[int, int] | None = None) -> Iterator[Tensor]:
    """Every tensor of the single file. `num_states` is Gemma's layers + 1; `widths` see `transformer`."""
    yield from transformer(config["transformer"], widths=widths)
    yield from text(config["transformer"], num_states)
    yield from video_vae(config["vae"])
    yield from audio_vae(config["audio_vae"])
    yield from vocoder(config["vocoder"])


def linear(key: str, out: int, inp: int, gain: float = 1.0) -> Iterator[Tensor]:
    yield Tensor(f"{key}.weight", (out, inp), "weight", inp, gain)
    yield Tensor(f"{key}.bias", (out,), "bias", gain=gain)


def conv(key: str, out: int, inp: int, *kernel: int, gain: float = 1.0, bias: bool = True) -> Iterator[Tensor]:
    yield Tensor(f"{key}.weight", (out, inp, *kernel), "weight", inp * math.prod(kernel), gain)
    if bias:
        yield Tensor(f"{key}.bias", (out,), "bias", gain=gain)


def attention(key: str, query: int, context: int, heads: int, inner: int) -> Iterator[Tensor]:
    yield from linear(f"{key}.to_q", inner, query)
    yield from linear(f"{key}.to_k", inner, context)
    yield from linear(f"{key}.to_v", inner, context)
    yield from linear(f"{key}.to_out.0", query, inner)
    yield from linear(f"{key}.to_gate_logits", heads, query)
    yield Tensor(f"{key}.q_norm.weight", (inner,), "norm")
    yield Tensor(f"{key}.k_norm.weight", (inner,), "norm")


def feed_forward(key: str, dim: int) -> Iterator[Tensor]:
    yield from linear(f"{key}.net.0.proj", 4 * dim, dim)
    yield from linear(f"{key}.net.2", dim, 4 * dim)


def adaln(key: str, dim: int, rows: int) -> Iterator[Tensor]:
    yield from linear(f"{key}.emb.timestep_embedder.linear_1", dim, 256)
    yield from linear(f"{key}.emb.timestep_embedder.linear_2", dim, dim)
    yield from linear(f"{key}.linear", rows * dim, dim, gain=0.5)


def transformer(
    c: dict[str, Any], prefix: str = "model.diffusion_model.", widths: tuple[int, int] | None = None
) -> Iterator[Tensor]:
    """The transformer's tensors. `widths` (video, audio): of the model where its attentions have another width inside, which
    ltx-2-mlx can load and the official code cannot."""
    heads, audio_heads = c["num_attention_heads"], c["audio_num_attention_heads"]
    inner, audio_inner = heads * c["attention_head_dim"], audio_heads * c["audio_attention_head_dim"]
    video, audio = widths or (inner, audio_inner)
    yield from linear(f"{prefix}patchify_proj", video, c["in_channels"])
    yield from linear(f"{prefix}audio_patchify_proj", audio, c["audio_in_channels"])
    yield from linear(f"{prefix}proj_out", c["out_channels"], video)
    yield from linear(f"{prefix}audio_proj_out", c["audio_out_channels"], audio)
    yield Tensor(f"{prefix}scale_shift_table", (2, video), "table")
    yield Tensor(f"{prefix}audio_scale_shift_table", (2, audio), "table")
    for name, dim, rows in (
        ("adaln_single", video, 9),
        ("audio_adaln_single", audio, 9),
        ("prompt_adaln_single", video, 2),
        ("audio_prompt_adaln_single", audio, 2),
        ("av_ca_video_scale_shift_adaln_single", video, 4),
        ("av_ca_audio_scale_shift_adaln_single", audio, 4),
        ("av_ca_a2v_gate_adaln_single", video, 1),
        ("av_ca_v2a_gate_adaln_single", audio, 1),
    ):
        yield from adaln(prefix + name, dim, rows)
    for i in range(c["num_layers"]):
        block = f"{prefix}transformer_blocks.{i}."
        yield from attention(f"{block}attn1", video, video, heads, inner)
        yield from attention(f"{block}attn2", video, c["cross_attention_dim"], heads, inner)
        yield from attention(f"{block}audio_attn1", audio, audio, audio_heads, audio_inner)
        yield from attention(f"{block}audio_attn2", audio, c["audio_cross_attention_dim"], audio_heads, audio_inner)
        yield from attention(f"{block}audio_to_video_attn", video, audio, audio_heads, audio_inner)
        yield from attention(f"{block}video_to_audio_attn", audio, video, audio_heads, audio_inner)
        yield from feed_forward(f"{block}ff", video)
        yield from feed_forward(f"{block}audio_ff", audio)
        for side, dim in (("", video), ("audio_", audio)):
            yield Tensor(f"{block}{side}scale_shift_table", (9, dim), "table")
            yield Tensor(f"{block}{side}prompt_scale_shift_table", (2, dim), "table")
        yield Tensor(f"{block}scale_shift_table_a2v_ca_video", (5, video), "table")
        yield Tensor(f"{block}scale_shift_table_a2v_ca_audio", (5, audio), "table")


def text(c: dict[str, Any], num_states: int, prefix: str = "model.diffusion_model.") -> Iterator[Tensor]:
    """The projections of Gemma's states and the two embeddings connectors."""
    flat = c["caption_channels"] * num_states
    for side, prefix_key in (("video", ""), ("audio", "audio_")):
        heads = c[f"{prefix_key}connector_num_attention_heads"]
        dim = heads * c[f"{prefix_key}connector_attention_head_dim"]
        # The features arrive as unit vectors times sqrt(dim / caption_channels).
        gain = math.sqrt(c["caption_channels"] / dim)
        yield from linear(f"text_embedding_projection.{side}_aggregate_embed", dim, flat, gain=gain)
        connector = f"{prefix}{side}_embeddings_connector."
        yield Tensor(f"{connector}learnable_registers", (128, dim), "registers")
        for i in range(c.get("audio_connector_num_layers", c["connector_num_layers"])):
            block = f"{connector}transformer_1d_blocks.{i}."
            yield from attention(f"{block}attn1", dim, dim, heads, dim)
            yield from feed_forward(f"{block}ff", dim)


STRIDES = {"all": (2, 2, 2), "space": (1, 2, 2), "time": (2, 1, 1)}


def video_vae(c: dict[str, Any]) -> Iterator[Tensor]:
    latent, patch = c["latent_channels"], c["patch_size"] ** 2
    width = latent
    yield from conv("vae.encoder.conv_in.conv", width, c["in_channels"] * patch, 3, 3, 3)
    for i, (name, params) in enumerate(c["encoder_blocks"]):
        key = f"vae.encoder.down_blocks.{i}"
        if name == "res_x":
            yield from res_blocks(key, width, params["num_layers"])
        else:
            folded = math.prod(STRIDES[name.split("_")[1]])
            inp, width = width, width * params["multiplier"]
            yield from conv(f"{key}.conv.conv", width // folded, inp, 3, 3, 3)
    yield from conv("vae.encoder.conv_out.conv", latent + 1, width, 3, 3, 3)
    width = 8 * c["decoder_base_channels"]
    yield from conv("vae.decoder.conv_in.conv", width, latent, 3, 3, 3)
    for i, (name, params) in enumerate(reversed(c["decoder_blocks"])):
        key = f"vae.decoder.up_blocks.{i}"
        if name == "res_x":
            yield from res_blocks(key, width, params["num_layers"])
        else:
            unfolded = math.prod(STRIDES[name.split("_")[1]])
            inp, width = width, width // params["multiplier"]
            yield from conv(f"{key}.conv.conv", width * unfolded, inp, 3, 3, 3)
    # The last convolution meets SiLU of a unit signal; this keeps nearly all pixels inside [-1, 1].
    yield from conv("vae.decoder.conv_out.conv", c["out_channels"] * patch, width, 3, 3, 3, gain=0.55)
    yield from statistics("vae", latent)


def res_blocks(key: str, width: int, layers: int) -> Iterator[Tensor]:
    for j in range(layers):
        yield from conv(f"{key}.res_blocks.{j}.conv1.conv", width, width, 3, 3, 3)
        yield from conv(f"{key}.res_blocks.{j}.conv2.conv", width, width, 3, 3, 3)


def statistics(prefix: str, channels: int) -> Iterator[Tensor]:
    yield Tensor(f"{prefix}.per_channel_statistics.mean-of-means", (channels,), "mean")
    yield Tensor(f"{prefix}.per_channel_statistics.std-of-means", (channels,), "std")


def audio_vae(c: dict[str, Any]) -> Iterator[Tensor]:
    d = c["model"]["params"]["ddconfig"]
    ch, mult, blocks = d["ch"], d["ch_mult"], d["num_res_blocks"]
    last = len(mult) - 1
    width = ch
    yield from conv("audio_vae.encoder.conv_in.conv", width, d["in_channels"], 3, 3)
    for i, m in enumerate(mult):
        key = f"audio_vae.encoder.down.{i}"
        for j in range(blocks):
            yield from resnet(f"{key}.block.{j}", width, ch * m)
            width = ch * m
        if i < last:
            yield from conv(f"{key}.downsample.conv", width, width, 3, 3)
    yield from resnet("audio_vae.encoder.mid.block_1", width, width)
    yield from resnet("audio_vae.encoder.mid.block_2", width, width)
    yield from conv("audio_vae.encoder.conv_out.conv", 2 * d["z_channels"], width, 3, 3)

    width = ch * mult[-1]
    yield from conv("audio_vae.decoder.conv_in.conv", width, d["z_channels"], 3, 3)
    yield from resnet("audio_vae.decoder.mid.block_1", width, width)
    yield from resnet("audio_vae.decoder.mid.block_2", width, width)
    for i in range(last, -1, -1):
        key = f"audio_vae.decoder.up.{i}"
        for j in range(blocks + 1):
            yield from resnet(f"{key}.block.{j}", width, ch * mult[i])
            width = ch * mult[i]
        if i > 0:
            yield from conv(f"{key}.upsample.conv.conv", width, width, 3, 3)
    yield from conv("audio_vae.decoder.conv_out.conv", d["out_ch"], width, 3, 3)
    yield from statistics("audio_vae", d["z_channels"] * d["mel_bins"] // 4)


def resnet(key: str, inp: int, out: int) -> Iterator[Tensor]:
    yield from conv(f"{key}.conv1.conv", out, inp, 3, 3)
    yield from conv(f"{key}.conv2.conv", out, out, 3, 3)
    if inp != out:
        yield from conv(f"{key}.nin_shortcut.conv", out, inp, 1, 1)


def vocoder(c: dict[str, Any]) -> Iterator[Tensor]:
    yield from generator("vocoder.vocoder", c["vocoder"], VOCODER_GAIN)
    yield from generator("vocoder.bwe_generator", c["bwe"], BWE_GAIN)
    mels, n_fft = c["bwe"]["num_mels"], c["bwe"]["n_fft"]
    bins = n_fft // 2 + 1
    yield Tensor("vocoder.mel_stft.mel_basis", (mels, bins), "fixed")
    yield Tensor("vocoder.mel_stft.stft_fn.forward_basis", (2 * bins, 1, n_fft), "fixed")
    yield Tensor("vocoder.mel_stft.stft_fn.inverse_basis", (2 * bins, 1, n_fft), "fixed")


#: Gains of `conv_post`, set by measurement so that the waveform is loud and yet hardly clips.
VOCODER_GAIN = 0.22
BWE_GAIN = 0.03


def generator(key: str, c: dict[str, Any], gain: float) -> Iterator[Tensor]:
    width = c["upsample_initial_channel"]
    yield from conv(f"{key}.conv_pre", width, 128, 7)
    kernels = c["resblock_kernel_sizes"]
    for i, (rate, size) in enumerate(zip(c["upsample_rates"], c["upsample_kernel_sizes"], strict=True)):
        # ConvTranspose1d: (in, out, kernel), and only kernel / rate taps meet at one output sample
        yield Tensor(f"{key}.ups.{i}.weight", (width, width // 2, size), "weight", width * size // rate)
        yield Tensor(f"{key}.ups.{i}.bias", (width // 2,), "bias")
        width //= 2
        for r, (kernel, dilations) in enumerate(zip(kernels, c["resblock_dilation_sizes"], strict=True)):
            block = f"{key}.resblocks.{i * len(kernels) + r}"
            for n in range(len(dilations)):
                yield from conv(f"{block}.convs1.{n}", width, width, kernel, gain=0.5)
                yield from conv(f"{block}.convs2.{n}", width, width, kernel, gain=0.5)
                yield from activation(f"{block}.acts1.{n}", width)
                yield from activation(f"{block}.acts2.{n}", width)
    yield from activation(f"{key}.act_post", width)
    yield Tensor(f"{key}.conv_post.weight", (2, width, 7), "taps", gain=gain)
    if c.get("use_bias_at_final", True):
        yield Tensor(f"{key}.conv_post.bias", (2,), "bias", gain=0.01)


def activation(key: str, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{key}.act.alpha", (width,), "log")
    yield Tensor(f"{key}.act.beta", (width,), "log")
    yield Tensor(f"{key}.upsample.filter", (1, 1, 12), "fixed")
    yield Tensor(f"{key}.downsample.lowpass.filter", (1, 1, 12), "fixed")


def upsampler(c: dict[str, Any]) -> Iterator[Tensor]:
    """A latent upsampler's own file: no prefix."""
    mid = c["mid_channels"]
    yield from conv("initial_conv", mid, c["in_channels"], 3, 3, 3)
    yield from group_norm("initial_norm", mid)
    for stage in ("res_blocks", "post_upsample_res_blocks"):
        for i in range(c["num_blocks_per_stage"]):
            for n in (1, 2):
                yield from conv(f"{stage}.{i}.conv{n}", mid, mid, 3, 3, 3)
                yield from group_norm(f"{stage}.{i}.norm{n}", mid)
    if c["spatial_upsample"] and c["temporal_upsample"]:
        yield from conv("upsampler.0", 8 * mid, mid, 3, 3, 3)
    elif c["temporal_upsample"]:
        yield from conv("upsampler.0", 2 * mid, mid, 3, 3, 3)
    elif c["rational_resampler"]:
        numerator = {0.75: 3, 1.5: 3, 2.0: 2, 4.0: 4}[c["spatial_scale"]]
        yield from conv("upsampler.conv", numerator**2 * mid, mid, 3, 3)
        yield Tensor("upsampler.blur_down.kernel", (1, 1, 5, 5), "fixed")
    else:
        yield from conv("upsampler.0", 4 * mid, mid, 3, 3)
    yield from conv("final_conv", c["in_channels"], mid, 3, 3, 3)


def group_norm(key: str, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{key}.weight", (width,), "norm")
    yield Tensor(f"{key}.bias", (width,), "bias")


def gemma(c: dict[str, Any]) -> Iterator[Tensor]:
    """Gemma 3 as published: text model, vision tower and projector, in one `model.safetensors`."""
    t = c["text_config"]
    dim, heads, kv, head = t["hidden_size"], t["num_attention_heads"], t["num_key_value_heads"], t["head_dim"]
    root = "language_model.model."
    # multiplied by sqrt(hidden_size) on the way in
    yield Tensor(f"{root}embed_tokens.weight", (t["vocab_size"], dim), "weight", dim)
    for i in range(t["num_hidden_layers"]):
        layer = f"{root}layers.{i}."
        for name, out, inp in (
            ("self_attn.q_proj", heads * head, dim),
            ("self_attn.k_proj", kv * head, dim),
            ("self_attn.v_proj", kv * head, dim),
            ("self_attn.o_proj", dim, heads * head),
            ("mlp.gate_proj", t["intermediate_size"], dim),
            ("mlp.up_proj", t["intermediate_size"], dim),
            ("mlp.down_proj", dim, t["intermediate_size"]),
        ):
            yield Tensor(f"{layer}{name}.weight", (out, inp), "weight", inp)
        for name in ("q_norm", "k_norm"):
            yield Tensor(f"{layer}self_attn.{name}.weight", (head,), "norm_offset")
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield Tensor(f"{layer}{name}_layernorm.weight", (dim,), "norm_offset")
    yield Tensor(f"{root}norm.weight", (dim,), "norm_offset")
    yield from siglip(c["vision_config"])
    width = c["vision_config"]["hidden_size"]
    yield Tensor("multi_modal_projector.mm_input_projection_weight", (width, dim), "weight", width)
    yield Tensor("multi_modal_projector.mm_soft_emb_norm.weight", (width,), "norm_offset")


def siglip(v: dict[str, Any], prefix: str = "vision_tower.vision_model.") -> Iterator[Tensor]:
    dim, patch = v["hidden_size"], v["patch_size"]
    yield from conv(f"{prefix}embeddings.patch_embedding", dim, 3, patch, patch)
    positions = (v["image_size"] // patch) ** 2
    yield Tensor(f"{prefix}embeddings.position_embedding.weight", (positions, dim), "table")
    for i in range(v["num_hidden_layers"]):
        layer = f"{prefix}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}self_attn.{name}", dim, dim)
        yield from linear(f"{layer}mlp.fc1", v["intermediate_size"], dim)
        yield from linear(f"{layer}mlp.fc2", dim, v["intermediate_size"])
        yield from group_norm(f"{layer}layer_norm1", dim)
        yield from group_norm(f"{layer}layer_norm2", dim)
    yield from group_norm(f"{prefix}post_layernorm", dim)
