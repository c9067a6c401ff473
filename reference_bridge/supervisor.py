"""Stands between the bridge and the reference's process, so that neither can leave the other's children behind.

Run as a file by a bare Python: `supervisor.py CONTROL_FD STATUS_FD GRACE_S SCRATCH -- PROGRAM ARG…`. It starts PROGRAM in a
session of its own and waits. The bridge holds the other end of CONTROL_FD: `T` asks to stop (SIGTERM, then SIGKILL after
GRACE_S), `K` kills at once, the end of the pipe means that the bridge is gone, however it died; then SCRATCH, a folder, is
removed too.
What happened is written to STATUS_FD as one JSON object a line: {"pid": n}, {"spawn_error": text}, {"returncode": n}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> int:
    control, status, grace, scratch = int(argv[0]), int(argv[1]), float(argv[2]), argv[3]
    prctl = _prctl()
    if prctl:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of PROGRAM become ours, whatever session they moved to
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # ours to end is the bridge's business, through the control pipe
    parent = os.getpid()

    def prepare() -> None:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # we died between the fork and the line above
                os._exit(1)

    try:
        child = subprocess.Popen(argv[5:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _say(status, {"spawn_error": getattr(error, "strerror", None) or str(error)})
        return 0
    _say(status, {"pid": child.pid})
    for stream in (1, 2):  # the pipes belong to PROGRAM alone: their end means that it, and not we, closed them
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), stream)
    bridge_gone = _wait(child, control, wake, grace)
    _end(child.pid, signal.SIGKILL)
    _reap_descendants()
    if bridge_gone:
        shutil.rmtree(scratch, ignore_errors=True)
    _say(status, {"returncode": child.returncode})
    return 0


def _wait(child: subprocess.Popen[bytes], control: int, wake: int, grace: float) -> bool:
    """Until the child ends. Returns whether the bridge is gone."""
    deadline: float | None = None
    watched, bridge_gone = [control, wake], False
    while child.poll() is None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left)
        if wake in ready:
            os.read(wake, 4096)
        if control in ready:
            order = os.read(control, 1)
            if not order:
                bridge_gone = True
                watched = [wake]
            if order == b"K":
                deadline = time.monotonic()
            elif deadline is None:
                _end(child.pid, signal.SIGTERM)
                deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() >= deadline:
            _end(child.pid, signal.SIGKILL)
            deadline = time.monotonic() + 1.0
    if not bridge_gone and control in select.select([control], [], [], 0)[0]:
        bridge_gone = not os.read(control, 1)
    return bridge_gone


def _reap_descendants() -> None:
    """Kill what PROGRAM left: as subreaper, its orphans are our children, also those that left its session."""
    path = f"/proc/self/task/{os.getpid()}/children"
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        try:
            with open(path, encoding="ascii") as file:
                left = [int(word) for word in file.read().split()]
        except OSError:
            return
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _end(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, how)


def _prctl() -> ctypes._FuncPointer | None:
    return ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def _say(status: int, what: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(status, (json.dumps(what) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
