"""CaPE: targets against known values and plain loops, the loss and its gradient, and the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from probkernels import uncertainty as un
from probkernels._core.errors import ModelMismatchError
from probkernels.uncertainty import _gaussian_window
from torch import Tensor, nn
from torch.nn import functional as F

from tests.uncertainty.test_values import P, Y


def of_bins(probs: Tensor, labels: Tensor, bins: int) -> Tensor:
    """The definition, bin by bin."""
    order = sorted(range(len(probs)), key=lambda i: float(probs[i]))  # stable
    found = torch.zeros(len(probs), dtype=torch.float64)
    for b in range(bins):
        own = order[b * len(order) // bins : (b + 1) * len(order) // bins]
        found[own] = labels[own].double().mean() if own else 0
    return found


def of_kernel(probs: Tensor, labels: Tensor, sigma: float, window: int, weight: Tensor | None = None) -> Tensor:
    """The definition, sample by sample."""
    order = sorted(range(len(probs)), key=lambda i: float(probs[i]))
    found = torch.zeros(len(probs), dtype=torch.float64)
    for rank, i in enumerate(order):
        near = order[max(rank - window, 0) : rank + window]
        kernel = (-(probs[near].double() - probs[i].double()).square() / (2 * sigma**2)).exp()
        kernel = kernel if weight is None else kernel * weight[near]
        found[i] = (kernel * labels[near]).sum() / kernel.sum()
    return found


def drawn(n: int, seed: int = 0, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """Probabilities, on a coarse grid if there are ``levels``, and labels."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(n, generator=generator, dtype=torch.float64)
    labels = (torch.rand(n, generator=generator, dtype=torch.float64) < probs).long()
    return (probs if levels is None else (probs * levels).round() / levels), labels


# --- targets ---


def test_known_targets() -> None:
    assert un.bin_targets(P, Y, bins=3).tolist() == [0, 0.5, 0.5, 1, 0, 1]
    expected = {
        0.05: [0, 0.377463, 0.618183, 1, 0.009690, 0.999996],
        0.2: [0, 0.470421, 0.314277, 0.928401, 0.286213, 0.819561],
    }
    for sigma, values in expected.items():
        assert un.kernel_targets(P, Y, sigma=sigma, window=2).tolist() == pytest.approx(values, abs=1e-6)
    assert un.kernel_targets(P, Y, sigma=1e6, window=100).tolist() == pytest.approx([0.5] * 6)


@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize("n", [1, 2, 5, 64, 101])
def test_targets_are_those_of_the_definition(n: int, levels: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels = drawn(n, n, levels)
    for bins in (1, 2, 5, 7, 64, 200):
        torch.testing.assert_close(un.bin_targets(probs, labels, bins=bins), of_bins(probs, labels, bins))
    for pairs in (1 << 15, 7):
        monkeypatch.setattr(_gaussian_window, "PAIRS", pairs)
        for sigma, window in ((0.05, 1), (0.01, 3), (0.3, 10), (0.1, 500)):
            got = un.kernel_targets(probs, labels, sigma=sigma, window=window)
            torch.testing.assert_close(got, of_kernel(probs, labels, sigma, window))


def test_many_bins_give_labels_and_one_bin_their_mean() -> None:
    probs, labels = drawn(50)
    own, mean = labels.double(), labels.double().mean().expand(50)
    assert torch.equal(un.bin_targets(probs, labels, bins=50), own)
    assert torch.equal(un.bin_targets(probs, labels, bins=1), mean)
    for sigma in (1e-9, 1e-300, 5e-324):
        torch.testing.assert_close(un.kernel_targets(probs, labels, sigma=sigma), own, rtol=0, atol=1e-12)
    for sigma in (1e9, math.inf):
        torch.testing.assert_close(un.kernel_targets(probs, labels, sigma=sigma), mean)


@pytest.mark.parametrize("bins", [1, 3, 5, 16])
def test_bins_keep_the_mean_and_ask_only_for_ranks(bins: int) -> None:
    probs, labels = drawn(200)
    targets = un.bin_targets(probs, labels, bins=bins)
    assert targets.sum().item() == pytest.approx(labels.sum().item(), abs=1e-10)
    for monotone in (probs**3, probs.sqrt(), 0.2 + 0.5 * probs):
        assert torch.equal(un.bin_targets(monotone, labels, bins=bins), targets)


def test_equal_probabilities_keep_the_order_of_the_data() -> None:
    probs, labels = torch.full((1000,), 0.5), torch.arange(1000) >= 500
    assert torch.equal(un.bin_targets(probs, labels, bins=2), labels.float())
    assert torch.equal(un.kernel_targets(probs, labels, window=1), (torch.arange(1000) > 500) + 0.5 * (
        torch.arange(1000) == 500
    ))  # fmt: skip


def test_order_of_samples_does_not_matter() -> None:
    probs, labels = drawn(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    for function in (un.bin_targets, un.kernel_targets):
        assert torch.equal(function(probs[order], labels[order]), function(probs, labels)[order])


def test_weights() -> None:
    probs, labels = drawn(60)
    weight = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(2)).double()
    got = un.kernel_targets(probs, labels, weight, sigma=0.1, window=7)
    torch.testing.assert_close(got, of_kernel(probs, labels, 0.1, 7, weight))
    copies = torch.arange(60).repeat_interleave(weight.long())
    for function, options in ((un.kernel_targets, {"window": 1000}), (un.bin_targets, {"bins": 1})):
        whole = function(probs[copies], labels[copies], **options)
        torch.testing.assert_close(function(probs, labels, weight, **options)[copies], whole)
    # A sample of weight 0 has no part in the others' bins, and is in one of them.
    weight = torch.ones(60, dtype=torch.float64)
    weight[::3] = 0
    kept = weight > 0
    assert torch.equal(un.bin_targets(probs, labels, weight)[kept], un.bin_targets(probs[kept], labels[kept]))
    assert un.bin_targets(probs, labels, weight).isfinite().all()
    weighted = un.bin_targets(probs, labels, weight * 0.1)  # sums are rounded
    torch.testing.assert_close(weighted, un.bin_targets(probs, labels, weight))


def test_without_any_weight_around_the_target_is_the_probability() -> None:
    weight = torch.tensor([0, 1.0, 0])
    p, y = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1, 1, 0])
    assert un.kernel_targets(p, y, weight, sigma=1e-3).tolist() == pytest.approx([0.1, 1, 0.9])
    assert un.bin_targets(p, y, weight, bins=2).tolist() == pytest.approx([0.1, 1, 1])


