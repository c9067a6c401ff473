"""Run one command to its end, with its output in a log, a time limit, and nothing left behind however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TAIL_BYTES = 8192
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass(frozen=True)
class Completed:
    """How a command ended. `why` is `exit`, `timeout`, `cancelled` or `spawn` (never started; the reason is in `stderr`).

    `returncode` is negative for a signal. `stdout` and `stderr` are the last TAIL_BYTES of each."""

    why: str
    returncode: int
    stdout: str
    stderr: str
    seconds: float
    log_complete: bool


class _Sink:
    """The log file, shared by the two reader threads; a full disk must not stop the run that is being logged."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self.complete = True
        try:
            self._file = path.open("ab") if path else None
        except OSError:
            self.complete = False

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(data)
                self._file.flush()
            except OSError:
                self.complete = False
                self._file = None

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file:
                self._file.close()


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    scratch: Path,
    log_path: Path | None = None,
    timeout_s: float | None = None,
    grace_s: float = 5.0,
    cancel: threading.Event | None = None,
    on_output: Callable[[str, str], None] | None = None,
) -> Completed:
    """Run `argv` and wait. On timeout, `cancel`, Ctrl-C or the death of this process the whole family of the command is ended.

    `scratch` is a folder that is removed when this process dies first. `on_output(stream, text)` is called from reader threads
    as output comes. Ctrl-C (KeyboardInterrupt) is reported as `cancelled`, after everything is gone.
    """
    control_r, control_w = os.pipe()
    status_r, status_w = os.pipe()
    started = time.monotonic()
    command = [sys.executable, "-I", "-S", str(_SUPERVISOR)]
    command += [str(control_r), str(status_w), str(grace_s), str(scratch), "--", *argv]
    supervisor = subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(control_r, status_w),
        start_new_session=True,
    )
    os.close(control_r)
    os.close(status_w)
    sink = _Sink(log_path)
    tails: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    readers = [
        threading.Thread(target=_drain, args=(name, stream, tails[name], sink, on_output), daemon=True)
        for name, stream in (("stdout", supervisor.stdout), ("stderr", supervisor.stderr))
    ]
    try:
        for reader in readers:
            reader.start()
        why = _wait(supervisor, control_w, None if timeout_s is None else started + timeout_s, cancel)
    finally:
        os.close(control_w)  # whatever ended the wait, nobody holds the command any more
    said = _read_status(status_r)
    pid = said.get("pid")
    if "returncode" not in said and isinstance(pid, int):
        # The supervisor itself was killed: its child got SIGKILL from the kernel, the rest of its group gets it from here.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for reader in readers:
        reader.join(5.0)
    sink.close()
    text = {name: bytes(tail[-TAIL_BYTES:]).decode("utf-8", "replace") for name, tail in tails.items()}
    if "spawn_error" in said:
        why, text["stderr"] = "spawn", str(said["spawn_error"])
    returncode = said.get("returncode", -signal.SIGKILL)
    return Completed(
        why=why,
        returncode=returncode if isinstance(returncode, int) else -signal.SIGKILL,
        stdout=text["stdout"],
        stderr=text["stderr"],
        seconds=time.monotonic() - started,
        log_complete=sink.complete,
    )


def _wait(supervisor: subprocess.Popen[bytes], control: int, deadline: float | None, cancel: threading.Event | None) -> str:
    """Until the supervisor has ended the command and itself. A second Ctrl-C does not wait for the grace time."""
    why, interrupts = "exit", 0
    while supervisor.poll() is None:
        try:
            if why == "exit":
                if cancel is not None and cancel.is_set():
                    why = "cancelled"
                elif deadline is not None and time.monotonic() >= deadline:
                    why = "timeout"
                if why != "exit":
                    _order(control, b"T")
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(0.05)
        except KeyboardInterrupt:
            why, interrupts = "cancelled", interrupts + 1
            _order(control, b"T" if interrupts == 1 else b"K")
    return why


def _order(control: int, what: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(control, what)


def _drain(
    name: str, stream: BinaryIO | None, tail: bytearray, sink: _Sink, on_output: Callable[[str, str], None] | None
) -> None:
    assert stream is not None
    with stream:
        while data := os.read(stream.fileno(), 65536):
            sink.write(data)
            tail += data
            del tail[: -2 * TAIL_BYTES]
            if on_output is not None:
                on_output(name, data.decode("utf-8", "replace"))


def _read_status(status: int) -> dict[str, object]:
    said: dict[str, object] = {}
    with os.fdopen(status, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                said.update(json.loads(line))
    return said
