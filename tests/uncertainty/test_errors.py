"""Bad input: the type of the exception, the argument, what was expected, and the first offender."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels import uncertainty as un

P, Y = torch.tensor([0.2, 0.8]), torch.tensor([0, 1])
ROWS = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
NAN = torch.tensor([0.2, float("nan")])
OF_LABELS = [un.brier, un.nll, un.ece, un.mce, un.debiased_ece, un.smooth_ece, un.ks, un.reliability]
OF_TRUTH = [un.mse_p, un.kl_p]
CASES: dict[str, tuple[Any, Any, Any, type, str]] = {
    "NaN": (NAN, Y, None, ValueError, r"'probs': expected probabilities in \[0, 1\], got nan at \[1\].*logits"),
    "logits": (torch.tensor([0.2, 3.0]), Y, None, ValueError, r"got 3.0 at \[1\].*Hint: softmax"),
    "NaN in a row": (ROWS.clone().fill_(float("nan")), Y, None, ValueError, r"got nan at \[0, 0\]"),
    "negative": (torch.tensor([[1.5, -0.5], [1, 0]]), Y, None, ValueError, r"got 1.5 at \[0, 0\], and 1 more"),
    "sums": (
        ROWS * torch.tensor([[1], [0.9]]),
        Y,
        None,
        ValueError,
        r"rows that sum to 1, got a sum of 0.89.* at \[1\]",
    ),
    "column": (P[:, None], Y, None, ValueError, r"expected shape \(N,\).*got shape \(2, 1\).*squeeze"),
    "list": ([0.2, 0.8], Y, None, TypeError, "'probs': expected a floating-point tensor, got list"),
    "integers": (torch.tensor([0, 1]), Y, None, TypeError, "'probs': expected dtype float32"),
    "no samples": (P[:0], Y[:0], None, ValueError, r"'probs': expected at least one sample, got shape \(0,\)"),
    "no rows": (ROWS[:0], Y[:0], None, ValueError, "at least one sample"),
    "weights' shape": (P, Y, torch.ones(3), ValueError, r"'sample_weight': expected shape \(2,\)"),
    "negative weight": (P, Y, torch.tensor([1.0, -1]), ValueError, r"numbers >= 0, got -1.0 at \[1\]"),
    "no weight": (P, Y, torch.zeros(2), ValueError, "'sample_weight': expected a positive weight, got zeros only"),
    "list of weights": (P, Y, [1, 1], TypeError, "'sample_weight': expected a tensor of real numbers"),
}
LABEL_CASES: dict[str, tuple[Any, Any, type, str]] = {
    "out of range": (
        P,
        torch.tensor([0, 2]),
        ValueError,
        r"'labels': expected classes 0 to 1, got 2 at \[1\].*class 1",
    ),
    "ignored": (ROWS, torch.tensor([-100, 1]), ValueError, r"expected classes 0 to 1, got -100 at \[0\].*ignored"),
    "float": (P, P, TypeError, "'labels': expected an integer tensor, got torch.float32.*long"),
    "shape": (P, Y[:1], ValueError, r"'labels': expected shape \(2,\) .one label for each entry of 'probs'.*got shape"),
}


@pytest.mark.parametrize("metric", OF_LABELS + OF_TRUTH, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("case", CASES)
def test_bad_probabilities_and_weights(metric: Any, case: str) -> None:
    probs, labels, weight, kind, text = CASES[case]
    if metric in OF_TRUTH:
        labels = torch.full_like(probs, 0.5) if isinstance(probs, torch.Tensor) and probs.is_floating_point() else P
    with pytest.raises(kind, match=rf"^{metric.__name__}: argument .*{text}"):
        metric(probs, labels, weight)


@pytest.mark.parametrize("metric", OF_LABELS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("case", LABEL_CASES)
def test_bad_labels(metric: Any, case: str) -> None:
    probs, labels, kind, text = LABEL_CASES[case]
    with pytest.raises(kind, match=text):
        metric(probs, labels)


@pytest.mark.parametrize("metric", [un.auroc, un.average_precision], ids=lambda metric: metric.__name__)
def test_bad_scores(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"'scores': expected numbers, got nan at \[1\]"):
        metric(NAN, Y)
    with pytest.raises(ValueError, match="'scores': expected at least one sample"):
        metric(P[:0], Y[:0])
    with pytest.raises(ValueError, match="one label for each entry of 'scores'"):
        metric(P, Y[:1])
    with pytest.raises(
        ValueError, match=r"'average': expected one of 'macro', 'none', got 'marco'.*did you mean 'macro'"
    ):
        metric(ROWS, Y, average="marco")
    assert metric(torch.tensor([-float("inf"), float("inf")]), Y).item() == 1  # any scores rank


def test_bad_true_probabilities() -> None:
    for metric in OF_TRUTH:
        with pytest.raises(TypeError, match=r"'true_probs': expected dtype float32.*brier and nll"):
            metric(P, Y)
        with pytest.raises(ValueError, match=r"'true_probs': expected shape \(2,\)"):
            metric(P, P[:1])
        with pytest.raises(ValueError, match=r"'true_probs': expected probabilities in \[0, 1\], got nan"):
            metric(P, NAN)


def test_bad_options() -> None:
    for options, kind, text in (
        ({"bins": 0}, ValueError, "'bins': expected a number >= 1, got 0"),
        ({"bins": 1.5}, TypeError, "'bins': expected a whole number"),
        ({"equal": "widht"}, ValueError, "'equal': expected one of 'width', 'mass', got 'widht'.*did you mean 'width'"),
        ({"mode": "classwise"}, ValueError, "'mode': expected one of .*did you mean 'class_wise'"),
    ):
        for metric in (un.ece, un.mce, un.debiased_ece, un.reliability):
            with pytest.raises(kind, match=text):
                metric(P, Y, **options)  # type: ignore[operator]
        for cls in (un.ECE, un.MCE, un.DebiasedECE, un.Reliability):
            with pytest.raises(kind, match=f"^{cls.__name__}: argument {text}"):
                cls(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'norm': expected one of 'l1', 'l2'"):
        un.debiased_ece(P, Y, norm="l3")
    with pytest.raises(TypeError, match="Brier: argument 'sync': expected True, False or a process group"):
        un.Brier(sync="all")  # type: ignore[arg-type]


def test_bad_input_of_cape_loss() -> None:
    for weight, kind, text in (
        (NAN, ValueError, r"'sample_weight': expected finite numbers >= 0, got nan at \[1\]"),
        (-P, ValueError, r"'sample_weight': expected finite numbers >= 0, got -0.2"),
        ([1.0, 2.0], TypeError, "'sample_weight': expected a tensor of real numbers, got list"),
    ):
        with pytest.raises(kind, match=text):
            un.cape_loss(torch.zeros(2), P, weight)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'logits': expected at least one sample"):
        un.cape_loss(P[:0], P[:0])


def test_a_scheduler_of_another_optimizer() -> None:
    net = torch.nn.Linear(1, 1)
    optimizer, other = (torch.optim.SGD(net.parameters(), lr=0.1) for _ in range(2))
    scheduler = torch.optim.lr_scheduler.StepLR(other, 1)
    data = P[:, None], Y
    with pytest.raises(ValueError, match="'scheduler': expected a scheduler of 'optimizer'"):
        un.CaPE().fit(net, optimizer, data, data, scheduler=scheduler, epochs=1, progress=False)


def test_an_optimizer_of_another_network() -> None:
    net, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    data = P[:, None], Y
    with pytest.raises(ValueError, match="'optimizer': expected an optimizer of parameters of 'model'"):
        un.CaPE().fit(net, torch.optim.SGD(other.parameters(), lr=0.1), data, data, epochs=1, progress=False)


@pytest.mark.parametrize("metric", [un.ECE(), un.ECE(equal="mass"), un.SmoothECE(), un.KS(), un.Brier()])
def test_batches_of_one_event_beside_batches_of_classes(metric: Any) -> None:
    metric.update(P, Y)
    metric.update(ROWS[:0], Y[:0])  # an empty batch changes nothing
    before = metric.compute()
    with pytest.raises(ValueError, match=r"update: all batches .* got probabilities \(N,\) and \(N, C\)"):
        metric.update(ROWS, Y)
    assert metric.compute() == before
    metric.reset()
    metric.update(ROWS, Y)
