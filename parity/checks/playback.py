"""The pipeline around the models: every model answers with what the reference's gave, so all else must come out the same.

What a model is handed, every value between two calls, every step's latent and the frames are compared: prompts, masks,
positions, noise, schedule, guidance passes, both stages, LoRAs. It takes no forward pass and covers every mode.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_native.models import Models
from ltx_native.pipelines.select import select
from ltx_native.text_encoder.processor import EmbeddingsProcessorOutput
from parity.align import align
from parity.capture.native import NativeRecorder, injected_noise, request_of
from parity.capture.replay import IGNORED_ARGUMENTS, Replayer
from parity.cases import Case
from parity.checks import clues
from parity.checks.exam import Array, Clue, Exam, Problem
from parity.compare import Row, spread
from parity.localise import Finding, first_guilty
from parity.measure_case import Masks, mask_of, tensors
from parity.metrics import MetricError, measure
from parity.sites import component_of, is_exact
from parity.taps import bind
from parity.trace import Record, Trace, TraceWriter, Tree, leaves

# What is handed on may differ by the rounding of the steps between two models.
HANDED = 1e-4


@dataclass
class Played:
    """Stands for a component: compares nothing, records what it is handed, answers with the reference's next output."""

    component: str
    models: PlayedModels

    @property
    def per_channel_statistics(self) -> nn.Module:
        module: nn.Module = self.models.exam.module(self.component)["per_channel_statistics"]
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        real = type(self.models.exam.module(self.component))
        inputs = bind(real.__call__, (self, *args), kwargs)
        output = self.models.next_output(self.component)
        self.models.recorder.on_call(self.component, self, inputs, output)
        return output


@dataclass
class PlayedModels:
    """`Models` whose components answer from a trace. ``asked`` lists which LoRAs the transformer was loaded with."""

    exam: Exam
    trace: Trace
    recorder: NativeRecorder
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    _next: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dtype, self.checkpoint, self.keep = mx.float32, self.exam.native, True
        self._replayer = Replayer({}, self.trace)

    @contextmanager
    def use(self, component: str, loras: tuple[Any, ...] = ()) -> Iterator[Any]:
        if component == "tokenizer":
            with Models(self.exam.native, mx.float32).use("tokenizer") as tokenizer:
                yield tokenizer
            return
        if component == "transformer":
            self.asked.append(loras)
        yield Played(component, self)

    def next_output(self, component: str) -> Any:
        records = self.trace.site(component)
        index = self._next.get(component, 0)
        self._next[component] = index + 1
        # A call too many is given the last answer again: the alignment names it.
        record = records[min(index, len(records) - 1)]
        found = self._replayer.value(record.outputs, component, ("", ""))
        if component == "embeddings_processor":
            return EmbeddingsProcessorOutput(**found)
        return tuple(found) if component == "transformer" else found


def playback(exam: Exam) -> Iterator[Problem]:
    """Every case of the matrix, until one is not the same."""
    for entry in exam.evidence.entries:
        yield from _case(exam, entry.case, exam.evidence.traces[entry.case.name])


def _case(exam: Exam, case: Case, reference: Trace) -> Iterator[Problem]:
    request = request_of(case)
    frames: list[Array] = []
    with tempfile.TemporaryDirectory() as folder:
        with TraceWriter(Path(folder) / "trace", {"side": "native"}) as writer:
            recorder = NativeRecorder(writer)
            models = PlayedModels(exam, reference, recorder)
            run = select(request)(models, request, noise=injected_noise(reference), batch_guidance=False)  # type: ignore[arg-type]
            failure: Exception | None = None
            try:
                for stage in run:
                    recorder.on_stage(stage)
                    if stage.name == "frames":
                        frames.append(np.array(stage.tensors["frames"]))
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                failure = error
            recorder.flush()
        native = Trace(Path(folder) / "trace")
        yield from _compared(exam, case, reference, native)
    if failure is not None:
        raise failure
    yield from _adapters(exam, case, models)
    pictures = [reference.tensor(r.outputs["fields"]["frames"]) for r in reference.site("frames")]
    ours, theirs = np.concatenate(frames), np.concatenate(pictures)
    same = ours.shape == theirs.shape and int(np.abs(ours.astype(int) - theirs.astype(int)).max()) == 0
    pixels = [reference.tensor(r.outputs["fields"]["pixels"]) for r in reference.site("frames")]
    clue = Clue(ours, theirs, "frames", "frames", {"pixels": np.concatenate(pixels)})
    yield from exam.require("playback", "frames", "frames", same, "pixels became other bytes than the official ones", clue)


