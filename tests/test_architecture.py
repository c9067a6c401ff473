"""The import rules of the architecture, read from the syntax tree of every file."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reference_bridge", "ltx_native", "parity", "tests")
# Folders of networks, and what they may share besides MLX.
NETWORKS = ("transformer", "text_encoder", "video_vae", "audio_vae")
SHARED = {"config", "transformer_config", "gemma_config", "layers", "rope", "kernels", "conv", "errors", "activations"}
NO_MLX_AT_TOP = ("request", "verdict", "dispatch", "cli", "guidance_params", "errors")
# Rooms of parity that may touch MLX or the engines; everything else is NumPy only.
ENGINE_ROOMS = ("taps", "capture", "arbitration", "checks", "clip", "faults", "world", "suites")
DRIVERS = {"session", "demo", "bench", "warm", "cli", "checkpoints"}
NUMPY_ONLY = {"metrics", "stats", "align", "compare", "localise", "gate", "results", "bounds", "trace", "sites", "precision"}


def files(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in path.parts]


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Dotted names a file imports; with ``top_only`` those that run at import time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _top_level(tree) if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _top_level(child)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_its_left(package: str) -> None:
    right = PACKAGES[PACKAGES.index(package) + 1 :]
    bad = [f"{p.relative_to(ROOT)}: {name}" for p in files(package) for name in imports(p) if name.split(".")[0] in right]
    assert not bad


def test_the_bridge_needs_the_standard_library_only() -> None:
    allowed = {*sys.stdlib_module_names, "reference_bridge"}
    bad = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files("reference_bridge")
        for name in imports(path, top_only=True)
        if name.split(".")[0] not in allowed
    ]
    assert not bad


def test_the_probe_knows_nothing_of_ours_but_itself() -> None:
    """It runs in the reference's process, where only its own files are there for certain."""
    own = sorted((ROOT / "reference_bridge").glob("probe*.py"))
    known = {f"reference_bridge.{path.stem}" for path in own}
    assert {"reference_bridge.probe", "reference_bridge.probe_sketch", "reference_bridge.probe_trace"} == known
    for path in own:
        ours = [name for name in imports(path) if name.split(".")[0] in PACKAGES]
        assert not [name for name in ours if name not in known and name.rpartition(".")[0] not in known], path


def test_only_dispatch_knows_the_bridge_and_only_when_called() -> None:
    for path in files("ltx_native"):
        names = [name for name in imports(path) if name.split(".")[0] == "reference_bridge"]
        assert not names or path.name == "dispatch.py", path
        assert not [n for n in imports(path, top_only=True) if n.split(".")[0] == "reference_bridge"], path


def test_help_validation_and_the_bridge_work_without_mlx() -> None:
    for name in NO_MLX_AT_TOP:
        path = ROOT / "ltx_native" / f"{name}.py"
        assert not [n for n in imports(path, top_only=True) if n.split(".")[0] == "mlx"], path


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_know_neither_loader_nor_pipelines_nor_each_other(network: str) -> None:
    bad = []
    for path in files(f"ltx_native/{network}"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "ltx_native" and len(parts) > 1 and parts[1] not in {*SHARED, network}:
                bad.append(f"{path.relative_to(ROOT)}: {name}")
    assert not bad


def test_judging_needs_no_mlx() -> None:
    bad = [
        f"{name}.py: {imported}"
        for name in sorted(NUMPY_ONLY)
        for imported in imports(ROOT / "parity" / f"{name}.py")
        if imported.split(".")[0] == "mlx"
        or (imported.startswith("ltx_native") and not imported.startswith("ltx_native.verdict"))
        or imported.startswith("parity.capture")
    ]
    assert not bad


def test_only_the_engine_rooms_import_mlx() -> None:
    bad = []
    for path in files("parity"):
        room = path.relative_to(ROOT / "parity").parts[0].removesuffix(".py")
        if room in ENGINE_ROOMS or room in DRIVERS:
            continue
        bad += [f"{path.relative_to(ROOT)}: {name}" for name in imports(path) if name.split(".")[0] == "mlx"]
    assert not bad


def test_the_native_path_works_without_the_bridge(tmp_path: Path) -> None:
    """On a copy without the bridge: help, a refused request, and a served one are the native engine's own."""
    shutil.copytree(ROOT / "ltx_native", tmp_path / "ltx_native", ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import sys; sys.path[:] = [p for p in sys.path if 'editable' not in p]; sys.meta_path[:] = "
        "[f for f in sys.meta_path if 'editable' not in repr(f).lower()]; sys.path.insert(0, sys.argv[1]); "
        "from ltx_native.dispatch import bridge_installed; from ltx_native.cli import main; "
        "assert not bridge_installed(); sys.exit(main(['generate', '--prompt', '', '--model', 'nowhere']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "the prompt is empty" in done.stderr


def test_openblas_is_loaded_before_mlx_whatever_is_imported_first() -> None:
    """Only on Linux with OpenBLAS installed is there something to load; then MLX's matrix products must come from it."""
    program = (
        "import importlib, sys; importlib.import_module(sys.argv[1]); "
        "import ltx_native; from ltx_native.doctor import examine; blas = examine()['blas']; "
        "print(blas); sys.exit(bool(ltx_native.PRELOADED_BLAS) and 'openblas' not in str(blas['in force']))"
    )
    for first in ("parity.taps", "parity.bench", "parity.plugin", "ltx_native.layers"):
        done = subprocess.run([sys.executable, "-c", program, first], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (first, done.stdout, done.stderr)
