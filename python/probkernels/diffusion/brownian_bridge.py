"""A Brownian bridge between paired ends: it translates samples of one distribution into samples of another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._net import PLAIN, call, check_state, refuse_running_statistics
from ._transforms import refuse_transforms
from .noise import StepNoise


class BrownianBridge:
    """A diffusion from a start x0, the wanted sample, to a given end: q(x_t | x0, end) = N((1-m_t) x0 + m_t end, v_t).

    m_t rises linearly from ``edge`` to 1 - ``edge`` over the times t = 0 .. ``steps`` - 1, and v_t = ``factor`` *
    ``max_var`` * m_t (1 - m_t). Networks learn the residual x_t - x0. They are called as ``net(x, t, cond)`` with times
    t / ``steps`` in [0, 1), or as ``net(x, t)`` without a condition.

    Args:
        steps: number of times, at least 2.
        max_var: scale of the variance.
        factor: 2 as in the official code, or 1 as in the paper.
        edge: m at the first time, in (0, 0.5). At 0 the variance would vanish, and steps would divide by it.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Reference:
        Dao et al., ROOT, NeurIPS 2025; Li et al., BBDM, CVPR 2023.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import BrownianBridge
        >>> bridge = BrownianBridge()
        >>> bridge.variance(torch.tensor([0, 499, 999]))
        tensor([0.0020, 0.5000, 0.0020], dtype=torch.float64)
        >>> class Perfect(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x - 1.0  # all starts are 1
        >>> bridge.sample(Perfect(), torch.zeros(2, 1), steps=10).squeeze()
        tensor([1., 1.])
    """

    def __init__(self, steps: int = 1000, max_var: float = 1.0, *, factor: float = 2.0, edge: float = 0.001) -> None:
        op = "BrownianBridge"
        checks.integer(op, "steps", steps, least=2)
        checks.positive(op, "max_var", max_var)
        checks.positive(op, "factor", factor)
        checks.positive(op, "edge", edge)
        if edge >= 0.5:
            raise ValueError(message(op, "edge", "a number in (0, 0.5)", repr(edge)))
        self.steps, self.max_var, self.factor, self.edge = steps, max_var, factor, edge
        self._m = torch.linspace(edge, 1 - edge, steps, dtype=torch.float64)

    def m(self, t: Tensor) -> Tensor:
        """Weight of the end at times t (integers 0 .. steps - 1), float64."""
        checks.integer_tensor("BrownianBridge", "t", t)
        wrong = (t < 0) | (t >= self.steps)
        if wrong.any():
            raise ValueError(message("BrownianBridge", "t", f"0 to {self.steps - 1}", checks.offender(t, wrong)))
        return self._m.to(t.device)[t.long()]  # uint8 would be a mask

    def variance(self, t: Tensor) -> Tensor:
        """Variance of x_t given both ends at times t, float64."""
        m = self.m(t)
        return self.factor * self.max_var * m * (1 - m)

    def posterior_variance(self, t: Tensor, earlier: Tensor) -> Tensor:
        """Variance of x at the times ``earlier`` given x_t, x0 and the end, float64."""
        m, n = self.m(t), self.m(earlier)
        if (earlier > t).any():
            raise ValueError(message("BrownianBridge", "earlier", "times not above 't'", "a later time"))
        v, w = self.variance(t), self.variance(earlier)
        return ((v - w * (1 - m).square() / (1 - n).square()) * w / v).clamp(min=0)

    def q_sample(
        self,
        x0: Tensor,
        end: Tensor,
        t: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws x_t given both ends, for training.

        Args:
            x0: (B, *S) starts.
            end: (B, *S) ends.
            t: (B,) integer times.
            noise: (B, *S) standard normal noise; drawn by default.
            generator: generator of the noise.

        Returns:
            x_t, and the training target x_t - x0 without the rounding of the difference, both (B, *S).

        Raises:
            TypeError, ValueError: shapes or dtypes differ, or a time is out of range.
        """
        self._check_ends("x0", x0, end)
        checks.shape("BrownianBridge", "t", t, (len(x0),), "of one time for each row")
        if noise is None:
            noise = StepNoise(x0, generator)(0)
        checks.shape("BrownianBridge", "noise", noise, x0.shape, "of 'x0'")
        noise = noise.to(x0)
        m, deviation = (c.to(x0).view(-1, *[1] * (x0.ndim - 1)) for c in (self.m(t), self.variance(t).sqrt()))
        target = m * (end - x0) + deviation * noise
        return x0 + target, target

    def step(
        self, x: Tensor, x0: Tensor, end: Tensor, t: int, earlier: int, *, eta: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        """One sampling step, from x at time t to time ``earlier``, given the start x0 and the end.

        With ``eta`` 1 the result is a draw from the posterior: if x is distributed as q(x_t | x0, end), then the result
        is distributed as q at the earlier time. ``eta`` multiplies the standard deviation of fresh noise; with 0 the
        step is deterministic.

        Args:
            x: (B, *S) state at time t.
            x0: (B, *S) starts, or estimates of them.
            end: (B, *S) ends.
            t: time of x.
            earlier: time of the result, below t.
            eta: number >= 0.
            noise: (B, *S) standard normal noise; not needed if ``eta`` is 0.

        Raises:
            TypeError, ValueError: shapes differ, a time or ``eta`` is out of range, or there is no noise.
        """
        for name, value in (("x0", x0), ("end", end), ("noise", x if noise is None else noise)):
            checks.shape("BrownianBridge", name, value, x.shape, "of 'x'")
        checks.non_negative("BrownianBridge", "eta", eta)
        if earlier >= t:
            raise ValueError(message("BrownianBridge", "earlier", f"a time below {t}", repr(earlier)))
        times = torch.tensor([t, earlier])
        (m, n), (v, w) = self.m(times).tolist(), self.variance(times).tolist()
        fresh = float(self.posterior_variance(times[0], times[1]))
        kept = max(0.0, w - fresh) / v
        moved = (1 - n) * x0 + n * end + kept**0.5 * (x - (1 - m) * x0 - m * end)
        if eta == 0 or fresh == 0:
            return moved
        if noise is None:
            raise ValueError(message("BrownianBridge", "noise", f"noise, as eta is {eta}", "None"))
        return moved + eta * fresh**0.5 * noise

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        end: Tensor,
        cond: Tensor | None = None,
        *,
        uncond: Tensor | None = None,
        guidance: float | None = None,
        steps: int = 200,
        eta: float = 0.2,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Translates ends into starts. No gradient flows through the samples.

        Args:
            net: network that predicts x_t - x0, in evaluation mode.
            end: (B, *S) ends.
            cond: (B, ...) conditions, in the order of the training.
            uncond: (B, ...) or (1, ...) null conditions, for guidance only.
            guidance: w in u + w (c - u), where c and u are the outputs for ``cond`` and ``uncond``: 1 is ``cond``
                alone, 0 is ``uncond`` alone, and -0.5 is the value of the official code (there w - 1 = -1.5).
            steps: calls of the network with each condition, at most the bridge's times.
            eta: factor on the standard deviation of fresh noise.
            generator: generator of the noise.

        Returns:
            (B, *S) starts.

        Raises:
            TypeError, ValueError: an argument is out of range, or guidance lacks one of both conditions.
        """
        _check_state("end", end)
        refuse_transforms("BrownianBridge", None, net, (end, cond, uncond), differentiable=False)
        refuse_running_statistics("BrownianBridge", net)
        checks.integer("BrownianBridge", "steps", steps, most=self.steps)
        checks.non_negative("BrownianBridge", "eta", eta)
        _check_guidance(cond, uncond, guidance)
        grid = [round(t) for t in torch.linspace(self.steps - 1, 0, steps, dtype=torch.float64).tolist()]
        draw = StepNoise(end, generator, draws=eta > 0 and steps > 1)
        x = end
        for i, t in enumerate(grid):
            times = torch.full((len(x),), t / self.steps, dtype=x.dtype, device=x.device)
            x0 = x - _guided(net, x, times, cond, uncond, guidance)
            if i == steps - 1:
                return x0
            noise = draw(i) if eta > 0 else None
            x = self.step(x, x0, end, t, grid[i + 1], eta=eta, noise=noise)
        raise AssertionError("a grid has at least one time")

    def _check_ends(self, name: str, x0: Tensor, end: Tensor) -> None:
        for key, value in ((name, x0), ("end", end)):
            _check_state(key, value)
        checks.shape("BrownianBridge", "end", end, x0.shape, f"of '{name}'")
        if end.dtype != x0.dtype:
            raise TypeError(message("BrownianBridge", "end", f"the dtype of '{name}' ({x0.dtype})", str(end.dtype)))


def _guided(
    net: nn.Module, x: Tensor, t: Tensor, cond: Tensor | None, uncond: Tensor | None, guidance: float | None
) -> Tensor:
    """The net's output, combined by guidance. A condition of weight 0 costs no call."""

    def output(condition: Tensor | None) -> Tensor:
        if condition is not None:
            condition = condition.expand(len(x), *condition.shape[1:])
        return call(net, x.clone(), t.clone(), condition, tuple(x.shape), "the residual has the shape of x", PLAIN)

    if guidance is None or guidance == 1:
        return output(cond)
    if guidance == 0:
        return output(uncond)
    u, c = output(uncond), output(cond)
    return u + guidance * (c - u)


def _check_state(name: str, value: Tensor) -> None:
    check_state("BrownianBridge", name, value)
    checks.wide_float_tensor("BrownianBridge", name, value, "half-precision steps would lose small variances")


def _check_guidance(cond: Tensor | None, uncond: Tensor | None, guidance: float | None) -> None:
    op = "BrownianBridge"
    if guidance is None:
        if uncond is not None:
            raise ValueError(message(op, "guidance", "its strength, as uncond is given", "None"))
        return
    if isinstance(guidance, bool) or not isinstance(guidance, (int, float)):
        raise TypeError(message(op, "guidance", "a number", checks.describe(guidance)))
    checks.number(op, "guidance", guidance)
    for name, value in (("cond", cond), ("uncond", uncond)):
        if value is None:
            raise ValueError(message(op, name, "a condition, as guidance is given", "None"))
