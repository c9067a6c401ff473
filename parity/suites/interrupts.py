"""For all tests: the keyboard interrupt works here and in what the tests start, even where a shell began them with it off."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job: children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
