"""``Measurement`` and ``reconstruct``: samples of what was measured, by any sampler; and the latent MAP estimate."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..diffusion import Denoiser, Guided, Scheme, StepNoise, Table, grid, sample, scheme, table
from .guidance import METHODS, Ends, Guidance
from .noise import GaussianNoise, Noise, PoissonNoise
from .physics import as_operator


class Measurement(nn.Module):
    """A measurement y = A x_0 + noise, and the method by which it guides a sampler.

    | method | what it does | options | needs |
    |---|---|---|---|
    | ``replacement`` | after a step the measured part becomes alpha y + sigma A z | | A^+ |
    | ``repaint`` | the same, and each step is taken ``resample`` times | ``resample`` = 10 | A^+, a one-step solver |
    | ``dps`` | after a step x - ``step`` grad of the norm of y - A D(x_t) | ``step`` = 0.5, or a function of t | |
    | ``mcg`` | DPS, then replacement | ``step`` | A^+ |
    | ``pigdm`` | score + J^T A^T (r^2 A A^T + s^2 I)^-1 (y - A D) | ``data_variance`` = 1 | A^+ without noise |
    | ``ddnm`` | D + A^+ (y - A D) | | A^+ |
    | ``ddrm`` | D + A^T (A A^T + s^2 / r^2 I)^-1 (y - A D) | ``data_variance`` = 1 | A^+ without noise |
    | ``exact`` | E[x_0 given x_t and y] of normal data | ``covariance`` (D, D) of the data | Gaussian noise |

    D is the predicted data, J its Jacobian, r^2 = v sigma^2 / (v alpha^2 + sigma^2) for ``data_variance`` v, and s the
    standard deviation of the noise. The last four change D in each call of the network: they work in every solver and
    in every gradient mode. The first four change the state after a step: in gradient modes None and "autograd".

    Args:
        operator: A; an :class:`Operator`, or what :func:`as_operator` takes.
        y: (B, *M) or (1, *M), the measurement.
        noise: :class:`GaussianNoise` or :class:`PoissonNoise`; None for exact measurements.
        method: see above.
        options: options of the method.

    Raises:
        TypeError: the operator, y or the noise is none, or the method does not have an option.
        ValueError: y is not finite, the method is unknown, or an option is out of range.

    Reference:
        Song et al., ICLR 2021 (replacement); Lugmayr et al., RePaint, CVPR 2022; Chung et al., DPS, ICLR 2023, and MCG,
        NeurIPS 2022; Song et al., PiGDM, ICLR 2023; Wang et al., DDNM, ICLR 2023; Kawar et al., DDRM, NeurIPS 2022.

    Example:
        >>> import torch
        >>> from probkernels.inverse import GaussianNoise, Mask, Measurement
        >>> seen = Measurement(Mask(torch.tensor([1, 0])), torch.tensor([[2.0, 0.0]]), GaussianNoise(1.0))
        >>> seen.residual(torch.tensor([[1.5, 7.0]]))
        tensor([[0.5000, 0.0000]])
    """

    y: Tensor

    def __init__(
        self, operator: Any, y: Tensor, noise: Noise | None = None, method: str = "pigdm", **options: Any
    ) -> None:
        super().__init__()
        self.operator = as_operator(operator)
        if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
            raise TypeError(message("Measurement", "y", "a floating-point or complex tensor", checks.describe(y)))
        if y.ndim < 1:
            raise ValueError(message("Measurement", "y", "shape (B, ...)", "shape ()", "one alone is y[None]"))
        checks.finite("Measurement", "y", y, "leave out with a Mask what was not measured, and set it to 0")
        if noise is not None and not isinstance(noise, (GaussianNoise, PoissonNoise)):
            expected = "a GaussianNoise, a PoissonNoise or None"
            raise TypeError(message("Measurement", "noise", expected, checks.describe(noise), "GaussianNoise(std)"))
        checks.one_of("Measurement", "method", method, [*METHODS])
        allowed = [*inspect.signature(METHODS[method]).parameters][1:]
        for name in options:
            if name not in allowed:
                expected = f"one of {', '.join(allowed)}" if allowed else "none"
                got, hint = f"'{name}'", checks.nearest(name, allowed)
                raise TypeError(message("Measurement", "options", f"{expected}, as method is '{method}'", got, hint))
        self.register_buffer("y", y)
        self.noise, self.method, self.options = noise, method, options
        self.guidance()  # checks the options

    def guidance(self) -> Guidance:
        """The method, as a :class:`Change` of the prediction: ``Guided(model, measurement.guidance())``."""
        return METHODS[self.method](self, **self.options)

    def residual(self, x0: Tensor) -> Tensor:
        """y - A x0 (B, *M) for x0 (B, *S).

        Raises:
            TypeError: one of y and A x0 is complex and the other is real.
            ValueError: shapes disagree.
        """
        seen = self.operator.A(x0)
        if seen.is_complex() != self.y.is_complex():
            got = f"{self.y.dtype}, while A x is {seen.dtype}"
            raise TypeError(message("Measurement", "y", "real or complex numbers, as A x", got))
        if seen.shape[1:] != self.y.shape[1:] or len(self.y) not in (1, len(seen)):
            checks.shape("Measurement", "y", self.y, seen.shape, "like A x (or one row)")
        return self.y.to(seen.dtype) - seen

    def weighted(self, r: Tensor) -> Tensor:
        """A residual r (B, *M), over the noise's standard deviation relative to its root mean square in each row."""
        variance = 1.0 if self.noise is None else self.noise.variance(self.y)
        if not isinstance(variance, Tensor):
            return r
        mean = variance.flatten(1).mean(1).view(-1, *[1] * (variance.ndim - 1))  # of a row: none sees its neighbors
        return r * (mean / variance).sqrt()

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(y | x0) (B,) for x0 (B, *S).

        Raises:
            ValueError: the measurement has no noise.
        """
        if self.noise is None:
            raise ValueError(message("Measurement", "noise", "a noise, for a likelihood", "None", "GaussianNoise(std)"))
        return self.noise.log_prob(self.y, self.y - self.residual(x0))

    def repeated(self, n: int) -> Measurement:
        """This measurement with n copies of each row of y, one after another."""
        if len(self.y) == 1:
            return self
        return Measurement(self.operator, self.y.repeat_interleave(n, 0), self.noise, self.method, **self.options)


def reconstruct(
    model: Denoiser,
    measurement: Measurement,
    shape: Sequence[int] | None = None,
    *,
    x_T: Tensor | None = None,
    n_samples: int | None = None,
    solver: str | Table | Scheme = "ddim",
    steps: int | None = None,
    times: Tensor | None = None,
    grid_kind: str | None = None,
    generator: torch.Generator | None = None,
    grad: str | None = None,
    callback: Any = None,
    eta: float | None = None,
    **how: Any,
) -> Tensor:
    """Samples of x_0 given a measurement, by any solver. With ``n_samples``, all of them run as one batch.

    Args:
        model: the denoiser; a :class:`~probkernels.diffusion.Guided` one keeps its own changes, which come first.
        measurement: the measurement and its method.
        shape: (B, *S), the shape of the reconstructions. Give either ``shape`` or ``x_T``.
        x_T: (B, *S), the noise to start from, as in :func:`~probkernels.diffusion.sample`.
        n_samples: samples of each row of the measurement.
        solver: name of a solver, a table or a scheme; stochastic ones (``eta=1``, "ancestral") have the least bias.
        steps: number of steps. Give either ``steps`` or ``times``.
        times: (N+1,) float64, decreasing.
        grid_kind: spacing of ``steps``, see :func:`~probkernels.diffusion.grid`.
        generator: draws x_T, and the seeds of all noise.
        grad: gradient mode, see :func:`~probkernels.diffusion.sample`.
        callback: called as ``callback(n, x)`` after step n, and after the measurement has changed x.
        eta: strength of the noise of solvers that take it.
        how: ``cond``, ``uncond``, ``guidance`` and other arguments of :func:`~probkernels.diffusion.sample`.

    Returns:
        (B, *S); with ``n_samples`` (n_samples, B, *S).

    Raises:
        TypeError, ValueError: as for :func:`~probkernels.diffusion.sample`, or the measurement does not fit ``shape``.
        NotImplementedError: the method needs a pseudo-inverse, and the operator has none.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import Mask, Measurement, reconstruct
        >>> class Normal(torch.nn.Module):  # standard normal data
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> seen = Measurement(Mask(torch.tensor([1, 0])), torch.tensor([[2.0, 0.0]]), method="ddnm")
        >>> x = reconstruct(Denoiser(Normal(), VP(), pred="x0"), seen, (1, 2), n_samples=5, steps=50)
        >>> x.shape, bool((x[..., 0] - 2).abs().max() < 0.1)
        (torch.Size([5, 1, 2]), True)
    """
    if not isinstance(model, Denoiser):
        raise TypeError(message("reconstruct", "model", "a Denoiser", checks.describe(model)))
    if not isinstance(measurement, Measurement):
        raise TypeError(message("reconstruct", "measurement", "a Measurement", checks.describe(measurement)))
    copies = 1 if n_samples is None else checks.integer("reconstruct", "n_samples", n_samples)
    x_T = _start(model, measurement, shape, x_T, generator, copies)
    method = measurement.repeated(copies).guidance()
    method.of.residual(torch.zeros_like(x_T))  # shapes agree before the network is called
    options = {} if eta is None else {"eta": eta}
    if isinstance(solver, str):
        steps, times = None, _times(model, steps, times, grid_kind)
        if method.changes_state:
            solver, times, options = _repeated(model, times, solver, method.resample, options), None, {}
    elif method.resample > 1:
        hint = "give its name and times"
        raise ValueError(message("reconstruct", "solver", "a name, as method is 'repaint'", "coefficients", hint))
    guided = Guided(model, method) if method.changes_data else model
    after = None
    if method.changes_state:
        assert not isinstance(solver, str)
        marks = solver.times[:: method.resample] if method.resample > 1 else solver.times
        noise = StepNoise(x_T.to(torch.promote_types(x_T.dtype, torch.float32)), generator)
        after = _After(method, Ends(model.process, marks.detach().cpu(), noise, method.resample), callback)
    how = {**how, **options, "generator": generator, "grad": grad, "callback": after or callback}
    x = sample(guided, x_T, solver=solver, steps=steps, times=times, **how)
    return x if n_samples is None else x.unflatten(0, (-1, copies)).transpose(0, 1)


class _After:
    """Changes the state after a step, and then calls the user's callback."""

    def __init__(self, method: Guidance, ends: Ends, callback: Any) -> None:
        self.method, self.ends, self.callback = method, ends, callback

    def __call__(self, n: int, x: Tensor) -> Tensor:
        x = self.method.after(n, x, self.ends)
        found = None if self.callback is None else self.callback(n, x)
        return x if found is None else found


