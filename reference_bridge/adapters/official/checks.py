"""Bad input is refused here, in words, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class BadInput(Exception):
    """What failed, where, the value met, the value expected, and what to do next."""

    def __init__(self, what: str, where: str, value: object, expected: object, next_step: str) -> None:
        self.what, self.where, self.value, self.expected, self.next_step = what, where, value, expected, next_step
        super().__init__(f"{what} ({where}): found {value}, expected {expected}. {next_step}")


def safetensors_header(path: Path, where: str) -> dict[str, Any]:
    """The header of a safetensors file, checked against the file's size. Raises `BadInput`."""
    if not path.is_file():
        raise BadInput("no such file", where, path, "a safetensors file", "Check the path.")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        body = file.read(length) if len(prefix) == 8 and length <= size else b""
    try:
        header = json.loads(body)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            "unreadable safetensors header", where, path, "a header of JSON", "The file is damaged or of another kind."
        ) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise BadInput(
            "safetensors file of the wrong length", where, f"{path}: {size} bytes", f"{expected} bytes", "Copy it again."
        )
    return dict(header)


def model_config(path: Path, where: str) -> dict[str, Any]:
    """The configuration an official single file carries in its metadata. Raises `BadInput`."""
    text = (safetensors_header(path, where).get("__metadata__") or {}).get("config")
    try:
        config = json.loads(str(text))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise BadInput(
            "checkpoint without a configuration", where, path, "JSON under `config` in the metadata",
            "Give the official single-file checkpoint; a split MLX folder cannot be read here.",
        )  # fmt: skip
    return config


def gemma_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a Gemma folder, after checking that weights and a tokenizer are there. Raises `BadInput`."""
    if not folder.is_dir():
        raise BadInput("no such folder", "--gemma", folder, "a folder with a Gemma 3 model", "Check the path.")
    for pattern in ("config.json", "model*.safetensors", "tokenizer*"):
        if not next(folder.glob(pattern), None):
            raise BadInput("incomplete Gemma folder", "--gemma", folder, f"a file {pattern}", "Complete the folder.")
    for shard in sorted(folder.glob("model*.safetensors")):
        safetensors_header(shard, "--gemma")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        raise BadInput("unreadable config", "--gemma", folder / "config.json", "JSON", "Repair the file.") from None
    return dict(config)


def existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise BadInput("no such file", where, path, "an existing file", "Check the path.")
    return path


def at_least(value: float | None, minimum: float, where: str) -> None:
    if value is not None and not value >= minimum:
        raise BadInput("value out of range", where, value, f"at least {minimum}", "Change it.")


def multiple_of(value: int, divisor: int, where: str) -> None:
    if value < divisor or value % divisor:
        near = max(divisor, round(value / divisor) * divisor)
        raise BadInput("size does not fit the model", where, value, f"a multiple of {divisor}", f"Use {near}.")


def frame_count(value: int, where: str) -> None:
    if value < 1 or (value - 1) % 8:
        near = max(1, round((value - 1) / 8) * 8 + 1)
        raise BadInput("frame count does not fit the model", where, value, "8k+1 frames", f"Use {near}.")
