"""Claims and tables of the experiment with monotone Boltzmann machines."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import BOUND, EXPECTED, ITERATIONS, LONG, MODE, MONOTONE, NONE, SHORT, M, Record, iterated, judged

BOUNDS = {SHORT: (0.65, 0.02, 0.88), LONG: (0.65, 0.03, 0.9)}  # label with 40 %, pixels over the mode, label with all


def claims(records: Sequence[Record]) -> list[Claim]:
    """One machine completes and classifies, its iterations stay few, and plain mean field fails where it may."""
    found = []
    mode = next((r.pixels for r in judged(records) if r.way == MODE), NONE)
    for r in judged(records):
        if r.way != MONOTONE:
            continue
        label, gain, every = BOUNDS[r.epochs]
        text = f"monotone machine, {r.epochs} epochs:"
        found += [
            Claim.above(f"{text} label accuracy with 40 % of the pixels", r.label_some, label),
            Claim.above(f"{text} accuracy of missing pixels, over the mode", r.pixels - mode, gain, f"mode {mode:.3f}"),
            Claim.above(f"{text} label accuracy with all pixels", r.label_all, every),
            Claim.above(f"{text} smallest eigenvalue of I - Phi", r.min_eig, M - 1e-4),
            Claim.at_most(f"{text} most iterations, mean of a batch", max(r.iterations), 25),
        ]
    ways = iterated(records)
    slow = [r for r in ways if r.alpha > BOUND]
    if ways:
        least = min(r.residual for r in slow)
        text = "groups that repel each other: smallest residual with alpha above 2 / L"
        found.append(Claim.above(text, least, 0.3, "alpha " + ", ".join(f"{r.alpha:g}" for r in slow)))
        most = max(r.iterations for r in ways if r.alpha < BOUND)
        found.append(Claim.at_most("the same: most iterations with alpha below 2 / L", most, 100))
    return found


def _cells(values: Sequence[float]) -> list[str]:
    return ["" if value != value else f"{value:.3f}" for value in values]


def tables(records: Sequence[Record]) -> list[Table]:
    """Accuracies, and iterations."""
    rows = []
    for r in judged(records):
        expected = EXPECTED.get((r.way, r.epochs), (NONE,) * 4)
        iterations = f"{r.iterations[0]:.1f}, {r.iterations[-1]:.1f}" if r.iterations else ""
        own = r.label_some, r.pixels, r.label_all, r.min_eig
        pairs = zip(_cells(own), _cells(expected), strict=True)
        rows.append([r.way, str(r.epochs or ""), *(cell for pair in pairs for cell in pair), iterations])
    header = ["model", "epochs"]
    for name in ("label, 40 % of pixels", "missing pixels", "label, all pixels", "min eig"):
        header += [name, "expected"]
    found = [Table("Accuracy on 450 test digits.", [*header, "iterations, first and last epoch"], rows)]
    lines = [
        [f"{r.alpha:g}", str(r.iterations) if r.converged else "never", str(ITERATIONS[r.alpha] or "never"),
         f"{r.residual:.1e}"]
        for r in iterated(records)
    ]  # fmt: skip
    caption = f"Damped mean field on ten groups that repel each other; 2 / L is {BOUND:.3f}."
    found.append(Table(caption, ["alpha", "iterations", "expected", "residual"], lines))
    return found
