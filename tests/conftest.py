"""What all tests share."""

from parity.suites.interrupts import pytest_configure

__all__ = ["pytest_configure"]
