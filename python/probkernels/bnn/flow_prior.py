"""Priors whose parameters are normal numbers, pushed through planar flows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._core import checks
from ._functional import Params, check_params, first_parameter, flatten, unflatten
from .priors import LOG_2PI, Prior, State

SOLVER_STEPS = 200  # of bisection, if Newton's method never helps: enough for both dtypes


class PlanarFlow(nn.Module):
    """One planar step, y = z + u_hat tanh(w.z + b), and its inverse.

    u_hat = u + (log(1 + e^(w.u)) - 1 - w.u) w / |w|^2 makes w.u_hat > -1 for any u, so that the step is invertible. To
    invert it solves a + (w.u_hat) tanh(a + b) = w.y for a = w.z: one increasing function of one number. Newton's
    method solves it, and bisection where a Newton step leaves the bracket around the root or does not halve the last.

    Args:
        size: of a vector.
        seed: of the initial values.
        like: tensor that has the dtype and device of the parameters; None for float32 on the CPU.

    Example:
        >>> import torch
        >>> from probkernels.bnn import PlanarFlow
        >>> flow, z = PlanarFlow(3), torch.randn(5, 3)
        >>> y, log_det = flow(z)
        >>> back, _ = flow.inverse(y)
        >>> y.shape, log_det.shape, torch.allclose(back, z, atol=1e-5)
        (torch.Size([5, 3]), torch.Size([5]), True)
    """

    def __init__(self, size: int, seed: int = 0, like: Tensor | None = None) -> None:
        super().__init__()
        checks.integer("PlanarFlow", "size", size)
        checks.integer("PlanarFlow", "seed", seed, 0)
        like = torch.empty(0) if like is None else like
        generator = torch.Generator().manual_seed(seed)
        # of length about 1, so that w.z is about as large as an entry of z
        draws = torch.randn(2, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
        self.w, self.u = (nn.Parameter(draw.to(like)) for draw in draws)
        self.b = nn.Parameter(like.new_zeros(()))

    def _step(self) -> tuple[Tensor, Tensor]:
        """u_hat, and 1 + w.u_hat, which is positive."""
        product = self.w @ self.u
        after = F.softplus(product)
        tiny = torch.finfo(self.w.dtype).tiny
        return self.u + (after - 1 - product) * self.w / self.w.square().sum().clamp(min=tiny), after

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """y (n, size) of z (n, size), and log|det dy/dz| (n,)."""
        u_hat, after = self._step()
        bent = torch.tanh(z @ self.w + self.b)
        return z + bent[:, None] * u_hat, _slope(bent, after).log()

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z (n, size) of y (n, size), and log|det dy/dz| (n,) at z. First and second derivatives are exact."""
        u_hat, after = self._step()
        goal = y @ self.w
        with torch.no_grad():
            a = _solve(goal, after - 1, self.b, after)
        for _ in range(2):  # from the root nothing moves, but each step carries the next derivatives
            bent = torch.tanh(a + self.b)
            a = a - (a + (after - 1) * bent - goal) / _slope(bent, after)
        bent = torch.tanh(a + self.b)
        return y - bent[:, None] * u_hat, _slope(bent, after).log()


def _slope(bent: Tensor, after: Tensor) -> Tensor:
    """1 + (w.u_hat) (1 - tanh^2), without the difference of close numbers."""
    square = bent.square()
    return square + after * (1 - square)


def _solve(goal: Tensor, c: Tensor, b: Tensor, after: Tensor) -> Tensor:
    """The root a of a + c tanh(a + b) = goal. It lies within |c| of the goal."""
    low, high, a = goal - c.abs(), goal + c.abs(), goal.clone()
    close, last = 4 * torch.finfo(goal.dtype).eps, high - low
    for _ in range(SOLVER_STEPS):
        bent = torch.tanh(a + b)
        error = a + c * bent - goal
        low, high = torch.where(error < 0, a, low), torch.where(error < 0, high, a)
        newton = a - error / _slope(bent, after)
        # a step that is not half the last one may be a part of a cycle: from one end of the bracket to the other
        good = (newton >= low) & (newton <= high) & (2 * (newton - a).abs() <= last)
        new = torch.where(good, newton, (low + high) / 2)
        last, a = (new - a).abs(), new
        if (last <= close * (1 + a.abs())).all():
            break
    return a


