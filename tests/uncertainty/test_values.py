"""Metrics against closed values, scikit-learn, and plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from probkernels import uncertainty as un
from sklearn import metrics as sk
from torch import Tensor

# Six samples whose values are known: predicted and true probabilities and labels.
P = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.2, 0.65], dtype=torch.float64)
Y = torch.tensor([0, 0, 1, 1, 0, 1])
TRUE = torch.tensor([0.2, 0.3, 0.5, 0.7, 0.1, 0.8], dtype=torch.float64)
BINARY = [un.ece, un.mce, un.ks, un.debiased_ece, un.smooth_ece, un.brier, un.nll, un.auroc, un.average_precision]


def drawn(n: int = 200, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (n, classes) on a coarse grid, so that they tie; labels and weights."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randint(1, 6, (n, classes), generator=generator).double()
    probs = probs / probs.sum(1, keepdim=True)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return probs, labels, torch.randint(1, 4, (n,), generator=generator).double() / 2


def test_closed_values() -> None:
    expected = {
        un.mse_p(P, TRUE): 0.0141667, un.kl_p(P, TRUE): 0.0387009, un.brier(P, Y): 0.1325, un.ks(P, Y): 0.0833333,
        un.ece(P, Y, bins=3, equal="mass", weighted=False): 0.1833333, un.mce(P, Y, bins=3, equal="mass"): 0.275,
    }  # fmt: skip
    for got, value in expected.items():
        assert got.item() == pytest.approx(value, abs=1e-7)
    diagram = un.reliability(P, Y, bins=3, equal="mass")
    assert diagram.accuracy.tolist() == pytest.approx([0, 0.5, 1])
    assert diagram.confidence.tolist() == pytest.approx([0.15, 0.375, 0.725])
    assert diagram.edges.tolist() == [0, 0.2, 0.4, 1]
    assert un.kl_p(P, TRUE, reverse=True).item() == pytest.approx(un.kl_p(TRUE, P).item())


def test_brier_is_the_distance_from_the_truth_and_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(200_000, generator=generator, dtype=torch.float64)
    labels = torch.rand(200_000, generator=generator, dtype=torch.float64) < true
    probs = true.clamp(0.2, 0.7)
    gap = un.brier(probs, labels) - un.mse_p(probs, true) - (true * (1 - true)).mean()
    assert abs(gap.item()) < 0.003  # 4 standard deviations


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees(weighted: bool, seed: int) -> None:
    probs, labels, weight = drawn(seed=seed)
    w = weight if weighted else None
    p, y = probs[:, 1], labels == 1
    close = lambda got, expected: torch.testing.assert_close(got.item(), float(expected), rtol=1e-12, atol=1e-14)  # noqa: E731
    close(un.auroc(p, y, w), sk.roc_auc_score(y, p, sample_weight=w))
    close(un.average_precision(p, y, w), sk.average_precision_score(y, p, sample_weight=w))
    close(un.brier(p, y, w), sk.brier_score_loss(y, p, sample_weight=w))
    close(un.nll(p, y, w), sk.log_loss(y, p, sample_weight=w))
    close(un.nll(probs, labels, w), sk.log_loss(labels, probs, sample_weight=w, labels=range(4)))
    onehot = torch.nn.functional.one_hot(labels, 4)
    close(un.auroc(probs, labels, w), sk.roc_auc_score(onehot, probs, sample_weight=w))
    close(un.average_precision(probs, labels, w), sk.average_precision_score(onehot, probs, sample_weight=w))


def plain_bins(p: Tensor, hit: Tensor, w: Tensor, bins: int, equal: str) -> list[list[float]]:
    """Weight, probability and outcome of each bin, by a loop over samples."""
    total = [[0.0, 0.0, 0.0] for _ in range(bins)]
    inner = (torch.arange(1, bins, dtype=torch.float64) / bins).to(p.dtype).tolist()
    for i, value in enumerate(p.tolist()):
        if equal == "width":
            b = sum(value > edge for edge in inner)
        else:  # the bin in which the group of equal probabilities ends
            b = math.ceil(round(w[p <= value].sum().item() * bins / w.sum().item(), 9)) - 1
        for k, part in enumerate((1.0, value, float(hit[i]))):
            total[b][k] += w[i].item() * part
    return total


@pytest.mark.parametrize("equal", ["width", "mass"])
@pytest.mark.parametrize("mode", ["auto", "class_wise"])
def test_bins_agree_with_a_loop(equal: str, mode: str) -> None:
    probs, labels, w = drawn(90)
    top, predicted = probs.max(1)
    pairs = [(top, predicted == labels)]
    if mode == "class_wise":
        pairs = [(probs[:, c], labels == c) for c in range(4)]
    gaps, worst = [], []
    for p, hit in pairs:
        bins = plain_bins(p, hit, w, 7, equal)
        gaps.append(sum(abs(b[1] - b[2]) for b in bins) / w.sum().item())
        worst.append(max(abs(b[1] - b[2]) / b[0] for b in bins if b[0]))
    options = {"bins": 7, "equal": equal, "mode": mode}
    assert un.ece(probs, labels, w, **options).item() == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)
    assert un.mce(probs, labels, w, **options).item() == pytest.approx(max(worst), abs=1e-12)


def test_equal_mass_without_ties_cuts_at_ranks() -> None:
    n, bins = 103, 10
    p = torch.linspace(0.001, 0.999, n)
    cuts = [int(b * n / bins) for b in range(bins + 1)]
    counts = [float(end - start) for start, end in itertools.pairwise(cuts)]
    assert un.reliability(p, p > 2, bins=bins, equal="mass").count.tolist() == counts


def test_debiasing_equals_its_formulas() -> None:
    probs, labels, _ = drawn()
    p, y = probs[:, 0], labels == 0
    _, conf, freq, mass = un.reliability(p, y, bins=5, equal="mass")
    keep = mass > 0
    conf, freq, mass = conf[keep], freq[keep], mass[keep]
    share, gap = mass / mass.sum(), (conf - freq).abs()
    squares = (share * (gap**2 - freq * (1 - freq) / (mass - 1))).sum()
    got = un.debiased_ece(p, y, bins=5).item()
    assert got == pytest.approx(math.sqrt(max(squares.item(), 0)), abs=1e-12)
    noise = torch.randn(200_000, len(freq), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = (conf - (freq + noise * (freq * (1 - freq) / mass).sqrt())).abs().mean(0)
    expected = (share * (2 * gap - noisy)).sum().item()
    assert un.debiased_ece(p, y, bins=5, norm="l1").item() == pytest.approx(max(expected, 0), abs=2e-3)


def test_smoothing_equals_its_integral() -> None:
    """At the width that was found, the integral over reflected Gaussians is the width."""
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(60, generator=generator, dtype=torch.float64)
    y = torch.rand(60, generator=generator, dtype=torch.float64) < p**2
    width = un.smooth_ece(p, y).item()
    t = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    images = torch.cat([shift + sign * p[:, None] for shift in (-2, 0, 2) for sign in (1, -1)], 1)  # (60, 6)
    kernel = (-((t[:, None, None] - images) ** 2) / (2 * width**2)).exp().sum(2) / (width * math.sqrt(2 * math.pi))
    integral = (kernel * (y.double() - p)).mean(1).abs().mean().item()
    assert 0.02 < width < 0.9
    assert integral == pytest.approx(width, rel=2e-3)


def test_calibrated_forecasts_have_small_errors() -> None:
    p = torch.full((1000,), 0.25)
    y = torch.arange(1000) % 4 == 0
    for metric in (un.ece, un.mce, un.debiased_ece, un.smooth_ece, un.ks):
        assert metric(p, y).item() == pytest.approx(0, abs=1e-6)


def test_ends_of_the_interval_are_in_the_first_and_last_bin() -> None:
    p, y = torch.tensor([0.0, 1.0, 0.5, 0.2]), torch.tensor([0, 1, 1, 0])
    assert un.reliability(p, y, bins=10).count.tolist() == [1, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    for b in range(1, 16):  # an edge belongs to the bin below it
        edge = torch.tensor([b / 15])
        assert un.reliability(edge, torch.tensor([1])).count.argmax().item() == b - 1


@pytest.mark.parametrize("metric", BINARY, ids=lambda metric: metric.__name__)
def test_one_sample(metric: object) -> None:
    got = metric(torch.tensor([0.75]), torch.tensor([1])).item()  # type: ignore[operator]
    expected = {"nll": math.log(4 / 3), "brier": 0.0625, "auroc": math.nan, "average_precision": 1, "debiased_ece": 0}
    assert got == pytest.approx(expected.get(metric.__name__, 0.25), nan_ok=True)  # type: ignore[attr-defined]


def test_absent_and_only_classes() -> None:
    assert un.auroc(torch.tensor([0.1, 0.2]), torch.tensor([0, 0])).isnan()
    assert un.average_precision(torch.tensor([0.1, 0.2]), torch.tensor([0, 0])).isnan()
    probs, labels, _ = drawn()
    labels = labels.clamp(max=2)  # class 3 never occurs
    each = un.auroc(probs, labels, average="none")
    assert each.isnan().tolist() == [False, False, False, True]
    assert un.auroc(probs, labels).item() == pytest.approx(each[:3].mean().item())
    assert un.ece(probs, labels, mode="class_wise").isfinite()
    assert un.reliability(probs, labels, bins=4, mode="class_wise").accuracy[3].nan_to_num().sum() == 0


def test_modes_of_two_classes() -> None:
    two = torch.stack([1 - P, P], 1)
    for mode in ("top_label", "class_wise"):
        assert un.ece(P, Y, mode=mode) == un.ece(two, Y, mode=mode)
    assert un.ece(two, Y) == un.ece(two, Y, mode="top_label")
    assert un.ece(torch.tensor([[0.5, 0.5]]), torch.tensor([0])).item() == 0.5  # a tie predicts the first class


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", BINARY, ids=lambda metric: metric.__name__)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, metric: object) -> None:
    p = P.to(dtype)
    got, expected = metric(p, Y), metric(p.float(), Y)  # type: ignore[operator]
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    rows = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)).to(dtype).softmax(1)
    un.nll(rows, torch.zeros(50, dtype=torch.long))  # rounded rows still count as summing to 1


def test_impossible_labels_and_gradients_at_the_ends() -> None:
    p = torch.tensor([0.0, 1.0, 0.3], requires_grad=True)
    un.kl_p(p, torch.tensor([0.0, 1.0, 0.5])).backward()
    assert p.grad is not None and p.grad.isfinite().all()
    assert un.nll(torch.tensor([0.0]), torch.tensor([1])).item() == math.inf
    assert un.kl_p(torch.tensor([0.0]), torch.tensor([0.5])).item() == math.inf


def test_the_plot_shows_bins_that_have_samples() -> None:
    axes = un.reliability_plot(un.reliability(P, Y, bins=10))
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 5]  # 0.35 and 0.4 share a bin
    with pytest.raises(ValueError, match=r"reliability_plot: argument 'bins': expected counts of shape \(bins,\)"):
        un.reliability_plot(un.reliability(P, Y, mode="class_wise"))


def test_probabilities_that_rounding_puts_above_one_are_in_the_last_bin() -> None:
    rows, labels = torch.tensor([[1.00005, 0.0], [0.25, 0.75]]), torch.tensor([0, 1])
    for mode in ("top_label", "class_wise"):
        for equal in ("width", "mass"):
            count = un.reliability(rows, labels, bins=4, mode=mode, equal=equal).count.reshape(-1, 4)
            assert count.sum(1).tolist() == [2.0] * len(count)
        assert un.smooth_ece(rows, labels, mode=mode).isfinite()
    assert un.reliability(rows, labels, bins=4).count.tolist() == [0, 0, 1, 1]


def test_reverse_kl_has_a_gradient_where_a_probability_is_zero() -> None:
    logits = torch.tensor([[0.0, -2000.0], [0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    true = torch.tensor([[0.4, 0.6], [0.2, 0.8]], dtype=torch.float64)
    un.kl_p(logits.softmax(1), true, reverse=True).backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0, 0]  # as for a probability that is nearly 0
    near = torch.tensor([[0.0, -50.0], [0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    un.kl_p(near.softmax(1), true, reverse=True).backward()
    torch.testing.assert_close(logits.grad, near.grad)


@pytest.mark.parametrize("unit", [1e-200, 1e200, 5e-324])
def test_ranks_do_not_depend_on_the_unit_of_weights(unit: float) -> None:
    weight = torch.tensor([1, 2, 1, 3, 1, 2], dtype=torch.float64)
    for metric in (un.auroc, un.average_precision):
        torch.testing.assert_close(metric(P, Y, weight * unit), metric(P, Y, weight), atol=1e-14, rtol=0)


def test_weights_have_a_finite_sum() -> None:
    for metric in (un.brier, un.ece, un.auroc):
        with pytest.raises(ValueError, match="'sample_weight': expected weights with a finite sum"):
            metric(P, Y, torch.full((6,), 1e308, dtype=torch.float64))
