"""Claims and tables of the experiment with permutations."""

from __future__ import annotations

import math
from statistics import fmean

from ...kernel_methods import permutation_moments, success_probability
from ..harness.method import Claim, Table
from .records import COUNTS, EXPECTED, EXPECTED_MODELS, KINDS, NTK, STANDARD, Records, Trained, drawn, trained

MOMENT, VARIANCE, EXACT = 0.01, 0.05, 0.15  # bounds of the differences from the closed forms
FEW = 50  # networks with which the standard parameterization is mostly right and the other is not


def claims(records: Records) -> list[Claim]:
    """Outputs follow the closed forms; means of many networks are right, single ones are not; sizes grow as stated."""
    found = []
    for way in (NTK, STANDARD):
        found += _of_law(way, trained(records, way))
    ntk, standard = trained(records, NTK), trained(records, STANDARD)
    note = f"theory: {success_probability(5, 2, 1):.3f}"
    found.append(Claim.at_most("ntk: exact inputs, single networks", fmean(r.exact[1] for r in ntk), 0.5, note))
    every = fmean(r.exact[max(r.exact)] for r in ntk)
    found.append(Claim.above("ntk: exact inputs, mean of 400 networks", every, 0.85))
    gained = fmean(r.exact[FEW] for r in standard) - fmean(r.exact[FEW] for r in ntk)
    theory = success_probability(5, 2, FEW, "nngp") - success_probability(5, 2, FEW)
    found.append(Claim.above(f"exact inputs, {FEW} networks: standard - ntk", gained, 0.2, f"theory: {theory:.3f}"))
    return [*found, *_of_sizes(records)]


def _of_law(way: str, own: list[Trained]) -> list[Claim]:
    one, zero, variance = permutation_moments(5, 2, KINDS[way])
    off = max(abs(fmean(r.mean_one for r in own) - one), abs(fmean(r.mean_zero for r in own) - zero))
    note = f"{len(own) * own[0].n_models} networks of width {own[0].width}"
    spread = fmean(r.variance for r in own) / variance
    apart = max(abs(_exact(own, n) - success_probability(5, 2, n, KINDS[way])) for n in COUNTS)
    return [
        Claim.at_most(f"{way}: means, greatest distance from the closed form", off, MOMENT, note),
        Claim.at_most(f"{way}: relative distance of the variance", abs(spread - 1), VARIANCE, note),
        Claim.at_most(f"{way}: exact inputs, greatest distance from the exact probability", apart, EXACT),
    ]


def _exact(own: list[Trained], count: int) -> float:
    return fmean(r.exact[count] for r in own)


def _of_sizes(records: Records) -> list[Claim]:
    found = drawn(records)
    off = max(abs(r.exact - 0.9) for r in found)
    last, before = found[-1], found[-2]
    slope = math.log(last.bound_all / before.bound_all) / math.log(last.k / before.k)
    logs = [r.bound_one / (r.k * math.log(r.k)) for r in (before, last)]
    ratio = max(logs) / min(logs)
    bits = f"{before.k} to {last.k} bits"
    return [
        Claim.at_most("drawn means: greatest distance of the exact share from 0.9", off, 0.03),
        Claim.at_most(f"networks for all inputs: distance of the power of k from 2, {bits}", abs(slope - 2), 0.05),
        Claim.at_most(f"networks for one input over k log k: greatest change, {bits}", ratio, 1.25),
    ]


def tables(records: Records) -> list[Table]:
    """Laws of outputs, exact inputs by number of networks, numbers of networks."""
    laws, shares = [], []
    for (way, k), expected in {**EXPECTED, (STANDARD, 10): (None,) * 3}.items():
        own = trained(records, way, k)
        if not own:
            continue
        theory = permutation_moments(k, 2, KINDS[way])
        measured = [fmean(getattr(r, name) for r in own) for name in theory._fields]
        for name, value, other, closed in zip(theory._fields, measured, expected, theory, strict=True):
            known = "" if other is None else f"{other:.5f}"
            laws.append([way, str(k), name, f"{value:.5f}", known, f"{closed:.5f}"])
        values = [f"{_exact(own, n):.3f} ({success_probability(k, 2, n, KINDS[way]):.3f})" for n in COUNTS]
        shares.append([way, str(k), *values])
    sizes = []
    for r in drawn(records):
        models = EXPECTED_MODELS.get(r.k)
        known = "" if models is None else ", ".join(map(str, models))
        sizes.append([str(r.k), str(r.networks), f"{r.exact:.3f}", str(r.bound_one), str(r.bound_all), known])
    header = ["parameterization", "k", "figure", "measured", "expected", "closed form"]
    sized = ["k", "networks for 0.9", "exact share of draws", "bound, one input", "bound, all inputs", "expected"]
    return [
        Table("Outputs at inputs with two ones.", header, laws),
        Table("Share of exact inputs by number of networks; in brackets the probability.", ["", "k", *map(str, COUNTS)],
              shares),
        Table("Infinitely wide networks; expected: theory of both, and models that the paper's code took.", sized,
              sizes),
    ]  # fmt: skip
