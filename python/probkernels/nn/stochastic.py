"""Stochastic units: noisy rectifier, stochastic times smooth, straight-through; functions and modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from ..ops.stochastic_gate import stochastic_gate
from ._noise import check_generator, draw_seed, wide

NOISES = ("gauss", "logistic")
MODES = ("identity", "sigmoid")
GATES = {"identity": "straight_through", "sigmoid": "straight_through_sigmoid"}  # modes of the op
HARD = ("sample", "threshold")


class _Step(torch.autograd.Function):
    """1 where sigmoid(slope a) > threshold, else 0; the gradient goes through as if it were a smooth function."""

    @staticmethod
    def forward(a: Tensor, threshold: float | Tensor, mode: str, slope: float) -> Tensor:
        p = (slope * a.to(wide(a))).sigmoid()
        return torch.where(a.isnan(), torch.nan, (p > threshold).to(p.dtype)).to(a.dtype)  # a comparison hides NaN

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, _, ctx.mode, ctx.slope = inputs
        ctx.save_for_backward(a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.mode == "identity":
            return grad, None, None, None
        (a,) = ctx.saved_tensors
        p = (ctx.slope * a.to(wide(a))).sigmoid()
        return (grad * (ctx.slope * p * (1 - p))).to(a.dtype), None, None, None


# --- functions ---


def noisy_rectifier(a: Tensor, noise: str = "gauss", *, generator: torch.Generator | None = None) -> Tensor:
    """Noisy rectifier: max(0, a + z) with fresh noise z, and the gradient 1 where that is positive.

    With logistic noise a unit is on with probability sigmoid(a), and its mean is softplus(a). The gradient is unbiased
    for smooth losses.

    Args:
        a: pre-activations of any shape, floating point.
        noise: ``"gauss"`` (standard normal) or ``"logistic"``.
        generator: gives the seed of the noise. None: torch's own, with the rank mixed in, in a distributed run.

    Returns:
        h of the shape and dtype of ``a``. NaN stays NaN.

    Raises:
        TypeError: ``a`` is not floating point, or ``generator`` is no generator.
        ValueError: ``noise`` is unknown.

    Reference: Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation", arXiv:1308.3432.

    Example:
        >>> import torch, probkernels as pk
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = pk.nn.noisy_rectifier(torch.full((10_000,), 0.5), generator=generator)
        >>> bool((h.mean() - 0.6978).abs() < 0.03)  # E max(0, 0.5 + z)
        True
    """
    op = "noisy_rectifier"
    checks.float_tensor(op, "a", a)
    checks.one_of(op, "noise", noise, NOISES)
    return stochastic_gate(a, mode=f"rectifier_{noise}", seeds=draw_seed(op, a.device, generator)[0])


def stochastic_times_smooth(a: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Stochastic times smooth: h = b sqrt(p) with p = sigmoid(a) and b = 1 with probability sqrt(p).

    The mean is p. The backward takes b as a constant: b (1 - p) sqrt(p) / 2, which is biased: for a loss that is linear
    in h, its mean is half the true gradient.

    Args:
        a: pre-activations of any shape, floating point.
        generator: gives the seed of b. None: torch's own, with the rank mixed in, in a distributed run.

    Returns:
        h of the shape and dtype of ``a``. NaN stays NaN.

    Raises:
        TypeError: ``a`` is not floating point, or ``generator`` is no generator.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432. The authors' code draws b with p, not sqrt(p).

    Example:
        >>> import torch, probkernels as pk
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = pk.nn.stochastic_times_smooth(torch.full((10_000,), 0.5), generator=generator)
        >>> bool((h.mean() - torch.tensor(0.5).sigmoid()).abs() < 0.02)
        True
    """
    op = "stochastic_times_smooth"
    checks.float_tensor(op, "a", a)
    return stochastic_gate(a, mode="times_smooth", seeds=draw_seed(op, a.device, generator)[0])