class FlowPrior(Prior):
    """Parameters that are dependent and not normal: planar flows of normal numbers, one chain for each layer.

    A layer is a submodule's own trainable parameters, such as weight and bias. Its parameters are one vector: normal
    numbers of mean zero with standard deviations of their own, pushed through ``transforms`` steps of
    :class:`PlanarFlow`. :meth:`log_prob` inverts the steps, so that it is the density of what :meth:`sample` draws;
    the density of the published code is another one.

    Args:
        module: any module with trainable parameters, float32 or float64.
        transforms: number of planar steps of each layer.
        std: initial standard deviation of the normal numbers.
        learnable: whether standard deviations and flows require a gradient.
        seed: of the flows' initial values.

    Raises:
        TypeError, ValueError: a number is out of range, or the module has no trainable parameters of a wide dtype.

    Reference: Tran et al., "All You Need is a Good Functional Prior for Bayesian Deep Learning", JMLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.bnn import FlowPrior, scaled_mlp
        >>> prior = FlowPrior(scaled_mlp((1, 50, 1)), transforms=4)
        >>> params = prior.sample(3)
        >>> prior.log_prob(params).shape, list(prior.layers)
        (torch.Size([3]), ['0', '2'])
    """

    def __init__(
        self, module: nn.Module, transforms: int = 4, std: float = 1.0, *, learnable: bool = True, seed: int = 0
    ) -> None:
        super().__init__(module)
        op, like = "FlowPrior", first_parameter(module)
        checks.integer(op, "transforms", transforms)
        checks.positive(op, "std", std)
        checks.integer(op, "seed", seed, 0)
        self.layers: dict[str, list[str]] = {}  # names of parameters, by layer
        for name in self.shapes:
            self.layers.setdefault(name.rpartition(".")[0], []).append(name)
        sizes = [sum(self.shapes[name].numel() for name in names) for names in self.layers.values()]
        self.log_variance = nn.ParameterList(like.new_full((size,), 2 * math.log(std)) for size in sizes)
        numbers = iter(range(seed * 10_000, (seed + 1) * 10_000))
        self.flows = nn.ModuleList(
            nn.ModuleList(PlanarFlow(size, next(numbers), like) for _ in range(transforms)) for size in sizes
        )
        self.requires_grad_(learnable)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Params:
        """Draws ``n`` parameters of the network: {name: (n, *shape)}, differentiable in the prior's parameters."""
        n, like, found = self._count(n), self._like(), {}
        for names, log_variance, flows in zip(self.layers.values(), self.log_variance, self.flows, strict=True):
            noise = torch.randn(n, len(log_variance), generator=generator, dtype=like.dtype, device=like.device)
            z = noise * (log_variance / 2).exp()
            for flow in flows:  # type: ignore[attr-defined]
                z, _ = flow(z)
            found.update(unflatten(z, {name: self.shapes[name] for name in names}))
        return {name: found[name] for name in self.shapes}

    def log_prob(self, params: Mapping[str, Tensor], state: State | None = None) -> Tensor:
        """Log density (n,) of stacked parameters {name: (n, *shape)}."""
        check_params("FlowPrior.log_prob", "params", params, self.shapes)
        total: Tensor | float = 0.0
        for names, log_variance, flows in zip(self.layers.values(), self.log_variance, self.flows, strict=True):
            z = flatten({name: params[name] for name in names})
            for flow in reversed(flows):  # type: ignore[call-overload]
                z, log_det = flow.inverse(z)
                total = total - log_det
            squares = (z.square() * (-log_variance).exp()).sum(1)
            total = total - (squares + log_variance.sum() + len(log_variance) * LOG_2PI) / 2
        assert isinstance(total, Tensor)
        return total
