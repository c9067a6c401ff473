"""pytest plugin: options of a parity session, the `parity` fixture, and an exit status that knows lack of evidence.

    def test_block(parity):
        parity.check("transformer_blocks.0", native=mine(x), reference=golden)

Status 1: a check failed. Status 3: nothing failed, but a test that asked for evidence has none (nothing compared, a reference
that is not finite). What was measured travels on pytest's own reports, so xdist, JUnit files and other projects need no setup.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parity.plugin_results import Check, measured, table, write_results

if TYPE_CHECKING:
    from parity.bounds import Bounds
    from parity.compare import Row

INCONCLUSIVE = 3
DETAILS = 5  # failing sites of one test whose tensors go to the report
_PASSED: pytest.StashKey[bool] = pytest.StashKey()
_EVIDENCE: pytest.StashKey[Parity] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "side-by-side comparison of two model implementations")
    add = group.addoption
    add("--parity-reference", metavar="PYTHON", help="interpreter of the reference environment")
    add("--parity-checkpoint", metavar="DIR", help="folder with model, gemma/ and upsampler (default: made tiny checkpoint)")
    add("--parity-modes", metavar="LIST", help="compare these modes only, comma-separated (one-stage, distilled, …)")
    add("--parity-dtype", choices=("float32", "bfloat16", "all"), default="all", help="dtypes to compare (default: all)")
    add("--parity-report", metavar="DIR", help="write results.json and report.html of the session to DIR")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "parity(mode, dtype): compares native with a reference, in this mode and dtype")
    # MLX latches TF32 at the first matrix product of a process; comparisons in float32 need it off.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    reference, checkpoint = config.getoption("--parity-reference"), config.getoption("--parity-checkpoint")
    if reference and not Path(reference).is_file():
        raise pytest.UsageError(f"--parity-reference: there is no interpreter at {reference}; `make reference` installs one")
    if checkpoint and not Path(checkpoint).is_dir():
        raise pytest.UsageError(f"--parity-checkpoint: {checkpoint} is no folder; expected one with a model and gemma/")
    if reference:
        # Not resolved: an environment's interpreter is a link, and where the link lies says which environment.
        os.environ["LTX_REFERENCE_PYTHON"] = str(Path(reference).absolute())
    if not hasattr(config, "workerinput"):  # reports arrive in the only process, or in xdist's controller
        config.pluginmanager.register(Collector(config), "parity-collector")


def left_out(config: pytest.Config, mode: str = "", dtype: str = "") -> str:
    """Why the options leave this mode or dtype out of the session; empty when they do not."""
    modes, wanted = config.getoption("--parity-modes"), config.getoption("--parity-dtype")
    if mode and modes and mode not in modes.split(","):
        return f"mode {mode} is not among --parity-modes={modes}"
    if dtype and wanted not in ("all", dtype):
        return f"--parity-dtype={wanted} leaves {dtype} out"
    return ""


class Inconclusive(AssertionError):
    """A test that says nothing about native."""


class Parity:
    """What a parity test is given. Everything measured through it counts as evidence; a test without any does not pass.

    ``reference`` (an interpreter), ``checkpoint`` (a folder), ``modes`` (empty: all) and ``dtypes`` are the session's options.
    """

    def __init__(self, config: pytest.Config, test: str = "", bound: float = 1e-5) -> None:
        self.bound = bound
        self.tensors = 0
        self.checks: list[Check] = []
        self._test = test
        checkpoint, modes = config.getoption("--parity-checkpoint"), config.getoption("--parity-modes")
        self.reference = os.environ.get("LTX_REFERENCE_PYTHON")
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.modes: tuple[str, ...] = tuple(modes.split(",")) if modes else ()
        wanted = config.getoption("--parity-dtype")
        self.dtypes: tuple[str, ...] = ("float32", "bfloat16") if wanted == "all" else (wanted,)

    def count(self, tensors: int) -> None:
        """Add compared tensors to the session's evidence."""
        self.tensors += tensors

    def check(self, site: str, native: Any, reference: Any, bound: float | None = None) -> None:
        """Fail the test unless rel_l2 of native against reference (arrays of one shape) is within the bound.

        Raises `AssertionError` with site, value, bound, largest difference and the next command. A reference that is empty
        or not finite says nothing about native: the test fails as inconclusive.
        """
        __tracebackhide__ = True
        keep = sum(check.state == "fail" for check in self.checks) < DETAILS
        check = measured(site, native, reference, self.bound if bound is None else bound, self._test, keep)
        self.checks.append(check)
        if check.state == "inconclusive":
            raise Inconclusive(f"inconclusive: {check.words()}")
        self.count(check.rel_l2 is not None)
        if check.state == "fail":
            raise AssertionError(f"{check.words()}; next: pytest '{self._test}' --parity-report reports/parity")

    def judged(self, rows: Sequence[Row], failed: Collection[int], bounds: Bounds) -> None:
        """Count rows that were measured elsewhere and put those that failed into the session's table."""
        from parity.localise import own_error, row_bound

        self.count(len(rows))
        for row in (rows[i] for i in sorted(failed)):
            error, limit = own_error(row), row_bound(row, bounds)
            problem = row.problem or ("" if error is not None else "not measured")
            self.checks.append(Check(str(row.key), self._test, limit, "fail", error, problem=problem, judged=True))


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Iterator[Parity]:
    """Compare tensors site by site: `parity.check(site, native, reference)`."""
    given = Parity(request.config, request.node.nodeid)
    request.node.stash[_EVIDENCE] = given
    yield given
    if not given.tensors and request.node.stash.get(_PASSED, False):
        raise Inconclusive("inconclusive: the test passed, but it compared nothing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `parity(mode=…, dtype=…)` that the options leave out are not run."""
    dropped = [item for item in items if any(_left_out(config, mark) for mark in item.iter_markers("parity"))]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _left_out(config: pytest.Config, mark: pytest.Mark) -> str:
    return left_out(config, str(mark.kwargs.get("mode", "")), str(mark.kwargs.get("dtype", "")))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report: Any = outcome.get_result()
    if "parity" not in getattr(item, "fixturenames", ()):
        return
    given = item.stash.get(_EVIDENCE, None)
    report.parity_open = call.excinfo is not None and isinstance(call.excinfo.value, Inconclusive)
    if report.when == "call":
        item.stash[_PASSED] = report.passed
        checks = given.checks if given else []
        item.user_properties += [(f"parity.{check.site}", check.words()) for check in checks]
        report.user_properties = list(item.user_properties)
    if report.when == "teardown":
        # Plain data: xdist sends what stands on a report to the controller.
        report.parity = {
            "tensors": given.tensors if given else 0,
            "checks": [c.to_json() for c in given.checks] if given else [],
        }


class Collector:
    """What the session's reports bring, its exit status, its section on the terminal, its results on disk."""

    def __init__(self, config: pytest.Config) -> None:
        folder = config.getoption("--parity-report")
        self._folder = Path(folder) if folder else None
        self._placed: list[tuple[tuple[str, int, str], list[Check]]] = []
        self._tensors, self._tests, self._failed, self._open = 0, 0, 0, 0
        self._page: Path | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._failed += report.failed
        self._open += report.failed and getattr(report, "parity_open", False)
        if hasattr(report, "parity"):
            self._tests += 1
            self._tensors += report.parity["tensors"]
            place = (report.location[0], report.location[1] or 0, report.nodeid)
            self._placed.append((place, [Check(**check) for check in report.parity["checks"]]))

    @property
    def _checks(self) -> list[Check]:
        """In the order of the source, whichever worker was first."""
        return [check for _, checks in sorted(self._placed, key=lambda placed: placed[0]) for check in checks]

    @property
    def _nothing(self) -> bool:
        """No evidence was asked for, or some: then a session without any is no pass."""
        return self._tests > 0 and self._tensors == 0

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        passed, failed = exitstatus == pytest.ExitCode.OK, exitstatus == pytest.ExitCode.TESTS_FAILED
        if (passed and self._nothing) or (failed and self._failed == self._open):
            session.exitstatus = INCONCLUSIVE
        measured_here = [check for check in self._checks if not check.judged]
        if self._folder is not None and measured_here:
            self._page = write_results(self._folder, measured_here)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._tests:
            return
        terminalreporter.section("parity")
        for line in table(self._checks):
            terminalreporter.line(line)
        if self._nothing:
            terminalreporter.line(f"nothing was compared: this is not a pass (exit status {INCONCLUSIVE})")
        tensors, tests = ("" if count == 1 else "s" for count in (self._tensors, self._tests))
        terminalreporter.line(f"{self._tensors} tensor{tensors} compared in {self._tests} test{tests}")
        if self._page is not None:
            terminalreporter.line(f"report: {self._page}")