def straight_through(
    a: Tensor,
    mode: str = "identity",
    hard: str = "sample",
    *,
    slope: float = 1.0,
    threshold: float | Tensor = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Straight-through: a bit h in the forward pass, a smooth function in the backward pass.

    Args:
        a: pre-activations of any shape, floating point.
        mode: gradient of h with respect to a: ``"identity"`` (1) or ``"sigmoid"`` (slope p (1 - p)). Both are biased;
            ``"sigmoid"`` is exact for a loss that is linear in h.
        hard: ``"sample"`` draws h with probability p = sigmoid(slope a); ``"threshold"`` is 1 where p > ``threshold``.
        slope: of the sigmoid, positive; raise it during training to anneal.
        threshold: for ``hard="threshold"``; a number or a tensor that broadcasts.
        generator: gives the seed of h. None: torch's own, with the rank mixed in, in a distributed run.

    Returns:
        h of the shape and dtype of ``a``: 0 or 1, and NaN where a is NaN.

    Raises:
        TypeError: ``a`` is not floating point, or ``generator`` is no generator.
        ValueError: a setting is unknown or out of range.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432. Slope annealing: Chung, Ahn, Bengio, "Hierarchical
    Multiscale Recurrent Neural Networks", ICLR 2017.

    Example:
        >>> import torch, probkernels as pk
        >>> a = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
        >>> h = pk.nn.straight_through(a, "sigmoid", "threshold")
        >>> h.sum().backward()
        >>> h.tolist(), [round(g, 4) for g in a.grad.tolist()]
        ([0.0, 1.0, 1.0], [0.105, 0.235, 0.0452])
    """
    op = "straight_through"
    checks.float_tensor(op, "a", a)
    checks.one_of(op, "mode", mode, MODES)
    checks.one_of(op, "hard", hard, HARD)
    check_generator(op, generator)
    checks.positive(op, "slope", slope)
    if not isinstance(threshold, Tensor):
        checks.unit_interval(op, "threshold", threshold)
    if hard == "threshold":
        return _Step.apply(a, threshold, mode, slope)
    seed = draw_seed(op, a.device, generator)[0]
    return stochastic_gate(a, mode=GATES[mode], slope=float(slope), seeds=seed)


# --- modules ---


class _Unit(nn.Module):
    """Base of the modules: a threshold of the gate value, for evaluation."""

    threshold: Tensor

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(float(threshold)))

    def value(self, a: Tensor) -> Tensor:
        """The gate value that the threshold is compared with, without noise: sigmoid(a)."""
        return a.sigmoid()


class NoisyRectifier(_Unit):
    """Module of :func:`noisy_rectifier`. In evaluation mode, without noise: a where a > ``threshold``, else 0.

    Args:
        noise: ``"gauss"`` or ``"logistic"``.

    Shape: (...) -> (...).

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.nn.NoisyRectifier().eval()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(self, noise: str = "gauss") -> None:
        super().__init__(0.0)
        checks.one_of("NoisyRectifier", "noise", noise, NOISES)
        self.noise = noise

    def value(self, a: Tensor) -> Tensor:
        """The gate value without noise: max(0, a)."""
        return a.relu()

    def forward(self, a: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The units' outputs."""
        if self.training:
            return noisy_rectifier(a, self.noise, generator=generator)
        checks.float_tensor("NoisyRectifier", "a", a)
        return torch.where(a <= self.threshold, 0, a.relu())

    def extra_repr(self) -> str:
        """The settings shown by print(module)."""
        return f"noise={self.noise!r}"


class StochasticTimesSmooth(_Unit):
    """Module of :func:`stochastic_times_smooth`. In evaluation mode: the mean p where p > ``threshold``, else 0.

    ``threshold`` starts at 0; :func:`threshold_at_rate` finds the one at which a given share of units is on.

    Shape: (...) -> (...).

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.nn.StochasticTimesSmooth().eval()(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    def __init__(self) -> None:
        super().__init__(0.0)

    def forward(self, a: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The units' outputs."""
        if self.training:
            return stochastic_times_smooth(a, generator=generator)
        checks.float_tensor("StochasticTimesSmooth", "a", a)
        p = self.value(a)
        return torch.where(p <= self.threshold, 0, p)


class StraightThrough(_Unit):
    """Module of :func:`straight_through`, with an annealed slope. In evaluation mode: 1 where p > ``threshold``.

    Args:
        mode: ``"identity"`` or ``"sigmoid"``.
        hard: ``"sample"`` or ``"threshold"``, in training.
        slope: of the sigmoid, at the start.
        growth: :meth:`anneal` multiplies the slope by it.
        most: the slope ends there.

    Shape: (...) -> (...).

    Raises:
        ValueError: a setting is unknown or out of range.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432; Chung, Ahn, Bengio, ICLR 2017.

    Example:
        >>> import torch, probkernels as pk
        >>> unit = pk.nn.StraightThrough("sigmoid", growth=1.5, most=2.0)
        >>> print(*(round(unit.anneal(), 2) for epoch in range(3)))
        1.5 2.0 2.0
    """

    def __init__(
        self, mode: str = "identity", hard: str = "sample", slope: float = 1.0, growth: float = 1.04, most: float = 5.0
    ) -> None:
        super().__init__(0.5)
        op = "StraightThrough"
        checks.one_of(op, "mode", mode, MODES)
        checks.one_of(op, "hard", hard, HARD)
        for name, number in (("slope", slope), ("growth", growth), ("most", most)):
            checks.positive(op, name, number)
        self.mode, self.hard, self.growth, self.most = mode, hard, growth, most
        self.slope = float(slope)

    def get_extra_state(self) -> Tensor:
        """The slope, for ``state_dict()``."""
        return torch.tensor(self.slope, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Takes the slope of a ``state_dict()``."""
        self.slope = float(state)

    def anneal(self) -> float:
        """Makes the slope steeper, for example once an epoch, and returns it."""
        self.slope = min(self.slope * self.growth, self.most)
        return self.slope

    def value(self, a: Tensor) -> Tensor:
        """The gate value that the threshold is compared with: sigmoid(slope a)."""
        return (self.slope * a.to(wide(a))).sigmoid()

    def forward(self, a: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The units' outputs."""
        hard = self.hard if self.training else "threshold"
        threshold = 0.5 if self.training else self.threshold
        return straight_through(a, self.mode, hard, slope=self.slope, threshold=threshold, generator=generator)

    def extra_repr(self) -> str:
        """The settings shown by print(module)."""
        return f"mode={self.mode!r}, hard={self.hard!r}, growth={self.growth}, most={self.most}"
