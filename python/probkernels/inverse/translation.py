"""Translation between domains, and registration."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..diffusion import Denoiser, decode, encode, grid, sample
from ._tasks import check_input, noised, normal, time_of


def translate(
    model: Denoiser,
    x: Tensor,
    *,
    level: float | None = None,
    source: Denoiser | None = None,
    steps: int = 50,
    solver: str | None = None,
    cond: Any = None,
    source_cond: Any = None,
    generator: torch.Generator | None = None,
    **how: Any,
) -> Tensor:
    """Turns data of one domain into data of another. Give either ``level`` or ``source``.

    With ``level``, SDEdit: x is noised until the noise is ``level`` times the signal, and ``model`` removes it. Large
    levels change more. With ``source``, a bridge of two probability-flow ODEs: ``source`` encodes x, ``model`` decodes.

    Args:
        model: a denoiser of the target domain.
        x: (B, *S) float.
        level: noise-to-signal ratio, for SDEdit.
        source: a denoiser of x's own domain, for the bridge.
        steps: steps of each run.
        solver: by default "ddim" with ``eta=1`` for SDEdit, and "heun" for the bridge, which takes "ddim", "heun",
            "midpoint" or "rk4".
        cond: condition of ``model``.
        source_cond: condition of ``source``.
        generator: draws the noise of SDEdit.
        how: ``uncond`` and ``guidance`` of the decoding run, and other arguments of
            :func:`~probkernels.diffusion.sample`; ``grid`` is the spacing of the bridge's times, "lambda" by default.

    Returns:
        (B, *S).

    Raises:
        TypeError, ValueError: x is not a finite float tensor, neither or both of ``level`` and ``source`` are given,
            or the process does not reach ``level``.

    Reference:
        Meng et al., SDEdit, ICLR 2022; Su et al., Dual Diffusion Implicit Bridges, ICLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import EDM, Denoiser
        >>> from probkernels.inverse import translate
        >>> class Point(torch.nn.Module):  # all data of the domain are this
        ...     def __init__(self, value):
        ...         super().__init__()
        ...         self.value = value
        ...     def forward(self, x, t):
        ...         return torch.full_like(x, self.value)
        >>> low, high = (Denoiser(Point(v), EDM(), pred="x0") for v in (-1.0, 1.0))
        >>> translate(high, torch.tensor([[-1.0]]), source=low).round()
        tensor([[1.]])
    """
    check_input("translate", model, "x", x)
    if (level is None) == (source is None):
        got = "neither" if level is None else "both"
        raise ValueError(message("translate", "level", "either 'level' or 'source'", got))
    if level is not None:
        times = grid(model.process, steps, how.pop("grid", "t"), t_max=time_of("translate", model, "level", level))
        state = noised(model, x, float(times[0]), generator)
        if solver is None:
            solver, how = "ddim", {"eta": 1.0, **how}
        return sample(model, state, solver=solver, times=times, cond=cond, generator=generator, **how)
    if not isinstance(source, Denoiser):
        raise TypeError(message("translate", "source", "a Denoiser", checks.describe(source)))
    if generator is not None:
        raise ValueError(message("translate", "generator", "None, as 'source' is given", "a generator"))
    run = {"solver": solver or "heun", "steps": steps, "grid": how.pop("grid", "lambda")}
    latent = encode(source, x, cond=source_cond, **run)
    latent = latent * (model.process.prior_std / source.process.prior_std)
    return decode(model, latent, cond=cond, **run, **how)


def warp(x: Tensor, displacement: Tensor) -> Tensor:
    """x at displaced places, between entries linearly, beyond the edge as at the edge.

    Args:
        x: (B, C, *N) float, with one, two or three axes *N.
        displacement: (B, d, *N): at each place, how many entries away along each axis x is read.

    Raises:
        TypeError, ValueError: the tensors are not floats, or shapes disagree.

    Example:
        >>> import torch
        >>> from probkernels.inverse import warp
        >>> warp(torch.tensor([[[0.0, 1.0, 2.0]]]), torch.ones(1, 1, 3))
        tensor([[[1., 2., 2.]]])
    """
    checks.float_tensor("warp", "x", x)
    checks.float_tensor("warp", "displacement", displacement)
    size, d = x.shape[2:], x.ndim - 2
    if d not in (1, 2, 3):
        raise ValueError(message("warp", "x", "shape (B, C, *N) with one to three axes *N", f"shape {tuple(x.shape)}"))
    checks.shape("warp", "displacement", displacement, (len(x), d, *size), "(B, d, *N) as x")
    axes = [torch.arange(n, dtype=x.dtype, device=x.device) for n in size]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement  # (B, d, *N)
    scale = torch.tensor([max(n - 1, 1) for n in size], dtype=x.dtype, device=x.device).view(d, *[1] * d)
    place = (2 * place / scale - 1).flip(1).movedim(1, -1)  # grid_sample wants the last axis first
    if d > 1:
        return F.grid_sample(x, place, padding_mode="border", align_corners=True)
    place = torch.cat([place, torch.zeros_like(place)], -1)[:, None]
    return F.grid_sample(x[:, :, None], place, padding_mode="border", align_corners=True)[:, :, 0]


class Registered(NamedTuple):
    """``warped`` (B, C, *N), ``displacement`` (B, d, *N) in entries, and ``losses``, one an iteration.

    Example:
        >>> from probkernels.inverse import Registered
        >>> Registered._fields
        ('warped', 'displacement', 'losses')
    """

    warped: Tensor
    displacement: Tensor
    losses: list[float]


def register(
    moving: Tensor,
    fixed: Tensor,
    model: Denoiser | None = None,
    *,
    level: float = 0.5,
    spacing: int = 4,
    smoothness: float = 0.01,
    iterations: int = 100,
    lr: float = 0.3,
    cond: Any = None,
    generator: torch.Generator | None = None,
) -> Registered:
    """Finds the displacement that warps ``moving`` onto ``fixed``.

    It minimizes the mean squared distance of both images, plus ``smoothness`` times the mean squared differences of
    neighboring displacements, by Adam; displacements live on a coarse grid, between whose points they are linear. With
    a model, images are compared as the denoiser sees them: as data predicted from both, under the same noise of
    ``level``, so that what the model takes for noise counts less. DiffuseMorph instead trains a network that returns
    the displacement at once.

    Args:
        moving: (B, C, *N) float, with one, two or three axes *N.
        fixed: the same shape.
        model: a denoiser of such images, or None to compare the images themselves.
        level: noise-to-signal ratio at which the model sees images.
        spacing: entries between two points of the coarse grid.
        smoothness: weight of the penalty, 0 or more.
        iterations: steps of Adam.
        lr: its learning rate, in entries.
        cond: condition of the model.
        generator: draws the noise, once.

    Raises:
        TypeError, ValueError: images are not finite floats of one shape, or an argument is out of range.

    Reference:
        Kim et al., DiffuseMorph, ECCV 2022, for the task.

    Example:
        >>> import torch
        >>> from probkernels.inverse import register
        >>> bump = lambda at: (-((torch.arange(16.0) - at) / 3) ** 2).exp()[None, None]
        >>> found = register(bump(7.0), bump(8.0))
        >>> bool((found.warped - bump(8.0)).abs().max() < 0.1)
        True
    """
    for name, value in (("moving", moving), ("fixed", fixed)):
        checks.wide_float_tensor("register", name, value)
        checks.finite("register", name, value)
    checks.shape("register", "fixed", fixed, moving.shape, "as moving")
    d = moving.ndim - 2
    if d not in (1, 2, 3):
        expected = "shape (B, C, *N) with one to three axes *N"
        raise ValueError(message("register", "moving", expected, f"shape {tuple(moving.shape)}"))
    checks.non_negative("register", "smoothness", smoothness)
    checks.positive("register", "lr", lr)
    for name, count in (("spacing", spacing), ("iterations", iterations)):
        checks.integer("register", name, count)
    seen = _Seen(model, fixed, level, cond, generator)
    goal, size = seen(fixed).detach(), moving.shape[2:]
    coarse = torch.zeros(len(moving), d, *(max(math.ceil(n / spacing), 2) for n in size)).to(fixed)
    coarse.requires_grad_()
    optimizer = torch.optim.Adam([coarse], lr=lr)
    losses: list[float] = []

    def field() -> Tensor:
        return F.interpolate(coarse, size, mode=("linear", "bilinear", "trilinear")[d - 1], align_corners=True)

    with torch.enable_grad():
        for step in range(iterations):
            distance = (seen(warp(moving, field())) - goal).square().mean()
            rough = sum((coarse.diff(dim=axis).square().mean() for axis in range(2, 2 + d)), coarse.new_zeros(()))
            loss = distance + smoothness * rough
            losses.append(float(loss.detach()))
            checks.finite_loss("register", step, losses[-1])
            (coarse.grad,) = torch.autograd.grad(loss, coarse)
            optimizer.step()
    with torch.no_grad():
        displacement = field()
        return Registered(warp(moving, displacement), displacement, losses)


class _Seen:
    """An image as the model sees it: the data that it predicts, under one noise; or the image itself."""

    def __init__(self, model: Denoiser | None, like: Tensor, level: float, cond: Any, generator: Any) -> None:
        self.model, self.cond = model, cond
        if model is not None:
            check_input("register", model, "fixed", like)
            self.t = time_of("register", model, "level", level)
            self.noise = normal(like, generator)

    def __call__(self, x: Tensor) -> Tensor:
        if self.model is None:
            return x
        return self.model.x0(self.model.process.noised(x, self.t, self.noise), self.t, self.cond)
