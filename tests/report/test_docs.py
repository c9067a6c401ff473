"""Commands in the documentation are commands that exist, and links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import synthetic

from ltx_native.cli import join_text
from ltx_native.cli import parser as native_parser
from parity import plugin
from parity.bench.tables import SECTIONS
from parity.cli import VERBS, parser
from parity.gate_check import code_files

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    blocks = [block.replace("\\\n", " ") for block in blocks]
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def documented() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in commands(page)]


def test_there_are_commands_to_check() -> None:
    assert len(documented()) >= 8


@pytest.mark.parametrize(("page", "line"), documented())
def test_a_documented_command_parses(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "parity":
        parser().parse_args(words[1:])
    elif words[0] == "ltx-native":
        native_parser().parse_args(join_text(words[1:]))
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "pytest":
        known = {option for group in plugin_options() for option in group}
        for word in words[1:]:
            if word.startswith("--parity"):
                assert word.split("=")[0] in known, f"{page}: {word} is no option of the plugin"
            elif "/" in word and not word.startswith("-"):
                path = ROOT / word.split("::")[0]
                assert path.exists() or not path.is_relative_to(ROOT / "parity"), f"{page}: {word} is not there"
    elif words[0] == ".venv/bin/python":
        assert words[1] == "-m"
        assert importlib.util.find_spec(words[2]) is not None, f"{page}: there is no module {words[2]}"
        if words[2] == "parity.bench":
            assert [word for word in words[3:] if not word.startswith("-") and word not in SECTIONS] == []
    else:
        assert words[0] in ("git", ".ci/gate.sh"), f"{page}: unknown command {line!r}"


def plugin_options() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    class Group:
        def addoption(self, *names: str, **_: object) -> None:
            found.append(names)

    class Parser:
        def getgroup(self, *_: str) -> Group:
            return Group()

    plugin.pytest_addoption(Parser())  # type: ignore[arg-type]
    return found


def test_every_option_of_the_plugin_is_documented() -> None:
    text = (ROOT / "docs" / "pytest-plugin.md").read_text()
    assert {option for names in plugin_options() for option in names if f"`{option}" not in text} == set()


def test_every_verb_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert [verb for verb in VERBS if f"parity {verb}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples_in_other_languages_are_well_formed(page: Path) -> None:
    readers = {"python": ast.parse, "json": json.loads, "toml": tomllib.loads}
    for language, sample in re.findall(r"```(python|json|toml)\n(.*?)```", page.read_text(), flags=re.DOTALL):
        readers[language](sample)


def test_the_screenshot_of_the_report_is_there_and_small() -> None:
    (name,) = re.findall(r"!\[[^\]]+\]\((docs/[a-z-]+\.png)\)", (ROOT / "README.md").read_text())
    assert (ROOT / name).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / name).stat().st_size <= 300_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_the_shell_recipe_runs_what_the_workflow_runs() -> None:
    recipe = ROOT / ".ci" / "gate.sh"
    workflow = (ROOT / ".github" / "workflows" / "parity.yml").read_text()
    assert "run: .ci/gate.sh" in workflow
    assert "upload-artifact" in workflow
    assert recipe.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(recipe)], check=True)
    text = recipe.read_text()
    for line in re.findall(r"\.venv/bin/parity ([^|>)\n]*)", text):
        words = [word.replace("$output", "reports/ci").replace("$promoted", "reports/v.json") for word in shlex.split(line)]
        parser().parse_args(words)
    assert "GITHUB_STEP_SUMMARY" in text


STANDIN = """#!{python}
import pathlib, shutil, sys
words = sys.argv[1:]
assert words[:3] == ["-m", "pytest", "parity"], words
assert words[-2:] == ["--parity-modes", "one-stage"], words
folder = pathlib.Path(words[words.index("--parity-report") + 1])
for name in {kept!r}:
    shutil.copy(name, folder)
sys.exit({status})
"""


def recipe(folder: Path, run: Path, status: int) -> tuple[int, str, str]:
    """`.ci/gate.sh` in an empty repository, `make setup` and the comparison replaced; (status, output, summary)."""
    tools = {"bin/make": "#!/bin/sh\n[ $1 = setup ]\n", ".venv/bin/python": STANDIN}
    for name, text in tools.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(python=sys.executable, kept=[str(path) for path in run.glob("*.json")], status=status))
        path.chmod(0o755)
    (folder / ".venv/bin/parity").symlink_to(Path(sys.executable).with_name("parity"))
    (folder / ".ci").mkdir(exist_ok=True)
    shutil.copy(ROOT / ".ci" / "gate.sh", folder / ".ci" / "gate.sh")
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(folder / "s.md")}
    done = subprocess.run(
        [folder / ".ci/gate.sh", "--parity-modes", "one-stage"], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr, (folder / "s.md").read_text()


def run_of(folder: Path, verdict: str, native_code: str = "", files: dict[str, str] | None = None) -> Path:
    """Results and the verdict on them, as the suites leave them."""
    from ltx_native import verdict as verdicts
    from parity.gate import Judgement, write_verdict

    results = synthetic.write_run(folder, synthetic.results(2, 2, failing=2 if verdict == "fail" else 0, hostile=False), False)
    evidence = {"results": {"path": "results.json", "sha256": verdicts.file_sha256(results)}, "sites_compared": 9}
    now = verdicts.current_fingerprints("c" * 64) | ({"native_code": native_code} if native_code else {})
    write_verdict(folder / "verdict.json", Judgement(verdict), now, evidence | ({"files": files} if files else {}), None)
    return folder


@pytest.mark.parametrize(
    ("verdict", "suites", "status"), [("pass", 0, 0), ("fail", 1, 1), ("pass", 1, 1), ("inconclusive", 0, 3)]
)
def test_the_recipe_posts_the_summary_and_keeps_the_status(tmp_path: Path, verdict: str, suites: int, status: int) -> None:
    """Suites that pass are not enough: the verdict of the run must be a pass."""
    found, output, summary = recipe(tmp_path / "repo", run_of(tmp_path / "run", verdict), suites)
    assert found == status, output
    assert f"Parity: {'fail' if verdict == 'fail' else 'pass'}" in summary
    assert "No verdict is promoted: the bridge serves." in summary


def test_the_recipe_does_not_pass_without_results(tmp_path: Path) -> None:
    found, output, summary = recipe(tmp_path, tmp_path / "nothing", 0)
    assert found == 3, output
    assert "no results were written" in summary
    assert "wrote no verdict" in summary


def test_the_recipe_holds_the_promoted_verdict_to_the_code(tmp_path: Path) -> None:
    """A promoted verdict of other native code fails the job although the comparison passes, and the files are named."""
    promoted = run_of(
        tmp_path / "repo" / "reports" / "promoted", "pass", "0" * 64, code_files() | {"ltx_native/gone.py": "0" * 64}
    )
    assert promoted.is_dir()
    found, output, summary = recipe(tmp_path / "repo", run_of(tmp_path / "run", "pass"), 0)
    assert found == 1, output
    assert "ltx_native/gone.py (removed)" in summary
    assert "### Promoted verdict" in summary
