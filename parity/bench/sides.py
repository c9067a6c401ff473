"""The engines that are measured, each in a process of its own, and the sizes they are measured at."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parity.bench.clock import Sample, Subject
from parity.capture.reference import Checkpoint
from parity.capture.service import Service, external_cli, official
from parity.world.presets import preset


@dataclass(frozen=True)
class Size:
    """A step's size in pixels and frames; ``guided`` runs all guidance passes; ``blocks`` None takes all of them."""

    width: int
    height: int
    frames: int
    frame_rate: float
    text_tokens: int = 128
    guided: bool = False
    blocks: int | None = None


# 18 video and 17 audio tokens; 256 and 64.
TINY = Size(96, 64, 17, 25.0)
MID = Size(256, 256, 25, 9.765625)


def native(what: str, model: Path) -> Service:
    command = [sys.executable, "-m", "parity.bench.native_side", what, f"--model={model}"]
    return Service("native", command)


@contextmanager
def engines(checkpoint: Checkpoint, name: str, folder: Path, cli: bool) -> Iterator[dict[str, Service]]:
    """The steps of native and official, and the external CLI's transformer where ``LTX2_MLX_BIN`` names it."""
    script = os.environ.get("LTX2_MLX_BIN")
    with ExitStack() as stack:
        found = {
            "native": stack.enter_context(native("steps", checkpoint.model)),
            "official": stack.enter_context(official("steps", [f"--model={checkpoint.model}"])),
        }
        if cli and script:
            config = folder / f"{name}.json"
            config.write_text(json.dumps(preset(name)[0]), encoding="utf-8")
            found["ltx-2-mlx"] = stack.enter_context(external_cli(Path(script).expanduser(), config))
        yield found


def shape(services: Mapping[str, Service], size: Size) -> dict[str, int]:
    """Tell every engine the size; the tokens it has. Raises ValueError when the engines count differently."""
    found: dict[str, int] = {}
    for name, service in services.items():
        tokens = {key: found.get(key, 0) for key in ("video_tokens", "audio_tokens")} if name == "ltx-2-mlx" else {}
        told = service.ask("shape", **asdict(size), **tokens)
        counted = {key: int(told[key]) for key in ("video_tokens", "audio_tokens")}
        if found and counted != found:
            raise ValueError(f"{name} has {counted}, others {found}")
        found = counted
    return found


def subjects(services: Mapping[str, Service], do: str = "step", **request: Any) -> dict[str, Subject]:
    def asking(service: Service) -> Subject:
        return lambda: Sample.of(service.ask(do, **request))

    return {name: asking(service) for name, service in services.items()}
