"""`make bench`: times and memory of native against the official code (and the external CLI), and of the harness itself.

Every engine runs in a process of its own on one thread; subjects take turns, so that a busy minute of the machine falls on
all of them. Processor seconds stand beside wall seconds, because only those mean something on a machine that is not idle.
"""

import os

# One thread each, before any BLAS is loaded; TF32 off as in every float32 comparison.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("MLX_ENABLE_TF32", "0")
