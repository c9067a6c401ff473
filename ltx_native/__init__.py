"""The native MLX engine of LTX-2.3: prompt to video with sound."""

from ltx_native import _blas, _malloc

#: The BLAS that was put ahead of MLX's own choice; None where MLX decides.
PRELOADED_BLAS = _blas.preload()
_malloc.keep_buffers()
__version__ = "0.1.0"
