"""Utilities into probabilities: the Gibbs family, sequences, drift, gaps, the isotonic map and the fit of the scale."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from probkernels import uncertainty as un
from torch import Tensor

INF, NAN = float("inf"), float("nan")


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def wrong_tokens(p: float = 0.85, tokens: int = 20) -> Tensor:
    """One right token, the first, and equal others."""
    return exact(p, *[(1 - p) / (tokens - 1)] * (tokens - 1)).log()


# --- drift and gap: one step of plain SGD is a preference ---


def trained(labels: list[int], rates: list[float]) -> tuple[Tensor, Tensor]:
    """Table utilities after one step of torch's SGD on each label, and the softmax before each step."""
    u = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    before = []
    for label, lr in zip(labels, rates, strict=True):
        before.append(u.detach().softmax(0))
        optimizer = torch.optim.SGD([u], lr=lr)
        torch.nn.functional.cross_entropy(u[None], torch.tensor([label])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return u.detach(), torch.stack(before)


def test_drift_gives_the_frequencies_of_labels() -> None:
    u, before = trained([0, 0, 1, 2, 0], [0.5] * 5)
    torch.testing.assert_close(u, exact(0.42354202, -0.24050560, -0.18303642), rtol=0, atol=1e-8)
    mean = before.mean(0)
    torch.testing.assert_close(mean, exact(0.43058319, 0.29620224, 0.27321457), rtol=0, atol=1e-8)
    expected = exact(0.6, 0.2, 0.2)
    found = un.drift(u, torch.zeros_like(u), mean, 5, 0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    two = un.drift(u.expand(2, 3), torch.zeros(2, 3).double(), mean.expand(2, 3), torch.tensor([5, 5]), 0.5)
    torch.testing.assert_close(two, expected.expand(2, 3), rtol=0, atol=1e-12)


def test_drift_weights_steps_by_their_rates() -> None:
    rates = torch.tensor([0.5, 0.25, 1.0, 0.125], dtype=torch.float64)
    u, before = trained([0, 2, 1, 0], rates.tolist())
    mean = (rates[:, None] * before).sum(0) / rates.sum()
    expected = exact(0.625, 1.0, 0.25) / rates.sum()
    found = un.drift(u, torch.zeros_like(u), mean, 4, rates.mean().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("label", range(4))
def test_a_step_raises_the_gap_to_every_other_option(label: int) -> None:
    u, lr = uniform(4).requires_grad_(), 0.3
    torch.nn.functional.cross_entropy(u[None], torch.tensor([label])).backward()
    after, probs = (u - lr * u.grad).detach(), u.detach().softmax(0)
    for other in set(range(4)) - {label}:
        pair = torch.tensor([label, other])
        growth = un.revealed_gap(after[pair])[0] - un.revealed_gap(u.detach()[pair])[0]
        assert growth.item() == pytest.approx(lr * (1 - probs[label] + probs[other]).item(), abs=1e-12)
    assert un.revealed_gap(after)[label] > un.revealed_gap(u.detach())[label]


def test_gap_is_that_to_the_best_other_option() -> None:
    u = uniform(5, 4)
    gap = un.revealed_gap(u)
    for row in range(5):
        for y in range(4):
            assert gap[row, y] == u[row, y] - torch.cat([u[row, :y], u[row, y + 1 :]]).max()
    assert torch.equal((gap > 0).double().argmax(1), u.argmax(1))
    labels = torch.tensor([0, 1, 2, 3, 0])
    assert torch.equal(un.revealed_gap(u, labels), gap[torch.arange(5), labels])
    torch.testing.assert_close(un.revealed_gap(u + 3.0), gap)
    assert un.revealed_gap(torch.tensor([1.0, 1.0])).tolist() == [0, 0]
    assert un.revealed_gap(torch.tensor([1.0])).tolist() == [INF]
    mask = torch.tensor([True, False, True])
    assert un.revealed_gap(torch.tensor([1.0, 9.0, 0.5]), mask=mask).tolist() == [0.5, -INF, -0.5]
    assert torch.autograd.gradcheck(un.revealed_gap, u.clone().requires_grad_())


# --- the Gibbs family ---


def test_power_family_of_one_right_token() -> None:
    u, gain = wrong_tokens(), torch.eye(20, dtype=torch.float64)[0]
    expected = {1.0: (0.85, 0.3771495), 1 / 0.7: (0.9767949, 0.8686009), 2.0: (0.9983636, 0.9902219),
                1 / 0.3: (0.9999968, 0.9999808)}  # fmt: skip
    for b, (token, sequence) in expected.items():
        found = un.expected_gain(u, gain, b).item()
        assert found == pytest.approx(token, abs=5e-8)
        assert found == pytest.approx(1 / (1 + 19 * (0.15 / 19 / 0.85) ** b), abs=1e-12)
        assert found**6 == pytest.approx(sequence, abs=5e-8)
        assert u.argmax() == un.gibbs(u, b).argmax() == 0


@pytest.mark.parametrize("b", [0.0, 0.3, 1.0, 4.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_gibbs_is_a_softmax_of_scaled_utilities(b: float, dtype: torch.dtype) -> None:
    u = uniform(6, 5).to(dtype)
    before = u.clone()
    found = un.gibbs(u, b)
    assert torch.equal(u, before)
    assert found.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    if b < 10:
        torch.testing.assert_close(found, (b * u.to(found.dtype)).log_softmax(1))
    else:
        best = u == u.amax(1, keepdim=True)
        torch.testing.assert_close(found.exp(), (best / best.sum(1, keepdim=True)).to(found.dtype))
    if dtype is torch.float64 and b < 10:
        torch.testing.assert_close(un.gibbs(u + 7, b), found)  # an offset means nothing


def test_masked_options_have_no_part() -> None:
    u = uniform(3, 5)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5, [False, False, True, False, False]])
    for hole in (NAN, INF, -INF, 1e300):
        holes = torch.where(mask, u, hole).requires_grad_()
        found = un.gibbs(holes, 0.7, mask=mask)
        for row in range(3):
            torch.testing.assert_close(found[row][mask[row]], (0.7 * u[row][mask[row]]).log_softmax(0))
        assert (found[~mask] == -INF).all()
        (gradient,) = torch.autograd.grad(found.exp().square().sum(), holes)
        assert gradient.isfinite().all() and (gradient[~mask] == 0).all()
    assert un.gibbs(torch.tensor([0.0, -INF, 1.0]), 0.0).exp().tolist() == [0.5, 0, 0.5]
    assert un.gibbs(torch.tensor([[-3e38, 3e38]]), 0.0).exp().tolist() == [[0.5, 0.5]]
    for b in (1e300, torch.tensor(1e300, dtype=torch.float64)):
        assert un.gibbs(torch.tensor([1.0, 2.0, 2.0]), b).exp().tolist() == [0, 0.5, 0.5]
    assert un.gibbs(torch.tensor([[3.0]]), 5.0).tolist() == [[0]]
    assert un.gibbs(torch.zeros(0, 3)).shape == (0, 3)


def test_gradients_of_gibbs() -> None:
    u, g, b = uniform(2, 3, 4).requires_grad_(), uniform(2, 3, 4, seed=1).requires_grad_(), torch.tensor(1.3).double()
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[..., 0] = True
    arguments = u, g, b.requires_grad_()
    assert torch.autograd.gradcheck(lambda u, g, b: un.expected_gain(u, g, b, mask=mask), arguments)
    assert torch.autograd.gradgradcheck(un.expected_gain, arguments)
    assert torch.autograd.gradcheck(lambda u, b: un.gibbs(u, b), (u, b))


@pytest.mark.parametrize("b", [0.2, 1.0, 2.5])
def test_derivatives_by_the_scale(b: float) -> None:
    """That of the mean gain is a covariance; that of the entropy -b times a variance."""
    u, g = uniform(4, 6), uniform(4, 6, seed=1)
    scale = torch.tensor(b, dtype=torch.float64, requires_grad=True)
    p = un.gibbs(u, b).exp()
    mean = (p * u).sum(1, keepdim=True)

    def slope(value: Tensor) -> Tensor:
        return torch.autograd.grad(value.sum(), scale)[0]

    variance = (p * (u - mean).square()).sum()
    torch.testing.assert_close(slope(un.expected_gain(u, g, scale)), (p * g * (u - mean)).sum())
    torch.testing.assert_close(slope(un.expected_gain(u, u, scale)), variance)
    log_probs = un.gibbs(u, scale)
    torch.testing.assert_close(slope(-log_probs.exp() * log_probs), -b * variance)
    assert slope(un.expected_gain(u, u**3, scale)) > 0  # any gain that rises with the utility


# --- sequences ---


def test_sequences_are_normalized_as_a_whole() -> None:
    """Over all sequences, b = 1 is the product of tokens. With another b, tempered tokens give something else."""
    first, second = uniform(3).log_softmax(0), uniform(3, 3, seed=1).log_softmax(1)
    tokens = torch.stack([first[:, None].expand(3, 3), second], -1).reshape(1, 9, 2)
    scores, lengths = un.sequence_scores(tokens)
    assert (lengths == 2).all()
    torch.testing.assert_close(un.gibbs_sequence(scores).log_probs, scores)
    b = 2.0
    whole = un.gibbs_sequence(scores, b).log_probs
    torch.testing.assert_close(whole.exp(), (b * scores).exp() / (b * scores).exp().sum())
    each = un.gibbs(first, b)[:, None] + un.gibbs(second, b)
    assert (whole.view(3, 3) - each).abs().max() > 0.01
    independent = first[:, None] + first[None]  # of independent tokens both are the same
    both = un.gibbs(first, b)[:, None] + un.gibbs(first, b)[None]
    torch.testing.assert_close(un.gibbs_sequence(independent.view(1, 9), b).log_probs.view(3, 3), both)


def test_padding_counts_neither_for_scores_nor_for_lengths() -> None:
    short = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0], [-9.0, -9.0]]]).requires_grad_()
    mask = torch.tensor([[[True, True], [True, False], [False, False]]])
    scores, lengths = un.sequence_scores(short, mask)
    assert scores.tolist() == [[-3.0, -3.0, 0.0]] and lengths.tolist() == [[2, 1, 0]]
    padded = torch.nn.functional.pad(short.detach(), (0, 5), value=NAN), torch.nn.functional.pad(mask, (0, 5))
    again, same = un.sequence_scores(*padded)
    assert torch.equal(again, scores) and torch.equal(same, lengths)
    found = un.gibbs_sequence(scores, 2.0, lengths=lengths, length_alpha=1.0, mask=lengths > 0)
    assert found.utility.tolist() == [[-1.5, -3.0, -INF]]
    torch.testing.assert_close(found.log_probs[0, :2], torch.tensor([-3.0, -6.0]).log_softmax(0))
    assert found.log_probs[0, 2] == -INF
    (gradient,) = torch.autograd.grad(found.log_probs[0, 0], short)
    assert gradient.isfinite().all() and (gradient[~mask] == 0).all()


