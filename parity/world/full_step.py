"""One denoising step of a checkpoint with its blocks streamed, checked against its blocks loaded and run one by one.

    python -m parity.world.full_step CHECKPOINT [--frames 4] [--rows 4] [--columns 4] [--text 128] [--dtype float32]

Prints seconds and the peak resident set: VmHWM of the process, every page that it ever held at once (weights are read, not
mapped). Status 1 if the step is not finite, or not bitwise what the blocks give when each is loaded by itself and handed
the output of the one before.
"""

from __future__ import annotations

import os

# Before any BLAS is loaded: one thread, and float32 that is float32.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MLX_ENABLE_TF32", "0")

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ltx_native.checkpoint import Checkpoint, as_dtype, fill
from ltx_native.conditioning import AudioTarget, LatentState, VideoTarget, post_process_latent
from ltx_native.errors import UserError
from ltx_native.patchify import VideoLatentShape, audio_latent_frames
from ltx_native.pipelines.denoise import Denoiser, euler
from ltx_native.pipelines.stages import Context
from ltx_native.progress import Bar
from ltx_native.sampler import euler_step, to_denoised
from ltx_native.streaming import streamed_transformer
from ltx_native.transformer.args import TransformerArgs
from ltx_native.transformer.modality import Modality
from ltx_native.transformer.model import LTXModel, make_block
from reference_bridge.adapters.service import usage

SIGMAS = np.array([1.0, 0.9], np.float32)
Both = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Subject:
    """What goes into the step: noise as both latents, random contexts."""

    video: LatentState
    audio: LatentState
    context: Context

    @classmethod
    def drawn(cls, checkpoint: Checkpoint, shape: VideoLatentShape, text: int, dtype: mx.Dtype, seed: int) -> Subject:
        config, keys = checkpoint.config.transformer, iter(mx.random.split(mx.random.key(seed), 4))

        def normal(tokens: int, width: int) -> mx.array:
            return mx.random.normal((1, tokens, width), key=next(keys)).astype(dtype)

        rate = 24.0
        targets = VideoTarget(shape, rate), AudioTarget(max(1, audio_latent_frames(shape.pixel_frames, rate)))
        video, audio = (
            replace(target.initial_state(dtype), latent=normal(target.tokens, config.in_channels)) for target in targets
        )
        texts = normal(text, config.inner_dim), normal(text, config.audio_inner_dim)
        return cls(video, audio, Context(*texts, mx.ones((1, text))))


def streamed_step(model: LTXModel, subject: Subject) -> Both:
    """The latents after one step, as the pipelines take it."""
    denoiser = Denoiser(model, subject.context)
    (stage,) = euler(denoiser, SIGMAS, subject.video, subject.audio)
    return stage.tensors["video.latent"], stage.tensors["audio.latent"]


def step_by_hand(
    checkpoint: Checkpoint, model: LTXModel, subject: Subject, dtype: mx.Dtype, report: Callable[[int], None]
) -> Both:
    """The same step from blocks that are each taken from the file by name, strictly loaded and called, without streaming.

    `model` gives what is in no block.
    """
    video, audio = _modality(subject.video, subject.context.video), _modality(subject.audio, subject.context.audio)
    args: list[TransformerArgs] = [model.prepare_video(video, audio), model.prepare_audio(audio, video)]
    for index in range(checkpoint.config.transformer.num_layers):
        report(index)
        prefix = f"transformer_blocks.{index}."
        found = {k.removeprefix(prefix): v for k, v in checkpoint.weights("transformer", dtype).items() if k.startswith(prefix)}
        block = fill(make_block(checkpoint.config.transformer, index), found, dtype, prefix)
        done = block(video=args[0], audio=args[1])
        args = [a for a in done if a is not None]
        mx.eval([a.x for a in args])
        del block
        mx.clear_cache()
    return _stepped(subject.video, model.velocity(args[0])), _stepped(subject.audio, model.audio_velocity(args[1]))


def _modality(state: LatentState, text: mx.array) -> Modality:
    sigma = mx.array(SIGMAS[:1])
    return Modality(state.latent, sigma, sigma.reshape(1, 1, 1), state.positions, text)


def _stepped(state: LatentState, velocity: mx.array) -> mx.array:
    denoised = to_denoised(state.latent, velocity, state.denoise_mask * float(SIGMAS[0]))
    return euler_step(state.latent, post_process_latent(denoised, state.denoise_mask, state.clean_latent), SIGMAS, 0)


def peak_resident() -> float:
    """GB (10^9 bytes) that the process has held at most."""
    return usage()["peak_bytes"] / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.world.full_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames", type=int, default=4, help="latent frames")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--text", type=int, default=128, help="text tokens")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-q", "--quiet", action="store_true")
    args = parser.parse_args(argv)
    try:
        return run(args)
    except UserError as error:
        print(f"full_step: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    dtype = as_dtype(args.dtype)
    checkpoint = Checkpoint.open(args.checkpoint)
    shape = VideoLatentShape(args.frames, args.rows, args.columns)
    subject = Subject.drawn(checkpoint, shape, args.text, dtype, args.seed)
    count = checkpoint.config.transformer.num_layers
    with Bar(sys.stderr, enabled=not args.quiet) as bar:
        start = time.perf_counter()
        model = streamed_transformer(checkpoint, dtype, on_block=lambda i, _: bar.update("streamed, block", i + 1, count))
        loaded = time.perf_counter()
        streamed = streamed_step(model, subject)
        done = time.perf_counter()
        tokens = f"{shape.tokens} video + {subject.audio.latent.shape[1]} audio + {args.text} text tokens"
        print(f"{count} blocks, {tokens}, {args.dtype}: what is in no block {loaded - start:.1f} s", flush=True)
        print(f"streamed step {done - loaded:.1f} s, peak resident {peak_resident():.2f} GB", flush=True)
        hand = step_by_hand(checkpoint, model, subject, dtype, lambda i: bar.update("by hand, block", i + 1, count))
    equal = all(bool(mx.array_equal(a, b).item()) for a, b in zip(streamed, hand, strict=True))
    finite = all(bool(mx.all(mx.isfinite(latent)).item()) for latent in streamed)
    print(f"blocks one by one {time.perf_counter() - done:.1f} s, peak resident {peak_resident():.2f} GB")
    print(f"streamed = one by one, bitwise: {'yes' if equal else 'NO'}; finite: {'yes' if finite else 'NO'}")
    return 0 if equal and finite else 1


if __name__ == "__main__":
    sys.exit(main())
