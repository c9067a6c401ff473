"""The page: a pure function of results.json and the media beside it."""

from parity.report.build import build_report

__all__ = ["build_report"]
