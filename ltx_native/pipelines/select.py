"""Which pipeline a request means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.a2v import a2v
from ltx_native.pipelines.distilled import distilled
from ltx_native.pipelines.extend import extend
from ltx_native.pipelines.ic_lora import ic_lora
from ltx_native.pipelines.one_stage import one_stage
from ltx_native.pipelines.retake import retake
from ltx_native.pipelines.stages import Stage
from ltx_native.pipelines.two_stage import keyframes, two_stage
from ltx_native.pipelines.two_stages_hq import two_stages_hq
from ltx_native.request import Request


class Pipeline(Protocol):
    def __call__(
        self, models: Models, request: Request, *, noise: Noise | None = None, batch_guidance: bool | None = None
    ) -> Iterator[Stage]: ...


PIPELINES: dict[str, Pipeline] = {
    "one-stage": one_stage,
    "two-stage": two_stage,
    "two-stages-hq": two_stages_hq,
    "distilled": distilled,
    "keyframes": keyframes,
    "ic-lora": ic_lora,
}
#: Modes with a pipeline of their own.
MODES: dict[str, Pipeline] = {"retake": retake, "extend": extend}


def select(request: Request) -> Pipeline:
    if request.audio_conditioning:
        return a2v
    return MODES.get(request.effective_mode) or PIPELINES[request.effective_pipeline]
