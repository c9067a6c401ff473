"""Run the native pipeline with every module tapped and write its trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ltx_native.guidance_params import passes
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.one_stage import one_stage
from ltx_native.pipelines.stages import Stage
from ltx_native.request import Request
from parity.capture.reference import Checkpoint
from parity.capture.tree import arrays_in, to_tree
from parity.cases import Case
from parity.sites import component_of
from parity.taps import call_name, tapped
from parity.trace import Trace, TraceWriter

Array = npt.NDArray[Any]

_MODALITIES = ("video", "audio")


@dataclass
class _Pending:
    site: str
    type_name: str
    step: int | None
    guidance_pass: str | None
    inputs: Mapping[str, Any]
    output: Any


@dataclass
class NativeRecorder:
    """Writes module calls and pipeline stages as records; ``passes`` is the order of guidance passes within a step."""

    writer: TraceWriter
    passes: Sequence[str]
    stage: str = "stage_1"
    step: int | None = None
    _steps: int = 0
    _forwards: int = 0
    _pending: list[_Pending] = field(default_factory=list)

    def on_call(self, site: str, module: nn.Module, inputs: Mapping[str, Any], output: Any) -> None:
        named = {name: value for name, value in inputs.items() if name != "self"}
        self._pending.append(_Pending(site, call_name(module), self.step, self._pass(), named, output))
        if "." not in site:
            self.flush()
            if site == "transformer":
                self._forwards += 1

    def _pass(self) -> str | None:
        if self.step is None:
            return None
        if self._forwards >= len(self.passes):
            return f"extra_{self._forwards}"  # more forwards than the guidance asks for: stays visible as unmatched
        return self.passes[self._forwards]

    def flush(self) -> None:
        """Evaluate and write what the calls since the last flush gave; only now is anything computed for the record."""
        mx.eval([array for call in self._pending for array in arrays_in((dict(call.inputs), call.output))])
        for call in self._pending:
            self.writer.append(
                call.site,
                to_tree(call.output, self.writer.store),
                inputs={name: to_tree(value, self.writer.store) for name, value in call.inputs.items()},
                type_name=call.type_name,
                stage=self.stage,
                step=call.step,
                guidance_pass=call.guidance_pass,
            )
        self._pending.clear()

    def on_stage(self, stage: Stage) -> None:
        """Record what the pipeline itself computes between modules."""
        self.flush()
        handler = getattr(self, f"_on_{stage.name}", None)
        if handler is not None:
            handler(stage)

    def value(self, site: str, output: Any, guidance_pass: str | None = None, kind: str = "function") -> None:
        mx.eval(arrays_in(output))
        tree = to_tree(output, self.writer.store)
        self.writer.append(site, tree, kind=kind, stage=self.stage, step=self.step, guidance_pass=guidance_pass)

    def _on_tokens(self, stage: Stage) -> None:
        for side in ("positive", "negative"):
            if f"{side}.input_ids" in stage.tensors:
                names = ("input_ids", "attention_mask")
                self.value("tokenizer", {name: stage.tensors[f"{side}.{name}"] for name in names})

    def _on_schedule(self, stage: Stage) -> None:
        self.value("schedule", stage.tensors["sigmas"])
        self._steps = int(stage.tensors["sigmas"].shape[0]) - 1

    def _on_state(self, stage: Stage) -> None:
        names = ("latent", "positions", "denoise_mask", "clean_latent")
        for modality in _MODALITIES:
            fields = {name: stage.tensors[f"{modality}.{name}"] for name in names if f"{modality}.{name}" in stage.tensors}
            self.value(f"state.{modality}", fields, kind="value")
        self.step, self._forwards = 0, 0

    def _on_step(self, stage: Stage) -> None:
        for name in self.passes:
            fields = {m: stage.tensors[f"{m}.denoised.{name}"] for m in _MODALITIES if f"{m}.denoised.{name}" in stage.tensors}
            self.value("denoised", fields, name, kind="module")
        for site, key in (("guidance", "guided"), ("post_process", "post_processed"), ("sampler", "latent")):
            for modality in _MODALITIES:
                if f"{modality}.{key}" in stage.tensors:
                    self.value(f"{site}.{modality}", stage.tensors[f"{modality}.{key}"])
        assert stage.step is not None
        self.step = stage.step + 1 if stage.step + 1 < self._steps else None
        self._forwards = 0

    def _on_latent(self, stage: Stage) -> None:
        for modality in _MODALITIES:
            self.value(f"latent.{modality}", stage.tensors[modality], kind="value")


@contextmanager
def recording(roots: Mapping[str, nn.Module], recorder: NativeRecorder) -> Iterator[NativeRecorder]:
    """Tap every module of the given roots into a recorder for the length of the block."""
    with tapped(roots, recorder.on_call):
        yield recorder
    recorder.flush()


@dataclass(frozen=True)
class NativeRun:
    """What the native pipeline gave: its trace and the decoded clip (uint8 (n, H, W, 3); float32 (channels, samples))."""

    trace: Trace
    frames: Array
    waveform: Array
    sample_rate: int


def request_of(case: Case, output: Path | None = None, checkpoint: Checkpoint | None = None) -> Request:
    """The case as a user's request to the native engine."""
    return Request(
        model=str(checkpoint.model) if checkpoint else None,
        gemma=str(checkpoint.gemma) if checkpoint else None,
        upsampler=str(checkpoint.upsampler) if checkpoint and checkpoint.upsampler else None,
        prompt=case.prompt,
        negative_prompt=case.negative_prompt,
        output_path=str(output) if output else None,
        pipeline=case.mode,
        width=case.width,
        height=case.height,
        num_frames=case.num_frames,
        frame_rate=case.frame_rate,
        steps=case.steps,
        guidance=case.video.cfg,
        stg_scale=case.video.stg,
        stg_blocks=case.video.stg_blocks,
        modality_scale=case.video.modality,
        rescale_scale=case.video.rescale,
        audio_guidance=case.audio.cfg,
        audio_stg_scale=case.audio.stg,
        audio_stg_blocks=case.audio.stg_blocks,
        audio_modality_scale=case.audio.modality,
        audio_rescale_scale=case.audio.rescale,
        seed=case.seed,
        dtype="float32",
    )


