"""Run the native pipeline with every module tapped and write its trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ltx_native.checkpoint import Checkpoint as NativeCheckpoint
from ltx_native.models import Models
from ltx_native.noise import Noise
from ltx_native.pipelines.select import select
from ltx_native.pipelines.stages import Stage
from ltx_native.request import Anchor, Lora, Request
from parity.capture.reference import Checkpoint
from parity.capture.tree import arrays_in, to_tree
from parity.cases import Case
from parity.sites import component_of
from parity.sketch import sketching
from parity.taps import Taps, call_name
from parity.trace import Trace, TraceWriter, Tree
from reference_bridge.adapters.official.sites import OWN_OUTPUTS
from reference_bridge.probe import WHOLE

Array = npt.NDArray[Any]
Modules = dict[tuple[str, str], nn.Module]  # by (stage, site)
_MODALITIES = ("video", "audio")
_HELD_BYTES = 1 << 29  # of outputs that wait for the end of a forward; past it they are stored at the end of a block


@dataclass
class _Call:
    """One call, its tensors already stored; ``forward`` numbers the transformer's runs within a step."""

    site: str
    type_name: str
    step: int | None
    forward: int
    inputs: Mapping[str, Tree]
    output: Tree


@dataclass
class NativeRecorder:
    """Writes module calls and pipeline stages as records.

    A stage ends where the upsampler begins, as on the reference's side. The calls of a denoising step wait for the step's
    end, because only then the pipeline says which guidance passes its forwards were.
    """

    writer: TraceWriter
    modules: Modules = field(default_factory=dict)
    sketch: bool = False  # outputs as sketches, inputs not at all, as the probe does
    stage: str = "stage_1"
    step: int | None = None
    _mask: Array | None = None  # valid tokens of Gemma
    _forwards: int = 0
    _held: int = 0
    _second_order: bool = False  # res_2s: the sampler's results come by themselves, twice a step
    _pending: list[tuple[str, str, Mapping[str, Any], Any]] = field(default_factory=list)
    _waiting: list[_Call] = field(default_factory=list)

    def taps(self) -> Taps:
        """Taps that feed this recorder. Of the inputs, sketches need Gemma's mask alone."""
        return Taps(self.on_call, (lambda site: site == "gemma") if self.sketch else None)

    def on_call(self, site: str, module: nn.Module, inputs: Mapping[str, Any], output: Any) -> None:
        component = component_of(site)
        if component == "upsampler" and self.stage == "stage_1":
            self.stage, self.step = "stage_2", None
        self.modules[self.stage, site] = module
        kept = {name: value for name, value in inputs.items() if name != "self"}
        self._pending.append((site, call_name(module), kept, output))
        self._held += sum(array.nbytes for array in arrays_in(output))
        if site == component or (self._held > _HELD_BYTES and is_block(site)):
            self.flush()
        if site == "transformer":
            self._forwards += 1

    def flush(self) -> None:
        """Evaluate and store what the calls since the last flush gave; only now is anything computed for the record.

        Once a forward is best: after every block it costs 1 % more at the mid size. At the true size a forward gives more than
        memory holds.
        """
        mx.eval([array for _, _, inputs, output in self._pending for array in arrays_in((dict(inputs), output))])
        for site, _, inputs, _ in self._pending:
            if site == "gemma" and inputs.get("attention_mask") is not None:
                self._mask = np.array(inputs["attention_mask"])
        stored: dict[int, dict[str, Any]] = {}
        sketched: dict[tuple[str, bool], dict[int, dict[str, Any]]] = {}  # a sketch depends on its component's layout
        for site, type_name, inputs, output in self._pending:
            trees = {} if self.sketch else {n: to_tree(value, self.writer.store, stored) for n, value in inputs.items()}
            store = self._store(site)
            known = sketched.setdefault((component_of(site), store == self.writer.store), {}) if self.sketch else stored
            output = OWN_OUTPUTS[type_name](output) if self.sketch and type_name in OWN_OUTPUTS else output
            step = self.step if component_of(site) == "transformer" else None
            self._waiting.append(_Call(site, type_name, step, self._forwards, trees, to_tree(output, store, known)))
        self._pending.clear()
        self._held = 0
        if self.step is None:
            self._write(())

    def _store(self, site: str) -> Callable[[Array, str], dict[str, Any]]:
        if not self.sketch or any(fnmatchcase(site, pattern) for pattern in WHOLE):
            return self.writer.store
        return sketching(self.writer, site, self._mask if component_of(site) == "gemma" else None)

    def _write(self, passes: tuple[str, ...]) -> None:
        for call in self._waiting:
            named = call.step is not None
            known = passes[call.forward] if call.forward < len(passes) else f"extra_{call.forward}"
            self.writer.append(
                call.site,
                call.output,
                inputs=call.inputs,
                type_name=call.type_name,
                stage=self.stage,
                step=call.step,
                guidance_pass=known if named else None,
            )
        self._waiting.clear()

    def on_stage(self, stage: Stage) -> None:
        """Record what the pipeline itself computes between modules."""
        self.flush()
        handler = getattr(self, f"_on_{stage.name}", None)
        if handler is not None:
            handler(stage)

    def value(self, site: str, output: Any, guidance_pass: str | None = None, kind: str = "function") -> None:
        mx.eval(arrays_in(output))
        tree = to_tree(output, self._store(site))
        self.writer.append(site, tree, kind=kind, stage=self.stage, step=self.step, guidance_pass=guidance_pass)

    def _on_tokens(self, stage: Stage) -> None:
        for side in ("positive", "negative"):
            if f"{side}.input_ids" in stage.tensors:
                names = ("input_ids", "attention_mask")
                self.value("tokenizer", {name: stage.tensors[f"{side}.{name}"] for name in names})

    def _on_schedule(self, stage: Stage) -> None:
        self.stage = str(stage.values.get("stage", self.stage))
        self.value("schedule", stage.tensors["sigmas"])

    def _on_state(self, stage: Stage) -> None:
        names = ("latent", "positions", "denoise_mask", "clean_latent")
        for modality in _MODALITIES:
            fields = {name: stage.tensors[f"{modality}.{name}"] for name in names if f"{modality}.{name}" in stage.tensors}
            self.value(f"state.{modality}", fields, kind="value")
        self.step, self._forwards, self._second_order = 0, 0, False

    def _on_substep(self, stage: Stage) -> None:
        prefix = "video.denoised."
        passes = tuple(name.removeprefix(prefix) for name in stage.tensors if name.startswith(prefix))
        self._write(passes)
        for name in passes:
            self.value("denoised", {m: stage.tensors[f"{m}.denoised.{name}"] for m in _MODALITIES}, name)
        # A single pass is not guided: there is no such site on either side.
        guided = (("guidance", "guided"),) if len(passes) > 1 else ()
        self._values(stage, (*guided, ("post_process", "post_processed")))
        self._forwards = 0

    def _on_noised(self, stage: Stage) -> None:
        self._values(stage, (("sampler", "stepped"), ("post_process", "blended")))
        self._second_order = True

    def _on_step(self, stage: Stage) -> None:
        self._on_substep(stage)
        if not self._second_order:
            self._values(stage, (("sampler", "latent"),))
        assert stage.step is not None
        # res_2s evaluates once more after its last step; the reference counts that as one more step, too.
        self.step = stage.step + 1

    def _values(self, stage: Stage, sites: tuple[tuple[str, str], ...]) -> None:
        for site, key in sites:
            for modality in _MODALITIES:
                if f"{modality}.{key}" in stage.tensors:
                    self.value(f"{site}.{modality}", stage.tensors[f"{modality}.{key}"])

    def _on_stage_latent(self, stage: Stage) -> None:
        self.step = None
        for modality in _MODALITIES:
            if modality in stage.tensors:
                self.value(f"latent.{modality}", stage.tensors[modality], kind="value")


