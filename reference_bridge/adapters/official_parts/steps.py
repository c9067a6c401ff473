"""Denoising steps of the official Euler loop on request, at any size and depth, and the video decoder; all in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import patches
from reference_bridge.adapters.official.checks import BadInput, model_config
from reference_bridge.adapters.service import Answer, timed


class Steps:
    """`shape` {height, width, frames, frame_rate, text_tokens, guided, blocks?, seed?} sets up a step on random contexts and
    noise; `step` runs it; `decode` decodes a random latent of that shape."""

    def __init__(self, model: Path) -> None:
        import torch
        from ltx_pipelines.utils.model_ledger import ModelLedger

        self.config = model_config(model, "--model")["transformer"]
        patches.apply("float32", None, None)
        self.ledger = ModelLedger(torch.float32, torch.device("cpu"), checkpoint_path=str(model))
        self.transformer: Any = self.ledger.transformer()
        self.blocks = list(self.transformer.velocity_model.transformer_blocks)
        self.decoder: Any = None
        self.run: Callable[[], Any] | None = None
        self.latent: Any = None

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Answer]]:
        return {"shape": self.shape, "step": self.step, "decode": self.decode}

    def shape(self, request: Mapping[str, Any]) -> Answer:
        import torch
        from ltx_core.components.diffusion_steps import EulerDiffusionStep
        from ltx_core.components.noisers import GaussianNoiser
        from ltx_core.components.schedulers import LTX2Scheduler
        from ltx_core.types import VideoLatentShape, VideoPixelShape
        from ltx_pipelines.utils import helpers
        from ltx_pipelines.utils.samplers import euler_denoising_loop
        from ltx_pipelines.utils.types import PipelineComponents

        count = int(request.get("blocks") or len(self.blocks))
        self.transformer.velocity_model.transformer_blocks = torch.nn.ModuleList(self.blocks[:count])
        cpu, dtype = torch.device("cpu"), torch.float32
        generator = torch.Generator().manual_seed(int(request.get("seed", 0)))
        size = VideoPixelShape(1, request["frames"], request["height"], request["width"], request["frame_rate"])
        noiser, components = GaussianNoiser(generator), PipelineComponents(dtype, cpu)
        with torch.inference_mode():
            video, _ = helpers.noise_video_state(size, noiser, [], components, dtype, cpu)
            audio, _ = helpers.noise_audio_state(size, noiser, [], components, dtype, cpu)
            sigmas = LTX2Scheduler().execute(steps=30)[:2]
            denoise = self._denoise(request, generator)
            shape = VideoLatentShape.from_pixel_shape(size).to_torch_shape()
            self.latent = torch.randn(shape, generator=generator)
        self.run = lambda: euler_denoising_loop(sigmas, video, audio, EulerDiffusionStep(), denoise)
        return {"video_tokens": video.latent.shape[1], "audio_tokens": audio.latent.shape[1], "blocks": count}

    def _denoise(self, request: Mapping[str, Any], generator: Any) -> Any:
        """The conditional pass alone, or with CFG, STG and modality guidance."""
        import torch
        from ltx_core.components.guiders import MultiModalGuider, MultiModalGuiderParams
        from ltx_pipelines.utils import helpers

        prefixes = ("", "audio_")
        widths = [self.config[f"{p}num_attention_heads"] * self.config[f"{p}attention_head_dim"] for p in prefixes]

        def contexts() -> list[Any]:
            return [torch.randn(1, int(request["text_tokens"]), width, generator=generator) for width in widths]

        positive, negative = contexts(), contexts()
        if not request["guided"]:
            return helpers.simple_denoising_func(*positive, self.transformer)
        guiders = [
            MultiModalGuider(
                MultiModalGuiderParams(cfg_scale=cfg, stg_scale=1.0, stg_blocks=[1], rescale_scale=0.7, modality_scale=3.0),
                text,
            )
            for cfg, text in zip((3.0, 7.0), negative, strict=True)
        ]
        return helpers.multi_modal_guider_denoising_func(*guiders, *positive, self.transformer)

    def step(self, request: Mapping[str, Any]) -> Answer:
        import torch

        if self.run is None:
            raise BadInput("no size yet", "step", "nothing", "`shape` before it", "Send it.")
        with torch.inference_mode():
            return timed(self.run, int(request.get("repeat", 1)))[1]

    def decode(self, request: Mapping[str, Any]) -> Answer:
        import torch

        if self.latent is None:
            raise BadInput("no size yet", "decode", "nothing", "`shape` before it", "Send it.")
        if self.decoder is None:
            self.decoder = self.ledger.video_decoder()
        with torch.inference_mode():
            return timed(lambda: self.decoder(self.latent))[1]
