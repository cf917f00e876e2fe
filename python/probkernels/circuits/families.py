"""What an input unit can be: the distribution of one variable. Parameters live in the layers of inputs.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from .._core.errors import message


@dataclass(frozen=True)
class Family:
    """Base of all families. ``categories`` is 0 for a continuous variable, else values are 0 .. categories - 1."""

    categories: int
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.categories, bool) or not isinstance(self.categories, int) or self.categories < 1:
            raise ValueError(message(type(self).__name__, "categories", "a number >= 1", repr(self.categories)))


@dataclass(frozen=True)
class Categorical(Family):
    """A probability for each of ``categories`` values.

    Example:
        >>> from probkernels.circuits import Categorical
        >>> Categorical(256)
        Categorical(categories=256)
    """


@dataclass(frozen=True)
class Bernoulli(Family):
    """A categorical variable of two values.

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
    """Unit k is one where the value is k and zero elsewhere: as many units as categories, and nothing to learn.

    Sums over indicators are deterministic, which makes :meth:`Circuit.mpe` and :meth:`Circuit.entropy` exact.

    Example:
        >>> from probkernels.circuits import Indicator, Input
        >>> Input(variable=0, units=3, family=Indicator(3)).units
        3
    """


@dataclass(frozen=True)
class DiscretisedLogistic(Family):
    """A logistic density integrated over bins of width one around 0 .. categories - 1, the outer ones unbounded: two
    parameters a unit, and neighbouring values alike.

    Example:
        >>> from probkernels.circuits import DiscretisedLogistic
        >>> DiscretisedLogistic(256).discrete
        True
    """


@dataclass(frozen=True)
class Gaussian(Family):
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


FAMILIES = {family.__name__: family for family in (Categorical, Bernoulli, Indicator, DiscretisedLogistic, Gaussian)}


def family_to_json(family: Family) -> dict[str, Any]:
    """A family as plain data."""
    return {"name": type(family).__name__, **asdict(family)}


def family_from_json(entry: dict[str, Any]) -> Family:
    """A family from plain data; KeyError or TypeError if it is none."""
    return FAMILIES[entry["name"]](categories=entry["categories"])
