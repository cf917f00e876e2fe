"""The loss of h-calibration: closed values, the authors' form, its gradient, its limits, k-means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.uncertainty import h_calibration, h_calibration_loss
from probkernels.uncertainty.h_calibration import clusters_1d
from sklearn.cluster import KMeans
from torch import Tensor

ROWS = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.25, 0.35, 0.4]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0])


def drawn(n: int, classes: int, seed: int = 0, concentration: float = 0.3) -> tuple[Tensor, Tensor]:
    """Probabilities (n, classes), float64, and labels drawn from them."""
    torch.manual_seed(seed)
    shape = torch.full((classes,), concentration, dtype=torch.float64)
    probs = torch.distributions.Dirichlet(shape).sample((n,)).clamp_min(1e-12)
    probs = probs / probs.sum(1, keepdim=True)
    return probs, probs.multinomial(1)[:, 0]


def plain_clusters(ordered: Tensor, count: int) -> Tensor:
    """The cluster of each value: Lloyd's algorithm with all distances, from quantiles."""
    centers = ordered[(torch.arange(count) * 2 + 1) * len(ordered) // (2 * count)].clone()
    for _ in range(25):
        nearest = (ordered[:, None] - centers).abs().argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centers[k] = ordered[nearest == k].mean()
    return nearest


def plain_loss(probs: Tensor, labels: Tensor, window: int, eps: float, clusters: int | None) -> Tensor:
    """The loss of one set of samples as the authors' code has it, with autograd."""
    p = probs.flatten()
    y = torch.nn.functional.one_hot(labels, probs.shape[1]).to(p).flatten()
    order = p.detach().sort(stable=True).indices
    p, y = p[order], y[order]
    bracket = p * (1 - y) - (1 - p) * y
    kernel = torch.full((1, 1, window + 1), 1 / (window + 1), dtype=p.dtype)
    mean = torch.nn.functional.conv1d(bracket[None, None], kernel, padding=window // 2)[0, 0]
    excess = (mean.abs() - eps).relu()
    if clusters is None:
        return excess.mean()
    cluster = plain_clusters(p.detach(), clusters)
    sums = [excess[cluster == k].sum() / ((cluster == k).sum() + 1e-5) for k in range(clusters)]
    return torch.stack(sums).mean()


def plain_left_out(probs: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """The mean over classes of the loss without the samples of each."""
    sets = [labels != c for c in range(probs.shape[1])]
    return torch.stack([plain_loss(probs[kept], labels[kept], **options) for kept in sets]).mean()


@pytest.mark.parametrize(
    ("window", "leave_one_out", "expected"),
    [(2, False, 0.1407407), (2, True, 0.0932099), (4, False, 0.0511111), (4, True, 0.0359259)],
)
def test_closed_values(window: int, leave_one_out: bool, expected: float) -> None:
    got = h_calibration_loss(ROWS, LABELS, window=window, clusters=None, leave_one_out=leave_one_out)
    assert got.item() == pytest.approx(expected, abs=6e-8)


def test_closed_gradient() -> None:
    probs = ROWS.clone().requires_grad_()
    h_calibration_loss(probs, LABELS, window=2, clusters=None, leave_one_out=False).backward()
    expected = torch.tensor([[-2.0, -1, 2], [-1, -1, 1], [-3, 1, 1]], dtype=torch.float64) / 27
    torch.testing.assert_close(probs.grad, expected, rtol=0, atol=1e-15)


def test_the_authors_bracket_is_the_residual() -> None:
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    for y in (0, 1):
        torch.testing.assert_close(p * (1 - y) - (1 - p) * y, p - y, rtol=0, atol=1e-16)


@pytest.mark.parametrize("clusters", [None, 1, 4])
@pytest.mark.parametrize(("window", "eps"), [(0, 0.0), (6, 0.02), (40, 0.0), (400, 0.0)])
def test_value_and_gradient_are_those_of_the_authors_form(clusters: int | None, window: int, eps: float) -> None:
    probs, labels = drawn(40, 4, seed=1, concentration=1.0)
    for leave_one_out, plain in ((False, plain_loss), (True, plain_left_out)):
        one, other = probs.clone().requires_grad_(), probs.clone().requires_grad_()
        got = h_calibration_loss(
            one, labels, window=window, eps=eps, clusters=clusters, leave_one_out=leave_one_out
        )  # fmt: skip
        expected = plain(other, labels, window=window, eps=eps, clusters=clusters)
        got.backward()
        expected.backward()
        close = {"rtol": 3e-6, "atol": 1e-9}  # the 1e-5 beside the size of a cluster
        torch.testing.assert_close(got, expected, **close)
        if window < 160:  # else |T| itself is noise of rounding, in the plain form too
            torch.testing.assert_close(one.grad, other.grad, **close)


def test_blocks_of_sets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels = drawn(30, 4)
    expected = h_calibration_loss(probs, labels, window=6, clusters=3)
    monkeypatch.setattr(h_calibration, "BLOCK", 300)  # two sets of 120 events
    assert torch.equal(h_calibration_loss(probs, labels, window=6, clusters=3), expected)


def test_a_class_without_samples_leaves_all() -> None:
    probs, labels = drawn(30, 4)
    labels = labels % 3
    got = h_calibration_loss(probs, labels, window=6, clusters=3)
    assert got.item() == pytest.approx(plain_left_out(probs, labels, window=6, eps=0, clusters=3).item(), rel=1e-5)
    only = h_calibration_loss(probs, labels * 0, window=6, clusters=None)  # three of four sets hold all samples
    pooled = h_calibration_loss(probs, labels * 0, window=6, clusters=None, leave_one_out=False)
    assert only.item() == pytest.approx(0.75 * pooled.item(), rel=1e-12)


@pytest.mark.parametrize("edges", ["zero", "valid"])
@pytest.mark.parametrize("clusters", [None, 5])
def test_gradcheck(edges: str, clusters: int | None) -> None:
    torch.manual_seed(3)
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(3, (6,))

    def loss(z: Tensor) -> Tensor:
        return h_calibration_loss(z.softmax(1), labels, window=4, clusters=clusters, edges=edges)

    assert torch.autograd.gradcheck(loss, logits)
    if clusters is None:  # the second derivative is that of softmax alone
        assert torch.autograd.gradgradcheck(loss, logits)
    loss(logits).backward()
    torch.testing.assert_close(torch.func.grad(loss)(logits.detach()), logits.grad)
    direction = torch.randn(6, 3, dtype=torch.float64)
    _, tangent = torch.func.jvp(loss, (logits.detach(),), (direction,))
    torch.testing.assert_close(tangent, (logits.grad * direction).sum())


def test_valid_edges_are_means_over_what_exists() -> None:
    probs, labels = drawn(12, 3, concentration=1.0)
    p, order = probs.flatten().sort()
    residual = (p - torch.nn.functional.one_hot(labels, 3).flatten()[order]).tolist()
    means = [math.fsum(residual[max(i - 5, 0) : i + 6]) / len(residual[max(i - 5, 0) : i + 6]) for i in range(36)]
    got = h_calibration_loss(probs, labels, window=10, clusters=None, leave_one_out=False, edges="valid")
    assert got.item() == pytest.approx(sum(map(abs, means)) / 36, rel=1e-12)


def test_a_window_over_everything_sees_no_error() -> None:
    probs = torch.tensor([[48, 8, 8], [5, 29, 30], [1, 2, 61], [21, 22, 21]]).double() / 64
    probs.requires_grad_()
    loss = h_calibration_loss(probs, torch.tensor([1, 1, 0, 2]), window=24, clusters=None, leave_one_out=False)
    loss.backward()
    assert loss.item() == 0
    assert not probs.grad.any()


def test_no_window_is_the_mean_distance() -> None:
    probs, labels = drawn(50, 4)
    got = h_calibration_loss(probs, labels, window=0, clusters=None, leave_one_out=False)
    own = probs.gather(1, labels[:, None])
    assert got.item() == pytest.approx(2 / 200 * (1 - own).sum().item(), rel=1e-12)


def test_calibrated_probabilities_have_the_noise_of_the_window() -> None:
    probs, labels = drawn(5000, 10)
    got = h_calibration_loss(probs, labels, clusters=1, leave_one_out=False, edges="valid").item()
    events = probs.flatten().sort().values
    variance = (events * (1 - events)).unfold(0, 201, 1).mean(1) / 201
    assert got == pytest.approx(math.sqrt(2 / math.pi) * variance.sqrt().mean().item(), rel=0.1)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_the_right_temperature_has_the_least_loss(leave_one_out: bool) -> None:
    probs, labels = drawn(5000, 10)
    found = {}
    for a in (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0):
        found[a] = h_calibration_loss((a * probs.log()).softmax(1), labels, leave_one_out=leave_one_out).item()
    assert min(found, key=lambda a: found[a]) == 1.0
    values = list(found.values())
    assert values[:4] == sorted(values[:4], reverse=True) and values[3:] == sorted(values[3:])


@pytest.mark.parametrize("seed", range(3))
def test_k_means_is_that_of_scikit_learn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(400, generator=generator, dtype=torch.float64).pow(4).sort().values
    centers = values[torch.randperm(400, generator=generator)[:7]].sort().values
    peer = KMeans(7, n_init=1, init=centers[:, None].numpy(), max_iter=300, tol=0).fit(values[:, None].numpy())
    more, order = torch.cat([values, values - 0.01]).sort()  # a second subset, whose values lie between
    kept = torch.stack([order < 400, order >= 400])
    for sizes in clusters_1d(more, kept, 7, 300, torch.stack([centers, centers - 0.01])):
        labels = torch.repeat_interleave(torch.arange(7), sizes)
        assert labels.tolist() == peer.labels_.tolist()


def test_k_means_of_few_distinct_values_has_empty_clusters() -> None:
    values = torch.tensor([0.1, 0.1, 0.1, 0.9], dtype=torch.float64)
    (sizes,) = clusters_1d(values, torch.ones(1, 4, dtype=torch.bool), 4)
    assert sizes.tolist() == [3, 0, 0, 1]
    loss = h_calibration_loss(torch.full((6, 2), 0.5), torch.tensor([0, 1, 0, 1, 0, 1]), window=2)
    assert loss.isfinite()


def test_dtypes_and_forms_of_input() -> None:
    probs, labels = drawn(60, 2)
    loss = h_calibration_loss(probs, labels, window=6)
    assert loss.dtype is torch.float64
    torch.testing.assert_close(h_calibration_loss(probs[:, 1], labels == 1, window=6), loss, rtol=1e-9, atol=0)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 2e-2)):
        given = probs.to(dtype).requires_grad_()
        got = h_calibration_loss(given, labels, window=6)
        got.backward()
        assert got.dtype is torch.float32 and given.grad.dtype is dtype
        assert got.item() == pytest.approx(loss.item(), rel=tolerance)
    shuffled = torch.randperm(60)
    torch.testing.assert_close(h_calibration_loss(probs[shuffled], labels[shuffled], window=6), loss)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"window": 3}, ValueError, "'window': expected an even number, got 3"),
        ({"window": -2}, ValueError, "'window'"),
        ({"window": 2.0}, TypeError, "'window': expected a whole number"),
        ({"eps": float("nan")}, ValueError, "'eps': expected a number >= 0, got nan"),
        ({"clusters": 0}, ValueError, "'clusters': expected a number >= 1 or None, got 0"),
        ({"leave_one_out": "yes"}, ValueError, "'leave_one_out'"),
        ({"edges": "vaild"}, ValueError, "'edges'.*did you mean 'valid'"),
        ({"probs": ROWS * float("nan")}, ValueError, r"'probs'.*got nan at \[0, 0\]"),
        ({"probs": ROWS.log()}, ValueError, "'probs': expected probabilities"),
        ({"probs": ROWS[:0], "labels": LABELS[:0]}, ValueError, "at least one sample"),
        ({"labels": LABELS * 3}, ValueError, r"'labels': expected classes 0 to 2, got 3 at \[1\]"),
        ({"labels": LABELS.float()}, TypeError, "'labels'"),
        ({"labels": LABELS[:2]}, ValueError, "'labels': expected shape"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type, text: str) -> None:
    given = {"probs": ROWS, "labels": LABELS, "window": 2, **change}
    with pytest.raises(error, match=text) as caught:
        h_calibration_loss(given.pop("probs"), given.pop("labels"), **given)
    assert str(caught.value).startswith("h_calibration_loss: argument")
