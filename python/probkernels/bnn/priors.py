"""Priors over the parameters of a network, and thus over functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message
from .._core.random import standard_gamma
from ._functional import Params, call, check_params, first_parameter, parameter_shapes

State = dict[str, Tensor]  # variances (n,) of a hierarchical prior, by parameter
LOG_2PI = math.log(2 * math.pi)


def positive_raw(op: str, name: str, value: Any, like: Tensor) -> Tensor:
    """softplus^-1 of positive numbers, in the dtype and on the device of ``like``."""
    try:
        found = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(message(op, name, "positive numbers", checks.describe(value))) from None
    wrong = ~((found > 0) & found.isfinite())
    if wrong.any():
        raise ValueError(message(op, name, "positive finite numbers", checks.offender(found, wrong)))
    return (found + torch.log(-torch.expm1(-found))).to(like.device, like.dtype)


class Prior(nn.Module):
    """A distribution of the trainable parameters of a module.

    A subclass defines :meth:`sample` and :meth:`log_prob`. Its ``parameters()`` are those of the prior, not those of
    the module.

    Args:
        module: any module with trainable parameters, float32 or float64.

    Example:
        >>> import torch
        >>> from probkernels.bnn import Prior
        >>> class Zero(Prior):
        ...     def sample(self, n, generator=None):
        ...         return {name: torch.zeros(n, *shape) for name, shape in self.shapes.items()}
        >>> Zero(torch.nn.Linear(3, 1)).sample_functions(torch.ones(2, 3), 4).shape
        torch.Size([4, 2, 1])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.shapes = parameter_shapes(type(self).__name__, module)
        self._module = (module,)  # hidden from parameters(): those of the network are not those of the prior

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._module[0]

    def _like(self) -> Tensor:
        return next(iter(self.parameters()), first_parameter(self.module))

    def _count(self, n: int) -> int:
        return checks.integer(f"{type(self).__name__}.sample", "n", n)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Params:
        """Draws ``n`` parameters of the network: {name: (n, *shape)}, differentiable in the prior's parameters."""
        raise NotImplementedError

    def log_prob(self, params: Mapping[str, Tensor], state: State | None = None) -> Tensor:
        """Log density (n,) of stacked parameters; given ``state`` of :meth:`resample`, the conditional one."""
        raise NotImplementedError

    def resample(self, params: Mapping[str, Tensor], generator: torch.Generator | None = None) -> State | None:
        """Draws hidden variables given the parameters (a Gibbs step). None: this prior has none."""
        return None

    def sample_functions(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws ``n`` functions at the points ``x``.

        Args:
            x: (N, in) points.
            n: number of functions.
            generator: source of the random numbers.

        Returns:
            (n, N, out) values, differentiable in the prior's parameters and in ``x``.
        """
        return call(self.module, self.sample(n, generator), x)


class GaussianPrior(Prior):
    """Independent normal parameters of mean zero. Standard deviations are softplus(raw) and may be learned.

    Args:
        module: any module with trainable parameters, float32 or float64.
        std: standard deviation: a number; or {name: number or tensor of the parameter's shape} for all parameters.
        per: "layer", one standard deviation for each parameter tensor, or "parameter", one for each entry.
        learnable: whether standard deviations require a gradient.

    Raises:
        TypeError, ValueError: a standard deviation is not positive or missing, or the module has no parameters.

    Reference: Tran et al., "All You Need is a Good Functional Prior for Bayesian Deep Learning", JMLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.bnn import GaussianPrior, scaled_mlp
        >>> prior = GaussianPrior(scaled_mlp((1, 50, 1)), std=1.5, learnable=True)
        >>> f = prior.sample_functions(torch.linspace(-1, 1, 9)[:, None], 4, torch.Generator().manual_seed(0))
        >>> f.shape, len(list(prior.parameters())), round(prior.std["0.weight"].item(), 4)
        (torch.Size([4, 9, 1]), 4, 1.5)
    """

    def __init__(
        self,
        module: nn.Module,
        std: float | Mapping[str, float | Tensor] = 1.0,
        *,
        per: str = "layer",
        learnable: bool = False,
    ) -> None:
        super().__init__(module)
        op, like = "GaussianPrior", first_parameter(module)
        checks.one_of(op, "per", per, ("layer", "parameter"))
        stds = std if isinstance(std, Mapping) else dict.fromkeys(self.shapes, std)
        _check_names(op, "std", stds, self.shapes)
        self.per, raws = per, []
        for name, shape in self.shapes.items():
            raw = positive_raw(op, f"std['{name}']" if stds is std else "std", stds[name], like)
            if per == "layer" and raw.dim():
                hint = "per='parameter' takes tensors"
                raise ValueError(message(op, f"std['{name}']", "a number", f"shape {tuple(raw.shape)}", hint))
            if raw.dim():
                checks.shape(op, f"std['{name}']", raw, shape, f"(that of '{name}')")
            raw = raw.expand(shape).clone() if per == "parameter" else raw
            raws.append(nn.Parameter(raw, requires_grad=learnable))
        self.raw_std = nn.ParameterList(raws)

    @property
    def std(self) -> dict[str, Tensor]:
        """Standard deviations by parameter: 0-d tensors, or of the parameter's shape."""
        return {name: F.softplus(raw) for name, raw in zip(self.shapes, self.raw_std, strict=True)}

    def sample(self, n: int, generator: torch.Generator | None = None) -> Params:
        """Draws ``n`` parameters of the network: {name: (n, *shape)}, differentiable in the standard deviations."""
        n, like, std = self._count(n), self._like(), self.std
        return {name: std[name] * _normal((n, *shape), like, generator) for name, shape in self.shapes.items()}

    def log_prob(self, params: Mapping[str, Tensor], state: State | None = None) -> Tensor:
        """Log density (n,) of stacked parameters {name: (n, *shape)}."""
        n = check_params("GaussianPrior.log_prob", "params", params, self.shapes)
        total = self._like().new_zeros(n)
        for name, std in self.std.items():
            scaled = params[name] / std
            logs = std.log().expand(self.shapes[name]).sum()
            total = total - scaled.square().reshape(n, -1).sum(1) / 2 - logs - scaled[0].numel() / 2 * LOG_2PI
        return total


class HierarchicalPrior(Prior):
    """Normal parameters of mean zero whose variance, one for each parameter tensor, is inverse-gamma distributed.

    1 / variance ~ Gamma(shape, rate), one draw for each function: the function prior is a mixture of scales. Given
    the parameters, variances have a closed form, which :meth:`resample` draws from.

    Args:
        module: any module with trainable parameters, float32 or float64.
        shape: of the gamma distribution: a number, or {name: number} for all parameters.
        rate: of the gamma distribution, likewise.
        learnable: whether shapes and rates, softplus(raw), require a gradient.

    Raises:
        TypeError, ValueError: a number is not positive or missing, or the module has no parameters.

    Reference: Tran et al., "All You Need is a Good Functional Prior for Bayesian Deep Learning", JMLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.bnn import HierarchicalPrior, scaled_mlp
        >>> prior = HierarchicalPrior(scaled_mlp((1, 50, 1)), shape=3.0, rate=3.0)
        >>> params = prior.sample(2)
        >>> prior.log_prob(params).shape, prior.resample(params)["0.weight"].shape
        (torch.Size([2]), torch.Size([2]))
    """

    def __init__(
        self,
        module: nn.Module,
        shape: float | Mapping[str, float] = 1.0,
        rate: float | Mapping[str, float] = 1.0,
        *,
        learnable: bool = False,
    ) -> None:
        super().__init__(module)
        op, like, raws = "HierarchicalPrior", first_parameter(module), []
        for argument, value in (("shape", shape), ("rate", rate)):
            values = value if isinstance(value, Mapping) else dict.fromkeys(self.shapes, value)
            _check_names(op, argument, values, self.shapes)
            raw = [positive_raw(op, argument, values[name], like) for name in self.shapes]
            for name, each in zip(self.shapes, raw, strict=True):
                checks.shape(op, f"{argument}['{name}']", each, (), "(a number)")
            raws.append(nn.ParameterList([nn.Parameter(each, requires_grad=learnable) for each in raw]))
        self.raw_shape, self.raw_rate = raws

    @property
    def gamma(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Shape and rate of 1 / variance, by parameter."""
        pairs = zip(self.shapes, self.raw_shape, self.raw_rate, strict=True)
        return {name: (F.softplus(shape), F.softplus(rate)) for name, shape, rate in pairs}

    def sample(self, n: int, generator: torch.Generator | None = None) -> Params:
        """Draws ``n`` variances of each parameter tensor and parameters given them: {name: (n, *shape)}."""
        n, like, params = self._count(n), self._like(), {}
        for name, (shape, rate) in self.gamma.items():
            precision = standard_gamma(shape.expand(n), generator) / rate
            noise = _normal((n, *self.shapes[name]), like, generator)
            params[name] = noise * _beside(precision.rsqrt(), noise)
        return params

    def log_prob(self, params: Mapping[str, Tensor], state: State | None = None) -> Tensor:
        """Log density (n,) of stacked parameters: with variances integrated out, or given those of ``state``."""
        n = check_params("HierarchicalPrior.log_prob", "params", params, self.shapes)
        total = self._like().new_zeros(n)
        for name, (shape, rate) in self.gamma.items():
            half_sum = params[name].square().reshape(n, -1).sum(1) / 2
            half = params[name][0].numel() / 2
            if state is None:
                after = shape + half
                logs = torch.lgamma(after) - torch.lgamma(shape) + shape * rate.log() - after * (rate + half_sum).log()
            else:
                logs = -half_sum / state[name] - half * state[name].log()
            total = total + logs - half * LOG_2PI
        return total

    def resample(self, params: Mapping[str, Tensor], generator: torch.Generator | None = None) -> State:
        """Draws the variances (n,) of each parameter tensor given the parameters.

        1 / variance ~ Gamma(shape + count / 2, rate + sum of squares / 2).
        """
        n = check_params("HierarchicalPrior.resample", "params", params, self.shapes)
        state = {}
        with torch.no_grad():
            for name, (shape, rate) in self.gamma.items():
                squares = params[name].detach().square().reshape(n, -1)
                after = (shape + squares.shape[1] / 2).expand(n)
                state[name] = (rate + squares.sum(1) / 2) / standard_gamma(after, generator)
        return state


def _check_names(op: str, argument: str, values: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> None:
    wrong = sorted(map(str, values.keys() ^ shapes.keys()))
    if wrong:
        without = wrong[0] in shapes
        got = f"no entry for '{wrong[0]}'" if without else f"'{wrong[0]}', which is no trainable parameter"
        hint = (
            "parameters that must not move are frozen by requires_grad_(False)"
            if without
            else checks.nearest(wrong[0], shapes)
        )
        raise ValueError(message(op, argument, "a number for each parameter of the module", got, hint))


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _beside(scale: Tensor, value: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (value.dim() - 1))
