"""The native engine as a process that answers requests, like the other sides' (`reference_bridge.adapters.service`).

python -m parity.bench.native_side steps --model FILE      shape, step, record, decode
python -m parity.bench.native_side block --model FILE      load, run
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from ltx_native.checkpoint import Checkpoint
from ltx_native.conditioning import AudioTarget, VideoTarget
from ltx_native.guidance import GuiderParams
from ltx_native.models import Models
from ltx_native.patchify import VIDEO_CHANNELS, VideoLatentShape, audio_latent_frames
from ltx_native.pipelines.denoise import Denoiser, Guidance, euler
from ltx_native.pipelines.stages import Context
from ltx_native.schedule import ltx2_sigmas
from ltx_native.tensor_files import read_tensors
from ltx_native.transformer.model import make_block
from parity.capture import stream
from parity.capture.native import NativeRecorder, is_block
from parity.trace import TraceWriter
from reference_bridge.adapters.service import Answer, own_stdout, serve, timed

GUIDANCE = Guidance(
    GuiderParams(cfg_scale=3.0, stg_scale=1.0, stg_blocks=(1,), rescale_scale=0.7, modality_scale=3.0),
    GuiderParams(cfg_scale=7.0, stg_scale=1.0, stg_blocks=(1,), rescale_scale=0.7, modality_scale=3.0),
)


class Steps:
    """`shape` sets up a step on random contexts and noise, as the official side's does; `step` runs it; `record` runs its
    transformer unbatched with taps ("", "sketch" or "tensors") on blocks or on every module; `decode` decodes a latent."""

    def __init__(self, model: str) -> None:
        self.models = Models(Checkpoint.open(model), mx.float32, keep=True)
        self.transformer: Any = self.models.load_all(("transformer",))["transformer"]
        self.blocks = list(self.transformer.transformer_blocks)
        self.run: Callable[[], Any] | None = None
        self.unbatched: Callable[[], Any] | None = None

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Answer]]:
        return {"shape": self.shape, "step": self.step, "record": self.record, "decode": self.decode}

    def shape(self, request: Mapping[str, Any]) -> Answer:
        config = self.models.checkpoint.config.transformer
        count = int(request.get("blocks") or len(self.blocks))
        self.transformer.transformer_blocks = self.blocks[:count]
        mx.random.seed(int(request.get("seed", 0)))
        self.latent_shape = VideoLatentShape.from_pixels(request["frames"], request["height"], request["width"])
        targets = (
            VideoTarget(self.latent_shape, request["frame_rate"]),
            AudioTarget(audio_latent_frames(request["frames"], request["frame_rate"])),
        )
        video, audio = (
            replace(target.initial_state(mx.float32), latent=mx.random.normal((1, target.tokens, VIDEO_CHANNELS)))
            for target in targets
        )

        def context() -> Context:
            text = int(request["text_tokens"])
            widths = config.inner_dim, config.audio_inner_dim
            drawn = [mx.random.normal((1, text, width)) for width in widths]
            mx.eval(drawn)
            return Context(drawn[0], drawn[1], mx.ones((1, text)))

        positive = context()
        negative, guidance = (context(), GUIDANCE) if request["guided"] else (None, None)
        sigmas = ltx2_sigmas(30)[:2]

        def stepping(batch: bool | None) -> Callable[[], None]:
            denoiser = Denoiser(self.transformer, positive, negative, guidance, batch)

            def step() -> None:
                for stage in euler(denoiser, sigmas, video, audio):
                    mx.eval(stage.tensors["video.latent"], stage.tensors["audio.latent"])

            return step

        self.run, self.unbatched = stepping(None), stepping(False)
        return {"video_tokens": targets[0].tokens, "audio_tokens": targets[1].tokens, "blocks": count}

    def step(self, request: Mapping[str, Any]) -> Answer:
        assert self.run is not None, "`shape` comes first"
        return timed(self.run, int(request.get("repeat", 1)))[1]

    def record(self, request: Mapping[str, Any]) -> Answer:
        assert self.unbatched is not None, "`shape` comes first"
        what, every, run, repeat = request["what"], bool(request["every"]), self.unbatched, int(request.get("repeat", 1))
        if not what:
            return timed(run, repeat)[1]
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:

            def recorded() -> int:
                with TraceWriter(Path(folder) / "trace", {"side": "native"}) as writer:
                    recorder = NativeRecorder(writer, sketch=what == "sketch")
                    taps = recorder.taps()
                    try:
                        taps.add("transformer", self.transformer, None if every else is_block)
                        for _ in range(repeat):
                            run()
                        recorder.flush()
                    finally:
                        taps.restore()
                return len(writer._records)

            count, spent = timed(recorded)
        return {**{name: value / repeat for name, value in spent.items()}, "records": count}

    def decode(self, request: Mapping[str, Any]) -> Answer:
        decoder = self.models.load_all(("video_decoder",))["video_decoder"]
        latent = mx.random.normal(
            (1, self.latent_shape.frames, self.latent_shape.height, self.latent_shape.width, VIDEO_CHANNELS)
        )
        mx.eval(latent)
        return timed(lambda: mx.eval(decoder(latent)))[1]


class Block:
    """`load` {index, width, height, frames, frame_rate, text_tokens, weights, inputs, plain} loads one block, hands its
    float32 weights and its inputs over in files; `run` {output?} runs it and writes its tokens. `plain`: native computes with
    the handed-over float32 weights instead of quantised ones."""

    def __init__(self, model: str) -> None:
        self.checkpoint = Checkpoint.open(model)
        self.block: Any = None
        self.pair: stream.Pair | None = None

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Answer]]:
        return {"load": self.load, "run": self.run}

    def load(self, request: Mapping[str, Any]) -> Answer:
        index, names = int(request["index"]), ("width", "height", "frames", "frame_rate", "text_tokens")
        width, height, frames, frame_rate, text = (request[name] for name in names)
        drawn = stream.synthetic_modalities(self.checkpoint, width, height, frames, frame_rate, text, sigma=0.7, seed=0)
        transformer = stream.StreamedTransformer(self.checkpoint)
        self.pair = stream.prepare(transformer.model, drawn)
        save_file(stream.flat(self.pair), request["inputs"])
        transformer.let_go()
        self.block = transformer.block(index)
        stream.hand_over(self.block, Path(request["weights"]))
        if request["plain"]:
            self.block = make_block(self.checkpoint.config.transformer, index)
            self.block.load_weights(list(read_tensors(Path(request["weights"])).items()), strict=True)
            mx.eval(self.block.parameters())
        stream.free()
        return {"tokens": [int(args.x.shape[1]) for args in self.pair]}

    def run(self, request: Mapping[str, Any]) -> Answer:
        assert self.pair is not None, "`load` comes first"
        pair = self.pair
        done, spent = timed(lambda: stream.run_block(self.block, pair, None))
        if "output" in request:
            save_file({name: np.ascontiguousarray(value) for name, value in stream.tokens_of(done).items()}, request["output"])
        return spent


def main() -> int:
    parser = argparse.ArgumentParser(prog="parity.bench.native_side", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=("steps", "block"))
    parser.add_argument("--model", required=True, help="official file or split folder")
    args = parser.parse_args()
    answers = own_stdout()
    service = Steps(args.model) if args.what == "steps" else Block(args.model)
    serve(service.handlers(), sys.stdin, answers, {"engine": "native"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
