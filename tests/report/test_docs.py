"""Commands in the documentation are commands that exist, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from ltx_native.cli import join_text
from ltx_native.cli import parser as native_parser
from parity.cli import parser

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
    else:
        assert words[0] in ("pytest", "git"), f"{page}: unknown command {line!r}"


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
