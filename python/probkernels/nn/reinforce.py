"""Stochastic binary units with the score-function (REINFORCE) gradient and the variance-optimal baseline per unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._noise import wide
from .stochastic import _Unit, straight_through


class _Given(torch.autograd.Function):
    """0, whose gradient with respect to ``a`` is ``gradient``."""

    @staticmethod
    def forward(a: Tensor, gradient: Tensor) -> Tensor:
        return gradient.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (grad * gradient).to(ctx.dtype), None


def _checked_loss(op: str, a: Tensor, h: Tensor, loss: object) -> Tensor:
    checks.float_tensor(op, "a", a)
    checks.float_tensor(op, "h", h)
    checks.shape(op, "h", h, a.shape, "as 'a'")
    checks.float_tensor(op, "loss_per_example", loss)
    assert isinstance(loss, Tensor)
    if a.ndim == 0:
        raise ValueError(message(op, "a", "shape (..., units)", "shape ()"))
    hint = "take the loss with reduction='none': the batch mean does not tell which units helped"
    checks.shape(op, "loss_per_example", loss, a.shape[:-1], "(one loss for each example)", hint)
    if not loss.numel():
        raise ValueError(message(op, "loss_per_example", "at least one example", f"shape {tuple(loss.shape)}"))
    return loss.detach().to(wide(a))[..., None]


def reinforce(a: Tensor, h: Tensor, loss_per_example: Tensor, baseline: float | Tensor = 0.0) -> Tensor:
    """A surrogate loss of value 0 whose gradient is that of REINFORCE: (h - sigmoid(a)) (loss - baseline).

    The gradient is unbiased for every baseline that does not depend on h. Add the surrogate to the loss: whatever is
    below ``a`` learns from the surrogate, whatever is above h by back-propagation.

    Args:
        a: (..., units) pre-activations.
        h: of the same shape: the bits that were drawn with probability sigmoid(a).
        loss_per_example: (...) losses, one for each example. No gradient flows into them.
        baseline: a number, or a tensor that broadcasts to (..., units).

    Returns:
        A scalar. Its gradient with respect to a is the estimator, divided by the number of examples.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: shapes do not match, or there is no example.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> a = torch.zeros(2, 1, requires_grad=True)
        >>> pk.nn.reinforce(a, torch.tensor([[1.0], [0.0]]), torch.tensor([2.0, -1.0])).backward()
        >>> a.grad.tolist()
        [[0.5], [0.25]]
    """
    loss = _checked_loss("reinforce", a, h, loss_per_example)
    score = h.detach() - a.detach().to(loss.dtype).sigmoid()
    return _Given.apply(a, score * (loss - baseline) / loss.numel())


class Reinforce(_Unit):
    """Binary units, h = 1 with probability sigmoid(a), with an unbiased gradient of low variance.

    Each unit has the baseline of least variance, E[(h - p)^2 L] / E[(h - p)^2], from two running means. A batch is
    judged by the baseline of the batches before it, so that the gradient stays unbiased; the first one has baseline 0.
    In evaluation mode: 1 where p > ``threshold``.

    Args:
        shape: (units,) or the number of units.
        decay: of the running means, in [0, 1).

    Shape: (..., units) -> (..., units).

    Raises:
        ValueError: a setting is out of range.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> units, generator = pk.nn.Reinforce(3), torch.Generator().manual_seed(0)
        >>> a = torch.zeros(8, 3, requires_grad=True)
        >>> h = units(a, generator=generator)
        >>> loss = (h - 1).square().sum(-1)
        >>> (loss.mean() + units.surrogate(loss)).backward()
        >>> a.grad.shape, units.baseline.shape
        (torch.Size([8, 3]), torch.Size([3]))
    """

    weighted_loss: Tensor
    weight: Tensor

    def __init__(self, shape: int | Sequence[int], decay: float = 0.9) -> None:
        super().__init__(0.5)
        size = (shape,) if isinstance(shape, int) else tuple(shape)
        if len(size) != 1:
            raise ValueError(message("Reinforce", "shape", "(units,) or a number", str(size)))
        checks.integer("Reinforce", "shape", size[0])
        checks.fraction("Reinforce", "decay", decay)
        self.decay = decay
        self.register_buffer("weighted_loss", torch.zeros(size))
        self.register_buffer("weight", torch.zeros(size))
        self._last: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave out the forward pass that waits for its surrogate."""
        return {**self.__dict__, "_last": None}

    @property
    def baseline(self) -> Tensor:
        """(units,) baseline of each unit; 0 before the first surrogate."""
        return torch.where(self.weight > 0, self.weighted_loss / self.weight.clamp_min(1e-30), 0)

    def forward(self, a: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws the bits; in training they wait for :meth:`surrogate`."""
        checks.float_tensor("Reinforce", "a", a)
        if a.ndim == 0 or a.shape[-1] != len(self.weight):
            wanted = f"shape (..., {len(self.weight)})"
            raise ValueError(message("Reinforce", "a", wanted, f"shape {tuple(a.shape)}"))
        if not self.training:
            return straight_through(a.detach(), hard="threshold", threshold=self.threshold)
        h = straight_through(a.detach(), generator=generator)
        self._last = (a, h) if torch.is_grad_enabled() else None
        return h

    def surrogate(self, loss_per_example: Tensor) -> Tensor:
        """The surrogate of the last forward pass; see :func:`reinforce`. Also updates the running means.

        Args:
            loss_per_example: (...), one loss for each example.

        Raises:
            RuntimeError: no forward pass in training mode is waiting.
        """
        if self._last is None:
            hint = "call the module in training mode with gradients; a forward pass has one surrogate"
            raise RuntimeError(message("Reinforce.surrogate", "self", "a forward pass that waits", "none", hint))
        a, h = self._last
        loss = _checked_loss("Reinforce.surrogate", a, h, loss_per_example)
        found = reinforce(a, h, loss_per_example, self.baseline)
        self._last = None
        with torch.no_grad():
            square = (h - a.to(loss.dtype).sigmoid()).square()
            self._move(square.reshape(-1, len(self.weight)), loss.reshape(-1, 1))
        return found

    def _move(self, square: Tensor, loss: Tensor) -> None:
        """Moves the running means; a batch with a loss that is not finite leaves them."""
        new = torch.stack([(square * loss).mean(0), square.mean(0)]).to(self.weight.dtype)
        old = torch.stack([self.weighted_loss, self.weight])
        moved = torch.where(new.isfinite().all(), old.lerp(new, 1 - self.decay), old)
        self.weighted_loss.copy_(moved[0])
        self.weight.copy_(moved[1])

    def extra_repr(self) -> str:
        """The settings shown by print(module)."""
        return f"{len(self.weight)}, decay={self.decay}"