def _start(
    model: Denoiser,
    measurement: Measurement,
    shape: Sequence[int] | None,
    x_T: Tensor | None,
    generator: torch.Generator | None,
    copies: int,
) -> Tensor:
    """x_T (copies B, *S)."""
    if (shape is None) == (x_T is None):
        got = "neither" if shape is None else "both"
        raise ValueError(message("reconstruct", "shape", "either 'shape' or 'x_T'", got))
    if x_T is not None:
        checks.float_tensor("reconstruct", "x_T", x_T, "complex data go through ComplexView")
        if copies > 1:
            expected = "none, as 'n_samples' is given: draws differ"
            raise ValueError(message("reconstruct", "x_T", expected, checks.describe(x_T)))
        return x_T
    assert shape is not None
    y = measurement.y
    real = y.real.dtype if y.is_complex() else y.dtype
    device = y.device if generator is None else generator.device
    whole = (shape[0] * copies, *shape[1:])
    return (model.process.prior_std * torch.randn(whole, generator=generator, dtype=real, device=device)).to(y.device)


def _times(model: Denoiser, steps: int | None, times: Tensor | None, kind: str | None) -> Tensor:
    if (steps is None) == (times is None):
        got = "neither" if steps is None else "both"
        raise ValueError(message("reconstruct", "steps", "either 'steps' or 'times'", got))
    if times is None:
        assert steps is not None
        return grid(model.process, steps, kind or "t")
    return times


