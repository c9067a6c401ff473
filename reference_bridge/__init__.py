"""Runs reference implementations of LTX-2.3 as external processes and records what they compute."""
