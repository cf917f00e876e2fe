"""Restoration: denoising, inpainting, super-resolution and deblurring with a diffusion model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..diffusion import Denoiser, grid, sample
from ._base import Operator
from ._tasks import check_input, repeated, time_of
from .measurement import Measurement, reconstruct
from .noise import GaussianNoise
from .operators import Blur, Downsample, Mask


def denoise(
    model: Denoiser,
    y: Tensor,
    noise_std: float,
    *,
    method: str = "mmse",
    n_samples: int | None = None,
    steps: int | None = None,
    solver: str | None = None,
    cond: Any = None,
    generator: torch.Generator | None = None,
    **how: Any,
) -> Tensor:
    """Removes normal noise of standard deviation ``noise_std`` from y = x_0 + noise.

    At the time t* where sigma / alpha = ``noise_std``, alpha y is a noised state of the process.

    Args:
        model: the denoiser.
        y: (B, *S) float, the noisy data.
        noise_std: the noise's standard deviation, one the process reaches.
        method: "mmse": the posterior's mean, in one call of the network. "sample": draws from the posterior.
        n_samples: draws of each row, as one batch; for "sample" only.
        steps: steps from t* to the data; for "sample" only, 50 by default.
        solver: for "sample" only; by default "ddim" with ``eta=1``. Other solvers take their options in ``how``.
        cond: condition of the network: one row, or one for each row of y.
        generator: draws the seed of the noise, for "sample".
        how: other arguments of :func:`~probkernels.diffusion.sample`, for "sample"; ``uncond``, ``guidance``.

    Returns:
        (B, *S); with ``n_samples`` (n_samples, B, *S).

    Raises:
        TypeError, ValueError: y is not a finite float tensor, the process does not reach ``noise_std``, the method is
            unknown, or an argument belongs to the other method.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import denoise
        >>> class Normal(torch.nn.Module):  # standard normal data
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> denoise(Denoiser(Normal(), VP(), pred="x0"), torch.tensor([[3.0]]), 1.0)
        tensor([[1.5000]])
    """
    check_input("denoise", model, "y", y)
    checks.one_of("denoise", "method", method, ("mmse", "sample"))
    t = time_of("denoise", model, "noise_std", noise_std)
    state = float(model.process.alpha(t).detach()) * y
    if method == "mmse":
        drawing = {"n_samples": n_samples, "steps": steps, "solver": solver, "generator": generator}
        for name, value in drawing.items():
            if value is not None:
                raise ValueError(message("denoise", name, "None, as method is 'mmse'", checks.describe(value)))
        with torch.no_grad():
            return model.x0(state, t, cond, **how)
    if n_samples is not None:
        checks.integer("denoise", "n_samples", n_samples)
    n, rows = n_samples or 1, len(y)
    if solver is None:
        solver, how = "ddim", {"eta": 1.0, **how}
    how = {name: repeated(value, n, rows) for name, value in how.items()}
    times = grid(model.process, 50 if steps is None else steps, t_max=t)
    start = repeated(state, n, rows)
    x = sample(model, start, solver=solver, times=times, cond=repeated(cond, n, rows), generator=generator, **how)
    return x if n_samples is None else x.unflatten(0, (n, rows))


def inpaint(model: Denoiser, y: Tensor, mask: Tensor, **how: Any) -> Tensor:
    """Fills in what a mask hides.

    Args:
        model: the denoiser.
        y: (B, *S) float; values where ``mask`` is 0 count for nothing, also NaN.
        mask: bool, or zeros and ones; 1 where y is known. Broadcasts against the last axes of y.
        how: ``noise_std`` of y (None: exact), ``method`` ("repaint" by default, 5 times) and its ``options`` (a dict),
            see :class:`Measurement`; ``steps`` (100), ``solver`` ("ddim" with ``eta=1``) and the other arguments of
            :func:`reconstruct`, such as ``n_samples``, ``generator`` and ``cond``.

    Returns:
        (B, *S); with ``n_samples`` (n_samples, B, *S).

    Raises:
        TypeError, ValueError: as for :class:`Mask`, :class:`Measurement` and :func:`reconstruct`.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import inpaint
        >>> class Normal(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> model = Denoiser(Normal(), VP(), pred="x0")
        >>> x = inpaint(model, torch.tensor([[2.0, torch.nan]]), torch.tensor([1, 0]), steps=10)
        >>> round(float(x[0, 0])), bool(x.isfinite().all())
        (2, True)
    """
    operator = Mask(mask)
    checks.float_tensor("inpaint", "y", y)
    return _restored("inpaint", model, operator, operator(y), tuple(y.shape), "repaint", how)


def super_resolve(model: Denoiser, y: Tensor, factor: int, *, ndim: int = 2, **how: Any) -> Tensor:
    """Samples of data whose means over blocks are y.

    Args:
        model: the denoiser, of data in full resolution.
        y: (B, ..., n_1, .., n_d) float, the means.
        factor: side of a block.
        ndim: d, the number of axes to lengthen, the last ones.
        how: as for :func:`inpaint`.

    Returns:
        (B, ..., factor n_1, .., factor n_d); with ``n_samples`` another axis in front.

    Raises:
        TypeError, ValueError: as for :class:`Downsample`, :class:`Measurement` and :func:`reconstruct`.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import super_resolve
        >>> class Normal(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> x = super_resolve(Denoiser(Normal(), VP(), pred="x0"), torch.ones(1, 3), 2, ndim=1, steps=10)
        >>> x.shape
        torch.Size([1, 6])
    """
    operator = Downsample(factor, ndim)
    checks.float_tensor("super_resolve", "y", y)
    if y.ndim <= ndim:
        expected = f"shape (B, ...) with {ndim} more axes"
        raise ValueError(message("super_resolve", "y", expected, f"shape {tuple(y.shape)}", "ndim= says how many"))
    shape = (*y.shape[:-ndim], *(factor * n for n in y.shape[-ndim:]))
    return _restored("super_resolve", model, operator, y, shape, "repaint", how)


def deblur(model: Denoiser, y: Tensor, kernel: Tensor, **how: Any) -> Tensor:
    """Samples of data that a kernel blurred to y.

    Args:
        model: the denoiser.
        y: (B, *S) float, the blurred data; the blur wraps around.
        kernel: (k_1, .., k_d) real, see :class:`Blur`.
        how: as for :func:`inpaint`; ``method`` is "pigdm" by default, which takes ``noise_std`` into account.

    Returns:
        (B, *S); with ``n_samples`` (n_samples, B, *S).

    Raises:
        TypeError, ValueError: as for :class:`Blur`, :class:`Measurement` and :func:`reconstruct`.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import deblur
        >>> class Normal(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> model, kernel = Denoiser(Normal(), VP(), pred="x0"), torch.tensor([1.0, 2.0, 1.0]) / 4
        >>> deblur(model, torch.ones(1, 4), kernel, noise_std=0.1, steps=10).shape
        torch.Size([1, 4])
    """
    operator = Blur(kernel)
    checks.float_tensor("deblur", "y", y)
    return _restored("deblur", model, operator, y, tuple(y.shape), "pigdm", how)


def _restored(
    op: str, model: Denoiser, operator: Operator, y: Tensor, shape: tuple[int, ...], method: str, how: dict[str, Any]
) -> Tensor:
    check_input(op, model, "y", y)
    std, method = how.pop("noise_std", None), how.pop("method", method)
    options = how.pop("options", None)
    if options is None:
        options = {"resample": 5} if method == "repaint" else {}
    noise = None if std is None else GaussianNoise(std)
    measurement = Measurement(operator, y, noise, method, **options)
    if "solver" not in how:
        how = {"solver": "ddim", "eta": 1.0, **how}
    if "times" not in how:
        how = {"steps": 100, **how}
    return reconstruct(model, measurement, shape, **how)
