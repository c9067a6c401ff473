"""pytest plugin: options of a parity session."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "side-by-side comparison of two model implementations")
    group.addoption("--parity-report", metavar="DIR", help="write report and results to DIR (default: reports/pytest)")
