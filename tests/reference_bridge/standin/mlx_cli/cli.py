"""The stand-in's command line with a real MLX model behind it; the picture's colour depends on every bit of the result."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys

import mlx.core as mx
import numpy as np
from ltx_core_mlx.conditioning.types.latent_cond import LatentState, create_initial_state
from ltx_core_mlx.model.transformer.model import LTXModel, X0Model
from ltx_core_mlx.model.upsampler.model import LatentUpsampler
from ltx_pipelines_mlx.movie import write_movie
from ltx_pipelines_mlx.scheduler import ltx2_schedule
from ltx_pipelines_mlx.utils.samplers import guided_denoise_loop


class BasePipeline:
    def _decode_and_save_video(self, video_latent: mx.array, audio_latent: mx.array, output: str) -> None:
        bits = np.array(video_latent).tobytes() + np.array(audio_latent).tobytes()
        seed = int.from_bytes(hashlib.sha256(bits).digest()[:4], "big")
        write_movie(__import__("pathlib").Path(output), width=64, height=64, frames=9, rate=24.0, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="ltx-2-mlx")
    generate = parser.add_subparsers(dest="command").add_parser("generate")
    for name in ("prompt", "output", "model", "gemma"):
        generate.add_argument(f"--{name}")
    generate.add_argument("--frame-rate", type=float, required=True)
    for name, default in (("seed", 0), ("width", 64), ("height", 64), ("frames", 9), ("steps", 2), ("stage1-steps", 2)):
        generate.add_argument(f"--{name}", type=int, default=default)
    generate.add_argument("--cfg-scale", type=float)
    generate.add_argument("--one-stage", action="store_true")
    generate.add_argument("--distilled", action="store_true")
    args = parser.parse_args()
    stream = os.environ.get("STANDIN_STREAM") == "1"
    mx.random.seed(7)
    weights = LTXModel().parameters()
    model = LTXModel(stream=stream)
    flat = [("transformer_blocks.0.attn1.weight", weights["transformer_blocks"][0]["attn1"]["weight"])]
    model.load_weights(flat, strict=False)
    video = create_initial_state((1, 4, 8), args.seed, mx.zeros((1, 4, 3)))
    audio = create_initial_state((1, 2, 8), args.seed + 1, mx.zeros((1, 2, 1)))
    text = mx.full((1, 1, 8), 0.01 * len(args.prompt))
    if os.environ.get("STANDIN_MODE") == "crash":
        raise RuntimeError("[metal::malloc] no")
    latents = guided_denoise_loop(X0Model(model), video, audio, text, text * 0, ltx2_schedule(args.steps))
    if args.distilled:
        half = latents.video_latent.swapaxes(1, 2).reshape(1, 8, 1, 2, 2)
        whole = LatentUpsampler()(half).reshape(1, 8, 16).swapaxes(1, 2)
        states = [LatentState(x, x, mx.ones((1, x.shape[1], 1)), None) for x in (whole, latents.audio_latent)]
        latents = guided_denoise_loop(X0Model(model), *states, text, text * 0, [0.5, 0.0])
    BasePipeline()._decode_and_save_video(*latents, args.output)
    sys.exit(0)
