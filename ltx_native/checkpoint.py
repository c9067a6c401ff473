"""The one strict loader: locate → rename → move axes → (fuse LoRAs) → strict load → dtype check → finite check → eval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ltx_native import layout as keys
from ltx_native import quantize
from ltx_native.config import GemmaConfig, ModelConfig, UpsamplerConfig
from ltx_native.errors import CheckpointError
from ltx_native.files import Header
from ltx_native.locate import CheckpointFiles, Hashes, Layout
from ltx_native.lora import LoRA, fuse
from ltx_native.tensor_files import read_tensors

M = TypeVar("M", bound=nn.Module)
FLOATS = (mx.float32, mx.bfloat16, mx.float16)
READABLE = {"F32", "BF16", "F16", "U32"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. Tensors are read when a component is loaded, and only that component's."""

    located: CheckpointFiles

    @classmethod
    def open(
        cls,
        source: str | Path,
        gemma: str | Path | None = None,
        upsampler: str | Path | None = None,
        variant: str | None = None,
    ) -> Checkpoint:
        """Find all files of `source` (official file, split folder or Hub id) and check headers, configs and key coverage."""
        located = CheckpointFiles.find(source, gemma, upsampler, variant)
        checkpoint = cls(located)
        _ = located.config
        if located.gemma_folder is not None:
            located.check_gemma()
        for component in located.components:
            checkpoint.names(component)
        return checkpoint

    @property
    def layout(self) -> Layout:
        return self.located.layout

    @property
    def config(self) -> ModelConfig:
        return self.located.config

    @property
    def gemma_config(self) -> GemmaConfig:
        return self.located.gemma_config

    @property
    def gemma_folder(self) -> Path | None:
        return self.located.gemma_folder

    @property
    def upsampler_config(self) -> UpsamplerConfig:
        return self.located.upsampler_config

    @property
    def files(self) -> Hashes:
        return self.located.files

    def hashes(self) -> dict[str, str]:
        return self.located.hashes()

    def fingerprint(self) -> str:
        return self.located.fingerprint()

    def weights(self, component: str, dtype: mx.Dtype | str) -> dict[str, mx.array]:
        """Native name → array in MLX's axes and in `dtype` (packed quantised weights stay uint32). Nothing is read yet."""
        wanted = as_dtype(dtype)
        result: dict[str, mx.array] = {}
        for path, names in self.names(component):
            tensors = read_tensors(path)
            official = self._torch_axes(component, path)
            for key, name in names.items():
                tensor = tensors[key]
                axes = keys.to_mlx_axes(name, tensor.ndim) if official else None
                tensor = tensor if axes is None else tensor.transpose(axes)
                result[name] = tensor.astype(wanted) if tensor.dtype in FLOATS else tensor
        return result

    def load(self, component: str, module: M, dtype: mx.Dtype | str, loras: Sequence[LoRA] = ()) -> M:
        """Fill `module` with the component's weights in `dtype`, exactly: no key missing, extra, misshaped or not finite."""
        wanted = as_dtype(dtype)
        return fill(module, self.weights(component, wanted), wanted, f"{component} of {self.located.root.name}", loras)

    def names(self, component: str) -> Iterator[tuple[Path, dict[str, str]]]:
        """For each file of the component: stored key → native name; refuses keys that nothing accounts for."""
        if component not in self._known:
            self._known[component] = self._read_names(component)
        return iter(self._known[component])

    @cached_property
    def _known(self) -> dict[str, list[tuple[Path, dict[str, str]]]]:
        return {}

    def _read_names(self, component: str) -> list[tuple[Path, dict[str, str]]]:
        if component not in self.located.components:
            raise CheckpointError(
                f"The checkpoint has no {component}",
                str(self.located.root),
                ", ".join(sorted(self.located.components)),
                component,
                "Give its file or folder (--gemma, --upsampler), or use a complete checkpoint",
            )
        return [(p, self._names_in(component, self.located.headers[p])) for p in self.located.components[component]]

    def _names_in(self, component: str, header: Header) -> dict[str, str]:
        names: dict[str, str] = {}
        unknown: list[str] = []
        for key in header.shapes:
            found = self._native(component, key, header)
            if found is None:
                unknown.append(key)
            elif found:
                names[key] = found
                if header.dtypes[key] not in READABLE:
                    raise CheckpointError(
                        "A tensor has a dtype that this port does not read",
                        f"{header.path.name}: {key}",
                        header.dtypes[key],
                        ", ".join(sorted(READABLE)),
                        "Use the bfloat16 file, or convert it (ltx-native convert)",
                    )
        if unknown:
            raise CheckpointError(
                "A weight file holds tensors that no part of the model accounts for",
                header.path.name,
                _listed(unknown),
                "only keys of LTX-2.3",
                "Use a checkpoint of LTX-2.3 as published",
            )
        return names

    def _native(self, component: str, key: str, header: Header) -> str | None:
        """Native name in `component`, "" if the key belongs elsewhere, None if it belongs nowhere."""
        if component == "gemma":
            return keys.from_gemma(key)
        if component == "upsampler":
            return key.removeprefix(f"{header.path.stem}.")
        if self.layout == "split":
            return keys.from_split(component, key)
        pairs = keys.from_official(key)
        return None if pairs is None else dict(pairs).get(component, "")

    def _torch_axes(self, component: str, path: Path) -> bool:
        if component == "upsampler":  # the official file carries its config inside, the converted one beside it
            return "config" in self.located.headers[path].metadata
        return self.layout == "official" and component != "gemma"


