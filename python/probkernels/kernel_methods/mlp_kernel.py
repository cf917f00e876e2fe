"""Kernels of infinitely wide fully connected networks: NNGP and NTK."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..ops.arc_cosine import arc_cosine, arc_cosine_diagonal
from ._network_kernel import NetworkKernel


class MLPKernel(NetworkKernel):
    """The kernel of an infinitely wide fully connected network, with trainable hyperparameters.

    The network is a dense layer, then ``depth`` times "activation, dense layer", in the NTK parameterization: weights
    have variance w_std^2 / inputs, biases b_std^2; the last layer has last_w_std and no biases.

    Args:
        depth: number of hidden layers, >= 1.
        activation: ``"relu"`` or ``"erf"``.
        w_std: positive number.
        b_std: number >= 0. With 0, the network has no biases, and there is no parameter for them.
        last_w_std: positive number.
        kind: which kernel a call returns: ``"nngp"`` (Bayesian network, or last layer trained) or ``"ntk"`` (all layers
            trained by gradient descent).

    Attributes:
        log_w_std, log_b_std, log_last_w_std: the parameters, float64 unless the module is cast.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import MLPKernel
        >>> x = torch.tensor([[1.0, 0.5, -0.3], [-0.2, 0.8, 0.4]])
        >>> MLPKernel(depth=2, w_std=1.4, b_std=0.3)(x).detach()
        tensor([[0.5181, 0.2550],
                [0.2550, 0.3580]])

    Reference: Lee, Yun, Yang, Lee, "Scale Mixtures of Neural Network Gaussian Processes", ICLR 2022.
    """

    residual = False

    def __init__(
        self,
        depth: int,
        activation: str = "relu",
        w_std: float = 1.0,
        b_std: float = 0.0,
        last_w_std: float = 1.0,
        kind: str = "nngp",
    ) -> None:
        super().__init__(depth, activation, w_std, b_std, last_w_std, kind)

    def diagonal(self, x: Tensor) -> Tensor:
        self._check(x, x)
        nngp, ntk = arc_cosine_diagonal(x.square().mean(-1), **self._layers(x))
        return nngp if self.kind == "nngp" else ntk

    def _kernels(self, x: Tensor, z: Tensor | None, ntk: bool) -> tuple[Tensor, Tensor | None]:
        self._check(x, x if z is None else z)
        other = x if z is None else z
        batch = torch.broadcast_shapes(x.shape[:-2], other.shape[:-2])
        with torch.autocast(x.device.type, enabled=False):
            k = (x / x.shape[-1]) @ other.mT
        of_x = x.square().mean(-1).expand(*batch, x.shape[-2])
        of_z = None if z is None else z.square().mean(-1).expand(*batch, z.shape[-2])
        return arc_cosine(k, of_x, of_z, ntk=ntk, **self._layers(x))

    def _layers(self, like: Tensor) -> dict[str, Any]:
        """The arguments of ``arc_cosine``."""
        weights, biases = self._variances(like)
        return {"weights": weights, "biases": biases, "activation": self.activation, "residual": self.residual}

    def _check(self, x: Tensor, z: Tensor) -> None:
        op = type(self).__name__
        for name, value in (("x", x), ("z", z)):
            checks.wide_float_tensor(op, name, value, "cast the inputs: x.float()")
            if value.ndim < 2 or value.shape[-1] == 0 or value.shape[-1] != x.shape[-1] or value.dtype != x.dtype:
                expected = "shape (..., N, D), D >= 1" + (" and dtype of 'x'" if name == "z" else "")
                got = checks.describe(value) + (f" beside {checks.describe(x)}" if name == "z" else "")
                raise ValueError(message(op, name, expected, got))


class ResidualMLPKernel(MLPKernel):
    """The kernel of an infinitely wide residual network of dense layers, with trainable hyperparameters.

    The network is a dense layer, then ``blocks`` times ``x + dense(activation(x))``, then "activation, dense layer".

    Args:
        blocks: number of residual blocks, >= 0.
        activation: as in :class:`MLPKernel`.
        w_std: as in :class:`MLPKernel`.
        b_std: as in :class:`MLPKernel`.
        last_w_std: as in :class:`MLPKernel`.
        kind: as in :class:`MLPKernel`.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import ResidualMLPKernel
        >>> x = torch.tensor([[1.0, 0.5, -0.3], [-0.2, 0.8, 0.4]])
        >>> ResidualMLPKernel(blocks=2, w_std=1.4, b_std=0.3)(x).detach()
        tensor([[2.0266, 0.9480],
                [0.9480, 1.3863]])

    Reference: Lee, Yun, Yang, Lee, "Scale Mixtures of Neural Network Gaussian Processes", ICLR 2022.
    """

    residual = True

    def __init__(
        self,
        blocks: int,
        activation: str = "relu",
        w_std: float = 1.0,
        b_std: float = 0.0,
        last_w_std: float = 1.0,
        kind: str = "nngp",
    ) -> None:
        checks.integer("ResidualMLPKernel", "blocks", blocks, 0)
        super().__init__(blocks + 1, activation, w_std, b_std, last_w_std, kind)
