"""Checks that are no replay of a run: wiring, config, weights, dtypes, batches, tiles, prompts, export.

Each is a function from an `Exam` to what it found wrong; an empty list is agreement. Expectations come from the reference
(its captures, or `facts`: its functions on made inputs) or from closed forms in NumPy, never from the port.
"""
