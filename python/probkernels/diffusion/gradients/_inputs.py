"""The tensors that a sampling run depends on and that get gradients, and a check that none is missed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._core import checks
from ..._core.errors import message


def learned(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of ``model`` that require a gradient."""
    return [t for t in (*model.parameters(), *model.buffers()) if t.requires_grad]


def _nodes(output: Tensor, stops: Collection[Any]) -> Iterator[Any]:
    """The nodes of the graph of ``output``, without the stops and what only they lead to."""
    seen, waiting = set(stops), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [parent for parent, _ in node.next_functions]


def undeclared(output: Tensor, declared: Sequence[Tensor]) -> list[Tensor]:
    """Leaves of the graph of ``output`` that are not among the declared tensors."""
    known = {id(t) for t in declared}
    stops = {t.grad_fn for t in declared if t.grad_fn is not None}
    leaves = (getattr(node, "variable", None) for node in _nodes(output, stops))
    return [leaf for leaf in leaves if leaf is not None and id(leaf) not in known]


def reaches(output: Tensor, x: Tensor) -> bool:
    """Whether the graph of ``output`` leads to x."""
    if output is x:
        return True
    nodes = _nodes(output, ())
    return any(node is x.grad_fn if x.grad_fn is not None else getattr(node, "variable", None) is x for node in nodes)


def refuse_undeclared(found: Sequence[Tensor]) -> None:
    """Raises for undeclared tensors, which would silently get no gradient."""
    if found:
        expected = "a net whose tensors that require a gradient are its parameters, buffers or the condition"
        hint = "register it as a parameter, pass it as cond, or use grad='autograd'"
        raise ValueError(message("sample", "model", expected, checks.describe(found[0]), hint))


@contextlib.contextmanager
def counting_bytes(ignored: Sequence[Tensor]) -> Iterator[Callable[[], int]]:
    """Counts the bytes that autograd saves for graphs made in this block, without the ignored tensors."""
    skipped = {t.untyped_storage().data_ptr() for t in ignored}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in skipped:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield lambda: sum(sizes.values())
