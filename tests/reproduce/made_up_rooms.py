"""Made-up records of the amortized, sequence, inverse and energy methods; :mod:`made_up` gathers them."""

from __future__ import annotations

from typing import Any

from probkernels.reproduce.learned_proximal import records as proximal
from probkernels.reproduce.monotone_dbm import records as monotone
from probkernels.reproduce.mpnp import records as mpnp
from probkernels.reproduce.pfn import records as pfn
from probkernels.reproduce.psi import records as psi
from probkernels.reproduce.pvrnn import records as pvrnn


def of_psi(worse: bool) -> list[Any]:
    """Exact figures and networks at the expected ones, or all far off and a poke that tells nothing."""
    found: list[Any] = [psi.Exact(name, value + worse) for name, value in psi.EXPECTED.items()]
    for world, steps in psi.STEPS.items():
        figures = list(psi.TRAINED[psi.FIXED if world == psi.SMALL else world])
        if worse:
            figures = [5.0, 4.9, 2.3, 0.5, 0.5, 0.4, figures[6] and 0.1, figures[7] and 3.0]
        found.append(psi.Trained(world, steps, *figures))
    map_ = [[float(row * column) for column in range(6)] for row in range(6)]
    sources = (psi.EXACT_SOURCE, psi.TRAINED_SOURCE)
    return [*found, *(psi.Scene(source, map_, map_, map_, map_, map_, (2, 3), (3, 3)) for source in sources)]


def of_mpnp(worse: bool) -> list[Any]:
    """Models at the expected figures, or an MPNP no better than a CNP."""
    found: list[Any] = []
    for setting in mpnp.SETTINGS:
        for way in mpnp.WAYS:
            of_way = mpnp.EXPECTED[mpnp.FUNCTIONS if setting == mpnp.FUNCTIONS else mpnp.CONSTANTS, way]
            figures = {test: of_way.get(test, (-0.8, -0.8)) for test in mpnp.TESTS[setting]}
            if worse and way == mpnp.MPNP:
                figures = dict.fromkeys(figures, (-0.7, -0.7))
            found.append(mpnp.Judged(setting, way, 0, 100, figures))
    return found


def of_learned_proximal(worse: bool) -> list[Any]:
    """Networks at the expected figures; or the wrong way round, so that no claim can hold."""
    found = []
    for case in proximal.CASES:
        for way in proximal.WAYS:
            means = [proximal.posterior_mean(y) + 0.1 * worse for y in proximal.POINTS]
            rmse, error = proximal.EXPECTED_RMSE[way], proximal.EXPECTED_ERROR.get(way, 0.4)
            if worse:
                rmse, error = 0.3, 0.1 if way == proximal.L2 else 0.6
            curve = [(-1.0, -0.1), (1.0, 0.1)]
            rest = ([0.4, 0.9, 1.9], error, 1e-3 if worse else 1e-9, curve, curve)
            found.append(proximal.Trained(way, case, rmse, means, *rest))
    return found


def of_pfn(worse: bool) -> list[Any]:
    """Networks at the expected gaps, or networks that more steps do not help, bars as bad as a Gaussian."""
    off = 0.2 * worse
    found: list[Any] = [pfn.Coins(1300, 0, 0.022 + off, 0.0033 + off, [[0.1, 0.9], [0.2, 0.8]])]
    found.append(pfn.Floors([[*key, nats + off] for key, nats in pfn.EXPECTED_FLOORS.items()]))
    found += [pfn.Modes(pfn.BARS, 300, 0, -0.1 + 2.2 * worse), pfn.Modes(pfn.GAUSSIAN, 300, 0, 2.11)]
    for (head, steps), gap in pfn.EXPECTED_GAPS.items():
        more = {n: g + off for n, g in gap.items()}
        found.append(pfn.Fitted(pfn.SHEET, head, steps, 0, pfn.EXPECTED_EXACT, more, 1e-16 + off))
    for steps, nats in zip(pfn.BUDGETS[pfn.SMALL], (1.3, 0.9 if worse else 0.5), strict=True):
        gaps = dict.fromkeys(pfn.SIZES[pfn.SMALL], nats)
        found.append(pfn.Fitted(pfn.SMALL, pfn.BARS, steps, 0, gaps, gaps, 1e-16 + off))
    figures = pfn.PAPER_TABLES.items()
    return [*found, *(pfn.Tabular(t, name, 1 - r / 10, ece, 2000) for t in "ab" for name, (r, ece) in figures)]


def of_monotone_dbm(worse: bool) -> list[Any]:
    """Models at the expected accuracies; or a machine no better than chance, and iterations that are the same."""
    found: list[Any] = [
        monotone.Judged(way, epochs, *((0.1, 0.2, 0.1, -1.0) if worse and way == monotone.MONOTONE else figures))
        for (way, epochs), figures in monotone.EXPECTED.items()
    ]
    for one in found[:2]:
        one.iterations = [10.0, 50.0 if worse else 10.0]
    image = [[0] * 64, [3] * 64]
    for alpha, count in monotone.ITERATIONS.items():
        found.append(monotone.Iterated(alpha, count or 2000, 0.0 if count or worse else 0.6, bool(count)))
    if worse:
        found[-1].iterations = 2000
    return [*found, monotone.Completed(image, image, image)]


def of_pvrnn(worse: bool) -> list[Any]:
    """Networks at the expected figures, or a middle w that breaks the grammar and extremes that keep all."""
    found: list[Any] = []
    for w, (*loss, regenerated, grammar, coin, varied) in pvrnn.EXPECTED.items():
        kept = (0.5, 0.6) if w == pvrnn.MIDDLE else (1.0, 0.3)
        found.append(pvrnn.Trained(w, 0, *loss, regenerated, *(kept if worse else (grammar, coin)), varied, [[1, 0]]))
    fixed, early, coin = pvrnn.EXPECTED_ONLINE
    found.append(pvrnn.Online(pvrnn.MIDDLE, 0, fixed - 0.1 * worse, early, coin))
    ways = [pvrnn.Predicted(data, way, 0, {1: 0.02, 5: 0.2}) for data in pvrnn.DATA for way in pvrnn.WAYS]
    return [*found, *ways]
