"""Guidance by a measurement: changes of the predicted data, and of the state after a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..diffusion import Change, Predicted, Process, StepNoise
from .noise import Noise
from .operators import Operator

Weight = float | Callable[[float], float]


class Measured(Protocol):
    """What the methods use of a :class:`Measurement`."""

    operator: Operator
    noise: Noise | None

    @property
    def y(self) -> Tensor:
        """(B, *M), or one row for all samples."""

    def residual(self, x0: Tensor) -> Tensor:
        """y - A x0 (B, *M)."""

    def weighted(self, r: Tensor) -> Tensor:
        """r over the noise's standard deviation relative to its root mean square."""


class Ends:
    """The ends of a run's steps: alpha, sigma and t at the times, and noise beside that of the solver.

    Args:
        process: the process.
        times: (N+1,) float64.
        noise: the noise.
        repeats: how often each step is taken: run step n leads to ``times[n // repeats + 1]``.
    """

    def __init__(self, process: Process, times: Tensor, noise: StepNoise, repeats: int = 1) -> None:
        self.alpha, self.sigma = process.alpha(times).tolist(), process.sigma(times).tolist()
        self.times, self.noise, self.repeats = times.tolist(), noise, repeats
        self.steps = (len(self.times) - 1) * repeats

    def z(self, n: int, second: bool = False) -> Tensor:
        """Standard normal noise (B, *S), one of two a step; the solver has that of steps 0 .. N - 1."""
        return self.noise((2 if second else 1) * self.steps + n)


class Guidance(Change):
    """Base of the methods: a :class:`Change` by default without effect, and ``after`` a step without effect.

    Args:
        measurement: the measurement.
    """

    resample = 1  # how often each step is taken
    changes_data = True  # whether it changes predictions
    changes_state = False  # whether it changes states

    def __init__(self, measurement: Measured) -> None:
        super().__init__()
        self.of = measurement

    def forward(self, predicted: Predicted) -> Tensor:
        """The new data (B, *S)."""
        return predicted.data

    def after(self, n: int, x: Tensor, ends: Ends) -> Tensor:
        """The new state (B, *S) after step n."""
        return x


def spread_variance(predicted: Predicted, data_variance: float) -> Tensor:
    """r^2, the variance of x_0 given x_t for independent normal data: a number, or (B,)."""
    alpha, sigma = (torch.as_tensor(c, dtype=torch.float64).flatten() for c in (predicted.alpha, predicted.sigma))
    found = sigma**2 * data_variance / (sigma**2 + alpha**2 * data_variance)
    return found.to(predicted.data) if len(found) > 1 else found[0].to(predicted.data)


class DDNM(Guidance):
    """D + A^+ (y - A D): what is measured replaces what is predicted."""

    def forward(self, predicted: Predicted) -> Tensor:
        """See the base."""
        return predicted.data + self.of.operator.pinv(self.of.residual(predicted.data))


class DDRM(Guidance):
    """D + A^T (A A^T + (s^2 / r^2) I)^-1 (y - A D): DDNM, weighted by the noise of the measurement."""

    def __init__(self, measurement: Measured, data_variance: float = 1.0) -> None:
        super().__init__(measurement)
        checks.positive("Measurement", "data_variance", data_variance)
        self.data_variance = data_variance

    def correction(self, predicted: Predicted) -> Tensor:
        """What DDRM adds (B, *S)."""
        r, operator = self.of.residual(predicted.data), self.of.operator
        if self.of.noise is None:
            return operator.pinv(r)
        spread = spread_variance(predicted, self.data_variance)
        variance = self.of.noise.variance(self.of.y)
        ridge = variance / (spread.view(-1, *[1] * (r.ndim - 1)) if spread.ndim else spread)
        return operator.adjoint(operator.solve(r, ridge))

    def forward(self, predicted: Predicted) -> Tensor:
        """See the base."""
        return predicted.data + self.correction(predicted)


class PiGDM(DDRM):
    """The score + J^T A^T (r^2 A A^T + s^2 I)^-1 (y - A D), with the Jacobian J of D: exact for independent data."""

    through_net = True

    def forward(self, predicted: Predicted) -> Tensor:
        """See the base."""
        spread = spread_variance(predicted, self.data_variance)
        pulled = predicted.pull(self.correction(predicted))
        return predicted.along(pulled / (spread.view(-1, *[1] * (pulled.ndim - 1)) if spread.ndim else spread))


