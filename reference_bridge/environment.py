"""Find what can run: the external CLI (LTX2_MLX_BIN, PATH, uv tools, clones with a venv) and the official code's Python."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference_bridge.errors import NotInstalled
from reference_bridge.survey import Survey, survey

CLI = "ltx-2-mlx"
ROOT = Path(__file__).resolve().parent.parent
INSTALL_HINT = (
    "Install the companion Python port with `uv sync --all-extras` in a clone of https://github.com/dgrauet/ltx-2-mlx "
    "and add its .venv/bin to PATH, or set LTX2_MLX_BIN to its ltx-2-mlx."
)
OFFICIAL_HINT = (
    "Set the official code up with `make reference`, or set LTX_REFERENCE_PYTHON to a Python that has ltx-pipelines."
)


@dataclass(frozen=True)
class Discovery:
    """The first copy that runs, and those before it that were found and do not."""

    chosen: Survey | None
    rejected: tuple[tuple[Path, str], ...]

    def require(self) -> Survey:
        if self.chosen is None:
            found = "no copy of it that runs" if self.rejected else "it is not installed"
            raise NotInstalled(f"ltx-2-mlx cannot be used: {found}", self.rejected, INSTALL_HINT)
        return self.chosen


def find_cli(env: Mapping[str, str], cache_dir: Path | None = None) -> Discovery:
    """The external CLI to use. LTX2_MLX_BIN is an order: when it does not run, no other copy is looked for."""
    rejected: list[tuple[Path, str]] = []
    for candidate in _candidates(env):
        problem = _unusable(candidate)
        if problem is None:
            found = survey(candidate, env, cache_dir)
            problem = found.problem
            if problem is None:
                return Discovery(found, tuple(rejected))
        rejected.append((candidate, problem))
    return Discovery(None, tuple(rejected))


def _candidates(env: Mapping[str, str]) -> Iterator[Path]:
    """Every copy that exists, once, best first."""
    if env.get("LTX2_MLX_BIN"):
        yield Path(env["LTX2_MLX_BIN"]).expanduser()
        return
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    folders = [Path(part) for part in (env.get("PATH") or "").split(os.pathsep) if part]
    if env.get("VIRTUAL_ENV"):
        folders.append(Path(env["VIRTUAL_ENV"]) / "bin")
    folders += [Path(env[name]) for name in ("UV_TOOL_BIN_DIR", "XDG_BIN_HOME") if env.get(name)]
    data = Path(env.get("XDG_DATA_HOME") or home / ".local/share")
    folders += [home / ".local/bin", Path(env.get("UV_TOOL_DIR") or data / "uv/tools") / CLI / "bin"]
    clones = [Path(env["LTX2_MLX_HOME"]).expanduser()] if env.get("LTX2_MLX_HOME") else []
    clones += [base / CLI for base in (Path.cwd(), ROOT, Path.cwd().parent, ROOT.parent, home)]
    folders += [clone / ".venv/bin" for clone in clones]
    seen = set()
    for folder in folders:
        candidate = folder / CLI
        # A broken link counts: it is a copy that cannot run, and the user wants to know.
        if os.path.lexists(candidate) and not candidate.is_dir():
            real = os.path.realpath(candidate)
            if real not in seen:
                seen.add(real)
                yield candidate


def _unusable(candidate: Path) -> str | None:
    if not candidate.exists():
        return "a link to a file that is gone" if candidate.is_symlink() else "no such file"
    if candidate.is_dir():
        return "it is a folder"
    return None if os.access(candidate, os.X_OK) else "it is not executable"


def find_official_python(env: Mapping[str, str]) -> Path | None:
    """The Python of the official code's own environment, when one is set up."""
    named = env.get("LTX_REFERENCE_PYTHON")
    candidates = [Path(named)] if named else [base / ".venv-reference/bin/python" for base in (ROOT, Path.cwd())]
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def cache_dir(env: Mapping[str, str]) -> Path:
    """Where surveys and logs are kept: LTX_BRIDGE_CACHE, else the user's cache folder."""
    if env.get("LTX_BRIDGE_CACHE"):
        return Path(env["LTX_BRIDGE_CACHE"])
    base = env.get("XDG_CACHE_HOME") or (env.get("HOME") and os.path.join(env["HOME"], ".cache"))
    return Path(base or tempfile.gettempdir()) / "ltx-parity"
