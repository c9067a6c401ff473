"""The native transformer with one block in memory, and its weights handed to another process as plain float32 numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from ltx_native.checkpoint import Checkpoint
from ltx_native.conditioning import AudioTarget, VideoTarget
from ltx_native.patchify import VIDEO_CHANNELS, VideoLatentShape, audio_latent_frames
from ltx_native.quantize import Quantisation, dequantise
from ltx_native.streaming import StreamedBlocks, streamed_transformer
from ltx_native.tensor_files import Pending, write_safetensors
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.block import BasicAVTransformerBlock
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel
from ltx_native.transformer.perturbations import BatchedPerturbationConfig
from parity.capture.replay import to_mlx
from parity.capture.tree import arrays_in
from parity.trace import Tree, leaves

Array = npt.NDArray[Any]
Pair = tuple[TransformerArgs, TransformerArgs]
MODALITIES = ("video", "audio")


class StreamedTransformer:
    """Modules of one checkpoint's transformer, loaded one at a time in float32; quantised layers stay quantised."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.blocks = StreamedBlocks(checkpoint, mx.float32)
        self._model: LTXModel | None = None

    @property
    def model(self) -> LTXModel:
        """What comes before and after the blocks (2 % of the weights, 1.7 GB at the true size), until it is let go."""
        if self._model is None:
            self._model = streamed_transformer(self.checkpoint, mx.float32)
        return self._model

    def let_go(self) -> None:
        """Free what is in no block; it is read again when it is asked for."""
        self._model = None
        free()

    def __len__(self) -> int:
        return len(self.blocks)

    def block(self, index: int) -> BasicAVTransformerBlock:
        """One block, loaded. Raises CheckpointError where its weights do not fit."""
        return self.blocks.load(index)


def hand_over(module: nn.Module, path: Path) -> None:
    """Write the numbers that a native module computes with, by their names in it: float32, quantised layers dequantised."""
    layers = dict(module.named_modules())
    pending = []
    for name, value in tree_flatten(module.parameters()):
        owner, _, part = name.rpartition(".")
        layer = layers[owner]
        if not isinstance(layer, nn.QuantizedLinear) or part == "bias":
            pending.append(Pending(name, value))
        elif part == "weight":
            how = Quantisation(layer.bits, layer.group_size)
            pending.append(Pending(name, dequantise(layer.weight, layer.scales, layer.biases, how)))
    write_safetensors(path, pending)


def synthetic_modalities(
    checkpoint: Checkpoint, width: int, height: int, frames: int, frame_rate: float, text_tokens: int, sigma: float, seed: int
) -> dict[str, Array]:
    """Seeded inputs of the transformer by `video.latent`, `video.positions` …, for a clip of that size.

    Latents (1, T, 128) and contexts (1, S, D) are standard normal; every token has the noise level ``sigma``.
    """
    config, rng = checkpoint.config.transformer, np.random.default_rng([seed, 2_308])
    targets: tuple[VideoTarget, AudioTarget] = (
        VideoTarget(VideoLatentShape.from_pixels(frames, height, width), frame_rate),
        AudioTarget(audio_latent_frames(frames, frame_rate)),
    )
    found: dict[str, Array] = {}
    for i, (name, dim) in enumerate(zip(MODALITIES, (config.inner_dim, config.audio_inner_dim), strict=True)):
        count = targets[i].tokens
        found |= {
            f"{name}.latent": rng.standard_normal((1, count, VIDEO_CHANNELS), np.float32),
            f"{name}.context": rng.standard_normal((1, text_tokens, dim), np.float32),
            f"{name}.positions": np.array(targets[i].initial_state(mx.float32).positions),
            f"{name}.timesteps": np.full((1, count, 1), sigma, np.float32),
            f"{name}.sigma": np.full(1, sigma, np.float32),
        }
    return found


def modalities_of(named: Mapping[str, Array]) -> tuple[Modality, Modality]:
    def modality(name: str) -> Modality:
        latent, sigma, timesteps, positions, context = (
            mx.array(named[f"{name}.{part}"]) for part in ("latent", "sigma", "timesteps", "positions", "context")
        )
        return Modality(latent, sigma, timesteps, positions, context)

    return modality("video"), modality("audio")


def prepare(model: LTXModel, named: Mapping[str, Array]) -> Pair:
    """The first block's arguments as native makes them."""
    video, audio = modalities_of(named)
    pair = model.prepare_video(video, audio), model.prepare_audio(audio, video)
    mx.eval(arrays_in(pair))
    return pair


def flat(pair: Pair) -> dict[str, Array]:
    """Every tensor of the arguments by its dotted name, in C order: safetensors writes a strided array's bytes as they lie."""
    found: dict[str, Array] = {}
    for name, args in zip(MODALITIES, pair, strict=True):
        for field in dataclasses.fields(args):
            value = getattr(args, field.name)
            if isinstance(value, mx.array):
                found[f"{name}.{field.name}"] = np.ascontiguousarray(value)
            elif isinstance(value, tuple):
                found |= {f"{name}.{field.name}.{i}": np.ascontiguousarray(part) for i, part in enumerate(value)}
    return found


def args_of(named: Mapping[str, Array], disabled: Sequence[str] = ()) -> Pair:
    """Arguments of a block from tensors by dotted name; the other direction of `flat`."""

    def value(prefix: str) -> Any:
        parts = tuple(to_mlx(named[f"{prefix}.{i}"], "float32") for i in range(2) if f"{prefix}.{i}" in named)
        return parts or (to_mlx(named[prefix], "float32") if prefix in named else None)

    fields = [field.name for field in dataclasses.fields(TransformerArgs) if field.name != "enabled"]
    video, audio = (TransformerArgs(**{n: value(f"{m}.{n}") for n in fields}, enabled=m not in disabled) for m in MODALITIES)
    return video, audio


def with_tokens(pair: Pair, tokens: Mapping[str, Array]) -> Pair:
    """The same arguments with other running tokens `video.x` and `audio.x`."""
    video, audio = (dataclasses.replace(a, x=mx.array(tokens[f"{m}.x"])) for m, a in zip(MODALITIES, pair, strict=True))
    return video, audio


def run_block(block: nn.Module, pair: Pair, perturbations: BatchedPerturbationConfig | None) -> Pair:
    """One block, evaluated."""
    video, audio = block(video=pair[0], audio=pair[1], perturbations=perturbations)
    mx.eval(video.x, audio.x)
    return video, audio


def tokens_of(pair: Pair) -> dict[str, Array]:
    return {f"{m}.x": np.array(args.x) for m, args in zip(MODALITIES, pair, strict=True)}


def velocities(model: LTXModel, pair: Pair) -> dict[str, Array]:
    """What comes after the blocks: the velocities by modality."""
    found = {"video": model.velocity(pair[0]), "audio": model.audio_velocity(pair[1])}
    mx.eval(list(found.values()))
    return {name: np.array(value) for name, value in found.items()}


def free() -> None:
    """Hand MLX's cached buffers back after a block was let go."""
    mx.clear_cache()


def tensor_leaves(tree: Tree) -> list[tuple[str, Tree]]:
    """The tensors of a recorded argument by dotted name."""
    return [(path, leaf) for path, leaf in leaves(tree) if "tensor" in leaf]


def described(config: BatchedPerturbationConfig | None) -> list[list[dict[str, Any]]] | None:
    """Perturbations as plain JSON, for the other process."""
    if config is None:
        return None
    return [[{"type": p.type.value, "blocks": p.blocks} for p in one.perturbations or ()] for one in config.perturbations]
