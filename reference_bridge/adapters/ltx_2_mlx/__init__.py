"""The external command line `ltx-2-mlx`: how to find its interpreter and how to trace it without changing it."""
