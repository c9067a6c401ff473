"""The smallest checkpoint that the external CLI loads with no line of it changed: about 10 GB of random weights.

Its text connectors, VAEs and vocoder take no configuration and are as large as published; so are the transformer's widths and
the number of Gemma's states. What it does read is small: two transformer layers with narrow attentions, Gemma layers that are
thin inside. Neither native nor the official code has such a transformer: native's part in a comparison is the tiny checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx_native.convert import write_configs
from ltx_native.errors import RequestError
from ltx_native.layout import to_mlx_axes
from ltx_native.progress import Bar
from parity.arbitration.checkpoint import Files, cli_decoders
from parity.checkpoints import tiny
from parity.world import full_size, layout, presets, tokenizer_files
from parity.world.full_size import dense, split_files
from parity.world.random_checkpoint import LORA_PREFIX, lora_pairs
from parity.world.streamed_file import Entry, write_streamed

WIDTHS = full_size.TRANSFORMER["cross_attention_dim"], full_size.TRANSFORMER["audio_cross_attention_dim"]
GEMMA: dict[str, Any] = {
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 3840, "num_hidden_layers": 48,
    "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-6,
    "vocab_size": 512, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 32,
    "sliding_window": 1024, "sliding_window_pattern": 6, "max_position_embeddings": 131072, "bos_token_id": 2,
    "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16",
}  # fmt: skip
UPSAMPLER = presets.UPSAMPLERS["ltx-2.3-spatial-upscaler-x2"] | {"mid_channels": 64, "num_blocks_per_stage": 2}
_UPSAMPLER_STEM = "spatial_upscaler_x2_v1_1"
_LORA_RANK = 4
_MARGIN = 1 << 30  # bytes that writing leaves free on the disk
_TEXT = "language_model."


@dataclass(frozen=True)
class Strict(Files):
    """`split` and `cli_gemma` are the strict checkpoint; the official files beside them, for native, are the tiny one's."""

    def defaults(self, version: str | None) -> dict[str, dict[str, Any]]:
        """None: the CLI loads it as it is."""
        return {}


def files(folder: Path) -> Strict:
    native = tiny()
    assert native.upsampler is not None
    return Strict(native.model, native.gemma, native.upsampler, folder / "model", folder / "gemma")


def config() -> dict[str, Any]:
    """The official configuration of the model folder. `cross_attention_dim` is the CLI's name for the width."""
    found, _ = presets.preset("tiny")
    found["transformer"] |= full_size.TRANSFORMER | {
        "num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 32, "audio_num_attention_heads": 4,
        "audio_attention_head_dim": 16, "connector_num_layers": 8, "audio_connector_num_layers": 8,
        "caption_channels": GEMMA["hidden_size"],
    }  # fmt: skip
    return cli_decoders(found)


def plan(found: Strict, seed: int = 0) -> dict[Path, list[Entry]]:
    """Every safetensors file with its tensors: bfloat16, and float32 where the CLI is quicker with it (Gemma)."""
    made = config()
    tensors = layout.official(made, GEMMA["num_hidden_layers"] + 1, WIDTHS)
    files = {found.split / name: entries for name, entries in split_files(tensors, None, seed).items()}
    pairs = lora_pairs(layout.transformer(made["transformer"], LORA_PREFIX, WIDTHS), _LORA_RANK)
    files[found.distilled_lora] = [dense(tensor, tensor.key, seed) for tensor in pairs]
    files[found.split / f"{_UPSAMPLER_STEM}.safetensors"] = [
        dense(tensor, tensor.key, seed, axes=to_mlx_axes(tensor.key, len(tensor.shape)))
        for tensor in layout.upsampler(UPSAMPLER)
    ]
    files[found.cli_gemma / "model.safetensors"] = [
        dense(tensor, tensor.key, seed, dtype="float32") for tensor in _gemma_tensors()
    ]
    return files


def _gemma_tensors() -> Iterator[layout.Tensor]:
    """A Gemma of text alone, which has the multimodal one's names without their prefix."""
    both = {"text_config": GEMMA, "vision_config": presets.TINY_GEMMA["vision_config"]}
    for tensor in layout.gemma(both):
        if tensor.key.startswith(_TEXT):
            yield replace(tensor, key=tensor.key.removeprefix(_TEXT))


def make(folder: Path, seed: int = 0, bar: Bar | None = None) -> Strict:
    """Write the checkpoint to `folder` unless it is there; what an interrupted run left is continued.

    A few million numbers are in memory at a time. Raises RequestError where the disk has too little room for it.
    """
    if folder.is_dir():
        return files(folder)
    temporary = folder.with_name(f".{folder.name}.partial")
    found = files(temporary)
    planned = plan(found, seed)
    _require_room(folder, planned)
    for part in (found.split, found.cli_gemma):
        part.mkdir(parents=True, exist_ok=True)
    total, done = sum(entry.nbytes for entries in planned.values() for entry in entries), 0
    for path, entries in planned.items():
        # The seed in the header keeps a run from continuing another seed's file.
        for written in write_streamed(path, entries, {"format": "pt", "seed": str(seed)}):
            done += written
            if bar is not None:
                bar.update(f"writing {path.name}, MB", done >> 20, total >> 20)
    _write_rest(found)
    os.replace(temporary, folder)
    return files(folder)


def _require_room(folder: Path, planned: Mapping[Path, list[Entry]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in planned if path.exists())
    need = sum(entry.nbytes for entries in planned.values() for entry in entries) - there + _MARGIN
    free = shutil.disk_usage(folder.parent).free
    if free < need:
        raise RequestError(
            "The disk has too little room for the checkpoint", str(folder), f"{free / 1e9:.1f} GB free",
            f"{need / 1e9:.1f} GB", "Free some, or let LTX_PARITY_CACHE name a folder on another disk",
        )  # fmt: skip


def _write_rest(found: Strict) -> None:
    """Configurations, tokenizer, and the transformer under its second name."""
    distilled = found.split / "transformer-distilled.safetensors"
    if not distilled.exists():
        os.link(found.split / "transformer-dev.safetensors", distilled)
    write_configs(config(), presets.MODEL_VERSION, found.split, None, "dev")
    for path, content in (
        (found.split / f"{_UPSAMPLER_STEM}_config.json", {"config": UPSAMPLER}),
        (found.cli_gemma / "config.json", GEMMA),
    ):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    tokenizer_files.write(found.cli_gemma)
