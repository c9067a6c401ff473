"""`make bench-probe`: what recording costs the official denoising loop, on the tiny checkpoint, one thread.

One process denoises in turns: without the probe, with sketches and with full tensors of the transformer blocks' outputs, each
as many steps as a run has. Prints the median of the paired ratios; status 1 when one is over its limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from parity.bench.probed import official_step
from parity.capture.reference import Checkpoint, ReferenceUnavailable
from parity.cases import T2V_SQUARE, Case
from parity.checkpoints import tiny

LIMITS: Mapping[str, float] = {"sketch": 0.05, "tensors": 0.30}
WARMUP = 1
STEPS = 30  # what the pipelines take unless told otherwise


def measure(checkpoint: Checkpoint, case: Case, rounds: int, steps: int = STEPS) -> dict[str, list[float]]:
    """Seconds of a step by what is recorded (`""`: nothing), in interleaved rounds. Raises `ReferenceUnavailable`."""
    found: dict[str, list[float]] = {what: [] for what in ("", *LIMITS)}
    with (
        tempfile.TemporaryDirectory(prefix="probe-bench-") as folder,
        official_step(checkpoint, case, Path(folder) / "trace", steps) as step,
    ):
        for i in range(rounds + WARMUP):
            for what, seconds in found.items():
                taken = step(what)
                if i >= WARMUP:
                    seconds.append(taken)
    return found


def overhead(found: Mapping[str, Sequence[float]], what: str) -> float:
    """Median over the rounds of recorded ÷ unrecorded step, less one."""
    return statistics.median(a / b for a, b in zip(found[what], found[""], strict=True)) - 1.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.probe_bench", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args(argv)
    try:
        found = measure(tiny(), T2V_SQUARE, args.rounds)
    except ReferenceUnavailable as error:
        print(f"bench-probe: {error}", file=sys.stderr)
        return 3
    median = 1000 * statistics.median(found[""])
    print(f"step without the probe: {median:.2f} ms, median of {args.rounds} rounds of {STEPS} steps")
    for what, limit in LIMITS.items():
        print(f"{what:8} {overhead(found, what):+.1%} (limit {limit:+.0%})")
    return 0 if all(overhead(found, what) <= limit for what, limit in LIMITS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
