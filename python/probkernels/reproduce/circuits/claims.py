"""Claims and tables of the circuits experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    BAYES,
    CATEGORICAL,
    CLASSIFIER,
    EXPECTED,
    FACTORIZED,
    GAUSSIAN,
    GROWN,
    LARGE,
    SMALL,
    TREE,
    Accuracy,
    Curve,
    Fit,
    Halves,
    Record,
    best_curve,
    mean_bits,
)

BOUNDS = {
    ("digits", SMALL): 2.06, ("digits", LARGE): 2.055,
    ("MNIST", LARGE): 1.245, ("MNIST", "HCLT, M = 32"): 1.215, ("MNIST", GROWN): 1.18,
}  # fmt: skip
GAPS = {FACTORIZED: 0.3, TREE: 0.2, CATEGORICAL: 0.15, GAUSSIAN: 0.25}  # above the HCLT of 8


def claims(records: Sequence[Record]) -> list[Claim]:
    """All claims for which there are records."""
    found = [_bits_claim(records, *key) for key in BOUNDS if _runs(records, *key)]
    found += [_gap_claim(records, model, gap) for model, gap in GAPS.items() if _runs(records, "digits", model)]
    found += _half_claims(of_kind(records, Halves))
    found += _optimizer_claims(records)
    return found + _class_claims(of_kind(records, Accuracy))


def _runs(records: Sequence[Record], data: str, model: str) -> list[Fit]:
    return [fit for fit in of_kind(records, Fit) if (fit.data, fit.model) == (data, model)]


def _seeds(values: Sequence[float]) -> str:
    return f"by seed {', '.join(f'{value:.4f}' for value in values)}; " if len(values) > 1 else ""


def _bits_claim(records: Sequence[Record], data: str, model: str) -> Claim:
    values = [fit.test for fit in _runs(records, data, model)]
    note = f"{_seeds(values)}another program gave {EXPECTED[data, model]}"
    text = f"{data}, {model}: bits per dimension of the test images"
    return Claim.at_most(text, fmean(values), BOUNDS[data, model], note)


def _gap_claim(records: Sequence[Record], model: str, gap: float) -> Claim:
    values = mean_bits(records, "digits", model), mean_bits(records, "digits", SMALL)
    text = f"digits, {model} − {SMALL}: bits per dimension of the test images"
    detail = _runs(records, "digits", model)[0].detail
    note = "{:.4f} − {:.4f}".format(*values) + (f"; {detail}, chosen on held-out training images" if detail else "")
    return Claim.above(text, values[0] - values[1], gap, note)


def _half_claims(halves: Sequence[Halves]) -> list[Claim]:
    found = {half.model: half for half in halves}
    if not {SMALL, FACTORIZED} <= set(found):
        return []
    ours, other = found[SMALL], found[FACTORIZED]
    return [
        Claim.above(
            f"lower half given the upper one, {FACTORIZED} − {SMALL}: bits a hidden pixel",
            other.bits - ours.bits,
            0.3,
            f"{other.bits:.4f} − {ours.bits:.4f}",
        ),
        Claim.at_most(
            f"mean of the lower half given the upper one, {SMALL} ÷ {FACTORIZED}: root mean square pixel error",
            ours.mean / other.mean,
            0.93,
            f"{ours.mean:.4f} ÷ {other.mean:.4f}",
        ),
        Claim.at_most(
            f"most probable lower half, {SMALL} ÷ {FACTORIZED}: mean absolute pixel error",
            ours.best / other.best,
            0.97,
            f"{ours.best:.4f} ÷ {other.best:.4f}; with latents it is the most probable together with their states",
        ),
    ]


def _optimizer_claims(records: Sequence[Record]) -> list[Claim]:
    found = []
    em, adam = best_curve(records, "EM", True), best_curve(records, "Adam", True)
    if em and adam:
        passes = next((i for i, value in enumerate(em.bits, 1) if value <= min(adam.bits)), float("inf"))
        note = (
            f"after {len(em.bits)} passes EM is at {em.bits[-1]:.4f}, Adam (rate {adam.rate:g}, the best on the test"
            f" images) at {adam.bits[-1]:.4f}; both maximize the same penalized likelihood"
        )
        text = f"all images a step: passes in which EM reaches what Adam does in {len(adam.bits)}"
        found.append(Claim.at_most(text, passes, 0.6 * len(adam.bits), note))
    adam = best_curve(records, "Adam", False)
    short = adam and best_curve(records, "EM", False, len(adam.bits) // 3)
    if adam and short:
        note = f"{short.bits[-1]:.4f} − {min(adam.bits):.4f} (rate {adam.rate:g}, its best pass on the test images)"
        text = f"batches of {adam.batch}: EM of {len(short.bits)} passes − Adam of {len(adam.bits)}, bits per dimension"
        found.append(Claim.at_most(text, short.bits[-1] - min(adam.bits), 0.0, note))
    return found


def _class_claims(accuracies: Sequence[Accuracy]) -> list[Claim]:
    share = {accuracy.model: accuracy.share for accuracy in accuracies}
    bayes = share.pop("Gaussian naive Bayes", None)
    if bayes is None or BAYES not in share:
        return []
    ours = share.pop(BAYES)
    text = "a circuit a class − Gaussian naive Bayes: accuracy on the test digits"
    others = ", ".join(f"{name} {value:.1%}" for name, value in share.items())
    return [Claim.above(text, ours - bayes, 0.03, f"{ours:.1%} − {bayes:.1%}; {others}")]


# --- tables ---


def tables(records: Sequence[Record]) -> list[Table]:
    """Tables of bits per dimension, hidden halves, optimizers and classes, if there are records for them."""
    found = [_bits_table(records), _halves_table(of_kind(records, Halves)), _curve_table(of_kind(records, Curve))]
    return [table for table in (*found, _class_table(of_kind(records, Accuracy))) if table.rows]


def _bits_table(records: Sequence[Record]) -> Table:
    rows = []
    for data, model in dict.fromkeys((fit.data, fit.model) for fit in sorted(of_kind(records, Fit), key=_order)):
        runs = _runs(records, data, model)
        train = [fit.train for fit in runs if fit.train is not None]
        detail = f"{model}, {runs[0].detail}" if runs[0].detail else model
        shown = f"{fmean(train):.4f}" if train else ""
        rows.append([data, detail, shown, f"{mean_bits(records, data, model):.4f}",
                     EXPECTED.get((data, model), "")])  # fmt: skip
    caption = (
        "Bits per dimension, lower is better, means of the seeds. The mixtures' numbers of components are chosen on 200"
        " training images. The Gaussian one is scikit-learn's, with diagonal covariances, and a level has the"
        " probability of its interval. The tree expected smooths joint frequencies, ours conditional ones."
    )
    return Table(caption, ["data", "model", "train", "test", "expected"], rows)


def _order(fit: Fit) -> tuple[str, float]:
    return fit.data.lower(), fit.test


def _halves_table(halves: Sequence[Halves]) -> Table:
    rows = [[half.model, f"{half.bits:.4f}", f"{half.mean:.4f}", f"{half.best:.4f}"] for half in halves]
    caption = (
        "The lower half of each test digit given the upper one: bits a hidden pixel; root mean square error of its"
        " mean; mean absolute error of its most probable completion, both in parts of the range."
    )
    return Table(caption, ["model", "bits", "error of the mean", "error of the most probable"], rows)


def _curve_table(curves: Sequence[Curve]) -> Table:
    rows = []
    for curve in curves:
        rate = "" if curve.rate is None else f"{curve.rate:g}"
        size = "all" if curve.batch is None else str(curve.batch)
        rows.append([curve.optimizer, size, rate, str(len(curve.bits)), f"{min(curve.bits):.4f}",
                     f"{curve.bits[-1]:.4f}"])  # fmt: skip
    header = ["optimizer", "images a step", "rate", "passes", "best pass", "last pass"]
    return Table(f"Bits per dimension of the test digits, {SMALL}, seed 0.", header, rows)


def _class_table(accuracies: Sequence[Accuracy]) -> Table:
    rows = [[accuracy.model, f"{accuracy.share:.1%}"] for accuracy in accuracies]
    latents, epochs, pseudocount = CLASSIFIER
    caption = (
        f"Accuracy on the 500 test digits, of which 1.2 points are one standard error. The circuits: M = {latents},"
        f" {epochs} passes, pseudocount {pseudocount:g}, chosen on the last 200 training images."
    )
    return Table(caption, ["classifier", "accuracy"], rows)
