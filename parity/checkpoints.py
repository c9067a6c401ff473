"""The checkpoints a comparison can run on: the made tiny one, the shipped trained one, or files the user names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from parity.capture.reference import Checkpoint
from parity.folders import cache_folder
from parity.world import layout, presets, random_checkpoint, signal_bases, tokenizer_files
from parity.world.random_checkpoint import paths, write_checkpoint

WORLD = Path(__file__).with_name("world") / "checkpoint"


def tiny() -> Checkpoint:
    """The tiny random checkpoint: what a comparison takes when none is named."""
    return made("tiny")


def made(preset: str) -> Checkpoint:
    """A random checkpoint (`tiny` or `mid`), made when it is not there or when the code that makes it has changed."""
    sources = (layout, presets, random_checkpoint, signal_bases, tokenizer_files)
    digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in sources)).hexdigest()[:12]
    folder = cache_folder() / f"{preset}-{digest}"
    found = paths(folder) if folder.is_dir() else write_checkpoint(folder, name=preset, split=preset == "tiny")
    return Checkpoint(found["model"], found["gemma"], found["upsampler"])


def named(folder: Path) -> Checkpoint:
    """The checkpoint in a folder: one model file beside `gemma/` and, where there is one, an upsampler.

    Raises `FileNotFoundError` that says what is missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    upsamplers = [path for path in files if "upscaler" in path.name or "upsampler" in path.name]
    models = [path for path in files if path not in upsamplers and "lora" not in path.name]
    if len(models) != 1:
        raise FileNotFoundError(f"{folder}: {len(models)} model files, expected one official *.safetensors file")
    if not (folder / "gemma").is_dir():
        raise FileNotFoundError(f"{folder}: no folder gemma/ with the text encoder")
    return Checkpoint(models[0], folder / "gemma", upsamplers[0] if upsamplers else None)
