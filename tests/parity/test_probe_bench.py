"""Recording costs what it may; a small form of `make bench-probe`."""

from __future__ import annotations

import pytest

from parity import probe_bench
from parity.cases import T2V_SQUARE
from parity.checkpoints import tiny


def test_the_probe_costs_little() -> None:
    found = probe_bench.measure(tiny(), T2V_SQUARE, rounds=5, steps=10)
    for what, limit in probe_bench.LIMITS.items():
        # The limit itself is for `make bench-probe` on a quiet machine; beside other processes a ratio errs by up to 0.2.
        assert probe_bench.overhead(found, what) < limit + 0.2, what


def test_overhead_is_the_median_of_paired_ratios() -> None:
    found = {"": [1.0, 2.0, 1.0], "sketch": [1.1, 2.1, 9.0]}
    assert probe_bench.overhead(found, "sketch") == pytest.approx(0.1)
