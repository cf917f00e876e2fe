"""The feedback network of a forward network: the same states in the opposite order, with weights of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from .._core import checks
from .._core.errors import message
from ._blocks import BATCH_NORMS, KNOWN, block, layer_of, spans

CONVS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.Conv1d, nn.Conv2d: nn.Conv2d, nn.Conv3d: nn.Conv3d
}  # fmt: skip
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
OTHERS = (nn.GELU, nn.SiLU, nn.Softplus, nn.Hardtanh, nn.Mish, nn.SELU, nn.CELU, nn.Softsign)
ACTIVATIONS = (*KNOWN, *OTHERS)
SHAPES = (nn.Flatten, nn.Upsample, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
SUPPORTED = (nn.Linear, *CONVS, *POOLS, *ACTIVATIONS, *BATCH_NORMS, *SHAPES)


def mirror(forward_net: nn.Sequential, input_shape: Sequence[int] | None = None) -> nn.Sequential:
    """Makes the feedback network of a forward network, from label codes back to the input.

    Each layer becomes one in the opposite direction, without a bias and with weights of its own:

    - ``Linear(n, m)`` becomes ``Linear(m, n)``.
    - A convolution that makes maps smaller, by its stride or with the pooling that follows, becomes nearest-neighbor
      upsampling and a convolution of stride 1. One that makes them larger becomes a convolution with a stride.
    - The activation, and a new batch norm if there is one, are those that made the same state of the forward network.
      The last layer, which makes the input's counterpart, has none. Dropout is left out.

    Args:
        forward_net: ``Sequential`` of at least two ``Linear`` or ``Conv1d`` to ``Conv3d`` layers, with ``Flatten``,
            pooling, ``Upsample``, batch norms, dropout and activations.
        input_shape: shape of one input without the batch, such as (3, 32, 32). Needed unless all layers are linear.

    Returns:
        The feedback network, on the device and with the dtype of ``forward_net``.

    Raises:
        TypeError: ``forward_net`` is not a Sequential.
        ValueError: fewer than two layers, a module of another type (build the feedback network yourself), a missing
            ``input_shape``, or sizes that no stride gives.

    Example:
        >>> from torch import nn
        >>> from probkernels.local_learning import mirror
        >>> mirror(nn.Sequential(nn.Linear(8, 4), nn.ELU(), nn.Linear(4, 3)))
        Sequential(
          (0): Linear(in_features=3, out_features=4, bias=False)
          (1): ELU(alpha=1.0)
          (2): Linear(in_features=4, out_features=8, bias=False)
        )
    """
    parts = [block(forward_net, span) for span in spans("mirror", "forward_net", forward_net)]
    for i, module in enumerate(forward_net):
        if type(module) not in SUPPORTED:
            got = f"{type(module).__name__} at position {i}"
            hint = "pass your own feedback_net, a Sequential with the same states in the opposite order"
            wanted = "Linear, Conv, pooling, Flatten, Upsample, BatchNorm, Dropout and activations"
            raise ValueError(message("mirror", "forward_net", wanted, got, hint))
    shapes = _shapes(forward_net, parts, input_shape)
    reference = next(forward_net.parameters())
    found: list[nn.Module] = []
    for depth in reversed(range(len(parts))):
        found += _opposite(parts[depth], shapes[depth], shapes[depth + 1])
        if depth > 0:
            found += _tail(parts[depth - 1], shapes[depth])
            if isinstance(layer_of(parts[depth - 1]), tuple(CONVS)) and len(shapes[depth + 1]) == 1:
                found.insert(_after_last_layer(found), nn.Unflatten(1, shapes[depth]))
    return nn.Sequential(*found).to(reference)


def _shapes(
    net: nn.Sequential, parts: Sequence[Sequence[nn.Module]], input_shape: Sequence[int] | None
) -> list[tuple[int, ...]]:
    """The shapes of all states, without the batch."""
    linear = [layer for layer in map(layer_of, parts) if isinstance(layer, nn.Linear)]
    if input_shape is None and len(linear) == len(parts):
        return [(linear[0].in_features,), *((layer.out_features,) for layer in linear)]
    if input_shape is None:
        hint = "the shape of one input, such as (3, 32, 32)"
        raise ValueError(message("mirror", "input_shape", "a shape, as not all layers are linear", "None", hint))
    sizes = [checks.integer("mirror", "input_shape", size) for size in input_shape]
    probe = copy.deepcopy(net).eval()
    x = torch.zeros(1, *sizes).to(next(net.parameters()))
    found = [tuple(sizes)]
    with torch.no_grad():
        for start, stop in spans("mirror", "forward_net", net):
            x = probe[start:stop](x)
            found.append(tuple(x.shape[1:]))
    return found


def _opposite(part: Sequence[nn.Module], before: tuple[int, ...], after: tuple[int, ...]) -> list[nn.Module]:
    """The layer from the output of a block to its input, with what changes sizes."""
    layer = layer_of(part)
    if isinstance(layer, nn.Linear):
        return [nn.Linear(layer.out_features, math.prod(before), bias=False)]
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    spatial, now = before[1:], after[1:]
    make = CONVS[type(layer)]
    options = {"bias": False, "groups": layer.groups}
    channels = layer.out_channels, layer.in_channels
    if all(n >= m for n, m in zip(spatial, now, strict=True)):
        up = [nn.Upsample(size=spatial)] if spatial != now else []
        return [*up, make(*channels, layer.kernel_size, padding="same", dilation=layer.dilation, **options)]
    stride = [m // n for n, m in zip(spatial, now, strict=True)]
    padding = [(k - 1) // 2 for k in layer.kernel_size]
    sizes = [
        (m + 2 * p - k) // max(s, 1) + 1
        for m, p, k, s in zip(now, padding, layer.kernel_size, stride, strict=True)
    ]  # fmt: skip
    if sizes != list(spatial):
        wanted = f"a convolution from maps of {tuple(spatial)} to a multiple of them"
        hint = "pass your own feedback_net"
        raise ValueError(message("mirror", "forward_net", wanted, f"maps of {tuple(now)}", hint))
    return [make(*channels, layer.kernel_size, stride=tuple(stride), padding=tuple(padding), **options)]


def _tail(part: Sequence[nn.Module], shape: tuple[int, ...]) -> list[nn.Module]:
    """The norm and the activation of a block, for the feedback state of its output."""
    found: list[nn.Module] = []
    for module in part:
        if isinstance(module, BATCH_NORMS):
            found.append(type(module)(shape[0], module.eps, module.momentum, module.affine))
        elif isinstance(module, ACTIVATIONS):
            found.append(copy.deepcopy(module))
    return found


def _after_last_layer(modules: Sequence[nn.Module]) -> int:
    """The place after the last linear layer: before its norm and activation."""
    return max(i for i, module in enumerate(modules) if isinstance(module, nn.Linear)) + 1
