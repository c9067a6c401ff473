"""A CLIP from a Hugging Face folder, loaded strictly, and what the gate asks of it: unit embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ltx_native.errors import CheckpointError, ConfigError, RequestError
from parity.clip.config import ClipConfig, read_config, read_json
from parity.clip.preprocess import Preprocessing, read_preprocessing
from parity.clip.sampling import FrameSampling, declared_sampling
from parity.clip.siglip import SiglipModel
from parity.clip.tokenizer import CaptionTokenizer, read_tokenizer
from parity.clip.towers import ClipModel

FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt", "spiece.model",
         "tokenizer_config.json", "frame_sampling.json", "model.safetensors")  # fmt: skip


class Clip:
    """Text and image towers with tokenizer, preprocessing and frame sampling of one folder. Computes in float32."""

    def __init__(
        self,
        config: ClipConfig,
        model: ClipModel | SiglipModel,
        tokenizer: CaptionTokenizer,
        preprocessing: Preprocessing,
        sampling: FrameSampling,
        fingerprint: str,
    ) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.preprocessing, self.sampling, self.fingerprint = preprocessing, sampling, fingerprint

    @classmethod
    def open(cls, folder: str | Path) -> Clip:
        """Read a folder. Missing files, unknown keys, missing, extra, misshaped or non-finite weights raise UserError."""
        folder = Path(folder)
        config = read_config(folder / "config.json")
        preprocessing, raw = read_preprocessing(folder / "preprocessor_config.json")
        tokenizer = read_tokenizer(folder, config.model_type, config.text.max_position_embeddings)
        sampling = declared_sampling(folder, raw)
        model = load_model(config, folder / "model.safetensors")
        return cls(config, model, tokenizer, preprocessing, sampling, fingerprint(folder))

    def embed_texts(self, captions: Sequence[str], batch: int = 64) -> np.ndarray:
        """(n, D) float32 of unit length. Captions over the token limit, or with characters unknown to it, raise."""
        for caption in captions:
            if not self.tokenizer.reads(caption):
                raise RequestError(
                    what="caption cannot be read by this CLIP",
                    where=repr(caption[:80]),
                    value="a character outside its vocabulary, or a control token spelled out",
                    expected="text made of the tokenizer's vocabulary",
                    next_step="reword the prompt in the suite",
                )
        ids = self.tokenizer.encode(captions)
        return _unit([self.text_features(ids[i : i + batch]) for i in range(0, len(ids), batch)], self.config.projection_dim)

    def embed_frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (F, H, W, 3) to (views, D) float32 of unit length, sampled as the folder declares."""
        return self.embed_images(self.sampling.images(frames))

    def embed_stills(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (F, H, W, 3) to (F, D) float32 of unit length: every frame on its own."""
        return self.embed_images(self.sampling.still_images(frames))

    def embed_images(self, images: np.ndarray, batch: int = 16) -> np.ndarray:
        """uint8 (n, H, W, 3) to (n, D) float32 of unit length."""
        pixels = self.preprocessing(images)
        side = self.config.vision.image_size
        if pixels.shape[1:] != (side, side, self.config.vision.num_channels):
            raise ConfigError(
                what="CLIP preprocessing gives another size than the model takes",
                where="preprocessor_config.json",
                value=f"{pixels.shape[1:]}",
                expected=f"({side}, {side}, {self.config.vision.num_channels})",
                next_step="let size or crop_size match vision_config.image_size",
            )
        parts = [self.image_features(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]
        return _unit(parts, self.config.projection_dim)

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        """(n, T) ids to (n, D) float32, as the tower gives them."""
        return np.array(self.model.text_features(mx.array(input_ids)))

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) normalised pixels to (n, D) float32, as the tower gives them."""
        return np.array(self.model.image_features(mx.array(pixel_values)))


def load_model(config: ClipConfig, path: Path) -> ClipModel | SiglipModel:
    """Weights into a new model: every tensor there, none left over, shapes right, all finite, float32."""
    model: ClipModel | SiglipModel = ClipModel(config) if config.model_type == "clip" else SiglipModel(config)
    if not path.is_file():
        read_json(path)  # the one message for a missing file
    try:
        loaded = mx.load(str(path))
        assert isinstance(loaded, dict)
        weights = sanitize(loaded)
        model.load_weights(list(weights.items()), strict=True)
        mx.eval(model.parameters())
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            what="CLIP weights do not fit",
            where=str(path),
            value=str(error),
            expected="exactly the tensors of the model that config.json describes",
            next_step="use config.json and model.safetensors of one and the same model",
        ) from error
    for name, value in tree_flatten(model.parameters()):
        if not mx.all(mx.isfinite(value)).item():
            raise CheckpointError(
                what="CLIP weight is not finite",
                where=f"{path}: {name}",
                value="NaN or infinity",
                expected="finite numbers",
                next_step="fetch the file again",
            )
    assert isinstance(model, nn.Module)
    return model


def sanitize(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Drop the position counters of old checkpoints, move convolution kernels to channels-last, compute in float32."""
    out = {}
    for key, value in weights.items():
        if key.endswith(".embeddings.position_ids"):
            continue
        if key.endswith(".patch_embedding.weight"):
            value = value.transpose(0, 2, 3, 1)
        out[key] = value.astype(mx.float32)
    return out


@lru_cache(maxsize=8)
def fingerprint(folder: Path) -> str:
    """SHA-256 over the folder's files that decide an embedding."""
    digest = hashlib.sha256()
    for name in FILES:
        path = folder / name
        if path.is_file():
            digest.update(name.encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _unit(parts: list[np.ndarray], width: int) -> np.ndarray:
    if not parts:
        return np.zeros((0, width), np.float32)
    features = np.concatenate(parts)
    return np.asarray(features / np.linalg.norm(features, axis=-1, keepdims=True), np.float32)