def _repeated(model: Denoiser, times: Tensor, solver: str, repeats: int, options: dict[str, Any]) -> Table | Scheme:
    """The solver, with each step taken several times."""
    if repeats == 1:
        return scheme(model.process, times, solver, **options)
    hint = "take 'ddim' with eta, or 'ancestral'"
    try:
        once = table(model.process, times, solver, **options)
    except ValueError as error:
        raise ValueError(f"{error} Hint: method 'repaint' needs a one-step solver: {hint}") from error
    if bool((once.b[:, 1:] != 0).any()):
        raise ValueError(
            message("reconstruct", "solver", "a one-step solver, as method is 'repaint'", repr(solver), hint)
        )
    t, a, b, d = (part.repeat_interleave(repeats, 0) for part in (once.t, once.a, once.b, once.d))
    return Table(t, a, b, d, once.kind, torch.cat([t, once.times[-1:]]))


def latent_map(
    model: Denoiser,
    measurement: Measurement,
    x_T: Tensor,
    *,
    solver: str = "ddim",
    steps: int = 20,
    iterations: int = 30,
    **how: Any,
) -> Tensor:
    """The most probable latent: minimizes -log p(y | x_0(x_T)) + |x_T|^2 / (2 std^2) over x_T, and returns its x_0.

    x_0 is the end of a deterministic solver from x_T, and std the process's ``prior_std``. L-BFGS follows the exact
    gradient of the sampler (``grad="exact"``), so the network is differentiated in all steps with the memory of one.
    The measurement's ``method`` does not count.

    Args:
        model: the denoiser.
        measurement: the measurement, with noise.
        x_T: (B, *S), where the search starts.
        solver: name of a deterministic solver.
        steps: its number of steps.
        iterations: iterations of L-BFGS at most.
        how: ``cond``, ``uncond``, ``guidance``, ``store`` and other arguments of
            :func:`~probkernels.diffusion.sample`.

    Returns:
        (B, *S), in x_T's dtype.

    Raises:
        TypeError, ValueError: as for :func:`~probkernels.diffusion.sample`; or the measurement has no noise.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import GaussianNoise, Identity, Measurement, latent_map
        >>> class Normal(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> seen = Measurement(Identity(), torch.tensor([[2.0]]), GaussianNoise(1.0))
        >>> x = latent_map(Denoiser(Normal(), VP(), pred="x0"), seen, torch.zeros(1, 1), steps=50)
        >>> round(float(x), 1)  # the posterior's mean
        1.0
    """
    checks.float_tensor("latent_map", "x_T", x_T)
    checks.integer("latent_map", "iterations", iterations)
    std = model.process.prior_std
    z = (x_T.detach() / std).requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=iterations, line_search_fn="strong_wolfe")

    def end(grad: str | None) -> Tensor:
        return sample(model, std * z, solver=solver, steps=steps, grad=grad, **how)

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = z.square().sum() / 2 - measurement.log_prob(end("exact")).sum()
        checks.finite_loss("latent_map", len(optimizer.state), float(value.detach()))
        (z.grad,) = torch.autograd.grad(value, z)
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return end(None)
