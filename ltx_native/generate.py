"""The native engine from a request to an mp4 under its final name."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ltx_native import preflight
from ltx_native.checkpoint import Checkpoint
from ltx_native.dispatch import Progress
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.select import select
from ltx_native.pipelines.stages import Stage
from ltx_native.request import ResolvedRequest

#: What follows each stage, for whoever waits.
NEXT = {
    "tokens": "encoding the prompt",
    "context": "loading the transformer",
    "schedule": "preparing",
    "state": "denoising",
    "latent": "decoding the picture",
    "frames": "decoding the sound",
    "waveform": "writing",
}


def generate_video(request: ResolvedRequest, progress: Progress | None = None, noise: str | None = None) -> tuple[str, ...]:
    """Make the video; returns warnings. Raises UserError and leaves no file when it cannot be made."""
    from ltx_native.media import VideoWriter

    checkpoint = open_checkpoint(request)
    preflight.check(request, checkpoint)
    given = Noise.load(noise) if noise else None
    models = Models(checkpoint, getattr(mx, request.dtype), low_ram=request.low_ram)
    stages = select(request)(models, request, noise=given)
    report = _Reporter(progress)
    for stage in stages:
        report(stage)
        if stage.name == "latent":
            break
    else:
        raise AssertionError("the pipeline made no latents")
    with VideoWriter(request.output_path, stage.values["frame_rate"], stage.values["sample_rate"]) as writer:
        for stage in stages:
            report(stage)
            if stage.name == "frames":
                writer.add_frames(np.array(stage.tensors["frames"]))
            elif stage.name == "waveform":
                writer.add_audio(np.array(stage.tensors["audio"]))
    return preflight.unused(request)


def open_checkpoint(request: ResolvedRequest) -> Checkpoint:
    """The request's checkpoint, its headers, config and keys checked."""
    variant = "distilled" if request.effective_pipeline in ("distilled", "ic-lora") else None
    return Checkpoint.open(request.model, request.gemma, request.upsampler, variant)


class _Reporter:
    """Turns stages into progress."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.steps = 0

    def __call__(self, stage: Stage) -> None:
        if self.progress is None:
            return
        if stage.name == "schedule":
            self.steps = int(stage.tensors["sigmas"].shape[0]) - 1
        if stage.step is not None:
            self.progress("denoising", stage.step + 1, self.steps)
        else:
            self.progress(NEXT.get(stage.name, stage.name), 0, 0)
