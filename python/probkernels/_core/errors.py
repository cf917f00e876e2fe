"""The exceptions of the library, and the form of their messages: op, argument, expected, got, hint."""

from __future__ import annotations


class BackendError(RuntimeError):
    """A forced backend cannot run here. The message gives the reason for each refused backend."""


class CorruptStreamError(ValueError):
    """Coded data is damaged or was not written by this library."""


class ModelMismatchError(ValueError):
    """Coded data or a delta belongs to another model."""


def message(op: str, argument: str, expected: str, got: str, hint: str = "") -> str:
    """The text of an argument error."""
    text = f"{op}: argument '{argument}': expected {expected}, got {got}."
    return f"{text} Hint: {hint}" if hint else text
