"""The page: a pure function of results.json and the media beside it."""

from parity.report.build import ReportError, build_report
from parity.report.markdown import markdown_summary

__all__ = ["ReportError", "build_report", "markdown_summary"]
