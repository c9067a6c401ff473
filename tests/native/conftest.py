"""The tiny checkpoint, made once per test process, and a hash cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from parity.world.random_checkpoint import write_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Paths of a freshly written tiny checkpoint: `model`, `gemma`, `split`, `upsampler`."""
    cache = os.environ.get("LTX_NATIVE_CACHE")
    os.environ["LTX_NATIVE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield write_checkpoint(tmp_path_factory.mktemp("world") / "tiny")
    if cache is None:
        del os.environ["LTX_NATIVE_CACHE"]
    else:
        os.environ["LTX_NATIVE_CACHE"] = cache
