"""Errors that a user can act on. The command line prints them without a traceback and exits with status 2."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a bad file: what failed, where, the value met, the value expected, and what to do next."""

    def __init__(self, what: str, where: str, value: object, expected: object, next_step: str) -> None:
        self.what, self.where, self.value, self.expected, self.next_step = what, where, value, expected, next_step
        super().__init__(what, where, value, expected, next_step)

    def __str__(self) -> str:
        return (
            f"{self.what} (in {self.where}): found {_shown(self.value)}, expected {_shown(self.expected)}. "
            f"{self.next_step.rstrip('.')}."
        )


class ConfigError(UserError):
    """A configuration says something that this port does not implement, or does not know."""


class CheckpointError(UserError):
    """A weight file is missing, damaged, incomplete, or does not fit the model it is for."""


class RequestError(UserError):
    """A generation request that cannot be served as asked."""


def _shown(value: object, limit: int = 300) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
