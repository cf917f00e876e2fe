"""Gradients through sampling."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from .continuous import run as continuous
from .exact import Exact, Plan
from .reversible import run as reversible
from .revolve import Snapshots, least_states

if TYPE_CHECKING:
    from ..run import Run


def exact(made: Run, after: Callable[[int, Tensor], object], store: str | int, last_k: int | None) -> Tensor:
    """The sample (B, *S) of a run, with the exact discrete adjoint as its gradient.

    Args:
        made: the run.
        after: called as ``after(n, x)`` after step n.
        store: "states" keeps the inputs of the net's calls. A number of bytes also keeps the graphs of as many last
            calls as fit, which are then not called again. "revolve" or "revolve=S" keeps S states at a time.
        last_k: differentiates the net's calls in the last k steps only; earlier steps keep their linear path. None
            for all steps.
    """
    revolve = re.fullmatch(r"revolve(?:=([1-9]\d*))?", store) if isinstance(store, str) else None
    if isinstance(store, bool) or not (store == "states" or revolve or isinstance(store, int)) or store == -1:
        expected = "'states', 'revolve', 'revolve=S' for S states or a number of bytes"
        raise ValueError(message("sample", "store", expected, checks.describe(store)))
    if isinstance(store, int):
        checks.non_negative("sample", "store", store)
    if last_k is not None:
        checks.integer("sample", "last_k", last_k, wanted="at least one step, or None for all")
    states = int(revolve[1] or least_states(min(made.scheme.steps, last_k or made.scheme.steps))) if revolve else 0
    plan = Plan(made, after, store if isinstance(store, int) else 0, last_k, Snapshots(states) if states else None)
    return Exact.apply(plan, *plan.inputs())


__all__ = ["continuous", "exact", "reversible"]
