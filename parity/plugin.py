"""pytest plugin: options of a parity session, the `parity` fixture, and an exit status that knows lack of evidence.

A session that selected parity checks and compared nothing does not pass: its exit status becomes 3.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy.typing as npt

NOTHING_COMPARED = 3
_COMPARED: pytest.StashKey[list[int]] = pytest.StashKey()
_REQUESTED: pytest.StashKey[list[bool]] = pytest.StashKey()
_FAILURES: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "side-by-side comparison of two model implementations")
    add = group.addoption
    add("--parity-reference", metavar="PYTHON", help="interpreter of the reference environment")
    add("--parity-checkpoint", metavar="DIR", help="folder with model, gemma/ and upsampler (default: made tiny checkpoint)")
    add("--parity-modes", metavar="LIST", help="compare these modes only, comma-separated (one-stage, distilled, …)")
    add("--parity-dtype", choices=("float32", "bfloat16", "all"), default="all", help="dtypes to compare (default: all)")
    add("--parity-report", metavar="DIR", help="write results, report and verdict to DIR (default: reports/pytest)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "parity: compares native with a reference")
    # MLX latches TF32 at the first matrix product of a process; comparisons in float32 need it off.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    config.stash[_COMPARED] = [0]
    config.stash[_REQUESTED] = [False]
    config.stash[_FAILURES] = []
    reference = config.getoption("--parity-reference")
    if reference:
        os.environ["LTX_REFERENCE_PYTHON"] = str(Path(reference).absolute())


@dataclass
class Parity:
    """What a parity test is given. Everything measured through it counts as evidence."""

    config: pytest.Config
    bound: float = 1e-5
    failures: list[str] = field(default_factory=list)

    def count(self, tensors: int) -> None:
        """Add compared tensors to the session's evidence."""
        self.config.stash[_COMPARED][0] += tensors

    def check(self, site: str, native: npt.NDArray[Any], reference: npt.NDArray[Any], bound: float | None = None) -> None:
        """Fail the test unless rel_l2 of native against reference is within the bound.

        Raises `AssertionError` with site, value, bound, largest difference and the next command.
        """
        from parity.metrics import MetricError, measure

        limit = self.bound if bound is None else bound
        try:
            measured = measure(native, reference)
        except MetricError as error:
            self._fail(f"{site}: could not be compared: {error}")
        self.count(1)
        if not measured.rel_l2 <= limit:
            self._fail(
                f"{site}: native differs from the reference by rel_l2 {measured.rel_l2:.3g}, expected at most {limit:.3g} "
                f"(max_abs {measured.max_abs:.3g}, cosine {measured.cosine:.6f}); next: parity explain {site}"
            )

    def _fail(self, message: str) -> None:
        self.config.stash[_FAILURES].append(message)
        raise AssertionError(message)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Compare tensors site by site: `parity.check(site, native, reference)`."""
    request.config.stash[_REQUESTED][0] = True
    return Parity(request.config)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    output = getattr(config, "workeroutput", None)
    if output is not None:  # an xdist worker tells its controller
        output["parity"] = [config.stash[_COMPARED][0], config.stash[_REQUESTED][0], config.stash[_FAILURES]]
        return
    if config.stash[_REQUESTED][0] and config.stash[_COMPARED][0] == 0 and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = NOTHING_COMPARED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    compared, requested, failures = getattr(node, "workeroutput", {}).get("parity", (0, False, []))
    stash = node.config.stash
    stash[_COMPARED][0] += compared
    stash[_REQUESTED][0] = stash[_REQUESTED][0] or requested
    stash[_FAILURES] += failures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.stash[_REQUESTED][0]:
        return
    compared = config.stash[_COMPARED][0]
    terminalreporter.section("parity")
    for failure in config.stash[_FAILURES]:
        terminalreporter.line(failure)
    if compared == 0:
        terminalreporter.line("nothing was compared: this is not a pass (exit status 3)")
    terminalreporter.line(f"{compared} tensors compared")
