"""The protocol of priors over data sets, tasks of contexts and targets, and two small priors."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from .._core import checks
from .._core.errors import message
from ._draws import beta, random_order, t_noise, take_points


@dataclass(frozen=True, eq=False)
class TaskPrior:
    """A distribution of data sets: the base class of all priors here.

    A subclass implements ``draw(batch, n, generator)``. ``sample`` checks its arguments first. What
    draws from a prior takes any object with a method ``sample(batch, n, generator)``.

    Args:
        dtype: of x, and of y where it is a number: float32 or float64.
        device: of x and y.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example:
        >>> import torch
        >>> from probkernels.amortized import TaskPrior
        >>> class Lines(TaskPrior):
        ...     def draw(self, batch, n, generator):
        ...         x = torch.rand(batch, n, 1, generator=generator)
        ...         return x, x[..., 0] * torch.randn(batch, 1, generator=generator)
        >>> x, y = Lines().sample(8, 20, torch.Generator().manual_seed(0))
        >>> x.shape, y.shape
        (torch.Size([8, 20, 1]), torch.Size([8, 20]))
    """

    _: KW_ONLY
    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        op = type(self).__name__
        if self.dtype not in (torch.float32, torch.float64):
            raise TypeError(message(op, "dtype", "torch.float32 or torch.float64", checks.describe(self.dtype)))
        try:
            torch.device(self.device)
        except (TypeError, RuntimeError):
            raise ValueError(message(op, "device", "a torch device", checks.describe(self.device))) from None
        self._check()

    def _check(self) -> None:
        """Checks the arguments of a subclass."""

    def sample(self, batch: int, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draws data sets.

        Args:
            batch: number of data sets B, >= 1.
            n: points of each, >= 0. Their order is random: the first may be the context.
            generator: of all draws, on the prior's device; None for torch's default generator.

        Returns:
            x (B, n, F), and y (B, n) or (B, n, C); labels are int64.
        """
        self._check_sizes(batch, n, generator)
        with torch.no_grad():
            return self.draw(batch, n, generator)

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns, of arguments that are checked."""
        raise NotImplementedError(f"{type(self).__name__} defines no draw(batch, n, generator)")

    def _check_sizes(self, batch: int, n: int, generator: object) -> None:
        op = f"{type(self).__name__}.sample"
        checks.integer(op, "batch", batch)
        checks.integer(op, "n", n, 0)
        if generator is None:
            return
        if not isinstance(generator, torch.Generator):
            raise TypeError(message(op, "generator", "a torch.Generator or None", checks.describe(generator)))
        if generator.device.type != self.at.type:
            expected = f"one on the prior's device ({self.at})"
            hint = f"torch.Generator('{self.at}')"
            raise ValueError(message(op, "generator", expected, str(generator.device), hint))

    @property
    def at(self) -> torch.device:
        """The device."""
        return torch.device(self.device)


class Task(NamedTuple):
    """A batch of tasks: contexts, and targets to be predicted.

    Attributes:
        x_ctx: (B, n, F).
        y_ctx: (B, n) or (B, n, C).
        x_tar: (B, m, F).
        y_tar: (B, m) or (B, m, C).

    Example:
        >>> from probkernels.amortized import RidgePrior, TaskSampler
        >>> task = TaskSampler(RidgePrior(features=2)).sample(4)
        >>> task.x_ctx.shape[0], task.x_tar.shape[2]
        (4, 2)
    """

    x_ctx: Tensor
    y_ctx: Tensor
    x_tar: Tensor
    y_tar: Tensor


@dataclass(frozen=True)
class TaskSampler:
    """Draws tasks of random sizes from a prior: n contexts from least..most - least - 1, then m targets from
    least..most - 1 - n. All tasks of a batch share both.

    ``least=3, most=50`` are the sizes of neural-process papers for functions, ``least=15, most=100`` for populations;
    for images, ``most`` is the number of pixels.

    Args:
        prior: any object with ``sample(batch, n, generator)``.
        least: fewest contexts, and fewest targets.
        most: one more than the most points of a task.
        standardize: whether x and y get mean 0 and standard deviation 1, both of the context alone.

    Raises:
        TypeError, ValueError: the prior has no ``sample``, or ``most`` leaves no sizes.

    Example:
        >>> import torch
        >>> from probkernels.amortized import GPPrior, TaskSampler
        >>> tasks = TaskSampler(GPPrior.neural_process("rbf"))
        >>> task = tasks.sample(16, torch.Generator().manual_seed(0))
        >>> task.x_ctx.shape, task.y_tar.shape
        (torch.Size([16, 35, 1]), torch.Size([16, 6]))
    """

    prior: object
    least: int = 3
    most: int = 50
    standardize: bool = False

    def __post_init__(self) -> None:
        if not callable(getattr(self.prior, "sample", None)):
            expected = "an object with sample(batch, n, generator)"
            raise TypeError(message("TaskSampler", "prior", expected, checks.describe(self.prior)))
        checks.integer("TaskSampler", "least", self.least)
        checks.integer("TaskSampler", "most", self.most, 2 * self.least + 1)

    def sizes(self, generator: torch.Generator | None = None) -> tuple[int, int]:
        """Draws the number of contexts and the number of targets."""

        def below(first: int, end: int) -> int:
            device = generator.device if generator is not None else "cpu"
            return int(torch.randint(first, end, (), generator=generator, device=device))

        contexts = below(self.least, self.most - self.least)
        return contexts, below(self.least, self.most - contexts)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Task:
        """Draws ``batch`` tasks."""
        n, m = self.sizes(generator)
        x, y = self.prior.sample(batch, n + m, generator)  # type: ignore[attr-defined]
        if self.standardize:
            x, y = (_by_context(t, n) for t in (x, y))
        return Task(x[:, :n], y[:, :n], x[:, n:], y[:, n:])


def _by_context(values: Tensor, n: int) -> Tensor:
    """Values with the mean and the spread of their first n points taken out; no spread leaves the unit."""
    known = values[:, :n]
    std = known.std(1, keepdim=True, correction=0)
    return (values - known.mean(1, keepdim=True)) / torch.where(std > 0, std, torch.ones_like(std))


@dataclass(frozen=True, eq=False)
class BetaBernoulliPrior(TaskPrior):
    """Coins: p ~ Beta(a, b), labels y ~ Bernoulli(p). x is 0 everywhere.

    Args:
        a: positive number.
        b: positive number.
        dtype: of x; labels are int64.
        device: of the draws.

    Example:
        >>> import torch
        >>> from probkernels.amortized import BetaBernoulliPrior
        >>> prior = BetaBernoulliPrior()
        >>> x, y = torch.zeros(1, 3, 1), torch.tensor([[1, 1, 0]])
        >>> prior.exact_predictive(x, y, torch.zeros(1, 2, 1)).probs
        tensor([[0.6000, 0.6000]])
    """

    a: float = 1.0
    b: float = 1.0

    def _check(self) -> None:
        for name in ("a", "b"):
            checks.positive("BetaBernoulliPrior", name, getattr(self, name))

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        p = beta(self.a, self.b, batch, generator, self.at)
        u = torch.rand(batch, n, generator=generator, dtype=torch.float64, device=self.at)
        return torch.zeros(batch, n, 1, dtype=self.dtype, device=self.at), (u < p[:, None]).long()

    def exact_predictive(self, x_ctx: Tensor, y_ctx: Tensor, x_query: Tensor) -> Bernoulli:
        """P(y = 1) at every query: (a + k) / (a + b + n) after k ones among n labels.

        Args:
            x_ctx: (B, n, 1), not looked at.
            y_ctx: (B, n) labels 0 and 1, n >= 0.
            x_query: (B, m, 1); only its shape counts.
        """
        wrong = (y_ctx != 0) & (y_ctx != 1)
        if wrong.any():
            got = checks.offender(y_ctx, wrong)
            raise ValueError(message("BetaBernoulliPrior.exact_predictive", "y_ctx", "labels 0 and 1", got))
        ones, n = y_ctx.to(torch.float64).sum(1), y_ctx.shape[1]
        p = ((self.a + ones) / (self.a + self.b + n)).to(x_query.dtype)
        return Bernoulli(probs=p[:, None].expand(x_query.shape[:2]))


@dataclass(frozen=True, eq=False)
class SubsetPrior(TaskPrior):
    """Random points of given data sets: each draw takes one of them, and n of its points without replacement.

    For series that were observed, such as populations, and, by :class:`PixelTasks`, for images.

    Args:
        x: (S, N, F) or (N, F) points, float32 or float64.
        y: (S, N), (S, N, C), or without S as x has none.
        t_noise: scale of Student-t noise on y: every value gets t_noise * U(0, 1) * StudentT(2.1).
        dtype: of the draws.
        device: of the draws.

    Example:
        >>> import torch
        >>> from probkernels.amortized import SubsetPrior
        >>> years, animals = torch.arange(90.0)[:, None], torch.rand(90, 2)
        >>> x, y = SubsetPrior(years, animals).sample(16, 30)
        >>> x.shape, y.shape
        (torch.Size([16, 30, 1]), torch.Size([16, 30, 2]))
    """

    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    t_noise: float = 0.0

    def _check(self) -> None:
        for name in ("x", "y"):
            checks.wide_float_tensor("SubsetPrior", name, getattr(self, name), checks.AS_TENSOR)
            checks.finite("SubsetPrior", name, getattr(self, name))
        checks.non_negative("SubsetPrior", "t_noise", self.t_noise)
        if self.x.ndim not in (2, 3) or 0 in self.x.shape:
            got = f"shape {tuple(self.x.shape)}"
            raise ValueError(message("SubsetPrior", "x", "shape (S, N, F) or (N, F), none of them 0", got))
        lead = self.x.shape[:-1]
        if self.y.shape[: len(lead)] != lead or self.y.ndim > len(lead) + 1:
            expected = f"shape {tuple(lead)} or {tuple(lead)} and a number of columns"
            raise ValueError(message("SubsetPrior", "y", expected, f"shape {tuple(self.y.shape)}"))

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        x, y = (self.x, self.y) if self.x.ndim == 3 else (self.x[None], self.y[None])
        if n > x.shape[1]:
            raise ValueError(message("SubsetPrior.sample", "n", f"at most {x.shape[1]}, the points there are", str(n)))
        chosen = torch.randint(len(x), (batch,), generator=generator, device=self.at)
        lengths = torch.full((batch,), x.shape[1], device=self.at)
        index = random_order(lengths, x.shape[1], generator)[:, :n].to(x.device)
        flat = y if y.ndim == 3 else y[..., None]
        taken = [take_points(t[chosen.to(x.device)], index).to(self.at, self.dtype) for t in (x, flat)]
        noisy = t_noise(taken[1], self.t_noise, generator)
        return taken[0], noisy if y.ndim == 3 else noisy[..., 0]
