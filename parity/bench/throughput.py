"""How fast tensors are compared, and in how much memory: the metric set as a comparison computes it, on one core."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.bench.clock import spread
from parity.compare import Sides, compare_pair
from parity.metrics import measure as compare
from parity.trace import Key, Record
from reference_bridge.adapters.service import timed, usage

#: GB/s of pairs (the bytes of one tensor each), and bytes above the tensors.
TARGETS = {"gb_per_s": 1.0, "extra_bytes": 300e6}


PAIRS = {"plain": 1, "masked": 1, "both moved": 1, "one moved": 1, "row": 4}


def measure(megabytes: int, rounds: int) -> dict[str, Any]:
    """GB/s of a plain, a masked and two moved pairs, and of `row`: local, total, inherited and incoming of one record.

    The bytes of one tensor of each pair are counted; a row compares four pairs.
    """
    rows, columns = max(1, megabytes * 1_000_000 // (4 * 4096)), 4096
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((1, rows, columns), np.float32)
    native = reference + np.float32(1e-6)
    moved = np.ascontiguousarray(reference.transpose(0, 2, 1)).transpose(0, 2, 1)
    mask = generator.random((1, rows)) < 0.5
    pairs = {
        "plain": lambda: compare(native, reference),
        "masked": lambda: compare(native, reference, mask),
        "both moved": lambda: compare(native.transpose(0, 2, 1), reference.transpose(0, 2, 1)),
        "one moved": lambda: compare(native, moved),
        "row": lambda: _row(native, reference),
    }
    found: dict[str, Any] = {"bytes": reference.nbytes, "rounds": rounds}
    compare(native[:, :16], reference[:, :16])
    before = usage()["peak_bytes"]
    for name, run in pairs.items():
        seconds = [_seconds(run) for _ in range(rounds)]
        found[name] = {"gb_per_s": spread([PAIRS[name] * reference.nbytes / 1e9 / s for s in seconds])}
    return {**found, "extra_bytes": usage()["peak_bytes"] - before}


def _row(native: Any, reference: Any) -> None:
    record = Record(0, Key("transformer.proj_out", "stage_1", 0, "cond", 0), "module", "Linear", {}, {})
    one = {"": native}
    compare_pair(record, Sides({"": reference}, one, one, {"": "float32"}, {"input": reference}, {"input": native}))


def _seconds(run: Any) -> float:
    return timed(run)[1]["cpu_s"]
