"""Time the denoising step: every guidance pass of one step, guidance, mask blend and Euler update, in float32."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reference_bridge.adapters.official import arguments, patches, provenance
from reference_bridge.adapters.official.checks import BadInput, at_least, model_config
from reference_bridge.adapters.official.sites import OWN_OUTPUTS
from reference_bridge.probe import Recorder, tap_torch
from reference_bridge.probe_trace import TorchBackend, TraceWriter

TEXT_TOKENS = 1024
BLOCKS = tuple(f"transformer.transformer_blocks.{digits}" for digits in ("[0-9]", "[0-9][0-9]"))


def run(args: argparse.Namespace) -> int:
    """Print one JSON line with seconds per step; with `--on-request`, one line for each line read from stdin."""
    arguments.check_weights(args)
    arguments.check_size(args, 32)
    at_least(args.repeat, 1, "--repeat")
    at_least(args.warmup, 0, "--warmup")
    import torch

    torch.set_num_threads(args.threads)
    applied = patches.apply("float32", None, None)
    with torch.inference_mode():
        step, about, transformer = prepare(args)
        for _ in range(args.warmup):
            step()
        if args.on_request:
            print(json.dumps({**about, "ready": True}), flush=True)
            for line in sys.stdin:
                with recorded(transformer, args.probe, line.strip(), step, args.repeat) as whole:
                    seconds_taken = timed(whole)
                print(json.dumps({"seconds": seconds_taken / args.repeat}), flush=True)
            return 0
        seconds = [timed(step) for _ in range(args.repeat)]
    summary = {
        **about,
        "repeats": args.repeat,
        "min_s": min(seconds),
        "median_s": statistics.median(seconds),
        "max_s": max(seconds),
        "versions": provenance.versions(),
        "patches": applied,
    }
    print(json.dumps(summary))
    return 0


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@contextmanager
def recorded(
    transformer: Any, folder: Path | None, what: str, step: Callable[[], Any], steps: int
) -> Iterator[Callable[[], Any]]:
    """A run of so many steps with the outputs of the transformer's blocks recorded: `sketch`, `tensors`, or nothing for "".

    It is whole with hooks, sketches, hashes, records and the files of the trace; only the hooks are set outside.
    """
    if folder is None or not what:
        yield lambda: [step() for _ in range(steps)]
        return

    def whole() -> None:
        for _ in range(steps):
            step()
        writer.close({})

    writer = TraceWriter(folder, TorchBackend())
    recorder = Recorder(writer, BLOCKS, outputs_only=True, sketch=what == "sketch")
    handles = tap_torch(recorder, "transformer", transformer.velocity_model, own=OWN_OUTPUTS)
    try:
        yield whole
    finally:
        for handle in handles:
            handle.remove()
        writer.abort()
        shutil.rmtree(folder, ignore_errors=True)
    if not handles or not writer.records:
        raise BadInput("nothing was recorded", "--probe", what, "calls of transformer blocks", "Look at BLOCKS.")


def prepare(args: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any], Any]:
    """One step of the official Euler loop at the schedule's start, on random contexts and noise from the seed; its model."""
    import torch
    from ltx_core.components.diffusion_steps import EulerDiffusionStep
    from ltx_core.components.guiders import MultiModalGuider
    from ltx_core.components.noisers import GaussianNoiser
    from ltx_core.components.schedulers import LTX2Scheduler
    from ltx_core.types import VideoPixelShape
    from ltx_pipelines.utils import helpers
    from ltx_pipelines.utils.constants import detect_params
    from ltx_pipelines.utils.samplers import euler_denoising_loop
    from ltx_pipelines.utils.types import PipelineComponents

    from reference_bridge.adapters.official.generate import guider_params

    cpu, dtype = torch.device("cpu"), torch.float32
    generator = torch.Generator().manual_seed(args.seed)
    config = model_config(args.model, "--model")["transformer"]
    widths = {
        "video": config["num_attention_heads"] * config["attention_head_dim"],
        "audio": config["audio_num_attention_heads"] * config["audio_attention_head_dim"],
    }
    contexts = {
        (name, side): torch.randn(1, TEXT_TOKENS, width, generator=generator)
        for name, width in widths.items()
        for side in ("positive", "negative")
    }
    params = detect_params(str(args.model))
    guiders = {
        "video": MultiModalGuider(guider_params(args, "", params.video_guider_params), contexts["video", "negative"]),
        "audio": MultiModalGuider(guider_params(args, "audio_", params.audio_guider_params), contexts["audio", "negative"]),
    }
    transformer = _transformer(args)
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = transformer.register_forward_pre_hook(count)
    denoise = helpers.multi_modal_guider_denoising_func(
        guiders["video"], guiders["audio"], contexts["video", "positive"], contexts["audio", "positive"], transformer
    )
    shape = VideoPixelShape(1, args.frames, args.height, args.width, args.frame_rate)
    noiser, components = GaussianNoiser(generator), PipelineComponents(dtype, cpu)
    video, _ = helpers.noise_video_state(shape, noiser, [], components, dtype, cpu)
    audio, _ = helpers.noise_audio_state(shape, noiser, [], components, dtype, cpu)
    sigmas = LTX2Scheduler().execute(steps=30)[:2]

    def step() -> Any:
        return euler_denoising_loop(sigmas, video, audio, EulerDiffusionStep(), denoise)

    step()
    handle.remove()
    about = {
        "engine": "official",
        "passes": passes,
        "video_tokens": video.latent.shape[1],
        "audio_tokens": audio.latent.shape[1],
        "text_tokens": TEXT_TOKENS,
        "dtype": "float32",
        "threads": args.threads,
    }
    return step, about, transformer


def _transformer(args: argparse.Namespace) -> Any:
    import torch
    from ltx_pipelines.utils.model_ledger import ModelLedger

    return ModelLedger(torch.float32, torch.device("cpu"), checkpoint_path=str(args.model)).transformer()
