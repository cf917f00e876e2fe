"""Gradients through sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from .continuous import run as continuous
from .exact import Exact, Plan
from .reversible import run as reversible

if TYPE_CHECKING:
    from ..sample import Run


def exact(made: Run, after: Callable[[int, Tensor], None], store: str | int, last_k: int | None) -> Tensor:
    """The sample (B, *S) of a run, with the exact discrete adjoint as its gradient.

    Args:
        made: the run.
        after: called as ``after(n, x)`` after step n.
        store: "states" keeps the inputs of the net's calls; a number of bytes also the graphs of as many last calls as
            fit into them, which are then not called again.
        last_k: steps whose calls of the net are differentiated, the last ones; the linear path through earlier steps
            is kept. None for all.
    """
    if isinstance(store, bool) or not (store == "states" or isinstance(store, int)) or store == -1:
        raise ValueError(message("sample", "store", "'states' or a number of bytes", checks.describe(store)))
    if isinstance(store, int):
        checks.non_negative("sample", "store", store)
    if last_k is not None and (isinstance(last_k, bool) or not isinstance(last_k, int) or last_k < 1):
        raise ValueError(message("sample", "last_k", "at least one step, or None for all", repr(last_k)))
    plan = Plan(made, after, store if isinstance(store, int) else 0, last_k)
    return Exact.apply(plan, *plan.inputs())


__all__ = ["continuous", "exact", "reversible"]
