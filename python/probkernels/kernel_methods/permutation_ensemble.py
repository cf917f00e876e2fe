"""Ensembles of two-layer ReLU networks that learn a permutation, trained in one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .permutation_ntk import _unit, round_sign

KINDS = {"ntk": "ntk", "standard": "nngp"}  # parameterization: kind of permutation_moments that wide networks follow
TILE = 2**24  # hidden units of one tile of networks: bounds the memory of `each`
CHECK_EVERY = 10
EXPLODED = 1e3  # errors that have grown so much never come back


class PermutationEnsemble(nn.Module):
    """Independent networks that learn a permutation of k bits from the k basis vectors, all in one batch.

    With ``"ntk"`` a network is f(x) = W2 relu(W1 x / sqrt(k)) / sqrt(width) with weights N(0, 1). With ``"standard"``
    it is f(x) = W2 relu(W1 x + b1) + b2 with weights of variance 1 / inputs and biases that start at 0, as in the
    paper's code; there gradients of the last layer dominate, and wide networks follow ``kind="nngp"``. Inputs are
    divided by their norm.

    Args:
        k: number of bits, >= 2.
        width: number of hidden units.
        n_models: number of networks.
        parameterization: ``"ntk"`` or ``"standard"``.
        generator: of the initial weights. None: torch's global one.
        device: of the weights.
        dtype: of the weights, float32 or float64.

    Attributes:
        first: (n_models, width, k), the weights of the hidden layer.
        second: (n_models, k, width), the weights of the output.
        kind: that of :func:`permutation_moments` for the limit of infinite width.
        step: default step of gradient descent, 2 / (least + greatest eigenvalue of the kernel of infinite width).
        contraction: the factor by which such a step shrinks the training errors of infinitely wide networks.
        errors: root mean square training errors before each step of the last ``fit``.

    Raises:
        TypeError, ValueError: an argument has a wrong kind or is out of range.

    Giapitzakis, Back de Luca, Fountoulakis: "Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic
    Training Size and Quadratic Ensemble Complexity", 2025, arXiv:2502.16763.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import PermutationEnsemble
        >>> generator = torch.Generator().manual_seed(0)
        >>> ensemble = PermutationEnsemble(3, 256, 200, "standard", generator=generator).fit([2, 0, 1])
        >>> ensemble.predict(torch.tensor([[1, 1, 0], [0, 1, 1]]))  # bit j is bit permutation[j] of the input
        tensor([[0, 1, 1],
                [1, 0, 1]])
    """

    first_bias: nn.Parameter | None
    second_bias: nn.Parameter | None

    def __init__(
        self,
        k: int,
        width: int,
        n_models: int,
        parameterization: str = "ntk",
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        checks.integer(op, "k", k, 2)
        checks.integer(op, "width", width)
        checks.integer(op, "n_models", n_models)
        checks.one_of(op, "parameterization", parameterization, tuple(KINDS))
        checks.one_of(op, "dtype", dtype, (torch.float32, torch.float64))
        self.k, self.width, self.n_models, self.parameterization = k, width, n_models, parameterization
        self.kind = KINDS[parameterization]
        a, b = (1.0, 1 / (2 * math.pi)) if self.kind == "ntk" else (0.5, 1 / (2 * math.pi))
        scale = 1 / k if self.kind == "ntk" else width / k
        self.step = 2 / (scale * (2 * (a - b) + k * b))
        self.contraction = k * b / (2 * (a - b) + k * b)
        self.errors: list[float] = []
        make = {"device": device, "dtype": dtype}
        self.first = nn.Parameter(torch.empty(n_models, width, k, **make))
        self.second = nn.Parameter(torch.empty(n_models, k, width, **make))
        biased = parameterization == "standard"
        self.first_bias = nn.Parameter(torch.empty(n_models, width, 1, **make)) if biased else None
        self.second_bias = nn.Parameter(torch.empty(n_models, k, 1, **make)) if biased else None
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> PermutationEnsemble:
        """Draws initial weights anew."""
        standard = self.parameterization == "standard"
        self.first.normal_(0.0, self.k**-0.5 if standard else 1.0, generator=generator)
        self.second.normal_(0.0, self.width**-0.5 if standard else 1.0, generator=generator)
        for bias in (self.first_bias, self.second_bias):
            if bias is not None:
                bias.zero_()
        self.errors = []
        return self

    @torch.no_grad()
    def fit(
        self,
        permutation: Sequence[int] | Tensor,
        *,
        tolerance: float = 1e-5,
        steps: int = 10_000,
        lr: float | None = None,
    ) -> PermutationEnsemble:
        """Trains all networks by full-batch gradient descent on half the sum of squared errors.

        It starts from the present weights, so that the law of infinite width holds for the first fit after the
        construction or :meth:`reset`.

        Args:
            permutation: 0 to k - 1 in any order: bit j of the output is bit permutation[j] of the input.
            tolerance: training ends when all errors are at most this, checked every 10 steps.
            steps: the most steps.
            lr: step size. None: ``step``. The paper's code has a rate r for the mean of squared errors: 2 r / k^2 here.

        Raises:
            TypeError, ValueError: a bad argument.
            RuntimeError: the errors diverge, or are above the tolerance after all steps.
        """
        op = f"{type(self).__name__}.fit"
        target = self._target(op, permutation)
        checks.positive(op, "tolerance", tolerance)
        checks.integer(op, "steps", steps)
        if lr is not None:
            checks.positive(op, "lr", lr)
        self.errors = []
        for done in range(steps + 1):
            error, hidden = self._error(target)
            self.errors.append(float(error.square().mean().sqrt()))
            if not self.errors[-1] <= EXPLODED * (1 + self.errors[0]):  # also where it is NaN
                hint = "take wider networks, or a lower lr; the weights are lost: call reset()"
                got = f"{self.errors[-1]:.3g} after step {done}"
                raise RuntimeError(message(op, "lr", "errors that do not explode", got, hint))
            last = done == steps
            if (last or done % CHECK_EVERY == 0) and (worst := float(error.abs().max())) <= tolerance:
                return self
            if not last:
                self._descend(error, hidden, self.step if lr is None else lr)
        hint = "take wider networks, more steps, another lr, a greater tolerance, or float64"
        raise RuntimeError(message(op, "steps", f"errors of at most {tolerance:g}", f"{worst:.3g}", hint))

    def each(self, x: Tensor) -> Tensor:
        """The outputs of all networks, (n_models, T, k), for (T, k) nonzero inputs of zeros and ones."""
        unit = _unit(type(self).__name__, x).to(self.first)
        if unit.shape[1] != self.k:
            raise ValueError(message(type(self).__name__, "x", f"shape (T, {self.k})", f"shape {tuple(x.shape)}"))
        tile = max(1, TILE // (self.width * max(1, len(unit))))
        parts = [self._outputs(unit.mT, slice(at, at + tile)) for at in range(0, self.n_models, tile)]
        return torch.cat(parts).mT

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the networks' outputs, (T, k)."""
        return self.each(x).mean(0)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The permuted bits, (T, k) int64: the signs of the mean."""
        return round_sign(self(x), 0.0)

    def _target(self, op: str, permutation: Sequence[int] | Tensor) -> Tensor:
        """(k, k): the column i is the target of e_i."""
        order = torch.as_tensor(permutation)
        checks.integer_tensor(op, "permutation", order)
        if order.shape != (self.k,) or order.sort().values.tolist() != list(range(self.k)):
            raise ValueError(
                message(op, "permutation", f"0 to {self.k - 1} in any order", checks.shown(order.tolist()))
            )
        return torch.eye(self.k, device=self.first.device, dtype=self.first.dtype)[order.to(self.first.device)]

    def _scales(self) -> tuple[float, float]:
        """The factors of the layers in the forward pass."""
        return (1.0, 1.0) if self.parameterization == "standard" else (self.k**-0.5, self.width**-0.5)

    def _outputs(self, columns: Tensor, part: slice) -> Tensor:
        """Outputs of some networks for (k, T) inputs as columns: (models, k, T)."""
        inner, outer = self._scales()
        hidden = torch.matmul(self.first[part], columns * inner)
        if self.first_bias is None or self.second_bias is None:
            return outer * (self.second[part] @ hidden.relu())
        return outer * (self.second[part] @ (hidden + self.first_bias[part]).relu()) + self.second_bias[part]

    def _error(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Errors (models, k, k) and hidden units (models, width, k) at the basis vectors, where W1 x is W1 itself."""
        inner, outer = self._scales()
        hidden = self.first * inner if self.first_bias is None else self.first + self.first_bias
        hidden = hidden.relu_()
        if self.second_bias is None:
            return torch.baddbmm(target, self.second, hidden, beta=-1, alpha=outer), hidden
        return torch.bmm(self.second, hidden) + self.second_bias - target, hidden

    def _descend(self, error: Tensor, hidden: Tensor, lr: float) -> None:
        """One step of all networks; the gradients are those of the weights before it."""
        inner, outer = self._scales()
        back = torch.bmm(self.second.mT, error).mul_(hidden > 0)
        self.second.baddbmm_(error, hidden.mT, alpha=-lr * outer)
        self.first.sub_(back, alpha=lr * outer * inner)
        if self.first_bias is not None and self.second_bias is not None:
            self.first_bias.sub_(back.sum(2, keepdim=True), alpha=lr)
            self.second_bias.sub_(error.sum(2, keepdim=True), alpha=lr)
