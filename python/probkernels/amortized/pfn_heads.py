"""Heads of prior-fitted networks: what their last outputs mean, as a distribution of the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal
from torch.nn.functional import one_hot, softplus

from .._core import checks
from .._core.errors import message
from .bar_distribution import BarDistribution, quantile_borders

TAILS = ("half_normal", "bounded")
LEAST_SD = 1e-6  # added to every standard deviation


class PFNHead(nn.Module):
    """The base class: maps (..., n_out) numbers to a distribution with batch shape (...).

    A head of your own defines ``forward`` and, if its targets are no numbers, ``code``.

    Args:
        n_out: how many outputs of the network it reads.
        n_code: how many numbers describe a target to the network.

    Example:
        >>> import torch
        >>> from probkernels.amortized import PFNHead
        >>> class Counts(PFNHead):
        ...     def forward(self, out):
        ...         return torch.distributions.Poisson(out[..., 0].exp())
        >>> Counts(n_out=1)(torch.zeros(2, 1)).mean
        tensor([1., 1.])
    """

    discrete = False  # whether targets are whole numbers

    def __init__(self, n_out: int, n_code: int = 1) -> None:
        super().__init__()
        self.n_out = checks.integer(type(self).__name__, "n_out", n_out)
        self.n_code = checks.integer(type(self).__name__, "n_code", n_code)

    def forward(self, out: Tensor) -> Distribution:
        """The distribution that the outputs (..., n_out) describe."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def check(self, op: str, name: str, y: Tensor) -> None:
        """Raises ValueError where a target (finite) has no meaning."""

    def code(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """The numbers (..., n_code) that the network reads of targets (...)."""
        return y.to(dtype).unsqueeze(-1)

    def settings(self) -> dict[str, Any]:
        """Arguments that rebuild the head, except for its tensors; for files."""
        return {}


class GaussianHead(PFNHead):
    """A normal distribution: mean and softplus of the standard deviation.

    Example:
        >>> import torch
        >>> from probkernels.amortized import GaussianHead
        >>> GaussianHead()(torch.zeros(3, 2)).stddev
        tensor([0.6931, 0.6931, 0.6931])
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, out: Tensor) -> Normal:
        """Normal(mean, softplus(raw)), of outputs (..., 2)."""
        return Normal(out[..., 0], softplus(out[..., 1]) + LEAST_SD)


class BarHead(PFNHead):
    """A :class:`BarDistribution`: a histogram, whose logits are the outputs.

    Args:
        borders: (K + 1) rising numbers; :meth:`of_prior` finds those of a prior.
        tails: "half_normal" or "bounded".

    Example:
        >>> import torch
        >>> from probkernels.amortized import BarHead
        >>> head = BarHead(torch.tensor([0.0, 1.0, 3.0]), tails="bounded")
        >>> head(torch.zeros(5, 2)).mean
        tensor([1.2500, 1.2500, 1.2500, 1.2500, 1.2500])
    """

    borders: Tensor

    def __init__(self, borders: Tensor, tails: str = "half_normal") -> None:
        checks.one_of("BarHead", "tails", tails, TAILS)
        checks.wide_float_tensor("BarHead", "borders", borders)
        if borders.ndim != 1 or len(borders) < 2:
            raise ValueError(message("BarHead", "borders", "shape (K + 1,), K >= 1", f"shape {tuple(borders.shape)}"))
        super().__init__(len(borders) - 1)
        self.tails = tails
        self.register_buffer("borders", borders.detach().clone())
        if not borders.is_meta:
            self(borders.new_zeros(1, self.n_out))  # refuses borders that do not rise

    @classmethod
    def of_prior(
        cls, prior: Any, n_bars: int, *, tails: str = "half_normal", sets: int = 2000, points: int = 30, seed: int = 0
    ) -> BarHead:
        """Borders are quantiles of ``sets`` data sets of ``points`` points from ``prior``, as in :func:`fit_prior`."""
        for name, value in (("sets", sets), ("points", points)):
            checks.integer("BarHead.of_prior", name, value)
        _, y = prior.sample(sets, points, prior_generator(prior, seed))
        return cls(quantile_borders(y, n_bars), tails)

    def forward(self, out: Tensor) -> BarDistribution:
        """The bars of logits (..., K)."""
        return BarDistribution(out, self.borders.to(out.device), self.tails)

    def check(self, op: str, name: str, y: Tensor) -> None:
        """Targets of bounded bars lie within the borders."""
        if self.tails == "bounded":
            low, high = self.borders[0].item(), self.borders[-1].item()
            wrong = (y < low) | (y > high)
            if wrong.any():
                hint = "tails='half_normal' covers all numbers"
                raise ValueError(message(op, name, f"{low} to {high}", checks.offender(y, wrong), hint))

    def settings(self) -> dict[str, Any]:
        """The number of bars and the tails."""
        return {"n_bars": self.n_out, "tails": self.tails}


class ClassHead(PFNHead):
    """A categorical distribution over classes 0 to C - 1; the network reads a class as a one-hot vector.

    Args:
        n_classes: C, >= 2.

    Example:
        >>> import torch
        >>> from probkernels.amortized import ClassHead
        >>> ClassHead(4)(torch.zeros(4)).probs
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    discrete = True

    def __init__(self, n_classes: int) -> None:
        super().__init__(checks.integer("ClassHead", "n_classes", n_classes, 2), n_classes)

    def forward(self, out: Tensor) -> Categorical:
        """Of logits (..., C)."""
        return Categorical(logits=out, validate_args=None if out.numel() else False)  # torch's check of none fails

    def check(self, op: str, name: str, y: Tensor) -> None:
        """Classes are whole numbers from 0 to C - 1."""
        _check_classes(op, name, y, self.n_out)

    def code(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot vectors."""
        return one_hot(y.long(), self.n_out).to(dtype)

    def settings(self) -> dict[str, Any]:
        """The number of classes."""
        return {"n_classes": self.n_out}


class BernoulliHead(PFNHead):
    """The probability that a target, 0 or 1, is 1.

    Example:
        >>> import torch
        >>> from probkernels.amortized import BernoulliHead
        >>> BernoulliHead()(torch.zeros(2, 1)).probs
        tensor([0.5000, 0.5000])
    """

    discrete = True

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, out: Tensor) -> Bernoulli:
        """Of logits (..., 1)."""
        return Bernoulli(logits=out[..., 0])

    def check(self, op: str, name: str, y: Tensor) -> None:
        """Targets are 0 or 1."""
        _check_classes(op, name, y, 2)


HEADS = {"gaussian": GaussianHead, "bars": BarHead, "classes": ClassHead, "bernoulli": BernoulliHead}


def rebuilt(kind: str, settings: dict[str, Any]) -> PFNHead:
    """The head of a file, without its tensors."""
    if kind == "bars":
        return BarHead(torch.empty(settings["n_bars"] + 1, device="meta"), settings["tails"])
    return HEADS[kind](**settings)


def prior_generator(prior: Any, seed: int) -> torch.Generator:
    """A seeded generator on the prior's device."""
    return torch.Generator(getattr(prior, "device", "cpu")).manual_seed(seed)


def _check_classes(op: str, name: str, y: Tensor, count: int) -> None:
    whole = y if y.is_floating_point() else y.long()  # narrow integers cannot be compared with a large count
    wrong = (whole < 0) | (whole >= count) | (whole != whole.round())
    if wrong.any():
        raise ValueError(message(op, name, f"classes 0 to {count - 1}", checks.offender(y, wrong)))
