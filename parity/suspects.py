"""From a problem to the tensors that hypotheses are tried on: the smallest place at which native leaves the reference.

A module's inside is replayed on the reference's inputs; what is found first there is a `Suspect` with everything that the
reference made its own from. What is no tensor (a child never called, a flag, a mask on one side only) is `Said`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from parity.capture.hypothesis_replay import Departure, Inside, alike, inside, loaded_parameter
from parity.capture.reference import Checkpoint
from parity.cases import Case
from parity.checks.exam import Clue, Problem
from parity.hypotheses import rope
from parity.hypotheses.base import Suspect
from parity.hypotheses.official import Official
from parity.hypotheses.values import Said
from parity.hypotheses.weights import siblings
from parity.measure_case import tensors
from parity.sites import component_of, to_native_layout
from parity.taps import sites_of
from parity.trace import Record, Trace, leaves


class Bench(Protocol):
    """What explanations need of an exam or a session: the checkpoint's files and the native components as they are now."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    def module(self, component: str) -> Any: ...


@cache
def official(checkpoint: Checkpoint) -> Official:
    return Official(checkpoint.model, checkpoint.gemma, checkpoint.upsampler)


def suspects_of(exam: Bench, problem: Problem) -> tuple[list[Suspect], list[Said]]:
    """The tensors to explain, the innermost first, and what the inside states without a tensor."""
    clue, known = problem.clue, official(exam.checkpoint)
    if clue.type == "parameter":
        return _parameter(exam, problem, known), []
    if clue.record is not None and clue.trace is not None:
        if clue.replayed and clue.record.kind == "module":
            return _of_module(exam, clue, clue.record, clue.trace, known)
        suspects, said = _handed(exam, clue, clue.record, clue.trace, known)
        return [*suspects, *([_of_value(clue, clue.record, clue.trace, known)] if clue.native is not None else [])], said
    if clue.native is None or clue.reference is None:
        return [], []
    given = dict(clue.given)
    if "text" in given:
        given["encode"] = partial(_all_ids, exam, strip=False)
        given["all_ids"] = _all_ids(exam, str(given["text"]))
    what = f"{problem.site} {clue.name}".strip()
    if "file" in given:
        known = Official(known.model, known.gemma, Path(given["file"]))
    component = component_of(problem.site)
    whole = known.parameters(component) if clue.type == "LatentUpsampler" else {}
    parameter = partial(known.parameter, problem.site)
    config = known.config(component)
    suspect = Suspect(
        problem.site, clue.type, what, clue.native, clue.reference, given, whole, parameter, config, clue.mask, clue.name
    )
    return [suspect], []


def _handed(exam: Bench, clue: Clue, record: Record, trace: Trace, known: Official) -> tuple[list[Suspect], list[Said]]:
    """For an inner module that is right but handed something else: the first module around it that does so by itself."""
    if record.kind != "module" or clue.type:
        return [], []
    component = component_of(record.key.site)
    sites = sites_of(component, exam.module(component))
    around = _around(record, trace)
    while around is not None:
        if around.key.site in sites:  # what only groups modules officially has no native site
            found = _of_module(exam, replace(clue, native=None), around, trace, known)
            if found[0] or found[1]:
                return found
        around = _around(around, trace)
    return [], []


def _parameter(exam: Bench, problem: Problem, known: Official) -> list[Suspect]:
    """A loaded parameter beside the file's own, in PyTorch's axes."""
    name, component = problem.clue.name, problem.component
    theirs = known.parameters(component)
    spelled = next((n for n in theirs if n.replace("-of-means", "_of_means") == name), name)
    ours = loaded_parameter(exam.module(component), name)
    if spelled not in theirs or ours is None:
        return []
    others = siblings(theirs, spelled)
    return [Suspect(problem.site, "parameter", problem.site, ours, theirs[spelled], {}, others, name=name)]


def _all_ids(exam: Bench, text: str, strip: bool = True) -> list[int]:
    """Every token of a text, nothing cut, by the tokenizer file itself."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(exam.checkpoint.gemma / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return list(tokenizer.encode(text.strip() if strip else text).ids)


def _inputs(trace: Trace, record: Record, layout: str) -> dict[str, Any]:
    """A record's inputs by dotted path: tensors in the native layout, plain values as they are."""
    found: dict[str, Any] = {}
    for path, leaf in leaves({"fields": record.inputs}):
        found[path] = to_native_layout(layout, trace.tensor(leaf)) if "tensor" in leaf else leaf.get("value")
    return found


