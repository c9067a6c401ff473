"""Processes of the other sides that answer requests: the official model's parts, the external CLI's transformer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import ltx_native
from parity.capture.reference import ReferenceUnavailable, reference_python
from parity.folders import ROOT
from reference_bridge.adapters.ltx_2_mlx.interpreter import find_interpreter

START_S: Final = 300.0
ANSWER_S: Final = 3600.0


class Service:
    """A process that answers one JSON line with another until the block ends. ``peak_bytes`` is its resident peak so far.

    Raises ReferenceUnavailable when it does not start, stops, or answers with an error; ``what`` names it there.
    """

    def __init__(self, what: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.what = what
        self._command, self._extra = list(command), dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self.peak_bytes = 0

    def __enter__(self) -> Service:
        self._errors = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **self._extra}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        try:
            self.answer(START_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        self.send(do, **request)
        return self.answer()

    def send(self, do: str, **request: Any) -> None:
        """Send one request; its answer is fetched later, so that this process can compute meanwhile."""
        assert self._process is not None
        assert self._process.stdin is not None
        line = json.dumps({"do": do, **{name: _plain(value) for name, value in request.items()}})
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self, limit_s: float = ANSWER_S) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit_s)[0]:
            raise ReferenceUnavailable(f"{self.what} gave no answer within {limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise ReferenceUnavailable(f"{self.what} answered with an error: {found['error']}")
        self.peak_bytes = max(self.peak_bytes, int(found.get("peak_bytes", 0)))
        return found

    def _ended(self) -> ReferenceUnavailable:
        assert self._process is not None
        assert self._errors is not None
        status = self._process.wait(timeout=60)
        self._errors.seek(0)
        tail = "\n".join(self._errors.read().strip().splitlines()[-8:])
        return ReferenceUnavailable(f"{self.what} stopped with status {status}: {tail}")

    def _stop(self) -> None:
        if self._process is not None:
            shut_down(self._process)
        if self._errors is not None:
            self._errors.close()


def shut_down(process: subprocess.Popen[str]) -> None:
    """End a process that works until its input ends: close its pipes, wait, and kill it when it does not go by itself."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else value


def official(verb: str, arguments: Sequence[str]) -> Service:
    """A verb of `reference_bridge.adapters.official_parts` in the reference's environment."""
    command = [str(reference_python()), "-m", "reference_bridge.adapters.official_parts", verb, *arguments]
    return Service("the official code", command)


def external_cli(script: Path, config: Path) -> Service:
    """The transformer of an installed `ltx-2-mlx`, with OpenBLAS put before the slow BLAS of MLX's Linux build."""
    python = find_interpreter(script)
    if python is None:
        raise ReferenceUnavailable(f"no Python behind {script}; LTX2_MLX_BIN must name the console script of ltx-2-mlx")
    command = [str(python), "-m", "reference_bridge.adapters.ltx_2_mlx.steps", f"--config={config}"]
    return Service("the external CLI", command, same_blas())


def same_blas() -> dict[str, str]:
    """What makes another program with MLX bind the BLAS that native has bound."""
    blas = ltx_native.PRELOADED_BLAS
    return {"LD_PRELOAD": blas} if blas else {}
