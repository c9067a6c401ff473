"""Keeps large CPU buffers in the process: glibc would map and unmap each one, and their page faults cost more than the work.

MLX's CPU backend allocates every result with malloc; above 128 KiB each one would be fresh pages from the kernel (element
by element operations on 24 MB take about a third of the time without that).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LIMIT = 1 << 30  # bytes: larger buffers, and more free memory than this, still go back to the system


def keep_buffers() -> bool:
    """True where the C library took the setting (glibc), False elsewhere."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LIMIT)) and bool(mallopt(_M_TRIM_THRESHOLD, _LIMIT))
