"""Planted mistakes: the verdict is `fail`, the first named site in the guilty component, the named cause the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.capture.reference import Checkpoint, ReferenceCache
from parity.cases import T2V_SQUARE
from parity.faults import fault
from parity.folders import cache_folder
from parity.plugin import Parity
from parity.session import Session

# One per component; the whole museum is `parity certify`.
PLANTED = {
    "GEM-05": "gemma",
    "CON-03": "embeddings_processor",
    "SCH-05": "schedule",
    "TIM-01": "transformer",
    "GUI-01": "guidance",
    "VAE-09": "video_decoder",
    "VOC-08": "vocoder",
}


@pytest.mark.parametrize(("id", "component"), PLANTED.items())
def test_a_planted_fault_fails_in_its_component(
    id: str, component: str, checkpoint: Checkpoint, tmp_path: Path, parity: Parity
) -> None:
    with fault(id) as planted:
        # A session of its own: the port is built anew with the mistake in it.
        session = Session(checkpoint, tmp_path, ReferenceCache(cache_folder() / "reference"))
        result = session.compare(T2V_SQUARE)
        verdict = session.finish(page=False)
    parity.count(len(result.rows))
    assert planted.component == component
    assert verdict["verdict"] == "fail"
    assert result.finding is not None
    print(f"{id}: {result.finding.sentence}")
    assert result.finding.component == component
    assert result.hypotheses, "no cause was named"
    print(f"{id}: {result.hypotheses[0]['edit']}")
    assert result.hypotheses[0]["cause"] in planted.cause.split("|")
