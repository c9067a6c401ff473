"""Where a result comes from: versions, code, weights."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from reference_bridge.probe_trace import file_sha256

PACKAGES = (
    "torch", "ltx-core", "ltx-pipelines", "torchaudio", "transformers", "tokenizers", "sentencepiece", "safetensors",
    "numpy", "einops", "av",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Installed version by package; None where a package is missing."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def code_sha256() -> str:
    """One hash over the sources that drive and observe the reference."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in [*sorted(here.parents[1].glob("probe*.py")), *sorted(here.glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def checkpoint_sha256(model: Path, gemma: Path | None, others: list[Path]) -> dict[str, str]:
    """Hash by file name of every weight and tokenizer file that a run reads; Gemma's are named `gemma/…`."""
    found = {path.name: file_sha256(path) for path in [model, *others]}
    if gemma is not None:
        found |= {f"gemma/{path.name}": file_sha256(path) for path in sorted(gemma.iterdir()) if path.is_file()}
    return found
