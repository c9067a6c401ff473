"""Whether a model file holds the numbers that `random_checkpoint` draws: in such weights no prompt means anything."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from parity.world.layout import transformer
from parity.world.random_checkpoint import draw

LOOKED_AT = 8  # tensors, small ones; two models that agree in as many are one
SMALL = 4096


def is_drawn(model: Path, seed: int = 0) -> bool:
    """True when the file's own config leads to its own first transformer tensors, value by value. Never raises: any doubt
    is False, and the file counts as trained."""
    try:
        with safe_open(model, "np") as file:
            config = json.loads((file.metadata() or {})["config"])["transformer"]
            small = (tensor for tensor in transformer(config) if np.prod(tensor.shape) <= SMALL)
            table = list(islice(small, LOOKED_AT))
            return bool(table) and all(np.array_equal(file.get_tensor(t.key), draw(t, seed)) for t in table)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
