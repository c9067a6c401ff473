"""Write the trained parts as one official single file, the upsampler's own file and the Gemma folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from parity.world.train.audio import Vocoder
from parity.world.train.clip import quality
from parity.world.train.networks import AUDIO_VAE, TRANSFORMER, UPSAMPLER, VAE, VOCODER
from parity.world.train.prepare import audio_vae, trained_vae
from parity.world.train.recipe import STAGES, recipe, recipe_hash
from parity.world.train.sample import trained_transformer
from parity.world.train.state import Stage

MODEL_VERSION: Final = "2.3.0"
CHECKPOINT: Final = "ltx-2.3-world.safetensors"
SPATIAL_UPSAMPLER: Final = "ltx-2.3-world-spatial-upscaler-x2.safetensors"
CONFIG: Final[dict[str, Any]] = {
    "transformer": TRANSFORMER,
    "vae": VAE,
    "audio_vae": AUDIO_VAE,
    "vocoder": VOCODER,
}


def official_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the single file under its official key, bfloat16."""
    net = trained_transformer(folder)
    tensors = {f"model.diffusion_model.{k}": v for k, v in net.model.state_dict().items()}
    for key, value in net.text.state_dict().items():
        head, _, tail = key.partition(".")
        if head == "feature_extractor":
            tensors[f"text_embedding_projection.{tail}"] = value
        else:
            side = head.removesuffix("_connector")
            tensors[f"model.diffusion_model.{side}_embeddings_connector.{tail}"] = value
    for prefix, vae in (("vae", trained_vae(folder)), ("audio_vae", audio_vae(folder))):
        for key, value in vae.state_dict().items():
            half, _, tail = key.partition(".")
            shared = tail if tail.startswith("per_channel_statistics.") else f"{half}.{tail}"
            tensors[f"{prefix}.{shared}"] = value
    tensors.update({f"vocoder.{k}": v for k, v in trained_vocoder(folder).vocoder.state_dict().items()})
    return {k: v.detach().bfloat16().contiguous() for k, v in sorted(tensors.items())}


def trained_vocoder(folder: Path) -> Vocoder:
    """The vocoder, trained as far as its stage went."""
    torch.manual_seed(20261122)
    net = Vocoder(VOCODER)
    if (folder / "vocoder.safetensors").exists():
        Stage("vocoder", net, STAGES["vocoder"], folder).use_average()
    return net.eval()


def export(folder: Path, out: Path) -> dict[str, int]:
    """Write everything under `out`, each file under a temporary name first; returns the sizes in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    made_by = recipe_hash(recipe())
    metadata = {"config": json.dumps(CONFIG), "model_version": MODEL_VERSION, "recipe_sha256": made_by}
    write(out / CHECKPOINT, official_tensors(folder), metadata)
    upsampler = folder / "upsampler.safetensors"
    if upsampler.exists():
        from parity.world.train.upsampler import trained_upsampler

        state = {k: v.detach().bfloat16().contiguous() for k, v in trained_upsampler(folder).state_dict().items()}
        write(out / SPATIAL_UPSAMPLER, state, {"config": json.dumps(UPSAMPLER), "recipe_sha256": made_by})
    gemma = out / "gemma"
    gemma.mkdir(exist_ok=True)
    for path in sorted((folder / "gemma").iterdir()):
        shutil.copyfile(path, gemma / path.name)
    if (folder / "clip" / "model.safetensors").exists():
        quality(folder / "clip")
        shutil.copytree(folder / "clip", out.parent / "clip", dirs_exist_ok=True)
    curves = {path.name.removesuffix(".curve.json"): json.loads(path.read_text()) for path in folder.glob("*.curve.json")}
    record = {"recipe_sha256": made_by, "recipe": recipe(), "stages": curves}
    (out / "training.json").write_text(json.dumps(record, indent=None, sort_keys=True) + "\n", encoding="utf-8")
    return {p.relative_to(out).as_posix(): p.stat().st_size for p in sorted(out.rglob("*")) if p.is_file()}


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """One safetensors file; refuses NaN, infinity and two keys that share memory."""
    for key, value in tensors.items():
        if not torch.isfinite(value.float()).all():
            raise ValueError(f"world export: {key} holds NaN or infinity; train that stage again")
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata=metadata)
    load_file(temporary)
    os.replace(temporary, path)
