"""Claims and tables of the MPNP experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import CNP, CONSTANTS, EXACT, EXPECTED, FEW, FUNCTIONS, MPNP, RBF, SETTINGS, TESTS, WAYS, Judged, of


def _joint(records: Sequence[Judged], setting: str, way: str, test: str) -> float:
    return fmean(r.found[test][1] for r in of(records, setting, way))


def claims(records: Sequence[Judged]) -> list[Claim]:
    """The joint density of an MPNP is near the exact one and above that of a CNP."""
    found = []
    for setting in (FEW, CONSTANTS):
        if of(records, setting, MPNP):
            ours, plain = (_joint(records, setting, way, "n=1") for way in (MPNP, CNP))
            text = f"{setting}: joint log density a target at n = 1"
            found.append(Claim.above(f"{text}, MPNP", ours, -0.45, f"exact {EXACT['n=1'][1]:.3f}"))
            found.append(Claim.above(f"{text}, MPNP less CNP", ours - plain, 0.12, f"{ours:.3f} and {plain:.3f}"))
    if of(records, FUNCTIONS, MPNP):
        ours, plain = (_joint(records, FUNCTIONS, way, RBF) for way in (MPNP, CNP))
        text = f"{FUNCTIONS}: joint log density a target after as many steps, MPNP less CNP"
        found.append(Claim.above(text, ours - plain, 0, f"{ours:.3f} and {plain:.3f}; another program gave 0.080"))
    return found


def _both(values: tuple[float, float] | None) -> list[str]:
    return ["", ""] if values is None else [f"{value:.3f}" for value in values]


def tables(records: Sequence[Judged]) -> list[Table]:
    """Marginal and joint densities of all models on all tests."""
    rows = []
    for setting in SETTINGS:
        for test in TESTS[setting]:
            for way in WAYS:
                own = [r.found[test] for r in of(records, setting, way)]
                if own:
                    marginal, joint = (fmean(values) for values in zip(*own, strict=True))
                    expected = EXPECTED.get((setting, way), {}).get(test)
                    rows.append(
                        [setting, test, way, str(len(own)), *_both((marginal, joint)), *_both(expected),
                         *_both(EXACT.get(test))]
                    )  # fmt: skip
    header = ["tasks", "test", "model", "seeds", "marginal", "joint"]
    header += ["expected marginal", "expected joint", "exact marginal", "exact joint"]
    return [Table("Log density a target, means over seeds. Higher is better.", header, rows)]