# --- the isotonic map ---


def test_isotonic_map_uses_order_alone() -> None:
    u = uniform(400, 4)
    labels = u.softmax(1).multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]
    by_utility, of_cubes = (un.IsotonicConversion("utility").fit(x, labels)(x) for x in (u, u**3))
    assert torch.equal(by_utility, of_cubes)
    assert (un.gibbs(u) - un.gibbs(u**3)).abs().max() > 1
    two, sides = torch.stack([u[:, 0], -u[:, 0]], 1), (labels > 1).long()
    by_gap, of_cubes = (un.IsotonicConversion().fit(x, sides)(x) for x in (two, two**3))
    assert torch.equal(by_gap, of_cubes)  # of two opposite utilities the gap keeps its order too
    shifted = un.IsotonicConversion().fit(u + 2 * u[:, :1], labels)(u + 2 * u[:, :1])
    torch.testing.assert_close(shifted, un.IsotonicConversion().fit(u, labels)(u), rtol=1e-9, atol=1e-9)


def test_isotonic_map_is_that_of_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    u = uniform(200, 3).float()
    labels = u.softmax(1).multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]
    conversion = un.IsotonicConversion().fit(u, labels)
    right = torch.nn.functional.one_hot(labels, 3).double()
    regression = IsotonicRegression(out_of_bounds="clip").fit(un.revealed_gap(u).double().flatten(), right.flatten())
    new = torch.cat([uniform(50, 3, seed=5).float(), torch.tensor([[99.0, 0.0, 0.0]])])
    expected = torch.from_numpy(regression.predict(un.revealed_gap(new).double().flatten())).view(-1, 3)
    torch.testing.assert_close(conversion.frequency(new).double(), expected, rtol=1e-5, atol=1e-6)
    probs = conversion(new).exp()
    torch.testing.assert_close(probs.sum(1), torch.ones(51))
    assert conversion.frequency(u).mean().item() == pytest.approx(1 / 3, abs=1e-6)  # right on average
    loaded = un.IsotonicConversion("utility")
    loaded.load_state_dict(conversion.state_dict())
    assert torch.equal(loaded(new), conversion(new)) and torch.equal(copy.deepcopy(conversion)(new), conversion(new))


