"""Mistakes between a checkpoint and the modules: config, keys, layouts, LoRAs, quantisation, lifecycle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_native import checkpoint, layout, lora, models, quantize
from ltx_native.checkpoint import Checkpoint
from ltx_native.config import ModelConfig
from ltx_native.pipelines import refine
from parity.faults.registry import everywhere, patched, register


def _weights(change: Any, only: str = "transformer") -> Any:
    original = Checkpoint.weights

    def weights(self: Checkpoint, component: str, dtype: Any) -> dict[str, mx.array]:
        found = original(self, component, dtype)
        return change(found) if component == only else found

    return patched(Checkpoint, weights=weights)


@register("CFG-01")
def another_revision() -> Iterator[None]:
    def revised(found: dict[str, mx.array]) -> dict[str, mx.array]:
        name = "transformer_blocks.1.ff.net.2.weight"
        return found | {name: found[name] * 1.03}

    with _weights(revised):
        yield


@register("CFG-02")
def field_lost_on_the_way() -> Iterator[None]:
    original = ModelConfig.from_official

    def from_official(config: Any, **kwargs: Any) -> ModelConfig:
        found = original(config, **kwargs)
        return replace(found, transformer=replace(found.transformer, audio_positional_embedding_max_pos=(30,)))

    with patched(ModelConfig, from_official=staticmethod(from_official)):
        yield


@register("CFG-03")
def audio_keys_skipped() -> Iterator[None]:
    original = layout.from_official

    def from_official(key: str) -> Any:
        return [] if "audio" in key or "a2v" in key else original(key)

    with patched(layout, from_official=from_official):
        yield


@register("CFG-05")
def truncated_file() -> Iterator[None]:
    original = Checkpoint.open.__func__  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:

        def opened(cls: type[Checkpoint], source: str | Path, *args: Any, **kwargs: Any) -> Checkpoint:
            cut = Path(folder) / Path(source).name
            shutil.copyfile(source, cut)
            with cut.open("rb+") as file:
                file.truncate(cut.stat().st_size * 3 // 4)
            return original(cls, cut, *args, **kwargs)

        with patched(Checkpoint, open=classmethod(opened)):
            yield


@register("VAE-07")
def cubic_kernels_turned() -> Iterator[None]:
    def turned(found: dict[str, mx.array]) -> dict[str, mx.array]:
        return {k: v.swapaxes(1, 3) if v.ndim == 5 else v for k, v in found.items()}

    with _weights(turned, "video_encoder"):
        yield


@register("MEM-01")
def small_tensors_of_the_first_block() -> Iterator[None]:
    def stale(found: dict[str, mx.array]) -> dict[str, mx.array]:
        small = {k: v for k, v in found.items() if k.startswith("transformer_blocks.0.") and v.nbytes < 256}
        blocks = range(1, 2)
        return found | {k.replace("blocks.0.", f"blocks.{i}.", 1): v for k, v in small.items() for i in blocks}

    with _weights(stale):
        yield


@register("MEM-03")
def encoder_loaded_twice() -> Iterator[None]:
    original = models.Models._load

    def load(self: models.Models, component: str, loras: Any) -> Any:
        if component == "gemma":
            original(self, component, loras)
        return original(self, component, loras)

    with patched(models.Models, _load=load):
        yield


def _fuse(change: Any) -> Any:
    original = lora.fuse

    def fuse(weights: dict[str, mx.array], loras: Sequence[Any], dtype: mx.Dtype) -> dict[str, mx.array]:
        return change(original(weights, loras, dtype), dict(weights))

    return everywhere("fuse", fuse, lora, checkpoint)


@register("LOR-01")
def some_deltas_dropped() -> Iterator[None]:
    with _fuse(lambda fused, plain: {k: plain[k] if "audio_ff" in k or "adaln" in k else v for k, v in fused.items()}):
        yield


@register("LOR-02")
def no_key_matches() -> Iterator[None]:
    with _fuse(lambda fused, plain: plain):
        yield


@register("LOR-03")
def adapters_of_the_second_stage_dropped() -> Iterator[None]:
    original = vars(refine)["diffuse"]

    def diffused(*args: Any, **kwargs: Any) -> Any:
        return (yield from original(*args, **{**kwargs, "loras": ()}))

    with patched(refine, diffuse=diffused):
        yield


@register("LOR-04")
def alpha_ignored() -> Iterator[None]:
    original = lora._factors

    def factors(path: Path, layer: str, parts: Any) -> lora.Factors:
        return replace(original(path, layer, parts), scale=1.0)

    with patched(lora, _factors=factors):
        yield


@register("DTY-03")
def fused_in_float16() -> Iterator[None]:
    def half(fused: dict[str, mx.array], plain: dict[str, mx.array]) -> dict[str, mx.array]:
        return {k: v.astype(mx.float16).astype(v.dtype) for k, v in fused.items()}

    with _fuse(half):
        yield


@register("DTY-04")
def single_precision_latent_decoded() -> Iterator[None]:
    from ltx_native.pipelines import stages

    def widened(original: Any) -> Any:
        return lambda decoder, latent, *args: original(decoder, latent.astype(mx.float32), *args)

    names = ("tiled_decode", "streamed_decode")
    with patched(stages, **{name: widened(vars(stages)[name]) for name in names}):
        yield


@register("QNT-01")
def groups_of_sixty_four() -> Iterator[None]:
    original = quantize.derive

    def derive(in_features: int, packed: Any, scales: Any, where: str) -> quantize.Quantisation:
        return replace(original(in_features, packed, scales, where), group_size=64)

    with patched(quantize, derive=derive):
        yield


@register("QNT-05")
def every_linear_quantised() -> Iterator[None]:
    with patched(quantize, _is_block_weight=lambda name, shape: name.endswith(".weight") and len(shape) == 2):
        yield


@register("QNT-06")
def packed_read_as_values() -> Iterator[None]:
    def call(self: Any, input: mx.array) -> mx.array:
        values = mx.view(self.weight, mx.uint8).astype(mx.float32)
        return input @ values[:, : input.shape[-1]].T

    with patched(quantize.QuantizedLinear, __call__=call):
        yield


@register("QNT-08")
def reference_that_varies() -> Iterator[None]:
    # A control: what varies is the reference, not the port. `parity.checks.repeat` makes the jitter on both sides.
    yield