def test_classes_are_asked_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(90, 4, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 4, (90,), generator=generator)
    for function in (un.bin_targets, un.kernel_targets):
        got = function(probs, labels)
        for c in range(4):
            assert torch.equal(got[:, c], function(probs[:, c], labels == c))
    for mode in ("bin", "kernel"):
        rows = un.CaPE(mode).targets(probs, labels)
        torch.testing.assert_close(rows.sum(1), torch.ones(90, dtype=torch.float64))
        assert torch.equal(un.CaPE(mode, bins=90, sigma=1e-12).targets(probs, labels), F.one_hot(labels, 4).double())
        free = un.CaPE(mode, head="sigmoid").targets(probs * 0.5, labels)
        torch.testing.assert_close(free[:, 1], un.CaPE(mode).targets(probs[:, 1] * 0.5, labels == 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_gradients(dtype: torch.dtype) -> None:
    probs = P.clone().to(dtype).requires_grad_()
    for function in (un.bin_targets, un.kernel_targets):
        got = function(probs, Y.bool())
        assert got.dtype is (torch.float32 if dtype.itemsize == 2 else dtype)
        assert not got.requires_grad


# --- loss ---


def test_loss_with_labels_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    for logits in (torch.randn(32, 2, generator=generator), torch.randn(32, 5, generator=generator)):
        labels = torch.randint(0, logits.shape[1], (32,), generator=generator)
        hard = labels.float() if logits.shape[1] == 2 else F.one_hot(labels, 5).float()
        one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        un.cape_loss(one, hard).backward()
        F.cross_entropy(other, labels).backward()
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2)])
def test_gradient_is_probability_minus_target(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, dtype=torch.float64)
    logits.view(6, -1)[:, -1] = P.logit()
    logits.requires_grad_()
    targets = un.bin_targets(P, Y, bins=3)
    un.cape_loss(logits, targets).backward()
    torch.testing.assert_close(logits.grad.view(6, -1)[:, -1], (P - targets) / 6)
    assert torch.autograd.gradcheck(lambda z: un.cape_loss(z, targets), (logits,))


def test_bin_means_are_a_fixed_point() -> None:
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1])
    probs = torch.tensor([0.25] * 4 + [0.75] * 4, dtype=torch.float64)
    logits = probs.logit().requires_grad_()
    un.cape_loss(logits, un.bin_targets(probs, labels, bins=2)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-15)