def is_block(site: str) -> bool:
    return site.rpartition(".")[0] == "transformer.transformer_blocks"


@dataclass(frozen=True)
class NativeRun:
    """What the native pipeline gave: its trace, the modules that ran by (stage, site), and the decoded clip.

    ``frames`` are uint8 (n, H, W, 3), ``waveform`` is float32 (channels, samples).
    """

    trace: Trace
    modules: Modules
    frames: Array
    waveform: Array
    sample_rate: int


# The adapter's names for modes, and what a native request calls them.
_PIPELINES = {"two-stage-hq": "two-stages-hq", "keyframe": "keyframes", "a2v": "two-stage", "retake": None, "extend": None}
_FROM_SOURCE = ("retake", "extend")


def request_of(case: Case, output: Path | None = None, checkpoint: Checkpoint | None = None) -> Request:
    """The case as a user's request to the native engine."""
    video, audio = case.video, case.audio
    return Request(
        model=str(checkpoint.model) if checkpoint else None,
        gemma=str(checkpoint.gemma) if checkpoint else None,
        upsampler=str(checkpoint.upsampler) if checkpoint and checkpoint.upsampler else None,
        prompt=case.prompt,
        negative_prompt=case.negative_prompt,
        output_path=str(output) if output else None,
        mode=case.mode if case.mode in _FROM_SOURCE else None,
        pipeline=_PIPELINES.get(case.mode, case.mode),
        width=case.width,
        height=case.height,
        num_frames=case.num_frames,
        frame_rate=case.frame_rate,
        steps=case.steps,
        guidance=video.cfg,
        stg_scale=video.stg,
        stg_blocks=video.stg_blocks,
        modality_scale=video.modality,
        rescale_scale=video.rescale,
        audio_guidance=audio.cfg,
        audio_stg_scale=audio.stg,
        audio_stg_blocks=audio.stg_blocks,
        audio_modality_scale=audio.modality,
        audio_rescale_scale=audio.rescale,
        seed=case.seed,
        images=tuple(Anchor(image.path, image.frame, image.strength, image.crf) for image in case.images),
        audio_path=case.audio_path,
        source_video_path=case.source_path if case.mode in _FROM_SOURCE else None,
        retake_start=case.start,
        retake_end=case.end,
        regenerate_audio=not case.keep_audio,
        extend_frames=case.extend_frames,
        extend_direction=case.direction,
        reference_videos=((case.source_path, 1.0),) if case.mode == "ic-lora" and case.source_path else (),
        loras=tuple(Lora(path, strength) for path, strength in case.loras),
        distilled_loras=tuple(Lora(path, strength) for path, strength in case.distilled_loras),
        dtype="float32",
    )


