"""The protocol of an experiment: its description and its results.

A method is a package with ``METHOD = Method(...)`` and ``run(quick, data, progress) -> Result``; ``data`` is a
folder or None. Seeds are fixed, so that two runs on one machine give the same figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Method:
    """A paper and the experiment that checks its headline claim."""

    title: str  # of the paper
    paper: str  # authors, venue, identifier
    experiment: str  # what is done, on which data, in a few sentences


@dataclass(frozen=True)
class Claim:
    """A claim: a measured figure, the expected figure, and whether the claim holds."""

    text: str
    measured: float
    expected: str
    holds: bool
    note: str = ""

    @classmethod
    def above(cls, text: str, measured: float, bound: float, note: str = "") -> Claim:
        """A claim that holds if ``measured`` is above ``bound``. NaN does not hold."""
        return cls(text, measured, f"> {bound:g}", measured > bound, note)

    @classmethod
    def at_most(cls, text: str, measured: float, bound: float, note: str = "") -> Claim:
        """A claim that holds if ``measured`` is at most ``bound``. NaN does not hold."""
        return cls(text, measured, f"≤ {bound:g}", measured <= bound, note)


@dataclass(frozen=True)
class Table:
    """A table of further figures."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A plot, drawn only when matplotlib is installed."""

    title: str
    caption: str  # what to see in it
    draw: Callable[[matplotlib.figure.Figure], None]  # onto an empty figure
    inches: tuple[float, float] = (8.0, 3.6)  # width, height


@dataclass(frozen=True)
class Result:
    """The result of an experiment: claims, tables and figures."""

    claims: Sequence[Claim]
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a method: its result, or the error that ended it."""

    name: str
    method: Method
    result: Result
    seconds: float
    cpu_seconds: float  # of all processes

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object per claim."""
        return [
            {
                "method": self.name,
                "claim": claim.text,
                "measured": claim.measured if claim.measured == claim.measured else None,  # JSON has no NaN
                "expected": claim.expected,
                "holds": bool(claim.holds),
                "seconds": round(self.seconds, 1),
                "cpu_seconds": round(self.cpu_seconds, 1),
                "note": claim.note,
            }
            for claim in self.result.claims
        ]


class Progress:
    """Reports the progress of an experiment. This base class reports nothing."""

    def bar(self, text: str, total: float) -> Callable[[float], None]:
        """Opens a progress bar of ``total`` units and returns the function that advances it by a number of units."""
        return lambda amount: None
