"""Files that are whole or not there: written under another name, flushed, renamed, readable as the umask says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Write under a temporary name, flush to disk, then rename: readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    try:
        write(str(partial))
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The same for a text in UTF-8."""
    write_whole(path, lambda partial: Path(partial).write_text(text, encoding="utf-8"))
