"""Loads components when they are needed and lets go of them when they are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_native.checkpoint import Checkpoint
from ltx_native.lora import LoRA
from ltx_native.request import Lora

#: In the order in which a run needs them.
COMPONENTS = (
    "gemma",
    "embeddings_processor",
    "video_encoder",
    "audio_encoder",
    "transformer",
    "upsampler",
    "video_decoder",
    "audio_decoder",
    "vocoder",
)


class Models:
    """The components of one checkpoint in one dtype.

    With ``keep`` a component stays loaded once used (captures tap it, benchmarks reuse it); without it only one is in
    memory at a time; with ``low_ram`` only one block of the transformer is. ``on_load`` is called with the name and the
    module of everything that is loaded, streamed blocks (``transformer.transformer_blocks.7``) included.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: mx.Dtype = mx.bfloat16,
        keep: bool = False,
        on_load: Callable[[str, nn.Module], None] | None = None,
        low_ram: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.low_ram = low_ram
        self.dtype = dtype
        self.keep = keep
        self.on_load = on_load
        self._kept: dict[tuple[str, tuple[Lora, ...]], Any] = {}

    @contextmanager
    def use(self, component: str, loras: tuple[Lora, ...] = ()) -> Iterator[Any]:
        """The component, loaded; freed at the end of the block unless it is kept."""
        key = (component, loras)
        if key not in self._kept:
            self._kept[key] = self._load(component, loras)
        try:
            yield self._kept[key]
        finally:
            if not self.keep:
                del self._kept[key]
                mx.clear_cache()

    def load_all(self, components: tuple[str, ...] = COMPONENTS) -> dict[str, nn.Module]:
        """Load and keep the named components; returns them by name, ready to be tapped."""
        self.keep = True
        loaded: dict[str, nn.Module] = {}
        for component in components:
            with self.use(component) as module:
                loaded[component] = module
        return loaded

    def _load(self, component: str, loras: tuple[Lora, ...]) -> Any:
        if component == "tokenizer":
            from ltx_native.text_encoder.tokenizer import GemmaTokenizer

            config, folder = self.checkpoint.gemma_config, self.checkpoint.gemma_folder
            assert folder is not None, "reading Gemma's config has found its folder"
            return GemmaTokenizer(folder, config.vocab_size)
        if component == "transformer" and self.low_ram:
            from ltx_native.streaming import streamed_transformer

            module: nn.Module = streamed_transformer(self.checkpoint, self.dtype, loras, self._block_loaded)
        else:
            module = self.build(component)
            adapters = [LoRA.open(lora.path, lora.strength) for lora in loras]
            self.checkpoint.load(component, module, self.dtype, adapters)
        if self.on_load is not None:
            self.on_load(component, module)
        return module

    def _block_loaded(self, index: int, block: nn.Module) -> None:
        if self.on_load is not None:
            self.on_load(f"transformer.transformer_blocks.{index}", block)

    def build(self, component: str) -> nn.Module:
        """The component as its configuration says, without its weights."""
        config = self.checkpoint.config
        if component == "gemma":
            from ltx_native.text_encoder.gemma3 import GemmaTextModel

            return GemmaTextModel(self.checkpoint.gemma_config)
        if component == "embeddings_processor":
            from ltx_native.text_encoder.processor import EmbeddingsProcessor

            return EmbeddingsProcessor(config)
        if component == "transformer":
            from ltx_native.transformer.model import LTXModel

            return LTXModel(config.transformer)
        if component == "video_encoder":
            from ltx_native.video_vae.encoder import VideoEncoder

            return VideoEncoder(config.video_vae)
        if component == "video_decoder":
            from ltx_native.video_vae.decoder import VideoDecoder

            return VideoDecoder(config.video_vae)
        if component == "audio_encoder":
            from ltx_native.audio_vae.encoder import AudioEncoder

            return AudioEncoder(config.audio_vae)
        if component == "audio_decoder":
            from ltx_native.audio_vae.decoder import AudioDecoder

            return AudioDecoder(config.audio_vae)
        if component == "vocoder":
            from ltx_native.audio_vae.vocoder import VocoderWithBWE

            return VocoderWithBWE(config.vocoder, config.bwe)
        if component == "upsampler":
            from ltx_native.upsampler import LatentUpsampler

            return LatentUpsampler(self.checkpoint.upsampler_config)
        raise ValueError(f"there is no component {component!r}; expected one of {', '.join(COMPONENTS)}")
