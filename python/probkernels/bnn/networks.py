"""Fully connected networks whose layers divide by the square root of their width in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "erf": torch.erf,
    "cos": torch.cos,
    "rbf": lambda x: (-x.square()).exp(),
}


class ScaledLinear(nn.Linear):
    """h W' / sqrt(in_features) + b: a standard normal prior on W gives outputs of the size of the inputs.

    Weights (out, in) and biases start as standard normal numbers. Arguments are those of :class:`torch.nn.Linear`.

    Example:
        >>> import torch
        >>> from probkernels.bnn import ScaledLinear
        >>> layer = ScaledLinear(4, 1)
        >>> _ = torch.nn.init.ones_(layer.weight), torch.nn.init.zeros_(layer.bias)
        >>> layer(torch.ones(1, 4)).item()
        2.0
    """

    def reset_parameters(self) -> None:
        """Standard normal weights and biases."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.normal_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(input / math.sqrt(self.in_features), self.weight, self.bias)


class _Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        return self.name


class _ScaledMLP(nn.Sequential):
    def forward_stacked(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
        """(n, N, out) for stacked parameters by batched products, a third of vmap's overhead; None for layers or
        inputs that only vmap can batch."""
        layers = list(self)
        if x.dim() != 2 or not all(type(layer) in (ScaledLinear, _Activation) for layer in layers):
            return None
        h = x
        for k, layer in enumerate(layers):
            if isinstance(layer, ScaledLinear):
                weight, bias = params.get(f"{k}.weight", layer.weight), params.get(f"{k}.bias", layer.bias)
                h = (h / math.sqrt(layer.in_features)) @ weight.mT
                h = h if bias is None else h + bias.unsqueeze(-2)
            else:
                h = layer(h)
        return h.expand(len(next(iter(params.values()))), *h.shape[-2:])


def scaled_mlp(
    sizes: Sequence[int], activation: str | nn.Module = "tanh", *, bias: bool = True, **factory: Any
) -> nn.Sequential:
    """A network of :class:`ScaledLinear` layers with an activation between them; the last layer is linear.

    Args:
        sizes: inputs, widths of the hidden layers, and outputs: (1, 50, 50, 1).
        activation: "tanh", "relu", "erf", "cos", "rbf" (exp(-x^2)) or a module.
        bias: whether layers have biases.
        **factory: ``dtype`` and ``device`` of the parameters.

    Returns:
        An ``nn.Sequential``. Its layers have the even numbers: "0.weight", "0.bias", "2.weight", ...

    Raises:
        TypeError: a size is no whole number.
        ValueError: a size is below 1, there are fewer than two, or the activation is unknown.

    Reference: Tran et al., "All You Need is a Good Functional Prior for Bayesian Deep Learning", JMLR 2022.

    Example:
        >>> from probkernels.bnn import scaled_mlp
        >>> print(*(tuple(p.shape) for p in scaled_mlp((1, 50, 2)).parameters()))
        (50, 1) (50,) (2, 50) (2,)
    """
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(sizes) < 2:
        raise ValueError(message("scaled_mlp", "sizes", "two sizes or more", checks.describe(sizes)))
    for k, size in enumerate(sizes):
        checks.integer("scaled_mlp", f"sizes[{k}]", size)
    if not isinstance(activation, nn.Module):
        checks.one_of("scaled_mlp", "activation", activation, tuple(ACTIVATIONS))
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        layers.append(ScaledLinear(sizes[k], sizes[k + 1], bias=bias, **factory))
        if k < len(sizes) - 2:
            layers.append(activation if isinstance(activation, nn.Module) else _Activation(activation))
    return _ScaledMLP(*layers)
