"""Exceptions of the library and the one form their text has: op, argument, expected, got, hint."""

from __future__ import annotations


class BackendError(RuntimeError):
    """A backend was demanded that cannot run here; the text lists the reason for each one refused."""


class CorruptStreamError(ValueError):
    """Coded data is damaged or was not written by this library."""


class ModelMismatchError(ValueError):
    """Coded data, or a delta, belongs to another model than the one given."""


def message(op: str, argument: str, expected: str, got: str, hint: str = "") -> str:
    """The text of an argument error."""
    text = f"{op}: argument '{argument}': expected {expected}, got {got}."
    return f"{text} Hint: {hint}" if hint else text
