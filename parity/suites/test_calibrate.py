"""The reference against itself, measured anew: repeats to the bit, loses what a precision loses, diverges within the bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parity.calibrate import calibrate, unjustified
from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.floors import load_floors
from parity.folders import cache_folder
from parity.gate import load_policy
from parity.plugin import Parity

pytestmark = pytest.mark.slow


def test_the_floors_in_force_are_those_of_the_reference_here(checkpoint: Checkpoint, parity: Parity) -> None:
    case = replace(T2V_SQUARE, steps=2)
    found = calibrate(checkpoint, case, ReferenceCache(cache_folder() / "reference"), "here")
    parity.count(sum(floor.tensors for floor in found.floors))
    print(f"{len(found.floors)} kinds, nudge {found.nudge:.1e}, divergence {found.divergence}")
    assert len(found.floors) > 40
    assert all(floor.repeat == 0.0 for floor in found.floors)
    assert all(floor.float32 < 1e-4 for floor in found.floors)
    by_kind = found.by_kind()
    assert 0 < by_kind["transformer:LTXModel"].float32 < 1e-5 < by_kind["transformer:LTXModel"].bfloat16 < 0.1
    assert not unjustified(found.divergence, vars(load_policy()))
    assert all(len(values) == 2 and max(values) < 1e-4 for values in found.growth.values())
    kept = load_floors().of(found.config)
    assert kept is not None
    assert kept.versions == found.versions
    # Another processor sums in another order: within a factor of 10 it is the same floor.
    for kind, floor in kept.by_kind().items():
        assert by_kind[kind].float32 <= 10 * max(floor.float32, 1e-8), kind
