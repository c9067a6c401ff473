"""What is in force on this machine: BLAS, MLX, device, TF32, media libraries, and the references at hand."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
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
        "blas": {"preloaded": ltx_native.PRELOADED_BLAS or "none", "in force": ", ".join(_loaded_blas()) or _blas_note()},
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


def _loaded_blas() -> list[str]:
    """Names of the BLAS libraries mapped into this process, in load order (Linux)."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = [line.rsplit("/", 1)[-1].strip() for line in maps if "blas" in line.rsplit("/", 1)[-1].lower()]
    except OSError:
        return []
    return sorted(dict.fromkeys(paths), key=lambda name: ("openblas" not in name, name))


def _blas_note() -> str:
    return "Accelerate" if sys.platform == "darwin" else "unknown"


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
