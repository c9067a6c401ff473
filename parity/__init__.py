"""Model parity for LTX-2.3: run two implementations side by side, name the module where they part, and judge."""

# Importing the engine loads OpenBLAS; whichever room of ours imports MLX, that must have happened before.
import ltx_native

__all__ = ["ltx_native"]
