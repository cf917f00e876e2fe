"""The vectors A of a PV-RNN, one for each training sequence and step, with Adam's state for each row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .pvrnn import PVRNN


class PosteriorBank(nn.Module):
    """Vectors A (N, T, 2 Z) of N training sequences, and an Adam optimizer that touches the rows of a batch alone.

    ``bank(index)`` gives the rows of some sequences; after ``loss.backward()``, :meth:`step` changes these rows, each
    with its own moments and number of steps. The state is in ``state_dict``: the bank is resumed with the model.

    Args:
        n_sequences: N.
        length: T, that of the longest sequence.
        latents: Z, or the :class:`PVRNN` that has them.
        lr: of Adam.
        betas: of Adam.
        eps: of Adam.

    In training mode and where gradients are recorded, rows are kept until :meth:`step`; call :meth:`eval` to look only.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a number is out of range.
        IndexError: an index names no sequence.

    Example:
        >>> import torch
        >>> from probkernels.sequence import PosteriorBank
        >>> bank = PosteriorBank(100, 24, 1, lr=0.01)
        >>> bank(torch.tensor([3, 7])).sum().backward()
        >>> bank.step()
        >>> bank.a[3, 0].tolist(), bank.a[4, 0].tolist()
        ([-0.009999999776482582, -0.009999999776482582], [0.0, 0.0])
    """

    a: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(
        self,
        n_sequences: int,
        length: int,
        latents: int | PVRNN,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        op = "PosteriorBank"
        rows, steps = checks.integer(op, "n_sequences", n_sequences), checks.integer(op, "length", length)
        z = latents.latents if isinstance(latents, PVRNN) else checks.integer(op, "latents", latents)
        like = latents.weight if isinstance(latents, PVRNN) else torch.empty(0)
        checks.positive(op, "lr", lr)
        checks.positive(op, "eps", eps)
        self.lr, self.betas, self.eps = lr, (checks_beta(betas[0]), checks_beta(betas[1])), eps
        for name in ("a", "mean", "square"):
            self.register_buffer(name, torch.zeros(rows, steps, 2 * z, dtype=like.dtype, device=like.device))
        self.register_buffer("steps", torch.zeros(rows, dtype=torch.long, device=like.device))
        self._given: list[tuple[Tensor, Tensor]] = []

    def forward(self, index: Tensor) -> Tensor:
        """The rows (B, T, 2 Z) of sequences ``index`` (B,), each at most once."""
        checks.integer_tensor("PosteriorBank", "index", index)
        index = index.to(self.a.device).long()
        wrong = (index < 0) | (index >= len(self.a))
        if bool(wrong.any()):
            wanted = f"sequences 0 to {len(self.a) - 1}"
            raise IndexError(message("PosteriorBank", "index", wanted, checks.offender(index, wrong)))
        if index.dim() != 1 or len(index.unique()) < len(index):
            got = f"{checks.describe(index)}" if index.dim() != 1 else "a sequence twice"
            raise ValueError(message("PosteriorBank", "index", "a vector that names each sequence once", got))
        rows = self.a[index]
        if self.training and torch.is_grad_enabled():
            rows.requires_grad_()
            self._given.append((index, rows))
        return rows

    @torch.no_grad()
    def step(self) -> None:
        """One step of Adam for the rows given since the last one that have a gradient: the sum, where given twice."""
        given = [(index, rows.grad) for index, rows in self._given if rows.grad is not None]
        self._given.clear()
        if not given:
            return
        index, place = torch.cat([index for index, _ in given]).unique(return_inverse=True)
        grads = torch.cat([grad for _, grad in given])
        grad = grads.new_zeros(len(index), *grads.shape[1:]).index_add_(0, place, grads)  # rows given twice: the sum
        self.steps[index] += 1
        moments = self.mean[index], self.square[index]
        change = adam_change(grad, *moments, self.steps[index, None, None], self.betas, self.eps)
        self.mean[index], self.square[index] = moments
        self.a[index] -= self.lr * change


def checks_beta(value: float) -> float:
    """``value`` if it is a decay rate of Adam."""
    checks.fraction("PosteriorBank", "betas", value)
    return value


def adam_change(
    grad: Tensor, mean: Tensor, square: Tensor, steps: Tensor | int, betas: tuple[float, float], eps: float
) -> Tensor:
    """What Adam subtracts at a learning rate of 1; moves the moments ``mean`` and ``square`` in place."""
    mean.lerp_(grad, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    of_mean, of_square = (_correction(beta, steps, grad) for beta in betas)
    return (mean / of_mean).div_((square / of_square).sqrt_().add_(eps))


def _correction(beta: float, steps: Tensor | int, like: Tensor) -> Tensor | float:
    return 1 - beta**steps if isinstance(steps, int) else (1 - beta ** steps.double()).to(like.dtype)
