"""Inv-Entropy of matrices: the sheet's values, closed forms, invariants, derivatives, bootstraps, bad input."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from probkernels.uncertainty import (
    blackbox_uncertainty,
    bootstrap_inv_entropy,
    inv_entropy,
    inverse_model,
    similarity_matrix,
    tsu,
)
from torch import Tensor

SX = torch.tensor([[1, 0.8, 0.5], [0.8, 1, 0.4], [0.5, 0.4, 1]], dtype=torch.float64)
SY = torch.tensor([[1, 0.9, 0.2], [0.9, 1, 0.3], [0.2, 0.3, 1]], dtype=torch.float64)
MEASURES = ("inv", "ni", "wd", "max")
BLACKBOX = ("degmat", "eigv", "kle", "dispersion", "semantic_entropy")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Similarities (..., N, N) of drawn vectors."""
    return similarity_matrix(torch.randn(*shape, 6, dtype=torch.float64, generator=seeded(seed)))


def equal(count: int, eps: float) -> Tensor:
    """1 on the diagonal, 1 - eps elsewhere."""
    return torch.full((count, count), 1 - eps, dtype=torch.float64).fill_diagonal_(1)


def test_values_of_the_worked_example() -> None:
    assert inv_entropy(SX, SY).item() == pytest.approx(1.0999268981, abs=1e-10)
    assert inv_entropy(SX, SY, "ni").item() == pytest.approx(1.0982366774, abs=1e-10)
    assert inv_entropy(SX, SY, "max").item() == pytest.approx(0.4281096, abs=1e-7)
    model = inverse_model(SX, SY)
    assert model.p_y.tolist() == pytest.approx([0.339538, 0.361039, 0.299423], abs=1e-6)
    assert model.p_x.tolist() == pytest.approx([0.360235, 0.348653, 0.291112], abs=1e-6)
    distance = (model.p_x.sort().values - model.p_y.sort().values).abs().mean()
    assert inv_entropy(SX, SY, "wd").item() == pytest.approx(distance.item(), abs=1e-15)


def test_bayes_theorem_holds() -> None:
    model = inverse_model(drawn(4, 7), drawn(4, 7, seed=1))
    one = torch.ones(4, 7, dtype=torch.float64)
    torch.testing.assert_close(model.y_given_x.sum(-2), one)
    torch.testing.assert_close(model.x_given_y.sum(-1), one)
    torch.testing.assert_close(model.p_x.sum(-1), one[:, 0])
    joint = model.x_given_y * model.p_y[:, :, None]
    torch.testing.assert_close(joint, model.y_given_x * model.p_x[:, None, :])
    torch.testing.assert_close(joint.sum(-2), model.p_x)
    torch.testing.assert_close(joint.sum(-1), model.p_y)


@pytest.mark.parametrize(
    ("ex", "ey", "c", "h"),
    [(0.2, 0, 0.1, 2.3025851), (0.2, 0.5, 0.1019955654, 2.3283812), (0.2, 1, 0.1219512195, 2.5660173),
     (1, 0.3, 0.1369863, 2.7231155)],
)  # fmt: skip
def test_closed_form_of_equal_similarities(ex: float, ey: float, c: float, h: float) -> None:
    n = 9
    formula = (1 + n - n * ex - n * ey + n * ex * ey) / ((n + 1 - n * ex) * (n + 1 - n * ey))
    assert formula == pytest.approx(c, abs=1e-7)
    x, y = equal(10, ex), equal(10, ey)
    torch.testing.assert_close(
        inverse_model(x, y).x_given_y.diagonal(), torch.full((10,), formula, dtype=torch.float64)
    )
    assert inv_entropy(x, y).item() == pytest.approx(h, abs=1e-7)


def test_derivative_of_the_closed_form() -> None:
    n, ex, ey = 9, 0.2, torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(10, dtype=torch.float64)
    own = inverse_model(equal(10, ex), 1 - ey * (1 - eye)).x_given_y[0, 0]
    own.backward()
    expected = n * ex / ((n + 1 - n * ex) * (n + 1 - n * 0.4) ** 2)
    assert ey.grad is not None and ey.grad.item() == pytest.approx(expected, rel=1e-12) and expected > 0


def test_equal_answers_leave_the_entropy_of_the_questions() -> None:
    x, ones = drawn(10), torch.ones(10, 10, dtype=torch.float64)
    own = inverse_model(x, ones).x_given_y.diagonal()
    torch.testing.assert_close(own, (x / x.sum(1, keepdim=True)).mean(0))
    assert own.sum().item() == pytest.approx(1)
    score = inv_entropy(x, ones)
    torch.testing.assert_close(score, torch.special.entr(own).sum())
    assert score <= math.log(10)
    assert inv_entropy(ones, ones).item() == pytest.approx(math.log(10))
    assert inv_entropy(ones.float(), ones.float()).dtype is torch.float32
    eye = torch.eye(10, dtype=torch.float64)
    assert inv_entropy(eye, eye).item() == 0


