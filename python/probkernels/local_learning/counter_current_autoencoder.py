"""Counter-current learning of autoencoders: the feedback network sends the image itself back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from . import _blocks
from ._two_streams import TwoStreams
from .mirror import CONVS


class CounterCurrentAutoencoder(TwoStreams):
    """An autoencoder that learns without back-propagation, from a feedback network in the opposite direction.

    The feedback network starts from the image, where :class:`CounterCurrent` starts from label codes. So both networks
    have a state of each sample, and the local loss of a depth is ``scale * mse(a, b) + map_scale * mse(n(a), n(b))``,
    times the height of the maps (1 for vectors). n centers each map of each sample and divides it by its length. The
    losses of the input and of the output are the mean squared error times the height alone.

    Kao, Hariharan. NeurIPS 2024, arXiv:2409.19841.

    Args:
        forward_net: ``Sequential`` from an input to an output of the same shape, of at least two layers.
        feedback_net: ``Sequential`` with as many blocks; None makes :func:`mirror` of ``forward_net``.
        scale: factor of the squared difference of two states.
        map_scale: factor of the squared difference of their unit maps; 0 leaves it out.
        input_shape: shape of one input, which the mirror needs unless all layers are linear.

    The forms of :meth:`gradients` are "autograd" and "blockwise", see :class:`CounterCurrent`; "auto" is "blockwise".
    ``y`` is None in all methods.

    Raises:
        TypeError: a network is not a Sequential.
        ValueError: fewer than two layers, other numbers of layers, shared weights, a factor out of range, a module that
            the mirror does not know, or in training, an output of another shape than the input.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from probkernels.local_learning import CounterCurrentAutoencoder
        >>> encoder = [nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.ReLU()]
        >>> decoder = [nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, padding=1, bias=False)]
        >>> model = CounterCurrentAutoencoder(nn.Sequential(*encoder, *decoder), input_shape=(1, 8, 8))
        >>> x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> losses = model.gradients(x)
        >>> len(losses), model(x).shape
        (3, torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self, forward_net: nn.Sequential, feedback_net: nn.Sequential | None = None, *, scale: float = 1.0,
        map_scale: float = 1.0, input_shape: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(forward_net, feedback_net, input_shape)
        checks.positive(self.op, "scale", scale)
        checks.non_negative(self.op, "map_scale", map_scale)
        self.scale, self.map_scale = scale, map_scale

    @torch.no_grad()
    def start_small(self, encoder_layers: int, gain: float = 0.001) -> None:
        """Sets the paper's start: all weights of linear layers and convolutions become orthogonal; those of the
        decoder's forward layers and of the encoder's feedback layers are ``gain`` times that, and the first of each in
        its direction is 0.

        Args:
            encoder_layers: number of layers of the encoder, less than all.
            gain: the factor.
        """
        op = f"{self.op}.start_small"
        front, back = ([_blocks.layer_of(part) for part in stream] for stream in self.blocks())
        checks.integer(op, "encoder_layers", encoder_layers, 1, len(front) - 1)
        checks.positive(op, "gain", gain)
        small = front[encoder_layers:], back[encoder_layers - 1 :: -1]  # each in the order of its stream
        for layer in (*front, *back):
            if not isinstance(layer, (nn.Linear, *CONVS)):
                wanted = "linear layers and convolutions"
                raise ValueError(message(op, "forward_net", wanted, type(layer).__name__))
            nn.init.orthogonal_(layer.weight, gain if layer in (*small[0], *small[1]) else 1.0)  # type: ignore[arg-type]
        for stream in small:
            nn.init.zeros_(stream[0].weight)  # type: ignore[arg-type]

    def _code(self, x: Tensor) -> Tensor:
        return x

    def _target(self, op: str, x: Tensor, y: Tensor | None) -> Tensor:
        if y is not None:
            raise TypeError(message(op, "y", "None, as an autoencoder needs no labels", checks.describe(y)))
        return x

    def _local(self, depth: int, a: Tensor, b: Tensor, target: Tensor, keep: Tensor | None) -> Tensor:
        b = b.view_as(a)
        value = (a - b).square().mean()
        if depth > 0:
            value = self.scale * value
            if self.map_scale:
                value = value + self.map_scale * (_unit_maps(a) - _unit_maps(b)).square().mean()
        return value * _height(a)

    def _last(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:
            got = f"shape {tuple(output.shape)}"
            raise ValueError(message(self.op, "forward_net", f"outputs of shape {tuple(target.shape)}", got))
        return (output - target).square().mean() * _height(output)


def _height(x: Tensor) -> int:
    return x.shape[2] if x.ndim > 2 else 1


def _unit_maps(x: Tensor) -> Tensor:
    """Maps with mean 0 and length 1; the values of a vector are one map."""
    maps = x.flatten(2) if x.ndim > 2 else x[:, None]
    return nn.functional.normalize(maps - maps.mean(-1, keepdim=True), dim=-1)
