"""Ensembles of finite networks whose last layers have scales drawn from a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ScaleMixtureEnsemble(nn.Module):
    """Networks drawn from the prior of a scale mixture: sigma^2 ~ prior for each, the variance of its last layer.

    Weights of all layers but the last have variance w_std^2 / inputs and biases b_std^2; the last layer has weights of
    variance sigma^2 / inputs and biases 0. Outputs of untrained members are draws from the mixture in the limit of
    infinite width. Train members one by one: their losses add up.

    Args:
        make: function that makes a network of ``nn.Linear`` and convolutions; its last such layer is the last layer.
        members: number of networks.
        prior: of sigma^2: anything with ``sample(shape)``, such as :class:`InverseGamma`.
        w_std: positive number.
        b_std: number >= 0.

    Attributes:
        members: the networks, an ``nn.ModuleList``.
        scales: (members,) the drawn sigma^2, a buffer.

    Raises:
        TypeError, ValueError: an argument has a wrong kind or is out of range, or a network has no such layer.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import InverseGamma, ScaleMixtureEnsemble
        >>> _ = torch.manual_seed(0)
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(3, 50), torch.nn.ReLU(), torch.nn.Linear(50, 2))
        >>> ensemble = ScaleMixtureEnsemble(make, 8, InverseGamma(2.0, 2.0))
        >>> ensemble.each(torch.zeros(4, 3)).shape, ensemble(torch.zeros(4, 3)).shape
        (torch.Size([8, 4, 2]), torch.Size([4, 2]))
    """

    scales: Tensor

    def __init__(
        self, make: Callable[[], nn.Module], members: int, prior: Any, w_std: float = 1.0, b_std: float = 0.0
    ) -> None:
        super().__init__()
        op = type(self).__name__
        checks.integer(op, "members", members)
        checks.positive(op, "w_std", w_std)
        checks.non_negative(op, "b_std", b_std)
        if not hasattr(prior, "sample"):
            raise TypeError(message(op, "prior", "one that has sample(shape)", checks.describe(prior)))
        self.register_buffer("scales", prior.sample((members,)).detach())
        self.members = nn.ModuleList(make() for _ in range(members))
        for member, scale in zip(self.members, self.scales.tolist(), strict=True):
            layers = list(_dense(member))
            if not layers:
                raise ValueError(
                    message(op, "make", "networks with linear layers or convolutions", type(member).__name__)
                )
            for layer in layers:
                last = layer is layers[-1]
                _draw(layer, scale**0.5 if last else w_std, 0.0 if last else b_std)

    def each(self, x: Tensor) -> Tensor:
        """The outputs of all members, (members, ...)."""
        return torch.stack([member(x) for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the members' outputs, such as logits."""
        return self.each(x).mean(0)


def _dense(network: nn.Module) -> Iterator[nn.Module]:
    return (module for module in network.modules() if isinstance(module, DENSE))


@torch.no_grad()
def _draw(layer: Any, w_std: float, b_std: float) -> None:
    inputs = layer.weight[0].numel()
    layer.weight.normal_(0.0, w_std / inputs**0.5)
    if layer.bias is not None:
        layer.bias.normal_(0.0, b_std) if b_std else layer.bias.zero_()