def test_bounds_and_invariants() -> None:
    x, y = drawn(50, 10), drawn(50, 10, seed=1) ** 8
    score = inv_entropy(x, y)
    assert (score >= 0).all() and (score <= 10 / math.e).all()
    order = torch.randperm(10, generator=seeded())
    torch.testing.assert_close(inv_entropy(x[:, order][..., order], y[:, order][..., order]), score)
    for measure in MEASURES:
        for factor in (1e-300, 7.0, 1e300):
            torch.testing.assert_close(inv_entropy(factor * x, y / factor, measure), inv_entropy(x, y, measure))
    large = torch.full((10, 10), 3e38)  # its row sums are above float32
    assert inv_entropy(large, large).item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("measure", MEASURES)
def test_diagonal_equals_the_full_product_and_batches_equal_single_questions(measure: str) -> None:
    x, y = drawn(3, 1, 10), drawn(4, 10, seed=1)
    together = inv_entropy(x, y, measure)
    assert together.shape == (3, 4)
    single = [[inv_entropy(x[i, 0], y[j], measure) for j in range(4)] for i in range(3)]
    torch.testing.assert_close(together, torch.tensor(single, dtype=torch.float64))
    own = inverse_model(x, y).x_given_y.diagonal(dim1=-2, dim2=-1)
    assert (torch.special.entr(own).sum(-1) - inv_entropy(x, y)).abs().max() < 1e-14


@pytest.mark.parametrize("measure", MEASURES)
def test_derivatives(measure: str) -> None:
    x, y = drawn(3).requires_grad_(), drawn(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: inv_entropy(x, y, measure), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: inv_entropy(x, y, measure), (x, y))
    wide = drawn(6, seed=2).requires_grad_()

    def bootstrapped(x: Tensor, y: Tensor) -> Tensor:
        return bootstrap_inv_entropy(x, y, 2, 3, measure, generator=seeded())

    assert torch.autograd.gradcheck(bootstrapped, (x, wide))


@pytest.mark.parametrize("measure", BLACKBOX[:-1])
def test_derivatives_of_the_baselines(measure: str) -> None:
    s = drawn(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: blackbox_uncertainty((s + s.mT) / 2, measure), (s,))
    e = torch.randn(4, 3, dtype=torch.float64, generator=seeded()).requires_grad_()
    for kind in ("cos01", "abscos"):
        assert torch.autograd.gradcheck(lambda e, kind=kind: similarity_matrix(e, kind), (e,))


def test_function_transforms_and_narrow_dtypes() -> None:
    x, y = drawn(3, 6), drawn(3, 6, seed=1)
    torch.testing.assert_close(torch.func.vmap(inv_entropy)(x, y), inv_entropy(x, y))
    slopes = torch.func.vmap(torch.func.grad(inv_entropy))(x, y)
    (expected,) = torch.autograd.grad(inv_entropy(x.requires_grad_(), y).sum(), x)
    torch.testing.assert_close(slopes, expected)
    x = x.detach()
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 1e-2), (torch.bfloat16, 3e-2)):
        narrow = inv_entropy(x.to(dtype), y.to(dtype))
        assert narrow.dtype is torch.float32
        torch.testing.assert_close(narrow.double(), inv_entropy(x, y), atol=tolerance, rtol=tolerance)


def test_bootstraps_draw_one_reply_for_each_question() -> None:
    x, y = drawn(4), drawn(12, seed=1)
    draws = bootstrap_inv_entropy(x, y, 3, 2000, generator=seeded())  # more draws than the 81 tuples
    tuples = torch.cartesian_prod(*(torch.arange(3) + 3 * n for n in range(4)))
    every = inv_entropy(x, y[tuples[:, :, None], tuples[:, None, :]])
    assert (draws[:, None] - every).abs().amin(1).max() < 1e-14
    assert (draws[:, None] - every).abs().amin(0).max() < 1e-14  # every tuple occurs
    spread = every.std() / 2000**0.5
    assert (draws.mean() - every.mean()).abs() < 5 * spread
    assert torch.equal(draws, bootstrap_inv_entropy(x, y, 3, 2000, generator=seeded()))
    assert not torch.equal(draws, bootstrap_inv_entropy(x, y, 3, 2000, generator=seeded(1)))


