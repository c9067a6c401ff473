"""One line on standard error that says how far a generation is; silent where nobody reads it."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO


class Bar:
    def __init__(self, stream: TextIO, enabled: bool = True) -> None:
        self.stream = stream
        self.enabled = enabled and stream.isatty()
        self.started = time.monotonic()
        self._shown = 0

    def update(self, what: str, done: int, total: int) -> None:
        """``what`` is going on, ``done`` of ``total`` (0: not counted)."""
        if not self.enabled:
            return
        count = f" {done}/{total}" if total else ""
        line = f"{what}{count}  {time.monotonic() - self.started:.1f} s"
        self.stream.write("\r" + line.ljust(self._shown))
        self.stream.flush()
        self._shown = len(line)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.enabled and self._shown:
            self.stream.write("\r" + " " * self._shown + "\r")
            self.stream.flush()
