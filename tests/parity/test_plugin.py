"""The plugin, tested by running pytest in pytest, as another project would use it: nothing but the installed entry point."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import parity.report  # noqa: F401  a session in this process must not load Matplotlib anew each time

pytest_plugins = ["pytester"]

HEAD = "import numpy as np\nR = np.random.default_rng(0).normal(size=(1, 8, 16)).astype(np.float32)\n"
PASSING = HEAD + "def test_block(parity):\n    parity.check('block.0', R * (1 + 1e-7), R)\n    parity.check('block.1', R, R)\n"
FAILING = HEAD + (
    "def test_small(parity):\n    parity.check('block.small', R * 1.0001, R)\n"
    "def test_large(parity):\n    parity.check('block.large', R * 1.5, R)\n"
    "def test_shape(parity):\n    parity.check('block.shape', R[:, :4], R)\n"
    "def test_right(parity):\n    parity.check('block.right', R, R)\n"
)
OPEN = HEAD + (
    "def test_nan(parity):\n    parity.check('block.nan', R, R * np.nan)\n"
    "def test_right(parity):\n    parity.check('a', R, R)\n"
)
NOTHING = "def test_nothing(parity):\n    assert parity.bound\n"
SKIPPED = "import pytest\ndef test_away(parity):\n    pytest.skip('no reference')\n"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions in this process must leave no variable behind."""
    monkeypatch.setenv("LTX_REFERENCE_PYTHON", "")


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    """A project with one test file."""
    pytester.makepyfile(test_port=source)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def section(result: pytest.RunResult) -> list[str]:
    """Lines of the terminal's parity section."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if line.strip("= ") == "parity")
    end = next((i for i, line in enumerate(lines[start + 1 :], start + 1) if line.startswith("=")), len(lines))
    return [line for line in lines[start + 1 : end] if line]


def test_a_right_port_passes_and_the_entry_point_is_all_it_takes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_port=PASSING)
    result = pytester.runpytest_subprocess()
    assert result.ret == 0
    told = section(result)
    assert told[-1] == "2 tensors compared in 1 test"
    assert told[0].startswith("all in bound; nearest to its bound: block.0: rel_l2 ")


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_wrong_port_fails_and_the_worst_comes_first(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = run(pytester, FAILING, *workers)
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=3)
    told = section(result)
    assert [line.split()[0] for line in told[1:4]] == ["block.shape", "block.large", "block.small"]
    assert "native has shape (1, 4, 16), reference (1, 8, 16)" in told[1]
    assert told[-1] == "3 tensors compared in 4 tests"
    message = "block.large: native differs from the reference by rel_l2 0.5, expected at most 1e-05 (max_abs "
    result.stdout.fnmatch_lines([f"*{message}*next: pytest 'test_port.py::test_large' --parity-report*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_reference_that_is_not_finite_is_inconclusive(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = run(pytester, OPEN, *workers)
    assert result.ret == 3
    result.assert_outcomes(passed=1, failed=1)
    assert any("inconclusive: the reference holds 128 values that are not finite" in line for line in section(result))


def test_a_failure_weighs_more_than_lack_of_evidence(pytester: pytest.Pytester) -> None:
    assert run(pytester, OPEN + FAILING.removeprefix(HEAD)).ret == 1


@pytest.mark.parametrize(
    ("source", "workers"), [(NOTHING, ()), (SKIPPED, ()), (SKIPPED, ("-n", "2"))], ids=["passed", "skipped", "skipped-xdist"]
)
def test_nothing_compared_is_no_pass(pytester: pytest.Pytester, source: str, workers: tuple[str, ...]) -> None:
    result = run(pytester, source, *workers)
    assert result.ret == 3
    assert "nothing was compared: this is not a pass (exit status 3)" in section(result)


def test_a_test_that_compares_nothing_is_not_hidden_by_one_that_does(pytester: pytest.Pytester) -> None:
    result = run(pytester, PASSING + NOTHING)
    assert result.ret == 3
    result.stdout.fnmatch_lines(["*inconclusive: the test passed, but it compared nothing*"])


def test_no_selected_test_is_no_pass(pytester: pytest.Pytester) -> None:
    assert run(pytester, PASSING, "-k", "absent").ret == 5


def test_other_failures_keep_their_status_and_sessions_without_parity_their_silence(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_one():\n    assert 0\n")
    assert result.ret == 1
    assert not any(line.strip("= ") == "parity" for line in result.outlines)
    assert run(pytester, "def test_one():\n    assert 1\n").ret == 0


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_junit_file_carries_failures_and_numbers(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    run(pytester, FAILING + OPEN.removeprefix(HEAD).replace("test_right", "test_also"), "--junitxml=out.xml", *workers)
    suite = ElementTree.parse(pytester.path / "out.xml").getroot().find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "4"
    told = {case.get("name"): case for case in suite.iter("testcase")}
    failure = told["test_large"].find("failure")
    assert failure is not None
    assert "block.large: native differs from the reference by rel_l2 0.5" in str(failure.get("message"))
    numbers = {item.get("name"): item.get("value") for item in told["test_right"].iter("property")}
    assert numbers == {"parity.block.right": "block.right: rel_l2 0, at most 1e-05"}
    lacking = told["test_nan"].find("failure")
    assert lacking is not None
    assert "inconclusive" in str(lacking.get("message"))


def test_in_junit_nothing_compared_is_an_error(pytester: pytest.Pytester) -> None:
    run(pytester, NOTHING, "--junitxml=out.xml")
    suite = ElementTree.parse(pytester.path / "out.xml").getroot().find("testsuite")
    assert suite is not None
    assert suite.get("errors") == "1"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_parity_report_writes_results_and_page(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = run(pytester, FAILING, "--parity-report=out/run", *workers)
    assert section(result)[-1] == "report: out/run/report.html"
    results = json.loads((pytester.path / "out/run/results.json").read_text())
    assert results["verdict"] == "fail"
    assert [reason.split(":")[0] for reason in results["reasons"]] == ["block.shape", "block.large", "block.small"]
    (case,) = results["cases"]
    assert len(case["rows"]) == 4
    assert len(case["details"]) == 2, "profiles and images of what failed and could be measured"
    page = (pytester.path / "out/run/report.html").read_text()
    assert "The port must not ship" in page
    assert "pytest &#39;test_port.py::test_small&#39;" in page


def test_parity_report_of_a_right_port_says_pass(pytester: pytest.Pytester) -> None:
    run(pytester, PASSING, "--parity-report=out")
    assert json.loads((pytester.path / "out/results.json").read_text())["verdict"] == "pass"
    assert not list((pytester.path / "out").glob("*.partial*"))


def test_parity_reference_names_the_interpreter(pytester: pytest.Pytester) -> None:
    source = HEAD + (
        f"import os\ndef test_one(parity):\n    parity.check('a', R, R)\n    assert parity.reference == {sys.executable!r}\n"
        f"    assert os.environ['LTX_REFERENCE_PYTHON'] == {sys.executable!r}\n"
    )
    assert run(pytester, source, f"--parity-reference={sys.executable}", "-n", "1").ret == 0
    refused = run(pytester, source, "--parity-reference=/nowhere/python")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*--parity-reference: there is no interpreter at /nowhere/python*"])


def test_parity_checkpoint_names_the_folder(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("weights")
    source = (
        HEAD + f"def test_one(parity):\n    parity.check('a', R, R)\n    assert str(parity.checkpoint) == {str(folder)!r}\n"
    )
    assert run(pytester, source, f"--parity-checkpoint={folder}").ret == 0
    assert run(pytester, source).ret == 1, "without the option there is no folder"
    refused = run(pytester, source, "--parity-checkpoint=nowhere")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*--parity-checkpoint: nowhere is no folder*"])


MARKED = HEAD + (
    "import pytest\n"
    "@pytest.mark.parity(mode='distilled', dtype='float32')\ndef test_distilled(parity):\n    parity.check('a', R, R)\n"
    "@pytest.mark.parity(mode='one-stage', dtype='bfloat16')\ndef test_one_stage(parity):\n    parity.check('b', R, R)\n"
    "def test_any(parity):\n    parity.check('c', R, R)\n    print(parity.modes, parity.dtypes)\n"
)


@pytest.mark.parametrize(
    ("option", "passed", "printed"),
    [
        ("--parity-modes=distilled", 2, "('distilled',) ('float32', 'bfloat16')"),
        ("--parity-modes=distilled,one-stage", 3, "('distilled', 'one-stage') *"),
        ("--parity-modes=retake", 1, "('retake',) *"),
        ("--parity-dtype=bfloat16", 2, "() ('bfloat16',)"),
        ("--parity-dtype=float32", 2, "() ('float32',)"),
        ("--parity-dtype=all", 3, "() ('float32', 'bfloat16')"),
    ],
)
def test_modes_and_dtypes_choose_what_is_compared(pytester: pytest.Pytester, option: str, passed: int, printed: str) -> None:
    result = run(pytester, MARKED, option, "-s")
    assert result.ret == 0
    result.assert_outcomes(passed=passed, deselected=3 - passed)
    result.stdout.fnmatch_lines([f"*{printed}*"])
    assert f"{passed} tensor" in section(result)[-1]


def test_the_options_reach_this_projects_own_suites(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of this repository obeys them, too: what is left out is skipped, and then nothing was compared."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # the inner run is nobody's worker
    suite = Path(__file__).resolve().parents[2] / "parity" / "suites" / "test_t2v.py"
    options = ("-q", "-p", "no:cacheprovider", f"--rootdir={suite.parents[2]}", f"-c={suite.parents[2] / 'pyproject.toml'}")
    result = pytester.runpytest_subprocess(str(suite), *options, "--parity-modes=retake", "--parity-report=out", "-rs")
    assert result.ret == 3, "\n".join(result.outlines)
    result.stdout.fnmatch_lines(["*mode one-stage is not among --parity-modes=retake*"])
    assert json.loads((pytester.path / "out" / "verdict.json").read_text())["verdict"] == "inconclusive"
    result = pytester.runpytest_subprocess(str(suite), *options, f"--parity-checkpoint={pytester.mkdir('empty')}", "-x")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*0 model files, expected one official *.safetensors file*"])


@pytest.mark.parametrize(
    ("native", "told"),
    [("'text'", "native is no array of numbers"), ("R[:0], R[:0] and R", ""), ("R, R, -1.0", "the bound is -1.0")],
)
def test_what_cannot_be_compared_says_so(pytester: pytest.Pytester, native: str, told: str) -> None:
    if not told:
        native, told = "R[:0], R[:0]", "the reference is empty"
    elif native == "'text'":
        native = "'text', R"
    result = run(pytester, HEAD + f"def test_one(parity):\n    parity.check('a', {native})\n")
    assert result.ret == 3
    result.stdout.fnmatch_lines([f"*{told}*"])
