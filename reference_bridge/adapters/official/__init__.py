"""Lightricks' official PyTorch packages as a command line of ours, in their own environment.

Run as `PYTHON -m reference_bridge.adapters.official VERB …` with the reference environment's Python; `--help` lists the verbs.
"""