def test_blocks_of_bootstraps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(2, 1, 4), drawn(3, 8, seed=1)
    for measure in MEASURES:
        whole = bootstrap_inv_entropy(x, y, 2, 7, measure, generator=seeded())
        assert whole.shape == (2, 3, 7)
        for block in (1, 200):  # one and two bootstraps at a time
            monkeypatch.setattr(sys.modules["probkernels.uncertainty.inv_entropy"], "BLOCK", block)
            torch.testing.assert_close(bootstrap_inv_entropy(x, y, 2, 7, measure, generator=seeded()), whole)
        monkeypatch.undo()


def test_one_reply_needs_no_bootstrap() -> None:
    x, y = drawn(2, 5), drawn(2, 5, seed=1)
    draws = bootstrap_inv_entropy(x, y, 1, 50)
    assert draws.shape == (2, 50) and draws.std(-1).max() < 1e-15
    torch.testing.assert_close(draws[:, 0], inv_entropy(x, y), atol=1e-15, rtol=0)


def test_questions_of_a_batch_draw_their_own_replies() -> None:
    x, y = drawn(4).expand(3, 4, 4), drawn(12, seed=1).expand(3, 12, 12)
    draws = bootstrap_inv_entropy(x, y, 3, 30, generator=seeded())
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws, bootstrap_inv_entropy(x[0], y, 3, 30, generator=seeded()))


def test_tsu() -> None:
    rising = torch.arange(12.0).view(3, 4).mT
    assert tsu(rising).item() == 1
    assert tsu(torch.ones(5, 3)).item() == 0
    for count, share in ((2, 1 / 2), (4, 1 / 24)):
        noise = torch.rand(2, 20000, count, generator=seeded())
        assert tsu(noise).tolist() == pytest.approx([share] * 2, abs=5 * (share * (1 - share) / 20000) ** 0.5)
    ends = torch.tensor([[-float("inf"), 0, float("inf")], [0, float("inf"), float("inf")]])
    assert tsu(ends).item() == 0.5
    assert tsu(torch.ones(5, 3, dtype=torch.float64)).dtype is torch.float64


def test_baselines_of_clusters() -> None:
    sizes = (3, 2, 1)
    s = torch.block_diag(*(torch.ones(size, size, dtype=torch.float64) for size in sizes))
    share = torch.tensor(sizes, dtype=torch.float64) / 6
    expected = {
        "degmat": 1 - 14 / 36,
        "dispersion": 1 - 8 / 30,
        "eigv": 3.0,
        "semantic_entropy": torch.special.entr(share).sum().item(),
    }
    for measure, value in expected.items():
        assert blackbox_uncertainty(s, measure).item() == pytest.approx(value), measure
    assert blackbox_uncertainty(s, "kle", time=1e4).item() == pytest.approx(expected["semantic_entropy"])
    same, other = torch.ones(4, 4), torch.eye(4)
    for measure in BLACKBOX:
        low, high = blackbox_uncertainty(torch.stack([same, other]), measure, time=1e3).tolist()
        assert low == pytest.approx({"eigv": 1}.get(measure, 0), abs=1e-6)
        top = {"degmat": 0.75, "dispersion": 1, "eigv": 4}.get(measure, math.log(4))
        assert high == pytest.approx(top, rel=1e-6)


def test_kle_of_two_answers_by_hand() -> None:
    time, weight = 0.4, 0.7
    decay = math.exp(-2 * time * weight)  # the Laplacian's eigenvalues are 0 and 2 w
    own, other = (1 + decay) / 2, (1 - decay) / 2
    p = torch.tensor([0.5 + 0.5 * other / own, 0.5 - 0.5 * other / own])
    s = torch.tensor([[1, weight], [weight, 1]])
    assert blackbox_uncertainty(s, "kle", time=time).item() == pytest.approx(torch.special.entr(p).sum().item())


def test_clusters_follow_chains() -> None:
    chain = torch.eye(9) + torch.diag(torch.ones(8), 1) + torch.diag(torch.ones(8), -1)
    assert blackbox_uncertainty(chain, "semantic_entropy").item() == pytest.approx(0, abs=1e-7)
    assert blackbox_uncertainty(chain * 0.5, "semantic_entropy").item() == pytest.approx(math.log(9))


def test_similarities_of_embeddings() -> None:
    e = torch.tensor([[1.0, 0], [0, 1], [-3, 0]])
    assert similarity_matrix(e).tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert similarity_matrix(e, "abscos").tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(similarity_matrix(factor * e), similarity_matrix(e))
    many = similarity_matrix(torch.randn(2, 30, 4, generator=seeded()))
    assert torch.equal(many, many.mT) and (many.diagonal(dim1=-2, dim2=-1) == 1).all()


def with_entry(value: float, *places: tuple[int, int]) -> Tensor:
    changed = SX.clone()
    for place in places:
        changed[place] = value
    return changed