def injected_noise(reference: Trace) -> Noise:
    """The reference's own draws, in their order, for the native side to start from."""
    draws: dict[int, mx.array] = {}
    for record in reference.records:
        if component_of(record.key.site) == "noise":
            index = int(record.inputs["draw"]["value"]) if "draw" in record.inputs else len(draws)
            draws[index] = mx.array(reference.tensor(record.outputs))
    return Noise(draws.pop(0, None), draws.pop(1, None), draws)


def capture(models: Models, case: Case, noise: Noise, folder: Path, manifest: Mapping[str, Any]) -> NativeRun:
    """Run a case with every module tapped; modules stay loaded in ``models`` for the replay that follows."""
    models.load_all(components_of(case))
    request = request_of(case)
    resolved = request.resolved()
    frames: list[Array] = []
    waveform, sample_rate = np.zeros((0, 0), np.float32), 0
    with TraceWriter(folder, {"side": "native", "engine": "native", **manifest}) as writer:
        recorder = NativeRecorder(writer, passes(resolved.video_guider(), resolved.audio_guider()))
        with recording(loaded_roots(models, case), recorder):
            for stage in one_stage(models, request, noise=noise, batch_guidance=False):
                recorder.on_stage(stage)
                if stage.name == "frames":
                    frames.append(np.array(stage.tensors["frames"]))
                elif stage.name == "waveform":
                    waveform, sample_rate = np.array(stage.tensors["audio"]), int(stage.values["sample_rate"])
    return NativeRun(Trace(folder), np.concatenate(frames), waveform, sample_rate)


def components_of(case: Case) -> tuple[str, ...]:
    """The components a case runs through."""
    return ("gemma", "embeddings_processor", "transformer", "video_decoder", "audio_decoder", "vocoder")


def loaded_roots(models: Models, case: Case) -> dict[str, nn.Module]:
    return models.load_all(components_of(case))
