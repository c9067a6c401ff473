"""From what was compared to what an explanation starts from: the record, both tensors, and what stood beside them."""

from __future__ import annotations

from parity.cases import Case
from parity.checks.exam import Array, Clue
from parity.compare import spread
from parity.localise import Finding
from parity.measure_case import Masks, mask_of, tensors
from parity.sites import compared_outputs
from parity.trace import Record, Trace


def of_replay(trace: Trace, masks: Masks, record: Record, output: str, local: dict[str, Array] | str) -> Clue:
    """A record of the reference and what native gave on its inputs (nothing, where it refused them)."""
    reference = tensors(trace, record.outputs, record.key.site)
    native_path = compared_outputs(record, list(reference)).get(output, output)
    native = None if isinstance(local, str) else local.get(native_path)
    expected = reference.get(output)
    mask = None if expected is None else mask_of(masks, trace, record, output, expected)
    return Clue(native, expected, record.type, output, record=record, trace=trace, replayed=True, mask=mask)


def of_run(
    finding: Finding, one: Record, other: Record | None, case: Case, reference: Trace, native: Trace, masks: Masks
) -> Clue:
    """The pair a finding along the run is about: an output, or the argument that was handed over (a wiring finding)."""
    site = one.key.site
    handed = finding.kind == "wiring"
    theirs = tensors(reference, {"fields": one.inputs} if handed else one.outputs, site)
    ours = {} if other is None else tensors(native, {"fields": other.inputs} if handed else other.outputs)
    name = next((n for n in theirs if f"`{n}" in finding.sentence), finding.output) if handed else finding.output
    given = {"frame_rate": case.frame_rate, "steps": case.steps, "case": case, "native": ours}
    array, expected = ours.get(name), theirs.get(name)
    if array is not None and expected is not None:
        array = array.reshape(expected.shape) if array.size == expected.size == 1 else spread(array, expected.shape)
    mask = None if handed or expected is None else mask_of(masks, reference, one, name, expected)
    return Clue(array, expected, "" if handed else one.type, name, given, None, one, reference, mask=mask)