BAD: dict[str, tuple[Any, type, str]] = {
    "list": (SX.tolist(), TypeError, "expected a floating-point tensor, got list.*Hint: torch.as_tensor"),
    "integers": (SX.long(), TypeError, "expected dtype float32"),
    "not square": (SX[:2], ValueError, r"square matrices \(..., N, N\) with N >= 2, got shape \(2, 3\)"),
    "one question": (SX[:1, :1], ValueError, r"N >= 2, got shape \(1, 1\).*paraphrases"),
    "NaN": (with_entry(float("nan"), (1, 2)), ValueError, r"expected finite numbers, got nan at \[1, 2\]"),
    "infinity": (with_entry(float("inf"), (0, 1), (1, 0)), ValueError, r"got inf at \[0, 1\], and 1 more"),
    "negative": (with_entry(-0.5, (0, 1), (1, 0)), ValueError, r"similarities >= 0, got -0.5 at \[0, 1\].*cos"),
    "one direction": (with_entry(0.7, (0, 1)), ValueError, r"symmetric matrices, got 0.7 at \[0, 1\].*mT\) / 2"),
    "diagonal": (with_entry(0, (2, 2)), ValueError, r"positive similarity of each text to itself, got .*0.0 at \[2\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_matrices(case: str) -> None:
    value, kind, text = BAD[case]
    for name, call in {
        "inv_entropy: argument 'sx'": lambda: inv_entropy(value, SY),
        "inv_entropy: argument 'sy'": lambda: inv_entropy(SX, value),
        "inverse_model: argument 'sx'": lambda: inverse_model(value, SY),
        "bootstrap_inv_entropy: argument 'sy'": lambda: bootstrap_inv_entropy(SX, value, 1),
        "blackbox_uncertainty: argument 'similarity'": lambda: blackbox_uncertainty(value),
    }.items():
        with pytest.raises(kind, match=f"^{name}: .*{text}"):
            call()


def test_bad_options() -> None:
    for call, kind, text in (
        (lambda: inv_entropy(SX, SY, "inverse"), ValueError, "'measure': expected one of 'inv', 'ni', 'wd', 'max'"),
        (lambda: inv_entropy(SX, SY[:2, :2]), ValueError, r"'sy': expected 3 outputs.*got shape \(2, 2\)"),
        (lambda: inv_entropy(SX.expand(2, 3, 3), SY.expand(3, 3, 3)), ValueError, r"'sy': expected dimensions.*\(2,\)"),
        (lambda: bootstrap_inv_entropy(SX, SY, 2), ValueError, "'sy': expected 6 outputs, 2 for each row of 'sx'"),
        (lambda: bootstrap_inv_entropy(SX, SY, 0), ValueError, "'replications': expected a number >= 1, got 0"),
        (lambda: bootstrap_inv_entropy(SX, SY, 1, True), TypeError, "'bootstraps': expected a whole number"),
        (lambda: bootstrap_inv_entropy(SX, SY, 1, 0), ValueError, "'bootstraps': expected a number >= 1"),
        (lambda: blackbox_uncertainty(SX, "eigval"), ValueError, "'measure': .*did you mean 'eigv'"),
        (lambda: blackbox_uncertainty(SX, "kle", time=0), ValueError, "'time': expected a positive number"),
        (lambda: blackbox_uncertainty(SX, threshold=float("nan")), ValueError, "'threshold': expected a finite number"),
        (lambda: tsu(torch.ones(3)), ValueError, r"'scores': expected shape .*got shape \(3,\)"),
        (lambda: tsu(torch.ones(3, 1)), ValueError, "two temperatures"),
        (lambda: tsu(torch.ones(0, 2)), ValueError, "at least one question"),
        (lambda: tsu(torch.tensor([[0, float("nan")]])), ValueError, r"got nan at \[0, 1\]"),
        (lambda: tsu(torch.ones(2, 2).long()), TypeError, "'scores': expected dtype"),
        (lambda: similarity_matrix(torch.ones(3)), ValueError, r"'embeddings': expected shape \(..., N, D\)"),
        (lambda: similarity_matrix(torch.ones(3, 0)), ValueError, r"got shape \(3, 0\)"),
        (lambda: similarity_matrix(torch.zeros(3, 2)), ValueError, r"vectors with a direction, got .*empty"),
        (lambda: similarity_matrix(torch.tensor([[float("nan")]])), ValueError, "finite numbers"),
        (lambda: similarity_matrix(torch.ones(3, 2), "cos"), ValueError, "'kind': .*'cos01', 'abscos', got 'cos'"),
    ):
        with pytest.raises(kind, match=text):
            call()  # type: ignore[no-untyped-call]
