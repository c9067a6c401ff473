"""Many videos from one process: flags of `generate` once, then one JSON object per line on standard input.

    python -m reference_bridge.adapters.official.serve --model … --gemma … --height … (no prompt, no output)
    {"prompt": "…", "seed": 7, "noise": "noise.safetensors", "output": "video.safetensors"}

Answers each line with {"output": …, "seconds": …} or {"error": …}. The output holds `frames` uint8 (F, H, W, 3) and `waveform`
float32 (channels, samples), before any codec. Importing PyTorch and reading weights costs more than a small video does,
so both are done once: components stay loaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from reference_bridge.adapters.official import arguments
from reference_bridge.adapters.official.checks import BadInput

COMPONENTS = (
    "text_encoder", "gemma_embeddings_processor", "video_encoder", "transformer", "video_decoder", "audio_decoder", "vocoder",
)  # fmt: skip


def remembered(build: Callable[[], Any]) -> Callable[[], Any]:
    """The same component every time; the pipelines do not change what they build."""
    kept: list[Any] = []

    def get() -> Any:
        if not kept:
            kept.append(build())
        return kept[0]

    return get


class Server:
    """One official pipeline, loaded once, that takes prompt, seed and noise per call."""

    def __init__(self, argv: list[str]) -> None:
        given = ["generate", *argv, "--prompt=-", "--output=-.mp4", "--quiet"]
        args = arguments.parser().parse_args(given)
        if args.mode != "one-stage":
            raise BadInput("serves one mode only", "--mode", args.mode, "one-stage", "Use `generate` for the others.")
        arguments.check_generate(args)
        import torch

        from reference_bridge.adapters.official import draws, generate, patches
        from reference_bridge.adapters.official.checks import gemma_config

        torch.set_num_threads(args.threads)
        self.patches = patches.apply(args.dtype, args.gemma, gemma_config(args.gemma))
        self.draws = draws.Draws(None, None)
        draws.install(self.draws)
        self.pipeline, self.call = generate.build(args)
        ledger = self.pipeline.model_ledger
        for name in COMPONENTS:
            setattr(ledger, name, remembered(getattr(ledger, name)))

    def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make one video and write it whole or not at all. Raises whatever the pipeline raises, or BadInput."""
        import torch
        from safetensors.torch import save_file

        from reference_bridge.adapters.official.draws import read_noise

        started = time.perf_counter()
        noise, output = request.get("noise"), Path(request["output"])
        self.draws.given = read_noise(Path(noise)) if noise else None
        self.draws.count = 0
        with torch.inference_mode():
            video, audio = self.pipeline(**{**self.call, "prompt": request["prompt"], "seed": request["seed"]})
            frames = torch.cat(list(video))
        if self.draws.given is not None and len(self.draws.given) > self.draws.count:
            what = f"{self.draws.count} draws"
            raise BadInput("the noise file holds more than the run draws", "noise", len(self.draws.given), what, "Check it.")
        waveform = audio.waveform.float().reshape(-1, audio.waveform.shape[-1])
        partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
        try:
            tensors = {"frames": frames.contiguous(), "waveform": waveform.contiguous()}
            save_file(tensors, partial, metadata={"sampling_rate": str(int(audio.sampling_rate))})
            os.replace(partial, output)
        finally:
            partial.unlink(missing_ok=True)
        return {"output": str(output), "seconds": round(time.perf_counter() - started, 3)}


def serve(server: Server, requests: TextIO, answers: TextIO) -> None:
    """Answer line by line until the input ends. A request that fails is answered with its error; the next one is served."""
    print(json.dumps({"ready": True, "patches": server.patches}), file=answers, flush=True)
    for line in requests:
        try:
            answer = server.generate(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> int:
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not look like an answer
    os.environ.update(TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        serve(Server(sys.argv[1:]), sys.stdin, answers)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
