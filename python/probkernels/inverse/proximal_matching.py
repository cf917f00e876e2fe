"""Trains a learned proximal network: the proximal-matching loss, its schedule, and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import training
from .._core import checks
from .._core.errors import message
from ..training.loop import moving
from .learned_proximal import noise_range

if TYPE_CHECKING:
    from .learned_proximal import LPN


class ProximalMatchingLoss(nn.Module):
    """The loss 1 - exp(-||f(y) - x||^2 / gamma^2), the mean over a batch; the norm is that of a whole row.

    Its minimizer maximizes the posterior p(x | y) convolved with N(0, gamma^2 / 2 I): MAP as gamma tends to 0.

    Args:
        gamma: positive. Far from all of x the gradient vanishes: begin with an l1 loss, and lower gamma in stages.

    Example:
        >>> import torch
        >>> from probkernels.inverse import ProximalMatchingLoss
        >>> round(ProximalMatchingLoss(0.5)(torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [0.0]])).item(), 6)
        0.5
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        checks.positive("ProximalMatchingLoss", "gamma", gamma)
        self.gamma = float(gamma)

    def forward(self, found: Tensor, x: Tensor) -> Tensor:
        """The loss of f(y) and x, both (B, ...)."""
        checks.float_tensor("ProximalMatchingLoss", "found", found)
        checks.shape("ProximalMatchingLoss", "x", x, found.shape, "(that of 'found')")
        return -torch.expm1(-(found - x).square().flatten(1).sum(1) / self.gamma**2).mean()


@dataclass(frozen=True)
class Stage:
    """A part of a training: ``steps`` with one loss, ``"l2"``, ``"l1"`` or a number gamma, and one learning rate.

    Example:
        >>> from probkernels.inverse import Stage
        >>> Stage(100, 0.5, lr=1e-4)
        Stage(steps=100, loss=0.5, lr=0.0001)
    """

    steps: int
    loss: str | float
    lr: float

    def __post_init__(self) -> None:
        checks.integer("Stage", "steps", self.steps)
        checks.positive("Stage", "lr", self.lr)
        if isinstance(self.loss, str):
            checks.one_of("Stage", "loss", self.loss, ("l2", "l1"))
        else:
            checks.positive("Stage", "loss", self.loss)


