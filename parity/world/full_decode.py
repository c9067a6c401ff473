"""Decodes random latents with a video decoder of the true size (407 million random weights), streamed; prints time and memory.

    python -m parity.world.full_decode [--frames 97] [--height 480] [--width 704] [--dtype float32]

The peak resident set is VmHWM of the process: weights, activations and the frames that were not yet handed on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any BLAS is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_native.checkpoint import as_dtype, fill
from ltx_native.config import VideoVAEConfig
from ltx_native.errors import RequestError, UserError
from ltx_native.layout import from_official, to_mlx_axes
from ltx_native.patchify import SPACE_SCALE, TIME_SCALE, VideoLatentShape
from ltx_native.progress import Bar
from ltx_native.video_vae import VideoDecoder, streamed_decode
from parity.world import layout, quick_weights
from parity.world.full_step import peak_resident
from parity.world.presets import preset

#: The published decoder, in the config's order: it runs from the end, 1024 channels to 128.
TRUE_SIZE: dict[str, Any] = {
    "decoder_base_channels": 128,
    "decoder_blocks": [
        ["res_x", {"num_layers": 4}], ["compress_space", {"multiplier": 2}], ["res_x", {"num_layers": 6}],
        ["compress_time", {"multiplier": 2}], ["res_x", {"num_layers": 4}], ["compress_all", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}], ["compress_all", {"multiplier": 2}], ["res_x", {"num_layers": 2}],
    ],
}  # fmt: skip


def true_vae() -> dict[str, Any]:
    """The `vae` section of a config whose decoder has the true size; its encoder stays the tiny preset's."""
    return preset("tiny")[0]["vae"] | TRUE_SIZE


def random_decoder(vae: dict[str, Any], dtype: mx.Dtype, seed: int = 0) -> VideoDecoder:
    """A decoder of that config with random weights, made and loaded one tensor at a time."""
    decoder = VideoDecoder(VideoVAEConfig.from_official({"vae": vae}))
    weights = {}
    for tensor in layout.video_vae(vae):
        for component, name in from_official(tensor.key) or ():
            if component == "video_decoder":
                weights[name] = _array(tensor, name, dtype, seed)
    return fill(decoder, weights, dtype, "the random decoder")


def _array(tensor: layout.Tensor, name: str, dtype: mx.Dtype, seed: int) -> mx.array:
    values = np.concatenate(list(quick_weights.plain(tensor, seed))).reshape(tensor.shape)
    axes = to_mlx_axes(name, values.ndim)
    array = mx.array(values if axes is None else np.ascontiguousarray(values.transpose(axes))).astype(dtype)
    mx.eval(array)
    return array


def decode(decoder: VideoDecoder, shape: VideoLatentShape, dtype: mx.Dtype, seed: int, bar: Bar) -> tuple[int, float]:
    """Frames that came out and their root mean square, of one random latent."""
    latent = mx.random.normal((1, shape.frames, shape.height, shape.width, 128), key=mx.random.key(seed)).astype(dtype)
    frames, squares = 0, 0.0
    for chunk in streamed_decode(decoder, latent):
        if chunk.shape[2:] != (shape.height * SPACE_SCALE, shape.width * SPACE_SCALE, 3):
            raise AssertionError(f"a chunk has the shape {chunk.shape}")
        frames += chunk.shape[1]
        squares += chunk.shape[1] * float(np.mean(np.square(np.array(chunk.astype(mx.float32)), dtype=np.float64)))
        bar.update("decoding, frame", frames, shape.pixel_frames)
    return frames, (squares / frames) ** 0.5


def main(argv: Sequence[str] | None = None, vae: dict[str, Any] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.world.full_decode", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=704)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-q", "--quiet", action="store_true")
    args = parser.parse_args(argv)
    try:
        dtype = as_dtype(args.dtype)
        for name, value, unit, rest in (
            ("--frames", args.frames, TIME_SCALE, 1),
            ("--height", args.height, SPACE_SCALE, 0),
            ("--width", args.width, SPACE_SCALE, 0),
        ):
            if value < 1 or value % unit != rest % unit:
                raise RequestError("Not a size of the decoder", name, value, f"a multiple of {unit}, plus {rest}", "Change it")
    except UserError as error:
        print(f"full_decode: {error}", file=sys.stderr)
        return 2
    decoder = random_decoder(true_vae() if vae is None else vae, dtype, args.seed)
    print(f"decoder made, {args.dtype}, peak resident {peak_resident():.2f} GB", flush=True)
    shape = VideoLatentShape.from_pixels(args.frames, args.height, args.width)
    start, cpu = time.perf_counter(), time.process_time()
    with Bar(sys.stderr, enabled=not args.quiet) as bar:
        frames, size = decode(decoder, shape, dtype, args.seed, bar)
    spent = f"{time.perf_counter() - start:.1f} s ({time.process_time() - cpu:.1f} s of processor time)"
    print(f"{frames} frames {args.height} x {args.width} in {spent}, peak resident {peak_resident():.2f} GB, size {size:.2f}")
    return 0 if frames == args.frames and np.isfinite(size) else 1


if __name__ == "__main__":
    sys.exit(main())
