"""Buffers whose newest numbers are still on their way from other processes."""

from __future__ import annotations

from torch import nn


class Pending:
    """A module that writes to its buffers later, when an all-reduce has ended. Its ``state_dict()`` waits for it."""

    def _settle(self) -> None:
        """Writes what is on its way into the buffers."""
        raise NotImplementedError


def settle(module: nn.Module) -> None:
    """Brings the buffers of a module up to date. Call it before you read them other than by ``state_dict()``."""
    for part in module.modules():
        if isinstance(part, Pending):
            part._settle()
