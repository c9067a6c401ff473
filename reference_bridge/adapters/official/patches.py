"""What has to change in ltx-core 1.0.0 and ltx-pipelines 1.0.0 so that they run on a CPU, in float32, by today's rule.

Every patch has a name, which a trace's manifest lists. None of them touches a file of the packages.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("ltx_core", "ltx_pipelines")


class ModuleView(ModuleType):
    """A module seen with some attributes replaced, so that one importer can be told something else than the others."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced)
        self._seen = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)


def replace_everywhere(original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
    """Rebind a function in every module of the packages that imported it."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES:
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, replacement)


def import_pipelines() -> None:
    """Import every pipeline module now, because a patch reaches only what has been imported."""
    import importlib

    for name in (
        "ti2vid_one_stage", "ti2vid_two_stages", "ti2vid_two_stages_hq", "distilled", "a2vid_two_stage",
        "keyframe_interpolation", "retake", "ic_lora",
    ):  # fmt: skip
        importlib.import_module(f"ltx_pipelines.{name}")


def apply(
    dtype: str, gemma: Path | None, gemma_config: dict[str, Any] | None, frozen: frozenset[str] = frozenset()
) -> list[str]:
    """Apply all patches for a run in `dtype` ("float32" or "bfloat16") and return their names."""
    import torch

    applied = ["av-cross-timestep-1.2.0"]
    av_cross_timestep()
    import_pipelines()
    if frozen:
        frozen_sigma(frozen)
        applied.append("frozen-sigma-1.2.0")
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *args, **kwargs: None
        applied.append("cuda-synchronize-stub")
    if dtype == "float32":
        pipelines_in_float32()
        applied.append("pipelines-float32")
    lora_fusion_in_target_dtype()
    applied.append("lora-fusion-in-target-dtype")
    if gemma is not None and gemma_config is not None:
        gemma_sizes(gemma_config)
        gemma_from_pretrained(gemma, gemma_config)
        applied += ["gemma-sizes", "gemma-from-pretrained"]
    return applied


def av_cross_timestep() -> None:
    """Since git 203d484 audio-video cross attention takes scale and shift from a token's own timestep.

    1.0.0 takes both those and the gate from the other modality's sigma; only the gate does so now.
    """
    from ltx_core.model.transformer.transformer_args import MultiModalTransformerArgsPreprocessor as Preprocessor

    known = list(inspect.signature(Preprocessor._prepare_cross_attention_timestep).parameters)
    if "timestep" not in known:
        raise RuntimeError(f"ltx-core is not 1.0.0: unexpected cross-attention parameters {known}")

    def prepare(self: Any, modality: Any, cross_modality: Any = None) -> Any:
        args = self.simple_preprocessor.prepare(modality)
        if cross_modality is None:
            return args
        own, batch, dtype = self.simple_preprocessor, args.x.shape[0], modality.latent.dtype
        scale = own.timestep_scale_multiplier
        gate_factor = self.av_ca_timestep_scale_multiplier / scale

        def embed(adaln: Any, timestep: Any) -> Any:
            values, _ = adaln(timestep.flatten(), hidden_dtype=dtype)
            return values.view(batch, -1, values.shape[-1])

        return dataclasses.replace(
            args,
            cross_positional_embeddings=own._prepare_positional_embeddings(
                positions=modality.positions[:, :1],
                inner_dim=self.audio_cross_attention_dim,
                max_pos=[self.cross_pe_max_pos],
                use_middle_indices_grid=True,
                num_attention_heads=own.num_attention_heads,
                x_dtype=dtype,
            ),
            cross_scale_shift_timestep=embed(self.cross_scale_shift_adaln, modality.timesteps * scale),
            cross_gate_timestep=embed(self.cross_gate_adaln, cross_modality.sigma * scale * gate_factor),
        )

    Preprocessor.prepare = prepare


def frozen_sigma(frozen: frozenset[str]) -> None:
    """In 1.2.0 a modality that is held fixed says so with sigma 0; 1.0.0 gives it the noise level of the other one.

    `frozen` names the modalities ("video", "audio") that this run holds fixed; their tokens all have mask 0.
    """
    import torch
    from ltx_pipelines.utils import helpers

    modality = helpers.modality_from_latent_state

    def modality_from_latent_state(state: Any, context: Any, sigma: Any, enabled: bool = True) -> Any:
        name = "video" if state.positions.shape[1] == 3 else "audio"
        fixed = name in frozen and not bool(state.denoise_mask.any())
        return modality(state, context, torch.zeros_like(sigma) if fixed else sigma, enabled)

    replace_everywhere(modality, modality_from_latent_state)


def pipelines_in_float32() -> None:
    """The pipelines ask for bfloat16 by name; theirs becomes float32, while torch's own stays what it is.

    Rebinding `torch.bfloat16` itself would also make safetensors misread bfloat16 checkpoints.
    """
    import torch
    from ltx_pipelines.utils import samplers

    view = ModuleView(torch, bfloat16=torch.float32)
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ltx_pipelines" and getattr(module, "torch", None) is torch:
            vars(module)["torch"] = view
    loop = samplers.res2s_audio_video_denoising_loop
    loop.__defaults__ = tuple(torch.float32 if v is torch.bfloat16 else v for v in loop.__defaults__)


def encoder_without_mbtree() -> None:
    """Below eight macroblocks a row, x264's macroblock tree reads memory it never wrote: equal frames, unequal files.

    Seen with PyAV 18.1.0 at widths of 64 and 96, on one thread too; not from 128 on, nor with its assembler off.
    """
    import av
    from ltx_pipelines.utils import media_io

    class Container:
        def __init__(self, container: Any) -> None:
            self._container = container

        def add_stream(self, codec: str, **kwargs: Any) -> Any:
            options = {"options": {"x264-params": "mbtree=0"}} if codec == "libx264" else {}
            return self._container.add_stream(codec, **kwargs, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

    def open_container(*args: Any, **kwargs: Any) -> Any:
        return Container(av.open(*args, **kwargs))

    media_io.av = ModuleView(av, open=open_container)


def lora_fusion_in_target_dtype() -> None:
    """Fusion accepts bfloat16 weights only; here weights take the target type first, and float32 passes as well."""
    import torch
    from ltx_core.loader import fuse_loras

    fuse = fuse_loras._fuse_deltas

    def fuse_deltas(deltas: Any, weight: Any, key: str, sd: Any, target_dtype: Any, *rest: Any) -> Any:
        fuse_loras.torch = ModuleView(torch, bfloat16=target_dtype)
        plain = weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return fuse(deltas, weight.to(target_dtype) if plain else weight, key, sd, target_dtype, *rest)

    fuse_loras._fuse_deltas = fuse_deltas


def gemma_sizes(config: dict[str, Any]) -> None:
    """The feature extractor reads Gemma's sizes from constants of the 12B model; they come from the folder instead."""
    from ltx_core.text_encoders.gemma.config import GEMMA3_CONFIG_FOR_LTX

    text = GEMMA3_CONFIG_FOR_LTX.text_config
    for name, value in config.get("text_config", config).items():
        if name in ("hidden_size", "num_hidden_layers"):
            setattr(text, name, value)


def gemma_from_pretrained(folder: Path, config: dict[str, Any]) -> None:
    """ltx-core fills Gemma by hand, in a way that transformers 5 no longer allows; transformers loads it here."""
    import transformers
    from ltx_core.text_encoders.gemma import GemmaTextEncoder
    from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer
    from ltx_pipelines.utils import model_ledger

    text_only = "text_config" not in config
    model_class = transformers.Gemma3ForCausalLM if text_only else transformers.Gemma3ForConditionalGeneration
    tokenizer_folder = next(path.parent for name in ("tokenizer.model", "tokenizer*") for path in folder.glob(name))

    def text_encoder(self: Any) -> Any:
        model = model_class.from_pretrained(str(folder), dtype=self.dtype, local_files_only=True)
        tokenizer = LTXVGemmaTokenizer(str(tokenizer_folder), 1024)
        return GemmaTextEncoder(model=model, tokenizer=tokenizer, dtype=self.dtype).to(self.device).eval()

    # The builders look for an image processor too, which only prompt enhancement needs.
    model_ledger.module_ops_from_gemma_root = lambda root: ()
    model_ledger.ModelLedger.text_encoder = text_encoder