def test_loss_of_one_against_the_rest() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(8, 3, generator=torch.Generator().manual_seed(1))
    each = sum(un.cape_loss(logits[:, c], targets[:, c]) for c in range(3))
    torch.testing.assert_close(un.cape_loss(logits, targets, head="sigmoid"), each)
    weight = torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 0])
    got = un.cape_loss(logits, targets, weight, head="sigmoid")
    torch.testing.assert_close(got, un.cape_loss(logits[:1], targets[:1], head="sigmoid") / 4)


# --- training ---


def data(n: int = 240, classes: int = 2) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A training and a validation set with noisy labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * n, 4, generator=generator)
    y = (1.5 * x[:, :classes] + torch.randn(2 * n, classes, generator=generator)).argmax(1)
    return (x[:n], y[:n]), (x[n:], y[n:])


def net(outputs: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs))


def fitted(model: nn.Module, method: un.CaPE | None = None, lr: float = 0.2, **options: Any) -> un.CaPEFit:
    train, validation = data(classes=options.pop("classes", 2))
    given = {"train": train, "validation": validation, "epochs": 4, "batch_size": 64, "progress": False} | options
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return (method or un.CaPE()).fit(model, optimizer, **given)


def test_schedule() -> None:
    assert [e for e in range(9) if un.CaPE().is_calibration_epoch(e)] == [0, 3, 6]
    assert [e for e in range(9) if un.CaPE(discrimination_epochs=3).is_calibration_epoch(e)] == [0, 4, 8]
    assert all(un.CaPE(discrimination_epochs=0).is_calibration_epoch(e) for e in range(9))


@pytest.mark.parametrize("mode", ["bin", "kernel"])
@pytest.mark.parametrize(
    ("outputs", "classes", "head"), [(1, 2, "softmax"), (2, 2, "softmax"), (3, 3, "softmax"), (3, 3, "sigmoid")]
)
def test_all_heads_learn(mode: str, outputs: int, classes: int, head: str) -> None:
    model = net(outputs)
    done = fitted(model, un.CaPE(mode, head=head), classes=classes, epochs=6)
    assert done.best_loss == min(done.validation) < 0.9 * done.validation[0]
    assert (len(done.train), len(done.validation)) == (6, 7)
    assert not model.training
    x, y = data(classes=classes)[1]
    logits = model(x).detach()
    hard = y.float() if classes == 2 else F.one_hot(y, 3).float()
    assert un.cape_loss(logits, hard, head=head).item() == pytest.approx(done.best_loss, rel=1e-5)


