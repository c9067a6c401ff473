"""CLIP in MLX: the judge of the prompt-fidelity gate, with its own proof against transformers (suites/test_clip_parity.py)."""

import ltx_native  # noqa: F401  loads OpenBLAS ahead of MLX
from parity.clip.load import Clip
from parity.clip.sampling import FrameSampling

__all__ = ["Clip", "FrameSampling"]
