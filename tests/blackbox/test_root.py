"""ROOT: codes of designs, pairs, a fit that improves known functions, reproducibility, errors."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from probkernels.blackbox import ROOT, DiscreteDesigns, Ehrlich, synthetic_pairs
from probkernels.blackbox.root import BridgeNet
from torch import Tensor

GENERATOR = torch.Generator().manual_seed(0)
X = 2 * torch.rand(400, 2, generator=GENERATOR) - 1
Y = -(X - 0.9).square().sum(1)
SMALL: dict[str, Any] = {
    "functions": 2,
    "starts": 32,
    "points": 100,
    "ascent_steps": 20,
    "width": 32,
    "step_size": 0.05,
}
SMALL["epochs"] = 1


def all_strings(letters: int, length: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(letters)] * length).view(-1, length)


# --- codes of designs ---


def test_all_strings_of_eight_letters_survive_their_code() -> None:
    designs, strings = DiscreteDesigns(4, 8), all_strings(4, 8)
    assert len(strings) == 65_536
    code = designs.encode(strings)
    assert torch.equal(designs.decode(code), strings)
    a = math.log(7)
    expected = (torch.tensor([-a, 0.0, a])[:, None] - code.unique()).abs()  # the values that Design-Bench has
    assert code.shape == (65_536, 24) and float(expected.amin(0).max()) < 1e-6


@pytest.mark.parametrize(("letters", "length"), [(2, 5), (3, 1), (20, 2)])
def test_other_alphabets(letters: int, length: int) -> None:
    designs, strings = DiscreteDesigns(letters, length), all_strings(letters, length)
    code = designs.encode(strings, torch.float64)
    assert torch.equal(designs.decode(code + 0.4 * torch.rand(code.shape, generator=GENERATOR)), strings)


# --- pairs ---


def test_pairs_are_poor_and_good() -> None:
    x, y = (X - X.mean(0)) / X.std(0), (Y - Y.mean()) / Y.std()
    pairs = synthetic_pairs(x, y, functions=3, starts=50, step_size=0.02, generator=torch.Generator().manual_seed(0))
    again = synthetic_pairs(x, y, functions=3, starts=50, step_size=0.02, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pairs.x_high, again.x_high) and 0 < len(pairs) <= 150
    assert bool((pairs.y_high - pairs.y_low > 0.001).all())
    target = (0.9 - X.mean(0)) / X.std(0)
    high, low = ((ends - target).norm(dim=1).mean() for ends in (pairs.x_high, pairs.x_low))
    assert float(high) < 0.6 * float(low)


def test_ascent_never_loses() -> None:
    """For steps below the inverse of the gradient's Lipschitz constant."""
    x, y = torch.randn(100, 5, generator=GENERATOR).double(), torch.randn(100, generator=GENERATOR).double()
    gains = [
        synthetic_pairs(
            x, y, functions=1, starts=20, steps=n, step_size=1e-4, lengthscale=6.25, variance=6.25, min_gain=0.0,
            generator=torch.Generator().manual_seed(0),
        )
        for n in (1, 5, 20)
    ]  # fmt: skip
    for fewer, more in itertools.pairwise(gains):
        assert bool((more.y_high >= fewer.y_high - 1e-12).all()) and bool((more.y_low <= fewer.y_low + 1e-12).all())


# --- the whole method ---


def test_proposals_are_better_than_the_data() -> None:
    offline = Y < -0.5
    root = ROOT(epochs=4, functions=4, starts=128, points=150, width=64, step_size=0.02, lr=3e-3)
    found = root.fit(X[offline], Y[offline]).propose(64)
    scores = -(found - 0.9).square().sum(1)
    assert float(scores.median()) > float(Y[offline].max())
    assert root.losses[-1] < 0.8 * root.losses[0]


def test_discrete_designs() -> None:
    f = Ehrlich(letters=3, length=6, motifs=1, motif_length=3, seed=1)
    x = torch.randint(3, (500, 6), generator=torch.Generator().manual_seed(0))
    x[:, 5] = 2  # a place that never changes
    root = ROOT(3, **{**SMALL, "step_size": 0.05}).fit(x, f(x))
    found = root.propose(20)
    assert found.shape == (20, 6) and found.dtype is torch.long
    assert int(found.min()) >= 0 and int(found.max()) < 3 and bool((found[:, 5] == 2).all())