def as_dtype(dtype: mx.Dtype | str) -> mx.Dtype:
    found = getattr(mx, dtype, None) if isinstance(dtype, str) else dtype
    if found not in FLOATS:
        raise CheckpointError(
            "The model cannot run in that dtype", "dtype", str(dtype), "float32, bfloat16 or float16", "Choose one of them"
        )
    return found


def fill(module: M, weights: dict[str, mx.array], dtype: mx.Dtype, where: str, loras: Sequence[LoRA] = ()) -> M:
    """Put `weights` with `loras` added into `module`, strictly, and evaluate them; a message names them by `where`.

    Empties `weights`: each tensor as read is let go of as soon as its final form exists.
    """
    final = fuse(weights, loras, dtype) if loras else dict(weights)
    weights.clear()
    quantize.prepare(module, final, where)
    expected = dict(tree_flatten(module.parameters()))
    _check_fit(where, {k: v.shape for k, v in final.items()}, {k: v.shape for k, v in expected.items()})
    module.load_weights(list(final.items()), strict=True)
    del final, expected
    _check_values(where, module, dtype)
    return module


def _check_fit(where: str, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    problems = [
        (label, names)
        for label, names in (
            ("missing", sorted(expected.keys() - found.keys())),
            ("unexpected", sorted(found.keys() - expected.keys())),
            ("misshapen", [f"{k} {found[k]} for {expected[k]}" for k in expected if k in found and found[k] != expected[k]]),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            "The weights do not fit the model",
            where,
            "; ".join(f"{len(names)} {label}: {_listed(names)}" for label, names in problems),
            f"exactly its {len(expected)} tensors",
            "Use weights and config of the same checkpoint",
        )


def _check_values(where: str, module: nn.Module, dtype: mx.Dtype) -> None:
    """Evaluates every parameter, one at a time, so that no second copy of the model is ever alive."""
    for name, value in tree_flatten(module.parameters()):
        if value.dtype not in (dtype, mx.uint32):
            raise CheckpointError("A weight has the wrong dtype", f"{where}: {name}", value.dtype, dtype, "Report this")
        if value.dtype == dtype and not mx.all(mx.isfinite(value)).item():
            raise CheckpointError(
                "A weight is not finite",
                f"{where}: {name}",
                "NaN or infinity",
                f"finite {dtype} values",
                "Copy or download the file again; if it stays, the file was made with an overflow",
            )
        mx.eval(value)


def _listed(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
