"""Gaussian processes and linear functions as priors, with the exact predictive distribution where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal, PowerTransform, TransformedDistribution, Uniform

from .._core import checks
from .._core.errors import message
from ..kernel_methods import GPSampler, as_kernel, matern_kernel, periodic_kernel, predict_each, rbf_kernel
from ._draws import t_noise
from .task_priors import TaskPrior

Hyper = float | Tensor | Distribution
FAMILIES = ("rbf", "matern", "periodic")


@dataclass(frozen=True, eq=False)
class GPPrior(TaskPrior):
    """Functions of a Gaussian process of zero mean, at uniform points, with noise.

    Every hyperparameter is a number or a torch distribution. Each data set draws its own.

    Args:
        kernel: "rbf", "matern" (order 5/2), "periodic", or any kernel of ``kernel_methods`` (see ``as_kernel``), whose
            hyperparameters are its own.
        lengthscale: positive number, tensor (F,), or distribution of one or of F numbers.
        variance: of the function; positive number or distribution.
        noise: VARIANCE of the noise in y; number >= 0 or distribution.
        period: of the periodic kernel; positive number or distribution.
        features: width F of x.
        low: least x; x is uniform.
        high: greatest x, above ``low``.
        t_noise: scale of Student-t noise on top: every y gets t_noise * U(0, 1) * StudentT(2.1).
        dtype: of the draws. Matrices are factorized in float64.
        device: of the draws.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from probkernels.amortized import GPPrior
        >>> x = torch.tensor([[[0.1], [0.4], [0.9]]], dtype=torch.float64)
        >>> y = torch.tensor([[0.5, -0.2, 0.8]], dtype=torch.float64)
        >>> GPPrior().exact_predictive(x, y, torch.tensor([[[0.25]]], dtype=torch.float64)).mean
        tensor([[0.0507]], dtype=torch.float64)
        >>> x, y = GPPrior.hierarchical(features=3).sample(16, 20, torch.Generator().manual_seed(0))
        >>> x.shape, y.shape
        (torch.Size([16, 20, 3]), torch.Size([16, 20]))
    """

    kernel: object = "rbf"
    lengthscale: Hyper = 0.6
    variance: Hyper = 1.0
    noise: Hyper = 1e-4
    period: Hyper = 1.0
    features: int = 1
    low: float = 0.0
    high: float = 1.0
    t_noise: float = 0.0
    _fixed: dict[str, Tensor] = field(init=False, repr=False)

    @classmethod
    def hierarchical(cls, features: int = 5, **options: Any) -> GPPrior:
        """The prior over hyperparameters of the PFN paper: Matern 5/2 with a lengthscale for each input, noise ~
        Gamma(1e-4, 1), variance ~ Gamma(2, 0.15), lengthscales ~ Gamma(3, 6), of shape and rate."""
        checks.integer("GPPrior.hierarchical", "features", features)
        lengthscale = Gamma(torch.full((features,), 3.0, dtype=torch.float64), 6.0)
        given = {"lengthscale": lengthscale, "variance": _gamma(2.0, 0.15), "noise": _gamma(1e-4, 1.0)}
        return cls("matern", features=features, **given | options)

    @classmethod
    def neural_process(cls, kernel: str = "rbf", **options: Any) -> GPPrior:
        """The functions that neural processes are tested on: x on [-2, 2], lengthscale ~ U(0.1, 0.6), the function's
        standard deviation ~ U(0.1, 1), noise of variance 4e-4, period ~ U(0.1, 0.5)."""
        checks.one_of("GPPrior.neural_process", "kernel", kernel, FAMILIES)
        given: dict[str, Any] = {
            "lengthscale": _uniform(0.1, 0.6),
            "variance": TransformedDistribution(_uniform(0.1, 1.0), PowerTransform(_number(2.0))),
            "noise": 4e-4,
            "period": _uniform(0.1, 0.5),
            "low": -2.0,
            "high": 2.0,
        }
        return cls(kernel, **given | options)

    def _check(self) -> None:
        op = "GPPrior"
        checks.integer(op, "features", self.features)
        checks.non_negative(op, "t_noise", self.t_noise)
        if not checks.number(op, "low", self.low) < checks.number(op, "high", self.high):
            raise ValueError(message(op, "high", f"a number > {self.low}, which 'low' is", repr(self.high)))
        if isinstance(self.kernel, str):
            checks.one_of(op, "kernel", self.kernel, FAMILIES)
        else:
            object.__setattr__(self, "kernel", as_kernel(self.kernel))
        fixed = {name: self._fixed_value(name, getattr(self, name)) for name in self._names if name not in self._random}
        object.__setattr__(self, "_fixed", fixed)

    @property
    def _names(self) -> list[str]:
        """The hyperparameters that count."""
        if not isinstance(self.kernel, str):
            return ["noise"]
        return ["noise", "lengthscale", "variance", *(["period"] if self.kernel == "periodic" else [])]

    @property
    def _random(self) -> dict[str, Distribution]:
        return {name: value for name in self._names if isinstance(value := getattr(self, name), Distribution)}

    @property
    def _sampler(self) -> GPSampler:
        priors, batched = self._random, isinstance(self.kernel, str)
        return GPSampler(self._kernel if priors else self._kernel(), priors, batched=batched)

    def _fixed_value(self, name: str, value: object) -> Tensor:
        """A hyperparameter that is no distribution: (), or (F,) of lengthscales."""
        if not isinstance(value, Tensor):
            (checks.non_negative if name == "noise" else checks.positive)("GPPrior", name, value)  # type: ignore[arg-type]
        found = torch.as_tensor(value, dtype=torch.float64)
        several = name == "lengthscale" and self.kernel != "periodic"
        if found.ndim and not (several and tuple(found.shape) == (self.features,)):
            expected = "a number or a distribution" + (f", or shape ({self.features},)" if several else "")
            raise ValueError(message("GPPrior", name, expected, f"shape {tuple(found.shape)}"))
        _check_values(name, found)
        return found

    def _kernel(self, **hyper: Tensor) -> object:
        """The kernel of data sets x (B, n, F), given (B,) of each hyperparameter; lengthscales also (B, F)."""
        if not isinstance(self.kernel, str):
            return self.kernel

        def of(name: str, x: Tensor) -> Tensor:
            value = (hyper[name] if name in hyper else self._fixed[name]).to(x)
            if name not in hyper:
                return value  # (), or (F,) of lengthscales
            return value[:, None, None] if value.ndim == 1 else value[:, None]

        def kernel(x: Tensor, z: Tensor) -> Tensor:
            scale, variance = of("lengthscale", x), of("variance", x)
            if self.kernel == "periodic":
                return periodic_kernel(x, z, scale, of("period", x), variance)
            family = rbf_kernel if self.kernel == "rbf" else matern_kernel
            return family(x / scale, z / scale, 1.0, variance)

        return kernel

    def hyperparameters(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draws those hyperparameters that are random, for ``batch`` data sets: {name: (B,) or (B, F)}."""
        self._check_sizes(batch, 0, generator)
        found = self._sampler.hyperparameters(batch, generator)
        for name, value in found.items():
            _check_values(name, value)
        return found

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        return self.sample_given(self.hyperparameters(batch, generator), batch, n, generator)

    @torch.no_grad()
    def sample_given(
        self, hyperparameters: Mapping[str, Tensor], batch: int, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws data sets of given hyperparameters, one set of them for each: x (B, n, F), y (B, n)."""
        self._check_sizes(batch, n, generator)
        size = (batch, n, self.features)
        u = torch.rand(size, generator=generator, dtype=torch.float64, device=self.at)
        x = self.low + (self.high - self.low) * u
        if n == 0:
            return x.to(self.dtype), x.new_zeros(batch, 0, dtype=self.dtype)
        f = self._sampler(x, batch, generator, hyperparameters)
        normal = torch.randn(f.shape, generator=generator, dtype=torch.float64, device=self.at)
        y = f + self._noise(hyperparameters, f).sqrt() * normal
        return x.to(self.dtype), t_noise(y, self.t_noise, generator).to(self.dtype)

    def _noise(self, hyper: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The variance of the noise, () or (B, 1)."""
        return hyper["noise"].to(like)[:, None] if "noise" in hyper else self._fixed["noise"].to(like)

    @torch.no_grad()
    def exact_predictive(
        self, x_ctx: Tensor, y_ctx: Tensor, x_query: Tensor, hyperparameters: Mapping[str, Tensor] | None = None
    ) -> Normal:
        """The exact posterior predictive of y, noise included: what no model can beat.

        Args:
            x_ctx: (B, n, F), n >= 0, float32 or float64; float64 keeps all digits.
            y_ctx: (B, n).
            x_query: (B, m, F).
            hyperparameters: those that the data sets were drawn with, where they are random.

        Returns:
            Normal (B, m).

        Raises:
            TypeError, ValueError: a dtype or shape is wrong; hyperparameters are random and not given; or the prior
                has Student-t noise, so that there is no closed form.
        """
        op, hyper = "GPPrior.exact_predictive", dict(hyperparameters or {})
        if self.t_noise:
            raise ValueError(message(op, "t_noise", "0, for a closed form", repr(self.t_noise)))
        missing = sorted(set(self._random) - set(hyper))
        if missing:
            hint = "prior.hyperparameters(batch) draws them, prior.sample_given(...) uses them"
            raise ValueError(message(op, "hyperparameters", f"{missing[0]} of each data set", "none", hint))
        noise = hyper["noise"].double() if "noise" in hyper else self._fixed["noise"]
        return predict_each(self._kernel(**hyper), x_ctx, y_ctx, x_query, noise.to(x_ctx.device), noisy=True)


@dataclass(frozen=True, eq=False)
class RidgePrior(TaskPrior):
    """Linear functions without a constant: w ~ N(0, weight_std² I), x ~ U[0, 1], y = x·w + N(0, noise_std²).

    Args:
        features: width F of x.
        weight_std: standard deviation of the weights, > 0.
        noise_std: standard deviation of the noise in y, >= 0.
        dtype: of the draws.
        device: of the draws.

    Example:
        >>> import torch
        >>> from probkernels.amortized import RidgePrior
        >>> x, y = torch.tensor([[[1.0, 0.5], [0.2, 0.9], [0.7, 0.1]]]), torch.tensor([[0.2, -0.1, 0.15]])
        >>> law = RidgePrior(features=2).exact_predictive(x, y, torch.tensor([[[0.5, 0.5]]]))
        >>> law.mean, law.variance
        (tensor([[0.0450]]), tensor([[0.0117]]))
    """

    features: int = 5
    weight_std: float = 0.1
    noise_std: float = 0.1

    def _check(self) -> None:
        checks.integer("RidgePrior", "features", self.features)
        checks.positive("RidgePrior", "weight_std", self.weight_std)
        checks.non_negative("RidgePrior", "noise_std", self.noise_std)

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": self.at}
        w = self.weight_std * torch.randn(batch, self.features, 1, **options)
        x = torch.rand(batch, n, self.features, **options)
        y = (x @ w)[..., 0] + self.noise_std * torch.randn(batch, n, **options)
        return x.to(self.dtype), y.to(self.dtype)

    def exact_predictive(self, x_ctx: Tensor, y_ctx: Tensor, x_query: Tensor) -> Normal:
        """The exact posterior predictive of y, noise included: Normal (B, m), as :meth:`GPPrior.exact_predictive`."""
        return predict_each(
            lambda x, z: self.weight_std**2 * x @ z.mT, x_ctx, y_ctx, x_query, self.noise_std**2, noisy=True
        )


def _check_values(name: str, found: Tensor) -> None:
    wrong = ~found.isfinite() | (found < 0 if name == "noise" else found <= 0)
    if wrong.any():
        expected = "finite numbers " + (">= 0" if name == "noise" else "> 0")
        raise ValueError(message("GPPrior", name, expected, checks.offender(found, wrong)))


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _uniform(low: float, high: float) -> Uniform:
    return Uniform(_number(low), _number(high))


def _gamma(shape: float, rate: float) -> Gamma:
    return Gamma(_number(shape), _number(rate))
