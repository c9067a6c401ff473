"""A checkpoint that all three sides load: tiny text encoder and transformer, decoders at the sizes that the CLI has fixed."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_native.convert import convert
from parity.world import layout, presets
from parity.world.random_checkpoint import SINGLE_FILE, write_file, write_gemma, write_lora
from reference_bridge.surface import parse_version

LAYERS = 30  # the CLI perturbs block 28, whatever the depth
_DECODERS = ("vae_decoder", "vae_encoder", "audio_vae", "vocoder")
_TEXT = "ltx_core_mlx.text_encoders.gemma.feature_extractor"
_TRANSFORMER = "ltx_core_mlx.model.transformer.model:LTXModelConfig"
_READS_CONFIG = (0, 14, 11)  # the first version that reads the transformer's configuration
_LORA = "ltx-2.3-22b-distilled-lora-384.safetensors"  # the name that the CLI has fixed
_UPSAMPLER = "ltx-2.3-spatial-upscaler-x2"


@dataclass(frozen=True)
class Files:
    """`model`, `gemma`, `upsampler` for native and the official code; `split`, `cli_gemma` for the CLI (see `defaults`)."""

    model: Path
    gemma: Path
    upsampler: Path
    split: Path
    cli_gemma: Path

    @property
    def distilled_lora(self) -> Path:
        """What the CLI's two-stage pipelines take by its name."""
        return self.split / _LORA

    def defaults(self, version: str | None) -> dict[str, dict[str, Any]]:
        """Constructor defaults that this version of the CLI takes no configuration for, at the sizes of this checkpoint.

        Sizes only: other constants stay as the CLI has them, for they may be departures.
        """
        t, g = presets.TINY["transformer"], presets.TINY_GEMMA["text_config"]
        connector = {
            "caption_channels": g["hidden_size"],
            "num_gemma_layers": g["num_hidden_layers"] + 1,
            "video_dim": t["cross_attention_dim"],
            "audio_dim": t["audio_cross_attention_dim"],
            "num_heads": t["connector_num_attention_heads"],
            "video_head_dim": t["connector_attention_head_dim"],
            "audio_head_dim": t["audio_connector_attention_head_dim"],
            "num_connector_layers": t["connector_num_layers"],
        }
        found: dict[str, dict[str, Any]] = {
            f"{_TEXT}:GemmaFeaturesExtractorV2": connector,
            f"{_TEXT}:TextEmbeddingProjection": {"embedding_dim": g["hidden_size"]},
        }
        if (parse_version(version or "") or _READS_CONFIG) < _READS_CONFIG:
            found[_TRANSFORMER] = {
                "num_layers": LAYERS,
                "video_dim": t["cross_attention_dim"],
                "audio_dim": t["audio_cross_attention_dim"],
                "video_num_heads": t["num_attention_heads"],
                "video_head_dim": t["attention_head_dim"],
                "audio_num_heads": t["audio_num_attention_heads"],
                "audio_head_dim": t["audio_attention_head_dim"],
                "av_cross_num_heads": t["audio_num_attention_heads"],
                "av_cross_head_dim": t["audio_attention_head_dim"],
            }
        return found


def files(folder: Path) -> Files:
    upsampler = folder / f"{_UPSAMPLER}.safetensors"
    return Files(folder / SINGLE_FILE, folder / "gemma", upsampler, folder / "split", folder / "cli-gemma")


def make(folder: Path, seed: int = 0, *, large: bool = False) -> Files:
    """Write the checkpoint (1.9 GB, minutes) unless it is there. Weights are float32, so that only code can differ.

    `large`: `model` has the CLI's decoders too, in float32 on every side (6.6 GB), so that whole runs are the same work.
    Otherwise those of `model` are tiny and the CLI's are stored in bfloat16.
    """
    if folder.is_dir():
        found = files(folder)
        if not found.distilled_lora.exists():  # made before two-stage modes were asked of the CLI
            write_lora(found.distilled_lora)
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        config = copy.deepcopy(presets.TINY)
        config["transformer"]["num_layers"] = LAYERS
        if large:
            cli_decoders(config)
        states = presets.TINY_GEMMA["text_config"]["num_hidden_layers"] + 1
        found = files(temporary)
        write_gemma(found.gemma, copy.deepcopy(presets.TINY_GEMMA), seed)
        _cli_gemma(found)
        metadata = {"config": json.dumps(presets.UPSAMPLERS[_UPSAMPLER])}
        write_file(found.upsampler, layout.upsampler(presets.UPSAMPLERS[_UPSAMPLER]), seed, metadata)
        _single(found.model, config, states, seed)
        convert(found.model, found.split, dtype="float32", upsamplers=[found.upsampler])
        # The CLI's distilled pipeline wants a file of its own name; random weights are as good under both.
        write_lora(found.distilled_lora)
        os.link(found.split / "transformer-dev.safetensors", found.split / "transformer-distilled.safetensors")
        if not large:
            _replace_decoders(temporary, found.split, states, seed)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return files(folder)


def _replace_decoders(temporary: Path, split: Path, states: int, seed: int) -> None:
    """Put decoders of the CLI's sizes, in bfloat16, into the split folder."""
    large = temporary / "large.safetensors"
    _single(large, cli_decoders(copy.deepcopy(presets.TINY)), states, seed)
    convert(large, temporary / "large", dtype="bfloat16", upsamplers=[])
    for name in _DECODERS:
        os.replace(temporary / "large" / f"{name}.safetensors", split / f"{name}.safetensors")
    large.unlink()
    shutil.rmtree(temporary / "large")


def _single(path: Path, config: dict[str, Any], states: int, seed: int) -> None:
    metadata = {"config": json.dumps(config), "model_version": presets.MODEL_VERSION}
    write_file(path, layout.official(config, states), seed, metadata)


def _cli_gemma(found: Files) -> None:
    """The same folder with the vocabulary's size where mlx-lm looks for it; it has a default of 262208 there."""
    shutil.copytree(found.gemma, found.cli_gemma)
    path = found.cli_gemma / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "vocab_size": config["text_config"]["vocab_size"]}), encoding="utf-8")


def cli_decoders(config: dict[str, Any]) -> dict[str, Any]:
    """The decoders' part of a configuration at the CLI's fixed sizes (those of LTX-2.3)."""

    def res(layers: int) -> list[Any]:
        return ["res_x", {"num_layers": layers}]

    def down(name: str, multiplier: int) -> list[Any]:
        return [f"compress_{name}", {"multiplier": multiplier}]

    config["vae"] |= {
        "decoder_base_channels": 128,
        "encoder_blocks": [
            res(4), down("space_res", 2), res(6), down("time_res", 2), res(4),
            down("all_res", 2), res(2), down("all_res", 1), res(2),
        ],
        "decoder_blocks": [
            res(4), down("space", 2), res(6), down("time", 2), res(4), down("all", 1), res(2), down("all", 2), res(2),
        ],
    }  # fmt: skip
    config["audio_vae"]["model"]["params"]["ddconfig"] |= {"ch_mult": [1, 2, 4], "num_res_blocks": 2}
    config["vocoder"]["vocoder"]["upsample_initial_channel"] = 1536
    config["vocoder"]["bwe"]["upsample_initial_channel"] = 512
    return config
