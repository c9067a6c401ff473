"""Run as a process of its own: `generate_video` from given latents on; prints the peak memory that decoding and encoding add.

    python decode_memory.py CHECKPOINT_FOLDER SOUND FRAMES tiles|streamed|at-once OUT

Megabytes of resident memory above what the process held before the first frame was decoded.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator

import mlx.core as mx

import ltx_native.generate as generate
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.patchify import VideoLatentShape
from ltx_native.pipelines import stages
from ltx_native.request import Request

SIDE = 128


def peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(folder: str, sound: str, frames: str, how: str, out: str) -> None:
    before: list[float] = []

    def decoding(
        models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
    ) -> Iterator[stages.Stage]:
        run = stages.Run.of(models, request, noise, batch_guidance)
        shape = VideoLatentShape.from_pixels(run.request.num_frames, SIDE, SIDE)
        short = VideoLatentShape.from_pixels(17, SIDE, SIDE)
        for _ in stages.decode(run, _latent(short), mx.zeros((1, 1, 16, 8)), how == "streamed"):
            pass  # what every run allocates once
        video = _latent(shape)
        mx.eval(video)
        before.append(peak_megabytes())
        yield from stages.decode(run, video, mx.zeros((1, 1, 16, 8)), how == "streamed")

    generate.select = lambda request: decoding  # type: ignore[attr-defined]
    if how == "at-once":
        stages.decoder_tiling = lambda video, whole: None
    request = Request(
        "a fox", model=f"{folder}/ltx-2.3-tiny.safetensors", gemma=f"{folder}/gemma", output_path=out, num_frames=int(frames),
        width=SIDE, height=SIDE, audio_path=sound, audio_passthrough=True, stg_blocks=(1,), audio_stg_blocks=(1,),
        dtype="float32",
    )  # fmt: skip
    generate.generate_video(request.resolved())
    print(json.dumps(round(peak_megabytes() - before[0], 1)))


def _latent(shape: VideoLatentShape) -> mx.array:
    return mx.random.normal((1, shape.frames, shape.height, shape.width, 128))


if __name__ == "__main__":
    main(*sys.argv[1:])
