"""What is in force on this machine: BLAS, MLX, device, TF32, media libraries, and the references at hand."""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import ltx_native
from ltx_native import verdict as verdicts


def examine() -> dict[str, Any]:
    """Everything by section; what cannot be found out says why instead."""
    return {
        "ltx_native": {"version": ltx_native.__version__, "code": verdicts.native_code_fingerprint()[:12]},
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "default"),
            "python": platform.python_version(),
        },
        "mlx": _mlx(),
        "blas": _blas(),
        "media": {**_versions("av", "pillow"), "ffmpeg": _first_line("ffmpeg", "-version")},
        "packages": _versions("numpy", "scipy", "safetensors", "tokenizers", "huggingface_hub"),
        "verdict": _verdict(),
        "references": _references(),
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    width = max(len(name) for section in found.values() for name in section)
    lines = []
    for title, section in found.items():
        lines.append(title)
        lines += [f"  {name.ljust(width)}  {value}" for name, value in section.items()]
    return "\n".join(lines)


def to_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=1)


def _mlx() -> dict[str, Any]:
    try:
        import mlx.core as mx
    except ImportError as error:
        return {"version": f"cannot be imported: {error}"}
    metal = mx.metal.is_available()
    tf32 = os.environ.get("MLX_ENABLE_TF32")
    return {
        "version": verdicts.mlx_version(),
        "device": str(mx.default_device()),
        "metal": "available" if metal else "not available",
        # The variable is read at the first matrix product of the process; it matters on M5 and CUDA GPUs only.
        "TF32": {"0": "off (MLX_ENABLE_TF32=0)", None: "the device's default"}.get(tf32, f"MLX_ENABLE_TF32={tf32}"),
        "float32 matmul error": _matmul_error(),
        "compiler": _first_line("g++", "--version") if not metal else "Metal",
    }


def _matmul_error() -> str:
    """Relative error of a float32 product: about 3e-7 in full precision, about 8e-4 under TF32."""
    import mlx.core as mx
    import numpy as np

    a, b = (np.random.default_rng(seed).standard_normal((256, 256)).astype(np.float32) for seed in (0, 1))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = np.linalg.norm(np.array(mx.array(a) @ mx.array(b)) - exact) / np.linalg.norm(exact)
    return f"{error:.1e}"


def _blas() -> dict[str, str]:
    """Which library answers MLX's matrix products, and how fast one is."""
    if sys.platform == "darwin":
        return {"in force": "Accelerate", "float32 matmul": _gflops()}
    preloaded = ltx_native.PRELOADED_BLAS
    # Whoever is first in the process's global scope answers; without a preload it is the copy in MLX's own wheel.
    owner = _owner("cblas_sgemm") or "MLX's own reference BLAS (slow; install libopenblas0)"
    return {"preloaded": preloaded or "none", "in force": owner, "float32 matmul": _gflops()}


class _Symbol(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _owner(symbol: str) -> str | None:
    """File name of the library that the process's global scope gives a C symbol from."""
    try:
        program = ctypes.CDLL(None)
        found = _Symbol()
        if not program.dladdr(ctypes.cast(getattr(program, symbol), ctypes.c_void_p), ctypes.byref(found)):
            return None
    except (AttributeError, OSError):
        return None
    return os.path.basename(os.path.realpath(found.file.decode())) if found.file else None


def _gflops() -> str:
    """Speed of a float32 product of 512 x 512 matrices, the best of five."""
    try:
        import mlx.core as mx
    except ImportError:
        return "unknown"
    a = mx.random.normal((512, 512))
    mx.eval(a, a @ a)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - started)
    return f"{2 * 512**3 / best / 1e9:.0f} GFLOP/s"


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    return (done.stdout or done.stderr).strip().split("\n")[0]


def _verdict() -> dict[str, str]:
    found = verdicts.load_verdict()
    state = found.problem or found.verdict
    return {"file": str(found.path), "state": state, "policy": verdicts.policy_fingerprint()[:12]}


def _references() -> dict[str, str]:
    from ltx_native.dispatch import describe_bridge, reference_versions

    return {"bridge": describe_bridge(), **reference_versions()}
