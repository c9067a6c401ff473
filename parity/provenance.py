"""What was in force when a number was measured: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from parity.folders import ROOT

_PACKAGES = ("mlx", "mlx-cpu", "numpy", "scipy", "safetensors", "tokenizers", "av")


def commit() -> str | None:
    """The checkout's commit, with `+changes` when tracked files differ from it; None outside a checkout."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def changed_since(base: str, folder: str) -> list[str]:
    """Files below a folder that differ between a commit and the working tree."""
    return (_git("diff", "--name-only", base.removesuffix("+changes"), "--", folder) or "").splitlines()


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Machine and software of this process, without names of hosts or folders."""
    return {
        "commit": commit(),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "tf32": os.environ.get("MLX_ENABLE_TF32", "default"),
    }
