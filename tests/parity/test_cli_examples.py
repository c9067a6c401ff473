"""Every example in the help of `parity` runs as it stands, on the tiny checkpoint, in one empty folder.

Examples build on each other as a reader would go through them: what another one writes is made first. The long ones are slow
tests; `make test` runs them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from parity import certify, cli
from parity.folders import cache_folder
from parity.suites.certificates import write_certificate

COMPARE = "parity compare --prompt 'A red fox' --steps 2 --output reports/fox"
PROMOTE = "parity gate --promote reports/fox/verdict.json"
# What an example needs to be there, by a word in it.
NEEDS = {"reports/fox/": COMPARE, "parity history": PROMOTE}
# Anything but 0 has its reason: a short fidelity run must not pass, and no external CLI is installed where the example says.
STATUS = {"fidelity": 3, "arbitrate": 2}
SLOW = ("fidelity", "calibrate", "certify --only", "reduce", "explain")
CHEAP = ("doctor", "gate", "report", "history", "cache")


def examples() -> dict[str, list[str]]:
    """By verb, read from the help that a user sees."""
    top = cli.parser()
    (verbs,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    found = {}
    for name, verb in verbs.choices.items():
        title, *lines = verb.format_help().partition("examples:\n")[1:]
        assert title, f"parity {name} --help shows no example"
        found[name] = [line.strip() for line in lines[0].splitlines() if line.strip()]
    return found


EXAMPLES = examples()


class Ran(NamedTuple):
    status: int
    out: str
    err: str


class Workplace:
    """An empty folder in which examples run, each once, after what they need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ran: dict[str, Ran] = {}

    def run(self, example: str, capture: pytest.CaptureFixture[str]) -> Ran:
        for word, needed in NEEDS.items():
            if word in example and example not in (needed, COMPARE):
                assert self.run(needed, capture).status == 0
        if example not in self._ran:
            capture.readouterr()
            # The committed certificate is another matter: here every known mistake was caught by the harness as it is.
            write_certificate(Path(os.environ["LTX_PARITY_CERTIFICATE"]))
            words = shlex.split(example)
            settings = [word for word in words if "=" in word and words.index(word) < words.index("parity")]
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                for name, value in (setting.split("=", 1) for setting in settings):
                    patch.setenv(name, str(Path(value).expanduser()))
                status = cli.main(words[words.index("parity") + 1 :])
            self._ran[example] = Ran(status, *capture.readouterr())
        return self._ran[example]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LTX_PARITY_VERDICT", raising=False)
        patch.setenv("LTX_PARITY_CACHE", str(cache_folder().absolute()))
        patch.setenv("LTX_PARITY_CERTIFICATE", str(tmp_path_factory.mktemp("certificate") / "certificate.json"))
        yield Workplace(tmp_path_factory.mktemp("examples"))


def cases() -> list[object]:
    return [
        pytest.param(verb, line, id=line, marks=[pytest.mark.slow] if line.removeprefix("parity ").startswith(SLOW) else [])
        for verb, lines in EXAMPLES.items()
        for line in lines
    ]


def test_every_verb_of_the_issue_has_one() -> None:
    wanted = "doctor capture calibrate compare explain reduce arbitrate fidelity gate certify report history cache"
    assert set(wanted.split()) <= set(EXAMPLES)


@pytest.mark.parametrize(("verb", "line"), cases())
def test_the_example_in_the_help_runs(
    workplace: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str, line: str
) -> None:
    if verb == "arbitrate":
        monkeypatch.setenv("HOME", str(workplace.folder))  # where no ltx-2-mlx is
    found = workplace.run(line, capsys)
    assert found.status == STATUS.get(verb, 0), found.out + found.err
    if verb == "arbitrate":
        assert "ltx-2-mlx cannot be used" in found.err
        assert "LTX2_MLX_BIN" in found.err
        return
    assert found.err == "", "progress belongs to a terminal"
    if "--json" in line:
        assert json.loads(found.out)["next"]
    elif "--markdown" not in line:
        assert found.out.splitlines()[-1].startswith("next: ")


@pytest.mark.parametrize("line", [line for verb in CHEAP for line in EXAMPLES[verb] if "--promote" not in line])
def test_the_same_as_json(workplace: Workplace, capsys: pytest.CaptureFixture[str], line: str) -> None:
    found = workplace.run(line if "--json" in line else f"{line} --json", capsys)
    assert json.loads(found.out)["next"]