def _of_value(clue: Clue, record: Record, trace: Trace, known: Official) -> Suspect:
    """A value between two modules, or what a module is handed from outside, with what stands beside it in the run."""
    site = record.key.site
    component = component_of(site)
    given = {**_inputs(trace, record, site), **tensors(trace, record.outputs, site), **clue.given}
    if component == "state":
        noises = [r for r in trace.site(site.replace("state", "noise")) if r.index < record.index]
        if noises:
            given["noise"] = trace.tensor(noises[-1].outputs)
        case = clue.given.get("case")
        if case is not None:
            factor = 64 if record.key.stage == "stage_1" and "latent" in given and _halved(trace) else 32
            given["tokens"] = ((case.num_frames - 1) // 8 + 1) * (case.height // factor) * (case.width // factor)
    if component == "guidance":
        given.update(_level(trace, record))
    if component == "tokenizer":
        given["all_ids"] = np.asarray(given["input_ids"]).ravel()[np.asarray(given["attention_mask"]).ravel().astype(bool)]
        given["native_ids"] = clue.given.get("native", {}).get("input_ids", clue.native)
    if component == "audio_encoder":
        for other in trace.site("audio_processor"):
            audio = _inputs(trace, other, "audio_processor")
            given |= {"waveform": np.asarray(audio["audio.waveform"])[0], "sampling_rate": audio["audio.sampling_rate"]}
        given = {**_sound_of(clue.given.get("case")), **given}
    owner = "video_encoder" if component in ("upsampler", "video_decoder") else component
    assert clue.native is not None
    assert clue.reference is not None
    what = f"`{clue.name}` of {record.key}" if clue.name else str(record.key)
    parameter, config = partial(known.parameter, owner), known.config(component)
    return Suspect(site, clue.type, what, clue.native, clue.reference, given, {}, parameter, config, clue.mask, clue.name)


def _sound_of(case: Case | None) -> dict[str, Any]:
    """The sound that a request names, as long as its clip; only WAV can be read without the port's own code."""
    if case is None or not case.audio_path or not case.audio_path.endswith(".wav"):
        return {}
    from scipy.io import wavfile

    rate, samples = wavfile.read(case.audio_path)
    sound = np.atleast_2d(samples.astype(np.float64).T) / (np.iinfo(samples.dtype).max + 1 if samples.dtype.kind == "i" else 1)
    return {"waveform": sound[:, : round(case.num_frames / case.frame_rate * rate)], "sampling_rate": rate}


def _halved(trace: Trace) -> bool:
    """Whether the run has a second stage: then the first one works at half the size."""
    return any(record.key.stage == "stage_2" for record in trace.records)


def _level(trace: Trace, record: Record) -> dict[str, Any]:
    """The sample and the noise level that the estimates of a guidance call were made from."""
    stream = record.key.site.rpartition(".")[2]
    for other in trace.site("denoised"):
        if (other.key.stage, other.key.step) == (record.key.stage, record.key.step):
            given = _inputs(trace, other, "denoised")
            return {"sample": given[f"{stream}.sample"], "sigma": float(np.max(given[f"{stream}.sigma"]))}
    return {}


def _of_module(exam: Bench, clue: Clue, record: Record, trace: Trace, known: Official) -> tuple[list[Suspect], list[Said]]:
    """A module's result, and the first thing inside it that is not the reference's."""
    module = exam.module(component_of(record.key.site))
    sites = sites_of(component_of(record.key.site), module)
    looked = inside(sites[record.key.site], record, trace)
    while looked.problem and (around := _around(looked.record, trace)) is not None and around.key.site in sites:
        # Refused inputs: a module around it builds what it can take.
        looked = inside(sites[around.key.site], around, trace)
    suspects: list[Suspect] = []
    said: list[Said] = []
    departure = looked.departure()
    nearer = _nearer(departure, looked, sites)
    if nearer is not None:
        # A module in between is wrong, too, if only at padded tokens: what it does is said of it.
        suspects += _results(nearer, known, nearer.problem)
        looked, departure = nearer, nearer.departure()
    given = _inputs(trace, looked.record, looked.site)
    if departure is not None:
        said = list(_stated(departure, given))
        if departure.kind == "tensor":
            suspects.append(_departed(departure, looked, given, known))
    if clue.native is not None and clue.reference is not None and looked.record is record:
        config = known.config(component_of(record.key.site))
        where, parameter = (record.key.site, record.type, str(record.key)), partial(known.parameter, record.key.site)
        known_beside = looked.known()
        suspects.append(
            Suspect(*where, clue.native, clue.reference, given, known_beside, parameter, config, clue.mask, clue.name)
        )
    return suspects, said


def _nearer(departure: Departure | None, looked: Inside, sites: Mapping[str, Any]) -> Inside | None:
    """The innermost module around a departure, looked into; None where that is the module looked into already."""
    if departure is None:
        return None
    owner = departure.site.rpartition(".")[0]
    while len(owner) > len(looked.site):
        records = [record for record in looked.reference() if record.key.site == owner]
        if records and owner in sites:
            return inside(sites[owner], records[0], looked.trace)
        owner = owner.rpartition(".")[0]
    return None


def _results(looked: Inside, known: Official, problem: str) -> list[Suspect]:
    """The first result of a module that is not the reference's, at any token."""
    if problem:
        return []
    record, trace = looked.record, looked.trace
    for name, reference in tensors(trace, record.outputs, looked.site).items():
        native = looked.output.get(name)
        if native is not None and not alike(native, reference):
            given, config = _inputs(trace, record, looked.site), known.config(component_of(looked.site))
            parameter, beside = partial(known.parameter, looked.site), looked.known()
            where = looked.site, record.type, str(record.key)
            return [Suspect(*where, native, reference, given, beside, parameter, config, None, name)]
    return []


def _around(record: Record, trace: Trace) -> Record | None:
    """The call around a call: the next completed record of the nearest site above it."""
    site = record.key.site
    while "." in site:
        site = site.rpartition(".")[0]
        found = next((r for r in trace.records if r.key.site == site and r.index > record.index), None)
        if found is not None:
            return found
    return None


def _departed(departure: Departure, looked: Inside, given: Mapping[str, Any], known: Official) -> Suspect:
    site, component = looked.site, component_of(looked.site)
    config = known.config(component)
    name = f"{departure.path}.{departure.argument}"
    extra: dict[str, Any] = {}
    if departure.argument.split(".")[-2:-1] in (["positional_embeddings"], ["cross_positional_embeddings"], ["pe"], ["k_pe"]):
        extra["rope"] = _tables(departure, looked, given, config)
    what = f"`{departure.argument}` as {looked.record.key} hands it to {departure.path}"
    ours, theirs = np.asarray(departure.native), np.asarray(departure.reference)
    everything, parameter = {**given, **extra}, partial(known.parameter, site)
    kind = looked.record.type
    return Suspect(departure.site, kind, what, ours, theirs, everything, looked.known(), parameter, config, None, name)


def _tables(departure: Departure, looked: Inside, given: Mapping[str, Any], config: Mapping[str, Any]) -> rope.Tables | None:
    if component_of(looked.site) == "transformer":
        stream = departure.argument.split(".")[0]
        return rope.of_stream(config, given, stream, "cross" in departure.argument) if stream in ("video", "audio") else None
    stream = "audio" if "audio_connector" in looked.site else "video"
    return rope.of_connector(config, stream, int(np.asarray(departure.reference).shape[-2]))


# Children whose absence has a name.
_ABSENT: Sequence[tuple[str, str, str]] = (
    ("gate_logits", "attention.gate-missing", "the gate"),
    ("norm", "norm.missing", "the norm"),
    ("attn", "attention.skipped", "the attention"),
    ("adaln", "adaln.missing", "the modulation"),
    ("", "module.skipped", "the module"),
)


def _stated(departure: Departure, given: Mapping[str, Any]) -> Iterator[Said]:
    """Departures that are no tensor: children never called or called in vain, flags, masks on one side only."""
    where, name = departure.site, departure.argument
    if departure.kind == "skipped":
        cause, words = next((c, w) for part, c, w in _ABSENT if part in departure.path)
        yield Said(cause, f"native never calls {where}: {words} is left out")
    elif departure.kind == "extra":
        cause = "perturbation.ignored" if given.get("perturbations.perturbations.0.perturbations.0.type") else "module.added"
        yield Said(cause, f"native calls {where}, which the reference leaves out in this pass")
    elif departure.kind == "value":
        if name == "all_perturbed" or name.startswith("perturbation"):
            yield Said("perturbation.blocks", f"native hands {where} {name} = {_short(departure.native)}, the reference "
                       f"{_short(departure.reference)}: the skipped attention of this pass is another block's")  # fmt: skip
        elif "mask" in name:
            added = departure.reference is None
            cause = "attention.mask-added" if added else "attention.mask-missing"
            text = f"native hands {where} a `{name}` where the reference hands none" if added else (
                f"native hands {where} no `{name}`, the reference does")  # fmt: skip
            yield Said(cause, text)
        else:
            yield Said("wiring.value", f"native hands {where} {name} = {_short(departure.native)}, the reference "
                       f"{_short(departure.reference)}")  # fmt: skip


def _short(value: Any) -> str:
    return f"a tensor {value.shape}" if isinstance(value, np.ndarray) else repr(value)
