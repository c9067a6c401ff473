"""Ask an installed `ltx-2-mlx` what it is: does it run, which version, which options. Kept until one of its files changes."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_bridge.adapters.ltx_2_mlx.interpreter import find_interpreter
from reference_bridge.surface import Help, Surface, parse_help, parse_version, surface

SUBCOMMANDS = ("generate", "a2v", "retake", "extend")
_SCHEMA = 1
_TIMEOUT_S = 180.0  # a cold import of MLX on a slow disk
_METADATA = """
import importlib.metadata as m, importlib.util as u, json
out = {"version": None, "files": []}
for name in ("ltx-pipelines-mlx", "ltx-2-mlx"):
    try:
        found = m.distribution(name)
    except m.PackageNotFoundError:
        continue
    out["version"] = found.version
    path = getattr(found, "_path", None)
    out["files"] += [str(path / "METADATA")] if path else []
    break
spec = u.find_spec("ltx_pipelines_mlx")
out["package"] = list(spec.submodule_search_locations)[0] if spec and spec.submodule_search_locations else None
print(json.dumps(out))
"""


@dataclass(frozen=True)
class Survey:
    """What an installed copy said about itself. `problem` is set when it cannot be used at all."""

    binary: Path
    interpreter: Path | None
    version: str | None
    version_source: str
    helps: Mapping[str, Help | str]
    saves_with_frame_rate: bool | None
    problem: str | None
    watched: Mapping[str, tuple[int, int]]

    def surface(self) -> Surface:
        return surface(self.version, self.helps, self.saves_with_frame_rate)


def survey(binary: Path, env: Mapping[str, str], cache_dir: Path | None) -> Survey:
    """The survey of a copy, from the cache when neither the script nor its package changed since."""
    store = cache_dir / f"{_fingerprint(binary)}.json" if cache_dir else None
    if store:
        cached = _read(store)
        if cached and all(_stamp(path) == stamp for path, stamp in cached.watched.items()):
            return cached
    result = _ask(binary, env)
    if store and result.problem is None:  # a copy that cannot run may be repaired without any file of it changing
        _write(store, result)
    return result


def _ask(binary: Path, env: Mapping[str, str]) -> Survey:
    env = {**env, "COLUMNS": "4000", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    interpreter = find_interpreter(binary, env.get("PATH"))
    watched = [str(binary), os.path.realpath(binary)]
    version, source, package = None, "unknown", None
    problem = None
    code, out, err = _run([str(binary), "--help"], env)
    if code != 0:
        problem = f"`--help` failed: {_last_line(err) or _last_line(out) or f'exit status {code}'}"
    elif "generate" not in out:
        problem = "`--help` does not name the subcommand `generate`: not the expected program"
    if problem is None:
        code, out, _ = _run([str(binary), "--version"], env)
        if code == 0 and parse_version(out):
            version, source = out.strip().split()[-1].lstrip("v"), "--version"
        if interpreter is not None:
            code, out, _ = _run([str(interpreter), "-I", "-c", _METADATA], env)
            if code == 0:
                found: dict[str, Any] = json.loads(out)
                package = found["package"]
                watched += [str(interpreter), *found["files"], *([f"{package}/cli.py"] if package else [])]
                if version is None and found["version"]:
                    version, source = found["version"], "package metadata"
    helps: dict[str, Help | str] = {}
    if problem is None:
        with ThreadPoolExecutor(2) as pool:
            helps = dict(zip(SUBCOMMANDS, pool.map(lambda name: _help(binary, name, env), SUBCOMMANDS), strict=True))
    return Survey(
        binary=binary,
        interpreter=interpreter,
        version=version,
        version_source=source,
        helps=helps,
        saves_with_frame_rate=_saves_with_frame_rate(package),
        problem=problem,
        watched={path: stamp for path in watched if (stamp := _stamp(path))},
    )


def _help(binary: Path, subcommand: str, env: Mapping[str, str]) -> Help | str:
    code, out, err = _run([str(binary), subcommand, "--help"], env)
    if code != 0:
        return _last_line(err) or f"exit status {code}"
    try:
        return parse_help(out)
    except ValueError as error:
        return str(error)


def _saves_with_frame_rate(package: str | None) -> bool | None:
    """Whether cli.py hands the frame rate to the call that saves a retake, which 0.14.0 to 0.14.19 forget."""
    if not package:
        return None
    try:
        tree = ast.parse((Path(package) / "cli.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_decode_and_save_video"
    ]
    if not calls:
        return None
    return all(len(call.args) > 3 or any(word.arg in ("frame_rate", None) for word in call.keywords) for call in calls)


def _run(argv: list[str], env: Mapping[str, str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            argv, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"no answer within {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return 127, "", f"cannot be started: {error.strerror or error}"
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _fingerprint(binary: Path) -> str:
    real = os.path.realpath(binary)
    digest = hashlib.sha256(f"{_SCHEMA}\0{binary}\0{real}\0".encode())
    with contextlib.suppress(OSError):
        digest.update(Path(real).read_bytes()[: 1 << 20])
    return digest.hexdigest()[:32]


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _read(store: Path) -> Survey | None:
    try:
        data = json.loads(store.read_text(encoding="utf-8"))
        return Survey(
            binary=Path(data["binary"]),
            interpreter=Path(data["interpreter"]) if data["interpreter"] else None,
            version=data["version"],
            version_source=data["version_source"],
            helps={
                name: found if isinstance(found, str) else Help(frozenset(found["options"]), frozenset(found["required"]))
                for name, found in data["helps"].items()
            },
            saves_with_frame_rate=data["saves_with_frame_rate"],
            problem=None,
            watched={path: (stamp[0], stamp[1]) for path, stamp in data["watched"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _write(store: Path, found: Survey) -> None:
    data = {
        "binary": str(found.binary),
        "interpreter": str(found.interpreter) if found.interpreter else None,
        "version": found.version,
        "version_source": found.version_source,
        "helps": {
            name: entry if isinstance(entry, str) else {"options": sorted(entry.options), "required": sorted(entry.required)}
            for name, entry in found.helps.items()
        },
        "saves_with_frame_rate": found.saves_with_frame_rate,
        "watched": {path: list(stamp) for path, stamp in found.watched.items()},
    }
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=store.parent, prefix=".survey-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        os.replace(name, store)
