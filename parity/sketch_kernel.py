"""Sketches of float32 tensors by a compiled loop: the sums of `probe_sketch.sketch`, bit for bit, at the speed of memory.

NumPy goes over a tensor five times, in double precision; recording every module of a step that way takes a tenth of its time.
The loop is made once by the system's C compiler, where there is one, as MLX's own kernels are; elsewhere NumPy does the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.folders import cache_folder
from reference_bridge.probe_sketch import PIECE, SKETCH_SUMS, Sketch, merge, signs, sketch

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-shared", "-fPIC", f"-DSUMS={SKETCH_SUMS}")
_KEPT_PIECES = 8  # of 4 MB: signs of what lies beyond are made each time
_WIDTH = SKETCH_SUMS * np.dtype(np.float64).itemsize


def fast_sketch(values: npt.NDArray[Any]) -> Sketch:
    """The sketch of a flat array that begins a tensor: `probe_sketch.sketch(values)`, but for the order of the energy's sum."""
    kernel = library()
    if kernel is None or values.dtype != np.float32 or not values.flags.c_contiguous:
        return sketch(values)
    total = None
    for begin in range(0, values.size, PIECE):
        both = np.zeros((2, SKETCH_SUMS))
        count, at = min(PIECE, values.size - begin), both.ctypes.data
        signed = _signs(begin)  # held while the loop reads it
        kernel(values.ctypes.data + begin * values.itemsize, signed.ctypes.data, count, at, at + _WIDTH)
        energy = float(both[1].sum())
        if not np.isfinite(energy):  # NumPy leaves out what is not finite, and counts it
            return sketch(values)
        piece = Sketch(both[0], energy, count)
        total = piece if total is None else merge(total, piece)
    return sketch(values) if total is None else total


def _signs(begin: int) -> npt.NDArray[np.float32]:
    return _kept_signs(begin) if begin < _KEPT_PIECES * PIECE else _made_signs(begin)


def _made_signs(begin: int) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = signs(begin, PIECE).astype(np.float32)
    return made


_kept_signs = cache(_made_signs)


@cache
def library() -> Any:
    """The compiled loop, or None where it cannot be made (no compiler, or a folder that cannot be written)."""
    name = hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, platform.machine())).encode()).hexdigest()[:16]
    path = cache_folder() / "kernels" / f"sketch-{name}.so"
    try:
        if not path.is_file():
            _compile(path)
        kernel = ctypes.CDLL(str(path)).sketch_rows
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
    kernel.restype = None
    return kernel


def _compile(path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, timeout=60)
        made.replace(path)
