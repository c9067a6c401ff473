"""What a streamed comparison is asked for: drawn tokens of a size, or a recorded block's inputs; which blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from parity.capture import stream as native
from parity.capture.replay import Replayer
from parity.trace import Trace

Array = npt.NDArray[Any]
SITE = "transformer.transformer_blocks."


@dataclass(frozen=True)
class StreamRequest:
    """What runs through the blocks: seeded tokens of a clip of this size, or the inputs of a recorded block.

    ``blocks`` are the numbers to run, in order; empty: all of them. ``trace`` is a trace of the official code that holds the
    first of them at (``step``, ``guidance_pass``). ``plant`` names a mistake and the native block it is made in.
    """

    width: int = 256
    height: int = 128
    frames: int = 9
    frame_rate: float = 24.0
    text_tokens: int = 128
    sigma: float = 0.7
    seed: int = 42
    blocks: tuple[int, ...] = ()
    trace: Path | None = None
    step: int = 0
    guidance_pass: str = "cond"
    plant: tuple[str, int] | None = None
    own_run: bool = True  # run native on its own tokens, too


def recorded_inputs(request: StreamRequest, number: int) -> tuple[dict[str, Array], list[str], Any]:
    """A recorded block's arguments by dotted name, the modalities that did not run, and the perturbations.

    Raises ValueError when the trace does not hold that block with its inputs.
    """
    assert request.trace is not None
    trace = Trace(request.trace)
    wanted = (f"{SITE}{number}", request.step, request.guidance_pass)
    found = [r for r in trace.records if (r.key.site, r.key.step, r.key.guidance_pass) == wanted and r.inputs]
    if not found:
        raise ValueError(
            f"{request.trace}: no inputs of {wanted[0]} at step {wanted[1]}, pass {wanted[2]}; "
            "record one with `parity capture`, or name another --step or --pass"
        )
    record = found[0]
    named: dict[str, Array] = {}
    for modality in native.MODALITIES:
        named |= {f"{modality}.{path}": trace.tensor(leaf) for path, leaf in native.tensor_leaves(record.inputs[modality])}
    perturbations = Replayer({}, trace).value(record.inputs["perturbations"], record.key.site, (record.type, "perturbations"))
    off = [m for m in native.MODALITIES if record.inputs[m]["fields"]["enabled"].get("value") is False]
    return named, off, perturbations


def parse_blocks(text: str) -> tuple[int, ...]:
    """`0-3,37` → (0, 1, 2, 3, 37). Raises ValueError on anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"--blocks: found {text!r}, expected numbers and ranges like 0-3,37")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def check_numbers(numbers: Sequence[int], count: int, request: StreamRequest) -> None:
    absent = [number for number in numbers if not 0 <= number < count]
    if absent or not numbers:
        raise ValueError(f"--blocks: block {absent[0] if absent else 'none'}, expected 0 to {count - 1}")
    if request.plant is not None and request.plant[1] not in numbers:
        raise ValueError(f"--plant: block {request.plant[1]} is not among those compared")
