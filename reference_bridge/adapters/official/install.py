"""Make the official packages' environment: `python -m reference_bridge.adapters.official.install --venv .venv-reference`.

Can be interrupted and run again at any point. A finished environment is recognised by its stamp and left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
STAMP = "reference-stamp.json"
MINIMUM = (3, 11)
PROBE = """
import sys, sentencepiece, google.protobuf, torch, torchaudio, transformers
import ltx_pipelines.ti2vid_one_stage
print(sys.version.split()[0], torch.__version__)
"""


class InstallError(Exception):
    """A step that failed, with what it said."""


def wanted_stamp() -> dict[str, str]:
    """What a finished environment's stamp says: the requirements, and how they were installed."""
    return {
        "requirements": hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest(),
        "install": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_finished(venv: Path) -> bool:
    """Whether this very environment was made by this very recipe."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = wanted_stamp()
    return python_of(venv).exists() and {key: stamp.get(key) for key in wanted} == wanted


def install(venv: Path, base: str) -> str:
    """Create or complete the environment and return the versions it ended up with. Raises `InstallError`."""
    (venv / STAMP).unlink(missing_ok=True)
    existed = _runs(python_of(venv))
    try:
        versions, removed = _complete(venv, base, fresh=not existed)
    except InstallError:
        if not existed:
            raise
        # An earlier run may have died in the middle of a package that pip now takes for whole.
        versions, removed = _complete(venv, base, fresh=True)
    stamp = {**wanted_stamp(), "versions": versions, "removed": removed}
    partial = venv / f"{STAMP}.partial"
    partial.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(partial, venv / STAMP)
    return versions


def _complete(venv: Path, base: str, fresh: bool) -> tuple[str, list[str]]:
    if fresh:
        _step("create the environment", [base, "-m", "venv", "--clear", str(venv)])
    pip = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    _step("install the packages", [*pip, "--requirement", str(REQUIREMENTS)])
    removed = remove_torchaudio_extension(venv)
    return _step("import the packages", [str(python_of(venv)), "-c", PROBE]).strip(), removed


def remove_torchaudio_extension(venv: Path) -> list[str]:
    """Remove torchaudio's compiled extension: it is built against CUDA and fails to load without it.

    What ltx-core uses of torchaudio (mel spectrogram, resampling) is pure PyTorch.
    """
    found = sorted(venv.glob("**/site-packages/torchaudio/lib/_torchaudio*.so"))
    for path in found:
        path.unlink()
    return [path.name for path in found]


def _runs(python: Path) -> bool:
    if not python.exists():
        return False
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def _step(what: str, command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallError(f"could not {what}: {error}") from error
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise InstallError(f"could not {what} (status {done.returncode}):\n{said}")
    return done.stdout


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--venv", type=Path, required=True, help="where the environment is or shall be")
    parser.add_argument("--python", default=sys.executable, help="the Python that makes it (3.11 or newer)")
    parser.add_argument("--force", action="store_true", help="install again although it is finished")
    args = parser.parse_args(argv)
    venv = args.venv.absolute()
    if is_finished(venv) and not args.force:
        print(f"reference environment: ready ({args.venv})")
        return 0
    if sys.version_info < MINIMUM:
        found = ".".join(map(str, sys.version_info[:3]))
        print(f"error: Python {found} is too old for the reference; run this with 3.11 or newer.", file=sys.stderr)
        return 2
    started = time.monotonic()
    print(f"reference environment: installing into {args.venv} (about 1.5 GB) ...", flush=True)
    try:
        versions = install(venv, args.python)
    except InstallError as error:
        print(f"error: {error}\nRun the same command again to resume.", file=sys.stderr)
        return 1
    print(f"reference environment: ready in {time.monotonic() - started:.0f} s (Python and torch {versions})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
