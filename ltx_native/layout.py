"""Which key of which file is which parameter: the official single file and the split MLX folder.

Native names are the official module's own (`state_dict()` of the ltx-core class). Both layouts map onto them by prefix;
the split layout also spells a few tails differently. Anything that no rule names is an error for the caller to raise.
"""

from __future__ import annotations

import re

COMPONENTS = (
    "gemma", "embeddings_processor", "transformer", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder",
    "vocoder", "upsampler",
)  # fmt: skip

#: Files of the split layout, by component. The transformer's carries its variant, the upsampler's its own stem.
SPLIT_FILES = {
    "embeddings_processor": "connector.safetensors",
    "video_encoder": "vae_encoder.safetensors",
    "video_decoder": "vae_decoder.safetensors",
    "audio_encoder": "audio_vae.safetensors",
    "audio_decoder": "audio_vae.safetensors",
    "vocoder": "vocoder.safetensors",
}

_DIT = "model.diffusion_model."
_TEXT = (
    ("text_embedding_projection.", "feature_extractor."),
    (f"{_DIT}video_embeddings_connector.", "video_connector."),
    (f"{_DIT}audio_embeddings_connector.", "audio_connector."),
)
_STATISTICS = {"mean-of-means": "mean_of_means", "std-of-means": "std_of_means"}
#: Statistics that published VAEs carry and that no forward pass reads.
_UNUSED = re.compile(r"(audio_)?vae\.per_channel_statistics\.(channel|mean-of-stds|mean-of-stds_over_std-of-means)$")
_GEMMA_UNUSED = re.compile(
    r"(model\.)?(vision_tower|multi_modal_projector)\.|((language_)?model\.)*lm_head\.|.*rotary_emb\.inv_freq$"
)
_GEMMA_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
_CONV_TRANSPOSE = re.compile(r"(^|\.)ups\.\d+\.weight$")


def from_official(key: str) -> list[tuple[str, str]] | None:
    """(component, native name) pairs of a key of the single file; [] if no component uses it, None if unknown.

    Statistics of a VAE go to both of its halves.
    """
    if _UNUSED.match(key):
        return []
    for prefix, native in _TEXT:
        if key.startswith(prefix):
            return [("embeddings_processor", native + key.removeprefix(prefix))]
    if key.startswith(_DIT):
        return [("transformer", key.removeprefix(_DIT))]
    for root, side in (("vae.", "video"), ("audio_vae.", "audio")):
        for half in ("encoder", "decoder"):
            if key.startswith(f"{root}{half}."):
                return [(f"{side}_{half}", key.removeprefix(f"{root}{half}."))]
        tail = key.removeprefix(f"{root}per_channel_statistics.")
        if tail != key and tail in _STATISTICS:
            name = f"per_channel_statistics.{_STATISTICS[tail]}"
            return [(f"{side}_encoder", name), (f"{side}_decoder", name)]
    if key.startswith("vocoder."):
        return [("vocoder", key.removeprefix("vocoder."))]
    return None


def from_gemma(key: str) -> str | None:
    """Native name of a key of a Gemma folder ("" for what the text encoder does not use), None if unknown."""
    if _GEMMA_UNUSED.match(key):
        return ""
    for prefix in _GEMMA_PREFIXES:
        if key.startswith(prefix):
            tail = key.removeprefix(prefix)
            return tail if tail.startswith(("embed_tokens.", "layers.", "norm.")) else None
    return None


def to_split(component: str, name: str) -> str:
    """Key in the split file of a native name. (`audio_encoder` and `audio_decoder` share one file.)"""
    match component:
        case "transformer":
            name = re.sub(r"\.timestep_embedder\.linear_([12])\.", r".timestep_embedder.linear\1.", name)
            name = re.sub(r"\.to_out\.0\.", ".to_out.", name)
            name = re.sub(r"ff\.net\.0\.proj\.", "ff.proj_in.", name)
            return "transformer." + re.sub(r"ff\.net\.2\.", "ff.proj_out.", name)
        case "embeddings_processor":
            for official, native in _TEXT:
                if name.startswith(native):
                    return "connector." + official.removeprefix(_DIT) + name.removeprefix(native)
        case "video_encoder":
            return "vae_encoder." + re.sub(r"^(per_channel_statistics\.)", r"\1_", name)
        case "video_decoder":
            return "vae_decoder." + re.sub(r"^(per_channel_statistics\.\w+)_of_means$", r"\1", name)
        case "audio_encoder" | "audio_decoder":
            if name.startswith("per_channel_statistics."):
                return "audio_vae." + re.sub(r"^(per_channel_statistics\.)", r"\1_", name)
            return f"audio_vae.{component.removeprefix('audio_')}.{name}"
        case "vocoder":
            return name if name.startswith("vocoder.") else f"vocoder.{name}"
    raise KeyError(f"{component}: {name}")


def from_split(component: str, key: str) -> str | None:
    """Native name of a key of a component's split file; "" for the other half's keys in a shared file, None if unknown."""
    match component:
        case "transformer":
            name = _tail(key, "transformer.")
            name = re.sub(r"\.timestep_embedder\.linear([12])\.", r".timestep_embedder.linear_\1.", name)
            name = re.sub(r"\.to_out\.(?!0\.)", ".to_out.0.", name)
            name = re.sub(r"ff\.proj_in\.", "ff.net.0.proj.", name)
            return re.sub(r"ff\.proj_out\.", "ff.net.2.", name) or None
        case "embeddings_processor":
            tail = _tail(key, "connector.")
            for official, native in _TEXT:
                if tail.startswith(official.removeprefix(_DIT)):
                    return native + tail.removeprefix(official.removeprefix(_DIT))
            return None
        case "video_encoder":
            name = _tail(key, "vae_encoder.")
            return re.sub(r"^(per_channel_statistics\.)_", r"\1", name) or None
        case "video_decoder":
            name = _tail(key, "vae_decoder.")
            return re.sub(r"^(per_channel_statistics\.(mean|std))$", r"\1_of_means", name) or None
        case "audio_encoder" | "audio_decoder":
            name = _tail(key, "audio_vae.")
            if name.startswith("per_channel_statistics."):
                return re.sub(r"^(per_channel_statistics\.)_", r"\1", name)
            half, _, tail = name.partition(".")
            if half not in ("encoder", "decoder"):
                return None
            return tail if component == f"audio_{half}" else ""
        case "vocoder":
            name = _tail(key, "vocoder.")
            return name if name.startswith(("bwe_generator.", "mel_stft.")) else key if name else None
    return None


def to_mlx_axes(name: str, ndim: int) -> tuple[int, ...] | None:
    """The transposition that takes a PyTorch parameter to MLX's layout, or None if it has none.

    Conv (O, I, *K) → (O, *K, I); ConvTranspose1d (I, O, K) → (O, K, I); filters and bases are convolution kernels too.
    """
    if ndim < 3:
        return None
    if _CONV_TRANSPOSE.search(name):
        return (1, 2, 0)
    return (0, *range(2, ndim), 1)


def _tail(key: str, prefix: str) -> str:
    return key.removeprefix(prefix) if key.startswith(prefix) else ""
