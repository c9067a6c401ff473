"""What the suites share: one session on one checkpoint, whose evidence becomes results, page and verdict."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parity.checkpoints import named, tiny
from parity.folders import ROOT, cache_folder
from parity.suites.interrupts import pytest_configure

if TYPE_CHECKING:
    from parity.capture.reference import Checkpoint
    from parity.session import Session


__all__ = ["pytest_configure"]

# Suites that take longer than a coffee; `make test` runs them, `pytest parity/` does not.
SLOW = (
    "test_modes",
    "test_extend",
    "test_quantised",
    "test_upsamplers",
    "test_clip_parity",
    "test_official_reference",
    "test_external_cli",
    "test_external_strict",
    "test_fidelity_smoke",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # of every folder that was asked for, not of this one alone
        if item.path.parent == Path(__file__).parent and item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    folder = request.config.getoption("--parity-checkpoint")
    return named(Path(folder)) if folder else tiny()


@pytest.fixture(scope="session")
def report_folder(request: pytest.FixtureRequest) -> Path:
    folder = Path(request.config.getoption("--parity-report") or ROOT / "reports" / "pytest")
    worker = os.environ.get("PYTEST_XDIST_WORKER")  # workers judge what they ran themselves
    return folder / worker if worker else folder


@pytest.fixture(scope="session")
def session(checkpoint: Checkpoint, report_folder: Path) -> Iterator[Session]:
    """The healthy side-by-side session; its verdict is written when the last suite has finished."""
    from parity.capture.reference import ReferenceCache
    from parity.session import Session

    found = Session(checkpoint, report_folder, ReferenceCache(cache_folder() / "reference"))
    yield found
    found.finish()
