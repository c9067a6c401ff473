"""One native run of a request in a process of its own, with a clock on every stage; prints one JSON line.

    python -m parity.bench.mode_worker REQUEST.json --output O.mp4

REQUEST: {"case": `Case.request()`, "model": path, "gemma": path, "upsampler": path or null}.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ltx_native.generate import open_checkpoint
from ltx_native.media import VideoWriter
from ltx_native.models import Models
from ltx_native.pipelines import refine
from ltx_native.pipelines.select import select
from ltx_native.pipelines.stages import Stage
from ltx_native.upsampler import upsample_video
from parity.capture.native import request_of
from parity.capture.reference import Checkpoint
from parity.cases import Case
from reference_bridge.adapters.service import timed, usage

STEP_STAGES = ("substep", "noised", "step")


Times = tuple[float, float]  # wall and processor seconds


def now() -> Times:
    return time.perf_counter(), time.process_time()


def since(start: Times) -> Times:
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


class TimedModels(Models):
    """Models that know how long loading took, and how many weights each component had."""

    load: Times = (0.0, 0.0)

    def _load(self, component: str, loras: Any) -> Any:
        started = now()
        try:
            module = super()._load(component, loras)
        finally:
            wall, cpu = since(started)
            self.load = self.load[0] + wall, self.load[1] + cpu
        if component != "tokenizer":
            self.weights[component] = sum(array.size for _, array in tree_flatten(module.parameters()))
        return module

    @cached_property
    def weights(self) -> dict[str, int]:
        return {}


class StageClock:
    """Wall seconds from stage to stage, and both kinds of every denoising step, without loading."""

    def __init__(self, models: TimedModels, source: bool) -> None:
        self.models, self.source = models, source
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.tokens: list[list[int]] = []
        self.steps: list[dict[str, float]] = []
        self._step = 0.0, 0.0
        self.restart()

    def restart(self) -> None:
        self._last, self._loaded = now(), self.models.load

    def _add(self, name: str, spent: Times) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + spent[0]
        self.cpu[name] = self.cpu.get(name, 0.0) + spent[1]

    def apart(self, name: str, call: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """The same call on a clock of its own, outside of the stage that it is a part of."""

        def timed_call(*args: Any) -> mx.array:
            started = now()
            result = call(*args)
            mx.eval(result)
            spent = since(started)
            self._add(name, spent)
            self._last = self._last[0] + spent[0], self._last[1] + spent[1]
            return result

        return timed_call

    def seen(self, stage: Stage) -> None:
        wall, cpu = since(self._last)
        wall -= self.models.load[0] - self._loaded[0]
        cpu -= self.models.load[1] - self._loaded[1]
        # A mode that starts from a clip encodes it before its text.
        self._add("source" if self.source and stage.name == "tokens" else stage.name, (wall, cpu))
        if stage.name == "state":
            self.tokens.append([stage.tensors[f"{modality}.latent"].shape[1] for modality in ("video", "audio")])
        if stage.name in STEP_STAGES:  # of a second-order step there are several
            self._step = self._step[0] + wall, self._step[1] + cpu
        if stage.name == "step":
            self.steps.append({"seconds": self._step[0], "cpu_s": self._step[1]})
            self._step = 0.0, 0.0
        self.restart()


def run(case: Case, checkpoint: Checkpoint, output: Path) -> dict[str, Any]:
    """Seconds by stage, of loading and of every denoising step, and what was worked on; writes the mp4."""
    request = request_of(case, output, checkpoint).resolved()
    models = TimedModels(open_checkpoint(request), mx.float32)
    clock = StageClock(models, source=request.effective_mode in ("retake", "extend"))
    # In the module that uses it, and not undone: the process ends.
    setattr(refine, "upsample_video", clock.apart("upsampled", upsample_video))  # noqa: B010
    prompts, count, shape, sound = 0, 0, (0, 0, 0, 0), [0]
    stages = iter(select(request)(models, request, noise=None))
    for stage in stages:
        clock.seen(stage)
        if stage.name == "context":
            prompts = sum(name.endswith(".video") for name in stage.tensors)
        if stage.name == "latent":
            break
    with VideoWriter(str(output), stage.values["frame_rate"], stage.values["sample_rate"]) as writer:
        for stage in stages:
            clock.seen(stage)
            if stage.name == "frames":
                frames = np.array(stage.tensors["frames"])  # (n, H, W, 3)
                writer.add_frames(frames)
                count, shape = count + len(frames), frames.shape
            elif stage.name == "waveform":
                writer.add_audio(np.array(stage.tensors["audio"]))
                sound = [1, *stage.tensors["audio"].shape]
            clock.restart()
    return {
        "steps": clock.steps,
        "stages_s": clock.seconds | {"load": models.load[0]},
        "stages_cpu_s": clock.cpu | {"load": models.load[1]},
        # In the words of `reference_bridge.adapters.clocks`.
        "work": {
            "calls": {"embeddings_processor": prompts},
            "weights": models.weights,
            "shapes": {"video_decoder": [1, shape[3], count, shape[1], shape[2]], "vocoder": sound},
            "tokens": clock.tokens,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="parity.bench.mode_worker", description=__doc__, allow_abbrev=False)
    parser.add_argument("request", type=Path, metavar="REQUEST.json")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    told = json.loads(args.request.read_text(encoding="utf-8"))
    upsampler = Path(told["upsampler"]) if told["upsampler"] else None
    checkpoint = Checkpoint(Path(told["model"]), Path(told["gemma"]), upsampler)
    found, spent = timed(lambda: run(Case.of(told["case"]), checkpoint, args.output))
    print(json.dumps({"engine": "native", **found, **spent, **usage()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
