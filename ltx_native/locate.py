"""Finds the files of a checkpoint in a single official file or in a split MLX folder. Needs no MLX."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ltx_native.config import GemmaConfig, ModelConfig, UpsamplerConfig
from ltx_native.errors import CheckpointError
from ltx_native.files import Header, read_header, resolve, sha256
from ltx_native.layout import SPLIT_FILES

Layout = Literal["official", "split"]
AGGREGATE = "text_embedding_projection.video_aggregate_embed.weight"


class Hashes(Mapping[Path, str]):
    """Path → SHA-256, computed when asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __getitem__(self, path: Path) -> str:
        if path not in self._paths:
            raise KeyError(path)
        return sha256(path)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@dataclass(frozen=True)
class CheckpointFiles:
    """Where each part lies. `components` maps a component to its file(s); `root` is what the user named."""

    layout: Layout
    root: Path
    components: Mapping[str, tuple[Path, ...]]
    gemma_folder: Path | None

    @classmethod
    def find(
        cls,
        source: str | Path,
        gemma: str | Path | None = None,
        upsampler: str | Path | None = None,
        variant: str | None = None,
    ) -> CheckpointFiles:
        """`gemma` and `upsampler` default to what lies beside the model; `variant` (`dev`, `distilled`, …) chooses among
        the transformers of a split folder, `dev` by default."""
        root = resolve(source)
        folder = root if root.is_dir() else root.parent
        components: dict[str, tuple[Path, ...]] = {}
        transformers = sorted(folder.glob("transformer*.safetensors")) if root.is_dir() else []
        layout: Layout = "split" if transformers else "official"
        if layout == "split":
            components["transformer"] = (_variant(folder, transformers, variant),)
            for component, name in SPLIT_FILES.items():
                components[component] = (folder / name,)
        else:
            single = (root if root.is_file() else _single_file(folder),)
            components |= dict.fromkeys(("transformer", *SPLIT_FILES), single)
        if gemma is not None:
            gemma_folder: Path | None = resolve(gemma)
        else:
            gemma_folder = folder / "gemma" if (folder / "gemma").is_dir() else None
        if gemma_folder is not None:
            components["gemma"] = _gemma_shards(gemma_folder)
        found = resolve(upsampler) if upsampler is not None else _upsampler(folder)
        if found is not None:
            components["upsampler"] = (found,)
        return cls(layout, root, components, gemma_folder)

    @cached_property
    def headers(self) -> dict[Path, Header]:
        """Headers of all files, read and checked once."""
        return {path: read_header(path) for path in dict.fromkeys(p for ps in self.components.values() for p in ps)}

    @property
    def paths(self) -> list[Path]:
        """Everything that decides what the model computes: weights, configs and tokenizer."""
        found = list(dict.fromkeys(p for ps in self.components.values() for p in ps))
        if self.layout == "split":
            found.append(self.root / "embedded_config.json")
        if upsampler := self.components.get("upsampler"):
            found.append(_upsampler_config_file(upsampler[0]))
        if self.gemma_folder is not None:
            found += [self.gemma_folder / n for n in ("config.json", "tokenizer.json", "tokenizer_config.json")]
        return [path for path in dict.fromkeys(found) if path.exists()]

    @property
    def files(self) -> Hashes:
        return Hashes(self.paths)

    def hashes(self) -> dict[str, str]:
        """File name (below `gemma/` for Gemma's) → SHA-256."""
        names = {}
        for path in self.paths:
            inside = self.gemma_folder is not None and path.parent == self.gemma_folder
            names[f"gemma/{path.name}" if inside else path.name] = sha256(path)
        return names

    def fingerprint(self) -> str:
        """One SHA-256 over names and hashes: equal exactly if every file is."""
        lines = [f"{name} {digest}" for name, digest in sorted(self.hashes().items())]
        return hashlib.sha256("\n".join([self.layout, *lines]).encode()).hexdigest()

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The official config as it stands in the file."""
        if self.layout == "official":
            header = self.headers[self.components["transformer"][0]]
            return _parse(header.metadata.get("config"), f"{header.path.name} (metadata)")
        return _parse_file(self.root / "embedded_config.json")

    @cached_property
    def config(self) -> ModelConfig:
        config = self.raw_config
        if self.layout == "official":
            header = self.headers[self.components["transformer"][0]]
            version, key = header.metadata.get("model_version", ""), AGGREGATE
        else:
            version = str(_parse_file(self.root / "config.json").get("model_version", ""))
            header, key = self.headers[self.components["embeddings_processor"][0]], f"connector.{AGGREGATE}"
        if key not in header.shapes or len(header.shapes[key]) != 2:
            raise CheckpointError("A weight is missing", header.path.name, "no such tensor", key, "Use a complete file")
        caption = config.get("transformer", {}).get("caption_channels", 0)
        width = header.shapes[key][1]
        if not isinstance(caption, int) or caption < 1 or width % caption:
            raise CheckpointError(
                "The text projection does not fit the config",
                f"{header.path.name}: {key}",
                f"{width} columns",
                f"a multiple of caption_channels = {caption}",
                "Use a file whose metadata belongs to its weights",
            )
        where = header.path.name if self.layout == "official" else "embedded_config.json"
        return ModelConfig.from_official(config, num_states=width // caption, model_version=version, where=where)

    @cached_property
    def gemma_config(self) -> GemmaConfig:
        if self.gemma_folder is None:
            raise CheckpointError(
                "No Gemma folder", str(self.root), "none given, none beside the model", "a Gemma 3 folder", "Pass --gemma"
            )
        path = self.gemma_folder / "config.json"
        return GemmaConfig.from_hf(_parse_file(path), where=f"{self.gemma_folder.name}/config.json")

    def check_gemma(self) -> None:
        """The text projection must have been made for this Gemma."""
        wanted, found = self.config.feature_extractor, self.gemma_config
        if (found.hidden_size, found.num_states) != (wanted.embedding_dim, wanted.num_states):
            raise CheckpointError(
                "Gemma does not fit the model",
                str(self.gemma_folder),
                f"{found.num_hidden_layers} layers of width {found.hidden_size}",
                f"{wanted.num_states - 1} layers of width {wanted.embedding_dim}",
                "Pass the Gemma 3 that the checkpoint was trained with",
            )

    @cached_property
    def upsampler_config(self) -> UpsamplerConfig:
        if "upsampler" not in self.components:
            raise CheckpointError(
                "No latent upsampler",
                str(self.root),
                "none given, none beside the model",
                "a spatial or temporal upscaler file",
                "Pass --upsampler",
            )
        header = self.headers[self.components["upsampler"][0]]
        if "config" in header.metadata:
            return UpsamplerConfig.from_official(_parse(header.metadata["config"], header.path.name), header.path.name)
        path = _upsampler_config_file(header.path)
        config = _parse_file(path)
        return UpsamplerConfig.from_official(config.get("config", config), path.name)


def _variant(folder: Path, found: list[Path], variant: str | None) -> Path:
    """`transformer-<variant>.safetensors`, or the newest `transformer-<variant>-<version>.safetensors`."""
    for wanted in (variant,) if variant else ("dev", "distilled"):
        versions = [p for p in found if re.fullmatch(rf"transformer-{re.escape(wanted)}(-[\d.]+)?", p.stem)]
        if versions:
            return max(versions, key=lambda p: [int(n) for n in re.findall(r"\d+", p.stem.removeprefix("transformer-"))])
    if variant is None and len(found) == 1:
        return found[0]
    raise CheckpointError(
        "The transformer of that variant is not in the folder",
        str(folder),
        ", ".join(p.name for p in found),
        f"transformer-{variant or 'dev'}.safetensors",
        "Name one of the variants that are there",
    )


def _single_file(folder: Path) -> Path:
    """The one official model file of a folder (upscalers and LoRAs carry no transformer config)."""
    found = sorted(folder.glob("*.safetensors"))
    models = [p for p in found if '"transformer"' in read_header(p).metadata.get("config", "")]
    if len(models) == 1:
        return models[0]
    raise CheckpointError(
        "The folder does not hold one model" if not models else "The folder holds several models",
        str(folder),
        ", ".join(p.name for p in models or found) or "no .safetensors file",
        "an official LTX-2.3 file, or transformer-*.safetensors with its companions",
        "Name the file itself",
    )


def _gemma_shards(folder: Path) -> tuple[Path, ...]:
    shards = tuple(sorted(folder.glob("model*.safetensors")))
    if not shards:
        raise CheckpointError(
            "The Gemma folder holds no weights", str(folder), "no such file", "model*.safetensors", "Check the path"
        )
    return shards


def _upsampler(folder: Path) -> Path | None:
    """The spatial ×2 upscaler beside the model, the newest version of it."""
    found = [*folder.glob("*spatial-upscaler-x2*.safetensors"), *folder.glob("*spatial_upscaler_x2*.safetensors")]
    return max(found, key=lambda p: p.name, default=None)


def _upsampler_config_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}_config.json")


def _parse(text: str | None, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text) if text is not None else None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(
            "There is no model config", where, "nothing that parses" if text else "nothing", "a JSON object",
            "Use the file as published: its config is in the safetensors metadata (or embedded_config.json)",
        )  # fmt: skip
    return config


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        text: str | None = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = None
    return _parse(text, str(path))
