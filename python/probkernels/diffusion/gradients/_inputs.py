"""What a sampling run depends on: the tensors that get gradients, and proof that there are no others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._core import checks
from ..._core.errors import message

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(replaced(item, change) for item in value)
    return value


def learned(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of ``model`` that require a gradient."""
    return [t for t in (*model.parameters(), *model.buffers()) if t.requires_grad]


def refuse_batch_norm(model: nn.Module) -> None:
    """A net that normalises by its batch and counts it would be run twice, and so count twice."""
    for name, module in model.named_modules():
        if isinstance(module, NORMS) and module.training:
            hint = (
                "call model.eval(): running statistics would be updated in the forward and again in the backward pass"
            )
            raise ValueError(
                message("sample", "model", "batch normalisation in eval mode", f"{name} in training", hint)
            )


def undeclared(output: Tensor, declared: Sequence[Tensor]) -> list[Tensor]:
    """Leaves of the graph of ``output`` that are not among the declared tensors."""
    known = {id(t) for t in declared}
    stops = {t.grad_fn for t in declared if t.grad_fn is not None}
    found: list[Tensor] = []
    seen, waiting = set(stops), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found.append(leaf)
        waiting += [parent for parent, _ in node.next_functions]
    return found


def refuse_undeclared(found: Sequence[Tensor]) -> None:
    """Others than the declared tensors would silently get no gradient."""
    if found:
        expected = "a net whose tensors that require a gradient are its parameters, buffers or the condition"
        hint = "register it as a parameter, pass it as cond, or use grad='autograd'"
        raise ValueError(message("sample", "model", expected, checks.describe(found[0]), hint))


@contextlib.contextmanager
def counting_bytes(ignored: Sequence[Tensor]) -> Iterator[Callable[[], int]]:
    """How many bytes autograd keeps for graphs made inside, other than the ignored tensors'."""
    skipped = {t.untyped_storage().data_ptr() for t in ignored}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in skipped:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield lambda: sum(sizes.values())
