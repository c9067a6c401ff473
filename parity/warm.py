"""Fill what parallel test processes would otherwise make at the same time: the tiny checkpoint and MLX's compiled kernels.

On Linux MLX compiles fused kernels with g++ into a folder all processes share; two that start cold write the same files.
"""

from __future__ import annotations

import sys

import mlx.core as mx

from ltx_native.checkpoint import Checkpoint
from ltx_native.models import Models
from ltx_native.pipelines.one_stage import one_stage
from parity.capture.native import request_of
from parity.cases import Case
from parity.checkpoints import tiny


def main() -> int:
    files = tiny()
    request = request_of(Case("warm", steps=1))
    for dtype in (mx.float32, mx.bfloat16):
        for batched in (False, True):
            models = Models(Checkpoint.open(str(files.model), str(files.gemma)), dtype)
            for stage in one_stage(models, request, batch_guidance=batched):
                mx.eval(list(stage.tensors.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
