"""What recording costs a native run of a few steps at the mid size: untapped, sketches, full tensors, in turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.bench.clock import Sample, Subject, interleave, summary
from parity.bench.sides import MID, native
from parity.checkpoints import made
from parity.sketch_kernel import library

#: recorded ÷ untapped, processor seconds, median.
LIMITS = {"sketch": 1.05, "tensors": 1.3}
STEPS = 3  # a trace is begun and closed once a run


def measure(rounds: int) -> dict[str, Any]:
    """By `blocks` (outputs and inputs of the transformer's blocks) and `every module`: spreads and ratios to untapped."""
    found: dict[str, Any] = {}
    for what, every in (("blocks", False), ("every module", True)):
        with native("steps", made("mid").model) as service:
            service.ask("shape", **vars(replace(MID)))

            def recording(kind: str, every: bool = every) -> Subject:
                return lambda: Sample.of(service.ask("record", what=kind, every=every, repeat=STEPS))

            samples = interleave({"untapped": recording(""), **{kind: recording(kind) for kind in LIMITS}}, rounds)
            peak = service.peak_bytes
        ratios = {kind: summary({kind: samples[kind], "untapped": samples["untapped"]}, kind) for kind in LIMITS}
        found[what] = {**summary(samples, ""), "peak_bytes": peak, "rounds": rounds}
        found[what]["sketched_by"] = "a compiled loop" if library() is not None else "NumPy, for want of a C compiler"
        found[what] |= {f"{kind} ÷ untapped": ratios[kind][f"{kind} ÷ untapped"] for kind in LIMITS}
    return found
