"""The checkout, and where the harness keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cache_folder() -> Path:
    """Where captures, made checkpoints and compiled loops are kept: `LTX_PARITY_CACHE`, else `.cache` of the checkout."""
    return Path(os.environ.get("LTX_PARITY_CACHE") or ROOT / ".cache")
