"""The families: distributions that an input unit can have. The layers in inputs.py hold their parameters."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..ops import sum_layer
from .inputs import (
    CategoricalInputs,
    GaussianInputs,
    IndicatorInputs,
    Inputs,
    LogisticInputs,
    log_or_zero,
    noise_factors,
)

FAMILIES: dict[str, type[Family]] = {}  # by the name that files hold
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """Base class of all families. It answers what a circuit asks about the distribution of one variable.

    To add a family, write an input layer and a frozen dataclass derived from this class. The dataclass makes the layer
    and overrides every method whose answer differs from that of a table of probabilities. Files store its class name.

    ``categories`` is 0 for a continuous variable; values of a discrete one are 0 .. categories - 1. Methods take the
    output of :meth:`Inputs.log_table`: (V, C, K), log-probabilities of V variables under K units each.
    """

    categories: int
    discrete: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            FAMILIES[cls.__name__] = cls

    def __post_init__(self) -> None:
        checks.integer(type(self).__name__, "categories", self.categories)

    @property
    def fixed_units(self) -> int | None:
        """The number of units that every input of this family must have. None if any number is allowed."""
        return None

    def support(self) -> Tensor | None:
        """(K, C) bool: whether each unit may be nonzero at each category. None if every unit may be nonzero
        everywhere."""
        return None

    def make_layer(self, variables: list[int], units: int) -> Inputs:
        """Makes the layer that holds the parameters."""
        return CategoricalInputs(variables, units, self.categories)

    def parameter_shapes(self, variables: int, units: int) -> Shapes:
        """Names and shapes of the tensors in the layer's ``state_dict``."""
        return {"logits": (variables, self.categories, units)}

    def free_parameters(self) -> int:
        """Number of free parameters of a unit."""
        return self.categories - 1

    def entropy(self, table: Tensor) -> Tensor:
        """Entropy of each unit, (V, K), in nats."""
        p = table.exp()
        return -(p * log_or_zero(p)).sum(1)

    def kl(self, table: Tensor, other: Tensor) -> Tensor:
        """Kullback-Leibler divergence KL(p || q) of each unit, (V, K). p is ``table``, q is ``other``."""
        p = table.exp()
        seen = p > 0
        return (p * (torch.where(seen, table, 0.0) - torch.where(seen, other, 0.0))).sum(1)

    def log_inner_product(self, one: Tensor, other: Tensor) -> Tensor:
        """One variable's tables (C, K), (C, L) -> (K, L): log of the sum over x of p_k(x) q_l(x)."""
        return sum_layer(other.unsqueeze(0), one.exp().t().unsqueeze(0).contiguous())[0]

    def add_noise(self, named: dict[str, Tensor], spread: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Adds noise to one variable's parameters. ``spread`` (K,) is its standard deviation relative to each
        probability."""
        logits = named["logits"]
        return {"logits": logits + noise_factors(spread.expand(logits.shape), generator).log().to(logits)}


class _LocationScale(Family):
    """What families with a location and a scale share."""

    def parameter_shapes(self, variables: int, units: int) -> Shapes:
        return dict.fromkeys(("location", "log_scale"), (variables, units))

    def free_parameters(self) -> int:
        return 2

    def add_noise(self, named: dict[str, Tensor], spread: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Moves the locations. ``spread`` is relative to the scale."""
        location = named["location"]
        shift = spread * torch.randn(location.shape, generator=generator)
        return {**named, "location": location + named["log_scale"].exp() * shift.to(location)}


@dataclass(frozen=True)
class Categorical(Family):
    """One probability for each of ``categories`` values.

    Example:
        >>> from probkernels.circuits import Categorical
        >>> Categorical(256)
        Categorical(categories=256)
    """


@dataclass(frozen=True)
class Bernoulli(Family):
    """A categorical variable with two values.

    Example:
        >>> from probkernels.circuits import Bernoulli
        >>> Bernoulli().categories
        2
    """

    categories: int = 2

    def __post_init__(self) -> None:
        if type(self.categories) is not int or self.categories != 2:
            raise ValueError(message("Bernoulli", "categories", "2", repr(self.categories)))


@dataclass(frozen=True)
class Indicator(Family):
    """Unit k is 1 if the value is k, else 0. An input has as many units as categories and no parameters.

    Sums over indicators are deterministic. This makes :meth:`Circuit.mpe` and :meth:`Circuit.entropy` exact.

    Example:
        >>> from probkernels.circuits import Indicator, Input
        >>> Input(variable=0, units=3, family=Indicator(3)).units
        3
    """

    @property
    def fixed_units(self) -> int | None:
        return self.categories

    def support(self) -> Tensor | None:
        return torch.eye(self.categories, dtype=torch.bool)

    def make_layer(self, variables: list[int], units: int) -> Inputs:
        return IndicatorInputs(variables, units, self.categories)

    def parameter_shapes(self, variables: int, units: int) -> Shapes:
        return {}

    def free_parameters(self) -> int:
        return 0

    def add_noise(self, named: dict[str, Tensor], spread: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return named


@dataclass(frozen=True)
class DiscretizedLogistic(_LocationScale):
    """A logistic density integrated over bins of width one, centered at 0 .. categories - 1. The two outer bins are
    unbounded.

    A unit has two parameters, location and scale, and neighboring values have similar probabilities. In latent trees
    (HCLTs and factorized circuits), values more than 87 scales away count as impossible in float32; 708 in float64.

    Example:
        >>> from probkernels.circuits import DiscretizedLogistic
        >>> DiscretizedLogistic(256).discrete
        True
    """

    def make_layer(self, variables: list[int], units: int) -> Inputs:
        return LogisticInputs(variables, units, self.categories)


@dataclass(frozen=True)
class Gaussian(_LocationScale):
    """A normal density of a real variable.

    Example:
        >>> from probkernels.circuits import Gaussian
        >>> Gaussian().discrete
        False
    """

    categories: int = 0
    discrete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if type(self.categories) is not int or self.categories != 0:
            raise ValueError(message("Gaussian", "categories", "0", repr(self.categories)))

    # Tables are (V, 2, K): location and log scale.

    def make_layer(self, variables: list[int], units: int) -> Inputs:
        return GaussianInputs(variables, units, 0)

    def parameter_shapes(self, variables: int, units: int) -> Shapes:
        return super().parameter_shapes(variables, units) | dict.fromkeys(("center", "width"), (variables, 1))

    def entropy(self, table: Tensor) -> Tensor:
        return table[:, 1] + 0.5 * math.log(2 * math.pi * math.e)

    def kl(self, table: Tensor, other: Tensor) -> Tensor:
        (location, log_scale), (its_location, its_log_scale) = table.unbind(1), other.unbind(1)
        ratio, apart = log_scale - its_log_scale, (location - its_location) * (-its_log_scale).exp()
        return 0.5 * ((2 * ratio).exp() + apart.square() - 1) - ratio

    def log_inner_product(self, one: Tensor, other: Tensor) -> Tensor:
        # the density of a difference of normal variables at 0
        apart = one[0, :, None] - other[0]
        variance = (2 * one[1, :, None]).exp() + (2 * other[1]).exp()
        return -0.5 * (apart.square() / variance + variance.log() + math.log(2 * math.pi))


def family_to_json(family: Family) -> dict[str, Any]:
    """A family as plain data."""
    return {"name": type(family).__name__, **asdict(family)}


def family_from_json(entry: dict[str, Any]) -> Family:
    """A family from plain data. Raises KeyError or TypeError if the data describe no family."""
    return FAMILIES[entry["name"]](categories=entry["categories"])
