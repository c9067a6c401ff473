"""Files of a checkpoint: where they are, whether they are whole, and their hashes. Needs no MLX."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_native.errors import CheckpointError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_MAX_HEADER = 100_000_000
DOWNLOAD_AGAIN = "Copy or download the file again and compare its size with the source"


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: dtype and shape of each tensor, and the string metadata."""

    path: Path
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check a safetensors header against the file's size; the data itself is not read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise _damaged(path, f"{size} bytes, header length {length}", "a safetensors header within the file")
            raw = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(
            "A weight file cannot be read", str(path), error.strerror or str(error), "a readable file", "Check the path"
        ) from None
    except ValueError:
        raise _damaged(path, "no JSON where the header should be", "a safetensors header") from None
    if not isinstance(raw, dict):
        raise _damaged(path, "a header that is not an object", "a safetensors header")
    metadata = raw.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # MLX writes null where it was given none
    if not isinstance(metadata, dict):
        raise _damaged(path, "metadata that is not an object", "a safetensors header")
    end = 0
    for start, stop in sorted(_check_entry(path, name, entry) for name, entry in raw.items()):
        if start != end:
            raise _damaged(path, f"a tensor at byte {start}", f"one at byte {end}: no gap, no overlap")
        end = stop
    if 8 + length + end != size:
        raise _damaged(path, f"{size} bytes", f"{8 + length + end} bytes, as the header says")
    return Header(
        path,
        {name: entry["dtype"] for name, entry in raw.items()},
        {name: tuple(entry["shape"]) for name, entry in raw.items()},
        metadata,
    )


def _check_entry(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Start and end of a tensor's bytes, after checking that they are as many as dtype and shape ask for."""
    try:
        start, end = (int(offset) for offset in entry["data_offsets"])
        items = 1
        for extent in entry["shape"]:
            items *= int(extent)
        wanted = items * _ITEM_BYTES[entry["dtype"]]
    except (TypeError, KeyError, ValueError):
        raise _damaged(path, f"entry of {name}: {entry!r}", "dtype, shape and data_offsets") from None
    if start < 0 or end - start != wanted:
        raise _damaged(path, f"{end - start} bytes for {name}", f"{wanted} bytes")
    return start, end


def _damaged(path: Path, value: str, expected: str) -> CheckpointError:
    return CheckpointError("A weight file is truncated or damaged", str(path), value, expected, DOWNLOAD_AGAIN)


def resolve(source: str | Path) -> Path:
    """A local file or folder, else a Hub id (`org/name` or `org/name/file.safetensors`) fetched into the Hub's cache.

    huggingface_hub honours HF_HUB_OFFLINE: then only its cache is looked at.
    """
    text = os.path.expanduser(str(source))
    path = Path(text)
    if path.exists():
        return path
    parts = text.split("/")
    if text.startswith((".", "/")) or len(parts) not in (2, 3) or not _HUB_ID.fullmatch("/".join(parts[:2])):
        raise CheckpointError(
            "The checkpoint does not exist",
            text,
            "no such file or folder",
            "a .safetensors file, a folder, or a Hub id (org/name)",
            "Check the path",
        )
    return _from_hub("/".join(parts[:2]), parts[2] if len(parts) == 3 else None)


def _from_hub(repo: str, file: str | None) -> Path:
    import huggingface_hub as hub
    import huggingface_hub.constants

    try:
        if file:
            return Path(hub.hf_hub_download(repo, file))
        _check_one_model(repo)
        return Path(hub.snapshot_download(repo, allow_patterns=["*.safetensors", "*.json", "*.model"]))
    except CheckpointError:
        raise
    except Exception as error:  # the Hub's client raises its own, its HTTP library's and OS errors
        offline = hub.constants.HF_HUB_OFFLINE
        raise CheckpointError(
            "The checkpoint is neither a local path nor could be fetched from the Hub",
            repo if file is None else f"{repo}/{file}",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            "a local folder, or a repository that can be reached" + (" (HF_HUB_OFFLINE is set)" if offline else ""),
            "Check the name, or download it first and give the folder",
        ) from None


def _check_one_model(repo: str) -> None:
    """A repository of several single-file models is hundreds of gigabytes: one of them must be named."""
    import huggingface_hub as hub
    import huggingface_hub.constants

    if hub.constants.HF_HUB_OFFLINE:
        return
    names = [name for name in hub.HfApi().list_repo_files(repo) if name.endswith(".safetensors") and "/" not in name]
    companions = re.compile(r"(transformer|model)[-.]|.*(upscaler|lora)")
    models = [name for name in names if not companions.match(name)]
    if len(models) > 1 and not any(name.startswith(("transformer", "model")) for name in names):
        raise CheckpointError(
            "The repository holds several models",
            repo,
            ", ".join(models),
            f"one of them, as {repo}/{models[0]}",
            "Name the file",
        )


def sha256(path: Path) -> str:
    """The file's SHA-256, remembered by (path, size, modification time) in the user's cache folder."""
    real = path.resolve()
    stat = real.stat()
    key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
    cache = cache_folder() / "sha256.json"
    known = _read_json(cache)
    if key in known:
        return str(known[key])
    digest = hashlib.sha256()
    with real.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    known = {k: v for k, v in _read_json(cache).items() if not k.startswith(f"{real}|")}
    _write_json(cache, known | {key: digest.hexdigest()})
    return digest.hexdigest()


def cache_folder() -> Path:
    """LTX_NATIVE_CACHE, else the platform's cache folder for this program."""
    if own := os.environ.get("LTX_NATIVE_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ltx-native"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx-native"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """A cache that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=0, sort_keys=True)
        os.replace(name, path)
    except OSError:
        return