class GammaSchedule:
    """The stages of a training by proximal matching, from l1 to ever smaller gamma.

    Args:
        stages: in their order.

    Example:
        >>> from probkernels.inverse import GammaSchedule
        >>> schedule = GammaSchedule.images((1, 28, 28), steps=400)
        >>> schedule.steps, schedule.at(0).loss, [round(schedule.at(n).loss, 2) for n in (200, 250, 300, 399)]
        (400, 'l1', [17.92, 8.96, 4.48, 2.24])
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages or not all(isinstance(stage, Stage) for stage in stages):
            raise TypeError(message("GammaSchedule", "stages", "a sequence of Stage", checks.describe(stages)))
        self.stages = tuple(stages)
        self.steps = sum(stage.steps for stage in stages)

    @classmethod
    def images(
        cls, shape: Sequence[int], steps: int = 40000, *, gamma_min: float | None = None, pretrain: int | None = None
    ) -> GammaSchedule:
        """The published schedule for images of ``shape`` (C, H, W): half of the steps l1 at 1e-3, then four equal
        stages at 1e-4 with gamma = gamma_min times 8, 4, 2, 1. ``gamma_min`` is 0.08 sqrt(C H W) if None."""
        checks.integer("GammaSchedule.images", "steps", steps, 8)
        wanted = steps // 2 if pretrain is None else pretrain
        first = checks.integer("GammaSchedule.images", "pretrain", wanted, 0, steps - 4)
        least = 0.08 * torch.Size(shape).numel() ** 0.5 if gamma_min is None else gamma_min
        checks.positive("GammaSchedule.images", "gamma_min", least)
        bounds = [first + (steps - first) * i // 4 for i in range(5)]
        later = [Stage(bounds[i + 1] - bounds[i], least * 2.0 ** (3 - i), 1e-4) for i in range(4)]
        return cls([Stage(first, "l1", 1e-3), *later] if first else later)

    @classmethod
    def laplace(cls) -> GammaSchedule:
        """The published schedule of the one-dimensional experiment: 44,000 steps."""
        stages: list[tuple[int, str | float, float]]
        stages = [(10000, "l1", 1e-3), (10000, "l1", 1e-4), (2000, 0.5, 1e-3), (2000, 0.5, 1e-4), (4000, 0.4, 1e-4)]
        stages += [(4000, 0.3, 1e-4), (4000, 0.2, 1e-5), (4000, 0.1, 1e-5), (4000, 0.1, 1e-6)]
        return cls([Stage(*stage) for stage in stages])

    def at(self, step: int) -> Stage:
        """The stage of a step, which counts from 0."""
        checks.integer("GammaSchedule", "step", step, 0, self.steps - 1)
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise AssertionError("unreachable")


def _loss(kind: str | float) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(kind, str):
        return nn.functional.l1_loss if kind == "l1" else nn.functional.mse_loss
    return ProximalMatchingLoss(kind)


def fit_lpn(
    lpn: LPN,
    sample: Callable[[torch.Generator], Tensor],
    sigma: float | tuple[float, float],
    schedule: GammaSchedule,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
    after: Callable[[int, float], Any] | None = None,
    progress: bool = False,
) -> list[float]:
    """Trains a learned proximal network to denoise x + sigma eps, on clean samples alone.

    Args:
        lpn: the network. Its constrained weights are projected after every step, and ``lpn.sigma`` is set.
        sample: ``sample(generator)`` returns a batch (B, ...) of clean samples.
        sigma: positive noise level, or (low, high) for one drawn uniformly for each batch.
        schedule: losses and learning rates.
        optimizer: Adam if None; the schedule sets its learning rates.
        seed: of the generator, on the device of the network.
        after: called as ``after(step, loss)``; return True to stop.
        progress: whether to show a bar.

    Returns:
        The loss of every step.

    Raises:
        ValueError: ``sigma`` is not positive, a loss is not finite, or a batch has NaN (its loss has).

    Reference: Fang, Buchanan and Sulam, ICLR 2024.

    Example:
        >>> import torch
        >>> from probkernels.inverse import GammaSchedule, ICNN, LPN, Stage, fit_lpn
        >>> lpn = LPN(ICNN(1, hidden=4, layers=1))
        >>> def sample(generator): return torch.randn(32, 1, generator=generator)
        >>> len(fit_lpn(lpn, sample, 1.0, GammaSchedule([Stage(3, "l2", 1e-3), Stage(2, 0.5, 1e-4)])))
        5
    """
    low, high = noise_range("fit_lpn", sigma)
    if not isinstance(schedule, GammaSchedule):
        raise TypeError(message("fit_lpn", "schedule", "a GammaSchedule", checks.describe(schedule)))
    device = next(lpn.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    used = torch.optim.Adam(lpn.parameters()) if optimizer is None else moving("fit_lpn", lpn, optimizer)

    def loss(step: int) -> Tensor:
        stage = schedule.at(step)
        for group in used.param_groups:
            group["lr"] = stage.lr
        x = sample(generator)
        checks.float_tensor("fit_lpn", "sample(generator)", x)
        level = low + (high - low) * torch.rand((), generator=generator, device=device, dtype=x.dtype)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return _loss(stage.loss)(lpn(x + level * noise), x)

    def projected(step: int, value: float) -> Any:
        lpn.project_()
        return None if after is None else after(step, value)

    lpn.project_()
    lpn.sigma = (low, high)
    return training.minimize(loss, used, schedule.steps, after=projected, progress=progress, name="fit_lpn")
