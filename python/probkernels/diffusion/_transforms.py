"""Refuses transforms of torch.func where a sampler would give a wrong derivative, or fail without saying why."""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch import nn

from .._core.errors import message
from .._core.registry import transforms_active
from .._core.wrapped import differentiated
from ._net import tensors_in


def refuse_transforms(op: str, grad: str | None, model: nn.Module, given: Any, differentiable: bool = True) -> None:
    """Refuses what torch.func cannot differentiate.

    Without a graph (``grad`` None) its gradients would be zeros, where plain autograd raises. The modes that call the
    net again in the backward pass have no rules for torch.func.

    Args:
        op: name of the sampler.
        grad: its mode.
        model: the net, of which a functional call may have replaced parameters.
        given: the differentiable arguments, in nested tuples, lists and dicts.
        differentiable: whether the sampler has a mode with a graph.

    Raises:
        NotImplementedError: see above.
    """
    if grad == "autograd" or not transforms_active():
        return
    hint = "use grad='autograd', of which torch.func differentiates the graph"
    expected = "'autograd' within torch.func.grad, vmap and the like"
    if grad is not None:
        raise NotImplementedError(message(op, "grad", expected, repr(grad), f"{hint}, or autograd's backward()"))
    if any(differentiated(t) for t in chain(tensors_in(given), model.parameters(), model.buffers())):
        if not differentiable:
            hint = "detach() what is to be constant, or use sample() with grad='autograd'"
            raise NotImplementedError(message(op, "x_T", "no gradient by torch.func", "one that is asked for", hint))
        hint = f"{hint}; detach() what is to be constant"
        raise NotImplementedError(message(op, "grad", "'autograd' within torch.func.grad", "None", hint))
