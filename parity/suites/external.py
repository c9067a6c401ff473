"""What the suites on the real `ltx-2-mlx` share: its environment here, and what is in the videos it makes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from parity.folders import ROOT

# Runs at the start of the CLI's interpreter, as any site's own sitecustomize would.
AT_START = """
import json, sys
sys.path.insert(0, {root!r})
from reference_bridge.adapters.ltx_2_mlx import launch
sys.path.remove({root!r})
launch._patch_device()
for target, values in json.loads({defaults!r}).items():
    launch._change_defaults(target, values)
"""


def started_with(
    folder: Path, defaults: Mapping[str, Mapping[str, Any]], env: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment in which the installed console script runs here as it is, by itself; a file of it is put in `folder`."""
    (folder / "sitecustomize.py").write_text(AT_START.format(root=str(ROOT), defaults=json.dumps(defaults)))
    return {**env, "PYTHONPATH": str(folder)}


def pictures(path: Path) -> list[bytes]:
    """Every frame of a video as the bytes of its RGB values."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]


def sound(path: Path) -> NDArray[np.float32]:
    """The decoded audio, (channels, samples)."""
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