def injected_noise(reference: Trace) -> Noise:
    """The reference's own draws, in their order, for the native side to start from."""
    draws: dict[int, Any] = {}
    for record in reference.records:
        if component_of(record.key.site) == "noise":
            index = int(record.inputs["draw"]["value"]) if "draw" in record.inputs else len(draws)
            array = reference.tensor(record.outputs)
            draws[index] = array if array.dtype == np.float64 else mx.array(array)
    return Noise(draws.pop(0, None), draws.pop(1, None), draws)


def capture(
    checkpoint: NativeCheckpoint, case: Case, noise: Noise, folder: Path, manifest: Mapping[str, Any], sketch: bool = False
) -> NativeRun:
    """Run a case with every module tapped; the modules stay loaded for the replay that follows."""
    request = request_of(case)
    request.validate()
    frames: list[Array] = []
    waveform, sample_rate = np.zeros((2, 0), np.float32), 0
    with TraceWriter(folder, {"side": "native", "engine": "native", **manifest}) as writer:
        recorder = NativeRecorder(writer, sketch=sketch)
        taps = recorder.taps()
        models = Models(checkpoint, mx.float32, keep=True, on_load=taps.add)
        try:
            for stage in select(request)(models, request, noise=noise, batch_guidance=False):
                recorder.on_stage(stage)
                if stage.name == "frames":
                    frames.append(np.array(stage.tensors["frames"]))
                elif stage.name == "waveform":
                    waveform, sample_rate = np.array(stage.tensors["audio"]), int(stage.values["sample_rate"])
            recorder.flush()
        finally:
            taps.restore()
    return NativeRun(Trace(folder), recorder.modules, np.concatenate(frames), waveform, sample_rate)
