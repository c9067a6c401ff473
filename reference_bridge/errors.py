"""What can go wrong between a request and its video, each with what to do next.

`exit_status` is what a command line should return: 2 for a request that cannot be served as asked, 1 for a run that failed,
130 for one that was cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class BridgeError(Exception):
    """Base of every error of the bridge."""

    exit_status = 1


class JobError(BridgeError, ValueError):
    """A field of the request is wrong before anything was started."""

    exit_status = 2

    def __init__(self, what: str, field: str, value: object, expected: str, next_step: str) -> None:
        self.what, self.field, self.value, self.expected, self.next_step = what, field, value, expected, next_step
        super().__init__(what, field, value, expected, next_step)

    def __str__(self) -> str:
        return f"{self.what} ({self.field}): found {self.value!r}, expected {self.expected}. {self.next_step.rstrip('.')}."


class UnsupportedMode(BridgeError):
    """The installed reference cannot do this mode, or cannot do it with this value of the request."""

    exit_status = 2

    def __init__(self, mode: str, backend: str, reason: str) -> None:
        self.mode, self.backend, self.reason = mode, backend, reason
        super().__init__(mode, backend, reason)

    def __str__(self) -> str:
        return f"mode `{self.mode}` is not supported by backend `{self.backend}`: {self.reason}"


class NotInstalled(BridgeError):
    """No reference that runs was found; copies that were found but do not run are listed with the reason."""

    exit_status = 2

    def __init__(self, what: str, rejected: Sequence[tuple[Path, str]], hint: str) -> None:
        self.what, self.rejected, self.hint = what, tuple(rejected), hint
        super().__init__(what, self.rejected, hint)

    def __str__(self) -> str:
        lines = [self.what, *(f"  not used: {path}: {reason}" for path, reason in self.rejected), self.hint]
        return "\n".join(lines)


class SpawnError(BridgeError):
    """The reference's process could not be started at all."""

    def __init__(self, binary: str, reason: str, hint: str) -> None:
        self.binary, self.reason, self.hint = binary, reason, hint
        super().__init__(binary, reason, hint)

    def __str__(self) -> str:
        return f"failed to spawn `{self.binary}`: {self.reason}. {self.hint}"


class RunError(BridgeError):
    """The reference's process ran and did not leave a video. Carries the last output and the path of the whole log."""

    def __init__(self, what: str, *, stderr: str = "", stdout: str = "", log_path: Path | None = None) -> None:
        self.what, self.stderr, self.stdout, self.log_path = what, stderr, stdout, log_path
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.what}: stderr={self.stderr.strip() or '(empty)'} stdout={self.stdout.strip() or '(empty)'}"
        return f"{text}\nThe whole output is in {self.log_path}." if self.log_path else text


class ExitError(RunError):
    """The process ended with a status other than 0; a negative `returncode` is the signal that killed it."""

    def __init__(self, name: str, returncode: int, *, reason: str = "", **tails: object) -> None:
        self.returncode = returncode
        ended = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with status {returncode}"
        super().__init__(f"{name} {ended}{f' ({reason})' if reason else ''}", **tails)  # type: ignore[arg-type]


class RunTimeout(RunError):
    """The process ran past its time limit and was killed with all its children."""


class OutputError(RunError):
    """The process ended with status 0 but the file it left is no readable mp4."""


class Cancelled(BridgeError, KeyboardInterrupt):
    """The run was cancelled (a signal or the caller); the process and its children are gone, and so is the partial file.

    It is a KeyboardInterrupt too, so code that gives way to Ctrl-C still does."""

    exit_status = 130