def test_what_a_passing_comparison_leaves(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert "verdict: pass" in workplace.run(COMPARE, capsys).out
    results = json.loads((workplace.folder / "reports/fox/results.json").read_text())
    assert results["engine"]["engine"] in ("native", "bridge")
    assert [row["code"] for row in results["abilities"] if not row["by"]] == []
    gate = workplace.run("parity gate --verdict reports/fox/verdict.json", capsys)
    assert "engine: native" in gate.out
    assert "1 promoted run" in _page(workplace, capsys)


def _page(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> str:
    workplace.run("parity history", capsys)
    return (workplace.folder / "reports" / "history.html").read_text()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["compare", "--frames", "8"], 2, "frames"),
        (["compare", "--checkpoint", "nowhere"], 2, "nowhere"),
        (["report", "nowhere.json"], 2, "nowhere.json"),
        (["history", "--promoted", "nowhere"], 2, "parity gate --promote"),
        (["gate", "--promote", "nowhere.json"], 2, "nowhere.json"),
        (["certify", "--only", "ABC-99"], 2, "parity certify --list"),
        (["gate", "--verdict", "nowhere.json"], 3, ""),
    ],
)
def test_bad_input_gives_one_message_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    told: str,
) -> None:
    monkeypatch.setenv("LTX_PARITY_CACHE", str(cache_folder().absolute()))
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == status
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert told in shown.err
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*words, "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert answer.get("next") or answer["status"] == status


def test_without_the_reference_there_is_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LTX_PARITY_CACHE", str(cache_folder().absolute()))
    monkeypatch.setenv("LTX_REFERENCE_PYTHON", str(tmp_path / "gone" / "python"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["capture", "--steps", "2"]) == 3
    assert "make reference" in capsys.readouterr().err
    assert cli.main(["compare", "--steps", "2"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "next: make reference"


def test_ctrl_c_keeps_the_faults_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second fault is interrupted: the first stays in the certificate, and the same command goes on with the second."""
    from parity.checks.exam import Evidence

    asked: list[str] = []

    def examine(evidence: object, fault: object, *_: object) -> certify.Outcome:
        name = getattr(fault, "id", "healthy")
        asked.append(name)
        if asked.count("TIM-04") == 1 and name == "TIM-04":
            raise KeyboardInterrupt
        return certify.Outcome(name, "transformer", "gross", "pass" if name == "healthy" else "fail", found="transformer")

    monkeypatch.setattr(Evidence, "of", classmethod(lambda cls, *_: None))
    monkeypatch.setattr(certify, "examine", examine)
    words = ["certify", "--only", "TIM-01", "TIM-04", "--output", str(tmp_path / "certificate.json")]
    assert cli.main(words) == 130
    assert "what was finished is kept" in capsys.readouterr().err
    kept = json.loads((tmp_path / "certificate.json").read_text())["faults"]
    assert {row["id"] for row in kept} >= {"TIM-01"}
    assert cli.main(words) == 0
    assert asked == ["healthy", "TIM-01", "TIM-04", "TIM-04"]


def test_a_port_that_is_wrong_by_itself_cannot_be_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from parity.checks.exam import Evidence

    def examine(*_: object) -> certify.Outcome:
        return certify.Outcome("healthy", "", "none", "fail", sentence="block 0 is off")

    monkeypatch.setattr(Evidence, "of", classmethod(lambda cls, *_: None))
    monkeypatch.setattr(certify, "examine", examine)
    assert cli.main(["certify", "--output", str(tmp_path / "certificate.json")]) == 1
    assert "the port is flagged without any fault: block 0 is off" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_progress_shows_the_time_left_and_only_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """On a pseudo-terminal the bar has a count and a time; into a pipe or with --quiet there is nothing."""
    program = (
        "import time\nfrom parity.progress import counting, phase, track\n"
        "for _ in track(range(3), 'faults', {quiet}): time.sleep(0.2)\n"
        "with phase('native', {quiet}): time.sleep(0.2)\n"
        "with counting('prompts', {quiet}) as say:\n    say('pilot 1/2 p000'); time.sleep(0.4); say('pilot 2/2 p001')\n"
    )

    def told(quiet: bool) -> str:
        main, worker = pty.openpty()
        command = [sys.executable, "-c", program.format(quiet=quiet)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        subprocess.run(command, stderr=worker, stdout=subprocess.DEVNULL, env=environment, check=True, timeout=300)
        os.close(worker)
        found = b""
        with contextlib.suppress(OSError):  # a pseudo-terminal whose other end is closed ends in an error
            while part := os.read(main, 65536):
                found += part
        os.close(main)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found.decode())

    shown = told(quiet=False)
    assert re.search(r"faults.*3/3", shown)
    assert re.search(r"2/2 \d+:\d\d:\d\d|2/2 -:--:--", shown)
    assert "pilot 1/2 p000" in shown
    assert "native" in shown
    assert told(quiet=True) == ""
    piped = subprocess.run([sys.executable, "-c", program.format(quiet=False)], capture_output=True, text=True, check=True)
    assert piped.stderr == ""


def test_ctrl_c_of_a_running_comparison(tmp_path: Path) -> None:
    """A real process, stopped by a signal while it works: status 130, one line, no verdict, nothing half."""
    environment = {**os.environ, "LTX_PARITY_CACHE": str(tmp_path / "cache"), "MLX_ENABLE_TF32": "0"}
    command = [sys.executable, "-m", "parity.cli", "compare", "--steps", "2", "--output", "run"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "cache").glob("reference/.making-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the reference's process, too
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert out == ""
    assert err.count("\n") == 1
    assert "stopped" in err
    assert not list(tmp_path.rglob("verdict.json"))
    assert not list(tmp_path.glob("cache/reference/*/trace")), "half a capture was kept"
