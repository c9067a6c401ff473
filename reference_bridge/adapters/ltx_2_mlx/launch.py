"""Starts the external CLI inside its own interpreter with taps installed. Run as a file; the CLI's code is not changed.

    PYTHON launch.py OPTIONS.json -- ARGUMENTS OF THE CLI

OPTIONS: {"script": path of the console script, "root": the folder that holds `reference_bridge`, "trace": folder or null,
"sites": [globs], "outputs_only": bool, "sketch": bool, "defaults": {"module:Class": {parameter: value}},
"report": path or null, "corrections": [names], "clocks": bool}. `clocks` (without a trace) puts the seconds of stages and
steps into the report. `defaults` changes default arguments of constructors in memory, which is how a
checkpoint smaller than the CLI's fixed sizes can be loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import platform
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("mlx", "mlx-cpu", "mlx-metal", "mlx-lm", "mlx-arsenal", "ltx-core-mlx", "ltx-pipelines-mlx", "numpy", "tokenizers")


def main(argv: list[str]) -> None:
    options = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    arguments = argv[argv.index("--") + 1 :]
    script = options["script"]
    started = time.perf_counter()
    patches = _patch_device() + _eager_blocks()
    importlib.import_module("ltx_pipelines_mlx")  # every pipeline, so that names imported from one another can be replaced

    for target, values in options.get("defaults", {}).items():
        patches.append(_change_defaults(target, values))
    sys.argv = [script, *arguments]
    sys.path.insert(0, options["root"])
    from reference_bridge.adapters.ltx_2_mlx import corrections
    from reference_bridge.adapters.ltx_2_mlx.functions import Functions
    from reference_bridge.adapters.ltx_2_mlx.tap import MlxBackend, Taps
    from reference_bridge.probe import Recorder
    from reference_bridge.probe_trace import TraceWriter

    sys.path.remove(options["root"])
    patches += corrections.apply(options.get("corrections", ()))
    if not options.get("trace"):
        clocks = None
        if options.get("clocks"):
            from reference_bridge.adapters.ltx_2_mlx.clock import CliClocks

            clocks = CliClocks()
            clocks.install()
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            _report(options, started, more=clocks.told() if clocks else {})
        return
    writer = TraceWriter(Path(options["trace"]), MlxBackend())
    flags = bool(options.get("outputs_only")), bool(options.get("sketch"))
    recorder = Recorder(writer, tuple(options.get("sites", ())), *flags)
    taps = Taps(recorder)
    functions = Functions(taps)
    taps.install()
    functions.install()
    code: object = 1
    try:
        code = _run(script)
    finally:
        if code in (0, None):
            taps.flush()
            writer.close(_manifest(options, arguments, patches, functions.missing))
        else:
            writer.abort()
        _report(options, started, recorder.seconds, writer.records)
    sys.exit(0)


def _report(
    options: Mapping[str, Any], started: float, probe_s: float = 0.0, records: int = 0, more: Mapping[str, Any] | None = None
) -> None:
    seconds = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time(), "probe_s": probe_s, "records": records}
    if options.get("report"):
        Path(options["report"]).write_text(json.dumps({**seconds, **(more or {})}), encoding="utf-8")


def _run(script: str) -> object:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
        return stop.code
    return 0


def _patch_device() -> list[str]:
    """MLX without Metal has no `memory_size`, which the CLI reads unguarded; the number only selects extra evaluations."""
    import mlx.core as mx

    real = mx.device_info
    if "memory_size" in real():
        return []

    def device_info(*args: Any) -> Mapping[str, Any]:
        return {**real(*args), "memory_size": 64 << 30}

    setattr(mx, "device_info", device_info)  # noqa: B010  # MLX types it more narrowly than it is
    return ["mlx.core.device_info: memory_size added"]


def _eager_blocks() -> list[str]:
    """A compiled module runs its Python on placeholders, once; with `--low-ram` the shared block must run as it stands."""
    import mlx.core as mx
    import mlx.nn as nn

    real: Callable[..., Any] = mx.compile

    def compiled(target: Any = None, *args: Any, **kwargs: Any) -> Any:
        return target if isinstance(target, nn.Module) else real(target, *args, **kwargs)

    setattr(mx, "compile", compiled)  # noqa: B010
    return ["mlx.core.compile: modules run eagerly, functions are compiled as ever"]


def _change_defaults(target: str, values: Mapping[str, Any]) -> str:
    module, _, name = target.partition(":")
    owner = getattr(importlib.import_module(module), name)
    function = owner.__init__ if inspect.isclass(owner) else owner
    positional = [p for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    with_default = [p.name for p in positional if p.default is not p.empty]
    unknown = set(values) - set(with_default)
    if unknown:
        raise SystemExit(f"{target} has no default for {', '.join(sorted(unknown))}")
    current = dict(zip(with_default, function.__defaults__ or (), strict=True))
    function.__defaults__ = tuple({**current, **values}.values())
    return f"{target}: defaults {json.dumps(dict(sorted(values.items())))}"


def _manifest(options: Mapping[str, Any], arguments: list[str], patches: list[str], missing: list[str]) -> dict[str, Any]:
    import mlx.core as mx

    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in [*sorted(here.parents[1].glob("probe*.py")), *sorted(here.glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return {
        "side": "reference",
        "engine": "ltx-2-mlx",
        "dtype": "bfloat16",
        "device": str(mx.default_device()),
        "versions": found,
        "commit": None,
        "code": digest.hexdigest(),
        "checkpoint": options.get("checkpoint", {}),
        "request": {"argv": arguments},
        "patches": patches,
        "missing": missing,
    }


if __name__ == "__main__":
    main(sys.argv)