def test_isotonic_map_before_fit_and_where_nothing_was_right(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ImportError, match=r"needs scikit-learn.*probkernels\[report\]"):
        patch.setattr("importlib.util.find_spec", lambda name: None)
        un.IsotonicConversion().fit(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(RuntimeError, match="call fit"):
        un.IsotonicConversion()(torch.zeros(1, 2))
    conversion = un.IsotonicConversion("utility").fit(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([2]))
    torch.testing.assert_close(conversion(torch.tensor([[-1.0, 0.0, 0.5]])).exp(), torch.full((1, 3), 1 / 3))
    half = un.IsotonicConversion().fit(torch.tensor([[0.0, 2.0]]).bfloat16(), torch.tensor([1]))
    assert half(torch.tensor([[0.0, 2.0]]).bfloat16()).dtype is torch.float32


# --- the fit of the scale ---


def test_fitted_scale_is_the_best_one() -> None:
    u, gain = uniform(50, 5), uniform(50, 5, seed=1)
    found = un.fit_b(u, gain)
    values = [un.expected_gain(u, gain, b / 100).mean().item() for b in range(1000)]
    assert found.value >= max(values) - 1e-12
    assert found.value == pytest.approx(un.expected_gain(u, gain, found.b).mean().item(), abs=1e-12)
    assert found.at_one == pytest.approx(un.expected_gain(u, gain).mean().item(), abs=1e-12)
    generator = torch.Generator().manual_seed(2)
    labels = (0.5 * u).softmax(1).multinomial(1, generator=generator)[:, 0]
    nll = un.fit_b(u, labels, criterion="nll")
    assert nll.b == pytest.approx(1 / un.TemperatureScaling().fit(u, labels).temperature.item(), rel=1e-6)
    assert nll.value == pytest.approx(torch.nn.functional.cross_entropy(nll.b * u, labels).item(), abs=1e-12)
    assert nll.value < nll.at_one and not nll.at_bound


def test_fitted_scale_of_a_rising_gain_is_the_bound() -> None:
    u = uniform(20, 4)
    found = un.fit_b(u, u, most=7.0)
    assert found.b == 7.0 and found.at_bound and found.value > found.at_one
    assert un.fit_b(u, -u).b == 0.0  # a gain against the utilities asks for the uniform distribution
    for gain in (0.3, 1.0, 1e6):  # all b are equally good, and rounding does not choose among them
        assert un.fit_b(u, torch.full_like(u, gain)).b == 0.0
    labels = u.argmax(1)
    rising = [un.fit_b(u, labels, most=most).b for most in (2.0, 5.0)]
    assert rising == [2.0, 5.0]
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[:, 0] = False
    holes = torch.where(mask, u, NAN)
    assert un.fit_b(holes, holes, mask=mask, most=3.0).value == un.fit_b(u[:, 1:], u[:, 1:], most=3.0).value


# --- bad input ---

U, SCORES = torch.zeros(2, 3), torch.zeros(2, 3)
CASES: dict[str, tuple[Any, type, str]] = {
    "NaN": (lambda: un.gibbs(torch.tensor([0, NAN])), ValueError, r"gibbs: argument 'utility'.*got nan at \[1\]"),
    "infinity": (lambda: un.gibbs(torch.tensor([0, INF])), ValueError, r"got inf at \[1\]"),
    "integers": (lambda: un.gibbs(torch.tensor([0, 1])), TypeError, "'utility': expected dtype float32"),
    "list": (lambda: un.gibbs([0.0, 1.0]), TypeError, "'utility'.*got list"),
    "no options": (lambda: un.gibbs(torch.zeros(2, 0)), ValueError, r"M >= 1 options, got shape \(2, 0\)"),
    "nothing allowed": (lambda: un.gibbs(torch.full((2, 2), -INF)), ValueError, r"got no option in row \[0\]"),
    "all masked": (lambda: un.gibbs(U, mask=torch.tensor([[True] * 3, [False] * 3])), ValueError,
                   r"'mask': expected at least one option in each row, got no option in row \[1\]"),
    "mask's shape": (lambda: un.gibbs(U, mask=torch.ones(3, dtype=torch.bool)), ValueError, r"'mask': expected shape"),
    "mask's dtype": (lambda: un.gibbs(U, mask=torch.ones(2, 3)), TypeError, "'mask': expected a bool tensor"),
    "negative b": (lambda: un.gibbs(U, -1.0), ValueError, r"'b': expected a number >= 0, got -1.0"),
    "infinite b": (lambda: un.gibbs(U, INF), ValueError, "'b': expected a finite number"),
    "b of rows": (lambda: un.gibbs(U, torch.ones(2)), ValueError, "'b': expected a number or a scalar tensor"),
    "text": (lambda: un.gibbs(U, "2"), TypeError, "'b': expected a number"),
    "gain": (lambda: un.expected_gain(U, U.clone().fill_(NAN)), ValueError, r"'gain': expected finite"),
    "gain's shape": (lambda: un.expected_gain(U, U[0]), ValueError, r"'gain': expected shape \(2, 3\)"),
    "tokens": (lambda: un.sequence_scores(U), ValueError, r"shape \(B, M, L\), got shape \(2, 3\)"),
    "logits": (lambda: un.sequence_scores(U[None] + 1), ValueError, r"at most 0, got 1.0 at \[0, 0, 0\]"),
    "no lengths": (lambda: un.gibbs_sequence(SCORES, length_alpha=0.5), ValueError, "'lengths'.*got None"),
    "no tokens": (lambda: un.gibbs_sequence(SCORES, lengths=torch.zeros(2, 3).long()), ValueError,
                  r"'lengths': expected at least one token, got 0 at \[0, 0\].*mask=lengths > 0"),
    "float lengths": (lambda: un.gibbs_sequence(SCORES, lengths=SCORES), TypeError, "'lengths'"),
    "scores": (lambda: un.gibbs_sequence(SCORES[0]), ValueError, r"'scores': expected shape \(B, M\)"),
    "drift's shape": (lambda: un.drift(U, U[0], U, 1, 0.1), ValueError, r"'start': expected shape \(2, 3\)"),
    "no steps": (lambda: un.drift(U, U, U, 0, 0.1), ValueError, "'steps'"),
    "a row without steps": (lambda: un.drift(U, U, U, torch.tensor([1, 0]), 0.1), ValueError, r"got 0 at \[1\]"),
    "rate": (lambda: un.drift(U, U, U, 1, 0.0), ValueError, "'lr': expected a positive number"),
    "labels": (lambda: un.revealed_gap(U, torch.tensor([0, 3])), ValueError, r"options 0 to 2, got 3 at \[1\]"),
    "banned label": (lambda: un.revealed_gap(torch.tensor([[0.0, -INF]]), torch.tensor([1])), ValueError, "allowed"),
    "criterion": (lambda: un.fit_b(U, U, criterion="nl"), ValueError, "did you mean 'nll'"),
    "nll of gains": (lambda: un.fit_b(U, U, criterion="nll"), TypeError, "'target': expected an integer tensor"),
    "no samples": (lambda: un.fit_b(U[:0], U[:0]), ValueError, "N >= 1"),
    "bound": (lambda: un.fit_b(U, U, most=INF), ValueError, "'most'"),
    "infinite rate": (lambda: un.drift(U, U, U, 1, INF), ValueError, "'lr': expected a positive number, got inf"),
    "isotonic": (lambda: un.IsotonicConversion().fit(U - INF, torch.zeros(2).long()), ValueError, "'utility': .*-inf"),
    "score": (lambda: un.IsotonicConversion("gaps"), ValueError, "did you mean 'gap'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str) -> None:
    call, kind, text = CASES[case]
    with pytest.raises(kind, match=text):
        call()


def test_transforms_of_torch() -> None:
    u = uniform(3)
    slope = torch.func.grad(lambda u: un.gibbs(u, 2.0)[0])(u)
    torch.testing.assert_close(slope, 2 * (torch.tensor([1.0, 0, 0]).double() - (2 * u).softmax(0)))
    one = torch.ones((), dtype=torch.float64)
    value, tangent = torch.func.jvp(lambda b: un.expected_gain(u, u, b), (one,), (one,))
    p = u.softmax(0)
    assert tangent.item() == pytest.approx((p * u * u).sum().item() - value.item() ** 2, abs=1e-12)
    assert un.gibbs(torch.zeros(2, 3, device="meta")).shape == (2, 3)
    with torch.inference_mode():
        assert math.isclose(un.gibbs(u).exp().sum().item(), 1)


def test_conversions_under_transforms() -> None:
    utility = uniform(4, 3)
    assert torch.equal(torch.func.vmap(un.gibbs)(utility), un.gibbs(utility))
    assert torch.equal(torch.func.vmap(un.revealed_gap)(utility), un.revealed_gap(utility))