def test_the_seed_decides() -> None:
    before = torch.get_rng_state()
    one, two, other = (ROOT(**SMALL, seed=seed).fit(X, Y) for seed in (0, 0, 1))
    assert one.losses == two.losses != other.losses
    assert torch.equal(one.propose(5), two.propose(5)) and not torch.equal(one.propose(5), one.propose(5, seed=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("anneal", [True, False])
def test_the_learning_rate_falls_or_stays(anneal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    update = torch.optim.Adam.step
    keep = lambda self, *a: rates.append(self.param_groups[0]["lr"]) or update(self, *a)  # noqa: E731
    monkeypatch.setattr(torch.optim.Adam, "step", keep)
    root = ROOT(**SMALL, lr=2e-3, anneal=anneal).fit(X, Y)
    assert len(rates) == len(root.losses) > 1 and rates[0] == 2e-3
    assert all(b < a for a, b in itertools.pairwise(rates)) if anneal else set(rates) == {2e-3}


def test_labels_have_the_order_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    root = ROOT(**SMALL).fit(X, Y)
    seen: list[Tensor] = []
    monkeypatch.setattr(BridgeNet, "forward", lambda self, x, t, labels: seen.append(labels) or torch.zeros_like(x))
    root.propose(3, target=float(Y.mean() + 2 * Y.std()), steps=1)
    torch.testing.assert_close(seen[0][:, 0], torch.full((3,), 2.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[0][:, 1], (Y.topk(3).values - Y.mean()) / Y.std(), rtol=1e-4, atol=1e-4)
    root._loss(root.net, synthetic_pairs(root.x, root.scores, functions=1, starts=9, step_size=0.02), GENERATOR)
    kept = seen[1][seen[1].abs().sum(1) > 0]
    assert bool((kept[:, 0] > kept[:, 1]).all())


def test_scale_of_the_data_does_not_matter() -> None:
    plain = ROOT(**SMALL).fit(X.double(), Y.double()).propose(5)
    shifted = ROOT(**SMALL).fit(1000 + 50 * X.double(), 3 * Y.double() - 7).propose(5)
    torch.testing.assert_close(shifted, 1000 + 50 * plain, rtol=1e-6, atol=1e-4)


def test_equal_designs_and_constant_columns() -> None:
    twice = torch.cat([X, torch.full((400, 1), 0.3)], 1).repeat(2, 1)
    found = ROOT(**SMALL).fit(twice, Y.repeat(2)).propose(10)
    assert bool(found.isfinite().all()) and bool((found[:, 2] == twice[0, 2]).all())


CODES = (X > 0).long()
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: ROOT().fit(X, torch.full((400,), 0.1)), ValueError, "'y': expected scores that differ, got 400 equal"),
    (lambda: ROOT().fit(X[:1].repeat(400, 1), Y), ValueError, "'X': expected designs that differ"),
    (
        lambda: ROOT().fit(X, Y.where(Y < 9, math.nan).index_fill(0, torch.tensor([7]), math.nan)),
        ValueError,
        r"at \[7\]",
    ),
    (lambda: ROOT().fit(X * math.inf, Y), ValueError, "'X': expected finite"),
    (lambda: ROOT().fit(X, Y[:, None]), ValueError, "'y': expected shape"),
    (lambda: ROOT().fit(X[:1], Y[:1]), ValueError, "N >= 2"),
    (lambda: ROOT().fit(CODES, Y), TypeError, "letters"),
    (lambda: ROOT(4).fit(X, Y), TypeError, "'X'"),
    (lambda: ROOT(4).fit(4 * CODES.sort(0).values.flip(0), Y), ValueError, r"letters 0 to 3, got 4 at \[0, 0\]"),
    (lambda: ROOT(1), ValueError, "'letters'"),
    (lambda: ROOT(epochs=0), ValueError, "'epochs'"),
    (lambda: ROOT(drop=1.5), ValueError, "'drop'"),
    (lambda: ROOT(anneal="no"), (TypeError, ValueError), "'anneal'"),
    (lambda: ROOT(**SMALL, lengthscale=0.1).fit(X, Y), ValueError, "'spread'"),
    (lambda: ROOT(**{**SMALL, "step_size": 1e308}).fit(X, Y), ValueError, "'step_size'"),
    (lambda: ROOT(**{**SMALL, "step_size": 1e-12}).fit(X, Y), ValueError, "pairs that differ in score"),
    (lambda: ROOT().propose(3), RuntimeError, "call fit first"),
    (lambda: DiscreteDesigns(4, 8).decode(torch.zeros(2, 23)), ValueError, "'code'"),
    (lambda: DiscreteDesigns(4, 8).encode(torch.zeros(2, 8)), TypeError, "'x'"),
]


@pytest.mark.parametrize(("action", "kind", "text"), BAD)
def test_bad_input(action: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        action()


def test_bad_proposals() -> None:
    root = ROOT(**SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="'k': expected 1 to 400, got 401"):
        root.propose(401)
    with pytest.raises(TypeError, match="'target'"):
        root.propose(3, target=math.nan)


def test_a_fit_that_fails_leaves_no_mixture_of_two_fits() -> None:
    root = ROOT(**SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="scores that differ"):  # nothing was begun
        root.fit(X, Y * 0)
    assert root.propose(2).shape == (2, 2)
    root.pairs["step_size"] = 1e308
    with pytest.raises(ValueError, match="'step_size'"):
        root.fit(100 * X + 5, Y)
    with pytest.raises(RuntimeError, match="call fit first"):
        root.propose(2)


@pytest.mark.parametrize(
    ("x", "y", "options", "text"),
    [
        (X, Y.index_fill(0, torch.tensor([7]), math.nan), {"points": 5}, r"'y': expected finite.*at \[7\]"),
        (X.index_fill(0, torch.tensor([7]), math.inf), Y, {"points": 5}, "'X': expected finite"),
        (X, torch.cat([Y, Y]), {"points": 5}, "'y': expected shape"),
        (X, Y.expand(2, -1), {}, "'y': expected shape"),
        (X, Y, {"points": -5}, "'points': expected a number >= 1"),
        (X, Y, {"min_gain": math.nan}, "'min_gain'"),
        (X, Y, {"variance": math.nan}, "'variance'"),
    ],
)
def test_bad_pairs(x: Tensor, y: Tensor, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        synthetic_pairs(x, y, functions=1, starts=3, steps=1, **options)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_fit_without_gradients_around_it(mode: Any) -> None:
    expected = ROOT(**SMALL).fit(X, Y)
    with mode():
        found = copy.deepcopy(ROOT(**SMALL).fit(X.clone().requires_grad_(), Y.clone()))
    assert found.losses == expected.losses
    assert torch.equal(found.propose(3), expected.propose(3))