def _compared(exam: Exam, case: Case, reference: Trace, native: Trace) -> Iterator[Problem]:
    kept = [record for record in reference.records if "." not in record.key.site or record.kind != "module"]
    alignment = align(kept, native.records, case.mode)
    masks = Masks(reference)
    pairs = [(one, other) for one, other in alignment.pairs if other is not None]
    rows = [row for one, other in pairs for row in _rows(masks, reference, one, native, other)]
    exam.count("playback", len(rows))
    finding = first_guilty(rows, exam.evidence.bounds, HANDED)
    if finding is not None:
        one, other = next(pair for pair in pairs if pair[0].key == finding.key)
        yield _problem(finding, clues.of_run(finding, one, other, case, reference, native, masks))
    for one, other in pairs:
        yield from _plain(one, other)
    extra = alignment.unmatched_native
    for missing, side in ((alignment.unmatched_reference, "no native partner"), (extra, "no reference")):
        if missing:
            component = component_of(missing[0].key.site)
            text = f"{missing[0].key} has {side} ({len(missing)} such records)"
            yield Problem("playback", component, missing[0].key.site, float("inf"), 0.0, text)


def _problem(finding: Finding, clue: Clue) -> Problem:
    return Problem("playback", finding.component, finding.key.site, finding.error, finding.bound, finding.sentence, clue)


def _rows(masks: Masks, reference: Trace, one: Record, native: Trace, other: Record) -> Iterator[Row]:
    site = one.key.site
    given, ours = tensors(reference, {"fields": one.inputs}, site), tensors(native, {"fields": other.inputs})
    incoming, name = _worst(masks.of(one.key), given, ours) if one.kind == "module" else (None, "")
    theirs, found = tensors(reference, one.outputs, site), tensors(native, other.outputs)
    for path, tensor in theirs.items():
        measured, problem = None, ""
        try:
            array = spread(found[path], tensor.shape)
            measured = measure(array, tensor, mask_of(masks, reference, one, path, tensor))
            if one.kind != "module" and not is_exact(site, path) and not measured.rel_l2 <= HANDED:
                problem = f"rel_l2 {measured.rel_l2:.3g} (bound {HANDED:.3g}) although every model gave the reference's output"
        except (MetricError, KeyError) as error:
            problem = str(error)
        local = measured if is_exact(site, path) else None
        yield Row(one.index, one.key, one.type, path, tensor.shape, "", local, measured, None, incoming, name, problem=problem)


def _worst(mask: Array | None, given: Mapping[str, Array], ours: Mapping[str, Array]) -> tuple[float, str]:
    worst, name = 0.0, ""
    for path, tensor in given.items():
        native = ours.get(path)
        if native is None:
            return float("inf"), f"{path} (missing)"
        native = native.reshape(tensor.shape) if native.size == tensor.size == 1 else spread(native, tensor.shape)
        try:
            valid = mask if mask is not None and tensor.ndim >= 2 and tensor.shape[:2] == mask.shape else None
            error = measure(native, tensor, valid).rel_l2
        except MetricError as problem:
            return float("inf"), f"{path} ({problem})"
        worst, name = max((worst, name), (error, path))
    return worst, name


def _plain(one: Record, other: Record) -> Iterator[Problem]:
    """Flags, block lists and absent masks: what is no tensor has to be equal, or absent on both sides."""
    if one.kind != "module":
        return
    ours, theirs = dict(leaves({"fields": other.inputs})), dict(leaves({"fields": one.inputs}))
    for path, tree in theirs.items():
        if "tensor" in tree or path.split(".")[0] in IGNORED_ARGUMENTS:
            continue
        if not _same(ours.get(path, {"value": None}), tree):
            found = ours.get(path, {})
            text = f"{one.key} was handed {path} = {found.get('value', 'a tensor')}, the reference's {tree.get('value')}"
            yield Problem("playback", component_of(one.key.site), one.key.site, float("inf"), 0.0, text)


def _same(ours: Tree, theirs: Tree) -> bool:
    return "tensor" not in ours and ours.get("value") == theirs.get("value")


def _adapters(exam: Exam, case: Case, models: PlayedModels) -> Iterator[Problem]:
    """Every LoRA of the request reaches the transformer in every stage, the distilled one the second stage."""
    for index, loras in enumerate(models.asked):
        wanted = [path for path, _ in case.loras] + ([path for path, _ in case.distilled_loras] if index else [])
        missing = [path for path in wanted if path not in [lora.path for lora in loras]]
        text = f"stage {index + 1} runs without {', '.join(Path(path).name for path in missing)}"
        yield from exam.require("playback", "transformer", "transformer", not missing, text)