def test_the_first_epoch_is_a_step_on_targets_and_the_second_on_labels() -> None:
    """Of one batch, so that the order of samples does not matter."""
    (x, y), _ = data()
    got, expected = net(1), net(1)
    fitted(got, un.CaPE(discrimination_epochs=1), epochs=2, batch_size=240, scheduler=None)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.2, momentum=0.9)
    for targets in (lambda z: un.bin_targets(z.sigmoid(), y), lambda z: y.float()):
        z = expected(x)[:, 0]
        optimizer.zero_grad()
        un.cape_loss(z, targets(z.detach())).backward()
        optimizer.step()
    for one, other in zip(got.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_targets_stay_with_their_samples_in_small_batches() -> None:
    """N bins give labels as targets: calibration epochs are then epochs on the labels."""
    first, second = (fitted(net(2), un.CaPE(bins=240, discrimination_epochs=n)) for n in (0, 10))
    assert first.train == pytest.approx(second.train, rel=1e-6)
    assert first.validation == pytest.approx(second.validation, rel=1e-6)


def test_the_network_as_given_is_a_candidate() -> None:
    model = net(1)
    fitted(model, epochs=12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = fitted(model, lr=30.0, epochs=3)
    assert done.best_epoch == 0 and min(done.validation[1:]) > done.validation[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dataset_gives_what_tensors_give() -> None:
    train, validation = data()
    pairs = [torch.utils.data.TensorDataset(*part) for part in (train, validation)]
    one, other = net(2), net(2)
    first = fitted(one)
    second = fitted(other, train=pairs[0], validation=pairs[1])
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_weight_of_two_is_a_sample_twice() -> None:
    (x, y), _ = data()
    weight = 1.0 + (torch.arange(240) % 2)
    copies = torch.arange(240).repeat_interleave(weight.long())
    method = un.CaPE("kernel", sigma=0.2, window=10**4)
    one, other = net(1), net(1)
    fitted(one, method, batch_size=240, sample_weight=weight)
    fitted(other, method, batch_size=360, train=(x[copies], y[copies]))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Crash(Exception):
    pass


def test_a_resumed_training_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = net(2)
    first = fitted(whole, epochs=7, checkpoint=tmp_path / "whole")
    part, calls = net(2), iter(range(10**6))

    def crash(module: nn.Module, _: Any) -> None:
        if module.training and next(calls) == 17:  # within the fifth epoch of four batches
            raise Crash

    hook = part.register_forward_pre_hook(crash)
    with pytest.raises(Crash):
        fitted(part, epochs=7, checkpoint=tmp_path / "part")
    hook.remove()
    fresh = net(2, seed=5)
    assert fitted(fresh, epochs=7, checkpoint=tmp_path / "part") == first
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters(), strict=True))
    with pytest.raises(ModelMismatchError, match="seed"):
        fitted(fresh, epochs=7, checkpoint=tmp_path / "part", seed=1)
    with pytest.raises(ModelMismatchError, match="method"):
        fitted(fresh, un.CaPE("kernel"), epochs=7, checkpoint=tmp_path / "part")
    with pytest.raises(ModelMismatchError, match="another model"):
        fitted(net(1), epochs=7, checkpoint=tmp_path / "part")


def test_patience_and_schedulers() -> None:
    model = net(1)
    done = fitted(model, lr=30.0, epochs=20, patience=3)
    assert len(done.train) == done.best_epoch + 3 < 20
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    train, validation = data()
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    un.CaPE().fit(model, optimizer, train, validation, epochs=3, scheduler=steps, progress=False)
    assert optimizer.param_groups[0]["lr"] == 0.125


ERRORS: dict[str, tuple[dict[str, Any], type, str]] = {
    "labels": ({"train": (torch.zeros(2, 4), torch.tensor([0, 2]))}, ValueError, "'labels': expected classes 0 to 1"),
    "float labels": ({"train": (torch.zeros(2, 4), torch.zeros(2))}, TypeError, "'labels': expected an integer"),
    "lengths": ({"validation": (torch.zeros(2, 4), torch.zeros(3))}, ValueError, "'validation'.*lengths 2 and 3"),
    "one tensor": ({"train": torch.zeros(2, 4)}, TypeError, r"'train': expected \(inputs, labels\)"),
    "empty": ({"train": (torch.zeros(0, 4), torch.zeros(0).long())}, ValueError, "'train'.*at least one sample"),
    "epochs": ({"epochs": -1}, ValueError, "'epochs'"),
    "scheduler": ({"scheduler": "cosine"}, TypeError, "'scheduler'.*'cosine'"),
    "weights": ({"sample_weight": torch.ones(3)}, ValueError, "'sample_weight'"),
    "negative weight": ({"sample_weight": -torch.ones(240)}, ValueError, "'sample_weight'.*got -1.0"),
    "NaN": ({"train": (torch.full((2, 4), math.nan), torch.tensor([0, 1]))}, ValueError, "'model'.*finite logits"),
    "patience": ({"patience": 0}, ValueError, "'patience'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_of_fit(case: str) -> None:
    options, kind, text = ERRORS[case]
    with pytest.raises(kind, match=text):
        fitted(net(1), **options)


def test_other_errors() -> None:
    for call, kind, text in (
        (lambda: un.CaPE("kde"), ValueError, "'mode'.*'bin', 'kernel'"),
        (lambda: un.CaPE(bins=0), ValueError, "'bins'"),
        (lambda: un.CaPE(sigma=0.0), ValueError, "'sigma'"),
        (lambda: un.CaPE(head="tanh"), ValueError, "'head'"),
        (lambda: un.bin_targets(torch.tensor([0.5, 1.5]), Y[:2]), ValueError, r"got 1.5 at \[1\]"),
        (lambda: un.bin_targets(P[:0], Y[:0]), ValueError, "at least one sample"),
        (lambda: un.kernel_targets(P, Y, torch.zeros(6)), ValueError, "'sample_weight'"),
        (lambda: un.kernel_targets(P, Y, window=0), ValueError, "'window'"),
        (lambda: un.cape_loss(torch.zeros(6, 2), torch.zeros(6, 2)), ValueError, r"'targets': expected shape \(6,\)"),
        (lambda: un.cape_loss(torch.zeros(6), P + 1), ValueError, "'targets'.*got 1.1"),
        (lambda: un.cape_loss(torch.zeros(6), Y), TypeError, "'targets'.*float()"),
        (lambda: un.cape_loss(torch.zeros(6, 2, 2), P), ValueError, "'logits'"),
        (lambda: fitted(nn.Flatten(0)), ValueError, "optimizer got an empty parameter list"),
    ):
        with pytest.raises(kind, match=text):
            call()