class Exact(Guidance):
    """E[x_0 | x_t, y] for normal data of known covariance: D + C H^T (H C H^T + s^2 I)^-1 (y - H D), with the
    covariance C of x_0 given x_t and the matrix H of A."""

    values: Tensor
    vectors: Tensor

    def __init__(self, measurement: Measured, covariance: Tensor) -> None:
        super().__init__(measurement)
        checks.wide_float_tensor("Measurement", "covariance", covariance)
        if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
            got = f"shape {tuple(covariance.shape)}"
            raise ValueError(message("Measurement", "covariance", "shape (D, D), D numbers a sample", got))
        if measurement.noise is None or not isinstance(measurement.noise.variance(measurement.y), float):
            hint = "a small std stands for none"
            raise ValueError(message("Measurement", "noise", "a GaussianNoise, as method is 'exact'", "none", hint))
        values, vectors = torch.linalg.eigh(covariance.double())
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)

    def forward(self, predicted: Predicted) -> Tensor:
        """See the base."""
        data, noise = predicted.data, self.of.noise
        assert noise is not None
        alpha, sigma = (
            torch.as_tensor(c, dtype=torch.float64, device=data.device).reshape(-1, 1)
            for c in (predicted.alpha, predicted.sigma)
        )
        d = len(self.values)
        if data[0].numel() != d:
            raise ValueError(message("Measurement", "covariance", f"shape ({data[0].numel()},) * 2", f"({d}, {d})"))
        kept = self.values * sigma**2 / (alpha**2 * self.values + sigma**2)  # (b, D)
        c = self.vectors * kept[:, None] @ self.vectors.mT  # (b, D, D)
        h = numbers(self.of.operator(torch.eye(d, dtype=torch.float64, device=data.device).view(d, *data.shape[1:]))).mT
        seen = h @ c @ h.mT + noise.variance(self.of.y) * torch.eye(len(h), dtype=c.dtype, device=c.device)
        gain = torch.linalg.solve(seen, h @ c).mT  # (b, D, K)
        added = gain @ numbers(self.of.residual(data)).to(c.dtype).unsqueeze(-1)
        return data + added.view(data.shape).to(data.dtype)


def numbers(y: Tensor) -> Tensor:
    """y (B, *M) as real numbers (B, K)."""
    return (torch.view_as_real(y.resolve_conj()) if y.is_complex() else y).reshape(len(y), -1)


def projected(of: Measured, n: int, x: Tensor, ends: Ends) -> Tensor:
    """x (B, *S) after step n, with A^+ (alpha y + sigma A z) in place of its measured part; in the end A^+ y."""
    if n == ends.steps - 1:
        return x + of.operator.pinv(of.residual(x))
    k = n // ends.repeats + 1
    wanted = ends.alpha[k] * of.y + ends.sigma[k] * of.operator(ends.z(n))
    return x + of.operator.pinv(wanted - of.operator(x))


class Replacement(Guidance):
    """After a step, :func:`projected`."""

    changes_data, changes_state = False, True

    def after(self, n: int, x: Tensor, ends: Ends) -> Tensor:
        """See the base."""
        return projected(self.of, n, x, ends)


class RePaint(Replacement):
    """Replacement, with each step taken ``resample`` times: noise leads back to where the step began."""

    def __init__(self, measurement: Measured, resample: int = 10) -> None:
        super().__init__(measurement)
        self.resample = checks.integer("Measurement", "resample", resample)

    def after(self, n: int, x: Tensor, ends: Ends) -> Tensor:
        """See the base."""
        x = super().after(n, x, ends)
        if (n + 1) % self.resample == 0:
            return x
        k = n // self.resample  # the step leads from k to k + 1
        ratio = ends.alpha[k] / ends.alpha[k + 1]
        variance = ends.sigma[k] ** 2 - (ratio * ends.sigma[k + 1]) ** 2
        return ratio * x + max(variance, 0.0) ** 0.5 * ends.z(n, second=True)


class DPS(Guidance):
    """After a step, x - step grad |y - A D(x_t)|, with the norm of each row, not its square, and through the network.

    Of several calls in a step, the first counts. Noise whose variance differs between entries weights them.
    """

    through_net = True
    changes_state = True

    def __init__(self, measurement: Measured, step: Weight = 0.5) -> None:
        super().__init__(measurement)
        if not callable(step):
            checks.positive("Measurement", "step", step)
        self.step = step
        self.found: list[Tensor] = []

    def forward(self, predicted: Predicted) -> Tensor:
        """Keeps the gradient for the end of the step."""
        if not self.found:
            with torch.enable_grad():
                r = numbers(self.of.weighted(self.of.residual(predicted.data)))
                value = torch.linalg.vector_norm(r, dim=1)
            self.found.append(predicted.gradient(value))
        return predicted.data

    def after(self, n: int, x: Tensor, ends: Ends) -> Tensor:
        """See the base."""
        step = self.step(ends.times[n]) if callable(self.step) else self.step  # at the time where the step began
        return x - step * self.found.pop() if self.found else x


class MCG(DPS):
    """DPS, and then replacement."""

    def after(self, n: int, x: Tensor, ends: Ends) -> Tensor:
        """See the base."""
        return projected(self.of, n, super().after(n, x, ends), ends)


METHODS: dict[str, type[Guidance]] = {
    "replacement": Replacement,
    "repaint": RePaint,
    "dps": DPS,
    "mcg": MCG,
    "pigdm": PiGDM,
    "ddnm": DDNM,
    "ddrm": DDRM,
    "exact": Exact,
}
