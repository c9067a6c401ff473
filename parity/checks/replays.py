"""Native modules and functions on the reference's own inputs: component roots first, then the inside of the first bad one."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from ltx_native.models import Models
from parity.capture.functions import Functions
from parity.capture.hypothesis_replay import Loading
from parity.capture.replay import Replayer
from parity.cases import Case
from parity.checks import clues
from parity.checks.exam import Array, Exam, Problem
from parity.compare import Row
from parity.localise import failing, first_guilty
from parity.measure_case import Masks, mask_of, tensors
from parity.metrics import MetricError, Metrics, measure
from parity.sites import compared_outputs, component_of, skip_rule
from parity.trace import Record, Trace, leaves


def replays(exam: Exam) -> Iterator[Problem]:
    """Roots and functions of every case in execution order; the first bad root is searched for its first bad module.

    The first case is replayed whole; of the later ones, what every pass of every stage is handed first, unless an earlier
    case has handed over the same.
    """
    seen: set[object] = set()
    for entry in exam.evidence.entries:
        trace = exam.evidence.traces[entry.case.name]
        replayer, masks = _replayer(exam, trace), Masks(trace)
        first_case = not seen
        for record in trace.records:
            root = "." not in record.key.site or record.kind == "function"
            if not root or skip_rule(record) or _adapted(entry.case, record):
                continue
            key = record.key
            known = {_handed(record), (entry.case.name, key.site, key.stage, key.guidance_pass)}
            if record.kind == "module" and not first_case and known & seen:
                continue
            seen |= known
            row = _guilty(exam, replayer, masks, trace, record)
            if row is not None:
                yield _inside(exam, replayer, masks, trace, record) or row
                return


def _adapted(case: Case, record: Record) -> bool:
    """Whether the reference ran this call with LoRAs fused; the modules here have none."""
    distilled = record.key.stage == "stage_2" or case.mode == "two-stage-hq"
    loras = (*case.loras, *(case.distilled_loras if distilled else ()))
    return record.key.site == "transformer" and bool(loras)


def _handed(record: Record) -> object:
    """What a record's call was given, by content: tensors are named by their bytes."""
    return record.key.site, tuple(
        (path, leaf.get("tensor") or str(leaf.get("value"))) for path, leaf in leaves({"fields": record.inputs})
    )


def every_site(exam: Exam) -> Iterator[Problem]:
    """Every record of the first case: what is too small to move a root out of its bound."""
    entry = exam.evidence.entries[0]
    trace = exam.evidence.traces[entry.case.name]
    replayer, masks = _replayer(exam, trace), Masks(trace)
    for record in trace.records:
        if record.kind == "module" and not skip_rule(record):
            problem = _guilty(exam, replayer, masks, trace, record)
            if problem is not None:
                yield problem
                return


def _replayer(exam: Exam, trace: Trace) -> Replayer:
    with Models(exam.native, mx.float32).use("tokenizer") as tokenizer:
        return Replayer(Loading(exam.module), trace, functions=Functions(tokenizer, exam.native.config.audio_vae))


def _inside(exam: Exam, replayer: Replayer, masks: Masks, trace: Trace, root: Record) -> Problem | None:
    """The first bad module within a component, in execution order, up to the root itself."""
    component = component_of(root.key.site)
    for record in trace.records:
        inside = component_of(record.key.site) == component and record.kind == "module" and record.index < root.index
        if inside and not skip_rule(record):
            problem = _guilty(exam, replayer, masks, trace, record)
            if problem is not None:
                return problem
    return None


def _guilty(exam: Exam, replayer: Replayer, masks: Masks, trace: Trace, record: Record) -> Problem | None:
    local = replayer(record)
    if local is None:
        return None
    exam.count("replays")
    rows = list(_rows(local, masks, trace, record))
    finding = first_guilty(failing(rows, exam.evidence.bounds), exam.evidence.bounds, float("inf"))
    if finding is None:
        return None
    clue = clues.of_replay(trace, masks, record, finding.output, local)
    return Problem("replays", finding.component, finding.key.site, finding.error, finding.bound, finding.sentence, clue)


def _rows(local: dict[str, Array] | str, masks: Masks, trace: Trace, record: Record) -> Iterator[Row]:
    reference = tensors(trace, record.outputs, record.key.site)
    dtypes = {path: str(leaf["dtype"]) for path, leaf in leaves(record.outputs) if "tensor" in leaf}
    for path, native_path in compared_outputs(record, list(reference)).items():
        measured: Metrics | None = None
        problem = local if isinstance(local, str) else ""
        if not isinstance(local, str):
            try:
                mask = mask_of(masks, trace, record, path, reference[path])
                measured = measure(local[native_path], reference[path], mask)
            except (MetricError, KeyError) as error:
                problem = str(error)
        shape = reference[path].shape
        yield Row(record.index, record.key, record.type, path, shape, dtypes[path], measured, measured, problem=problem)
