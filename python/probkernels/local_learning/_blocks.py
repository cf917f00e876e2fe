"""Blocks of a sequential network: one layer with weights, with what shapes its input and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HEADS = (nn.Flatten, nn.Unflatten, nn.Upsample)  # before a layer they shape its input, so they belong to its block
Span = tuple[int, int]


def has_weights(module: nn.Module) -> bool:
    """Whether a module begins a block: it has parameters and is not a norm."""
    return not isinstance(module, NORMS) and next(module.parameters(), None) is not None


def spans(op: str, name: str, net: object) -> list[Span]:
    """The blocks of a network as ranges of its modules. At least two."""
    if not isinstance(net, nn.Sequential):
        raise TypeError(message(op, name, "an nn.Sequential", checks.describe(net)))
    modules = list(net)
    layers = [i for i, module in enumerate(modules) if has_weights(module)]
    if len(layers) < 2:
        hint = "one layer has no hidden state that the two networks could share"
        raise ValueError(message(op, name, "at least two layers with weights", str(len(layers)), hint))
    starts = [0]
    for layer in layers[1:]:
        while isinstance(modules[layer - 1], HEADS):
            layer -= 1
        starts.append(layer)
    return list(zip(starts, [*starts[1:], len(modules)], strict=True))


def block(net: nn.Sequential, span: Span) -> list[nn.Module]:
    """The modules of one block."""
    return list(net)[slice(*span)]


def layer_of(modules: Sequence[nn.Module]) -> nn.Module:
    """The layer with weights of a block."""
    return next(module for module in modules if has_weights(module))


def run(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The output of a block, whose input gets no gradient."""
    x = x.detach()
    for module in modules:
        x = module(x)
    return x


def rows(x: Tensor) -> Tensor:
    """A state as a matrix with one row for each sample."""
    return x.flatten(1)


class Dense(NamedTuple):
    """A block in which the closed form knows the derivatives: a linear layer and one activation."""

    layer: nn.Linear
    activation: nn.Module | None


aten, functional = torch.ops.aten, nn.functional


class Activation(NamedTuple):
    """An activation in place, and its derivative from its output, times a gradient that is overwritten."""

    apply: Callable[[Any, Tensor], Tensor]
    slope: Callable[[Any, Tensor, Tensor], Tensor]


KNOWN: dict[type[nn.Module], Activation] = {
    nn.ELU: Activation(
        lambda m, x: functional.elu(x, m.alpha, inplace=True),
        lambda m, g, out: aten.elu_backward.grad_input(g, m.alpha, 1, 1, True, out, grad_input=g),
    ),
    nn.ReLU: Activation(
        lambda m, x: x.relu_(), lambda m, g, out: aten.threshold_backward.grad_input(g, out, 0, grad_input=g)
    ),
    nn.LeakyReLU: Activation(
        lambda m, x: functional.leaky_relu(x, m.negative_slope, inplace=True),
        lambda m, g, out: aten.leaky_relu_backward.grad_input(g, out, m.negative_slope, True, grad_input=g),
    ),
    nn.Tanh: Activation(lambda m, x: x.tanh_(), lambda m, g, out: aten.tanh_backward.grad_input(g, out, grad_input=g)),
    nn.Sigmoid: Activation(
        lambda m, x: x.sigmoid_(), lambda m, g, out: aten.sigmoid_backward.grad_input(g, out, grad_input=g)
    ),
}


def slope(activation: nn.Module | None, grad: Tensor, out: Tensor) -> Tensor:
    """The gradient with respect to an activation's input. Overwrites ``grad``."""
    return grad if activation is None else KNOWN[type(activation)].slope(activation, grad, out)


def dense(modules: Sequence[nn.Module]) -> Dense | None:
    """A block as a linear layer and an activation, or None if it is more than that.

    Subclasses, such as parametrized layers, may compute something else. So may a layer whose weight is no parameter,
    and modules with hooks.
    """
    if any(map(_changed, modules)):
        return None
    rest = [m for m in modules if type(m) is not nn.Identity]
    while rest and isinstance(rest[0], nn.Flatten) and (rest[0].start_dim, rest[0].end_dim) == (1, -1):
        rest.pop(0)
    if not rest or type(rest[0]) is not nn.Linear or not isinstance(rest[0].weight, nn.Parameter):
        return None
    if len(rest) == 1:
        return Dense(rest[0], None)
    known = len(rest) == 2 and type(rest[1]) in KNOWN
    falls = getattr(rest[1], "alpha", 1) <= 0 or getattr(rest[1], "negative_slope", 1) <= 0  # no slope from the output
    return Dense(rest[0], rest[1]) if known and not falls else None


def _changed(module: nn.Module) -> bool:
    """Whether hooks, of the module or of its parameters, or an own ``forward`` may change what its class computes."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if "forward" in vars(module) or any(getattr(module, name) for name in hooks):
        return True
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(p, name, None) for p in module.parameters() for name in of_parameters)
