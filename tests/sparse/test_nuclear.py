"""The nuclear norm and its subgradient: printed numbers, defining properties, and the penalty on an adapter."""

from __future__ import annotations

import math

import probkernels as pk
import pytest
import torch
from torch import nn

METHODS = pytest.mark.parametrize("method", ["eigh", "newton_schulz"])


def test_a_two_by_two_matrix() -> None:
    a = torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=torch.float64, requires_grad=True)
    norm = pk.sparse.nuclear_norm(a)
    norm.backward()
    assert f"{norm.item():.6f}" == "8.944272"
    assert norm.item() == pytest.approx(math.sqrt(45) + math.sqrt(5), rel=1e-12)
    assert [f"{g:.6f}" for g in a.grad.flatten().tolist()] == ["0.894427", "-0.447214", "0.447214", "0.894427"]


def test_the_masked_oracle_through_an_adapter() -> None:
    model = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.arange(12, dtype=torch.float64).sin().view(3, 4))
    adapter = pk.sparse.attach(model, 0.6)
    penalty = adapter.nuclear_penalty(larger_than=0)
    penalty.backward()
    assert f"{penalty.item():.6f}" == "1.020994"
    at = adapter.selections["weight"].to_index().tolist()
    got = dict(zip(at, (f"{g:.6f}" for g in adapter.parameters()[0].grad.tolist()), strict=True))
    expected = {3: "1.000000", 6: "-0.785947", 9: "0.785947", 10: "-0.618294", 0: "0.000000"}
    assert {k: v.replace("-0.000000", "0.000000") for k, v in got.items()} == expected


@METHODS
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20)])
def test_the_subgradient_is_that_of_the_svd(method: str, shape: tuple[int, int]) -> None:
    a = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(a, full_matrices=False)
    got = pk.sparse.polar(a, method)
    cosine = torch.nn.functional.cosine_similarity(got.flatten(), (u @ v).flatten(), dim=0)
    assert cosine > (0.9995 if method == "newton_schulz" else 1 - 1e-10)
    assert (got * a).sum().item() == pytest.approx(s.sum().item(), rel=1e-3 if method == "newton_schulz" else 1e-8)


def test_small_singular_values_are_dropped() -> None:
    low = torch.randn(20, 2, dtype=torch.float64) @ torch.randn(2, 30, dtype=torch.float64)
    u, _, v = torch.linalg.svd(low, full_matrices=False)
    torch.testing.assert_close(pk.sparse.polar(low), u[:, :2] @ v[:2], rtol=1e-6, atol=1e-8)


@METHODS
def test_zeros(method: str) -> None:
    assert not pk.sparse.polar(torch.zeros(3, 4), method).any()


@pytest.mark.parametrize("values", ["own", "weights"])
def test_the_penalty_has_a_finite_differences_gradient(values: str) -> None:
    model = nn.Linear(9, 8, bias=False).double()
    adapter = pk.sparse.attach(model, density=0.5, values=values)
    adapter.nuclear_penalty(larger_than=7).backward()
    weight, grad = model._parameters["weight"], adapter.parameters()[0].grad
    mask = adapter.selections["weight"].to_mask()
    for i, at in enumerate(adapter.selections["weight"].to_index().tolist()[:6]):
        norms = []
        for step in (1e-6, -1e-6):
            moved = weight.detach().clone()
            moved.view(-1)[at] += step
            norms.append(torch.linalg.matrix_norm(moved * mask, "nuc").item())
        assert grad[i].item() == pytest.approx((norms[0] - norms[1]) / 2e-6, abs=1e-6)


def test_matrices_are_drawn_uniformly_without_repeats() -> None:
    model = nn.Sequential(*[nn.Linear(66, 66) for _ in range(3)], nn.Linear(66, 64))
    adapter = pk.sparse.attach(model, density=0.1)
    assert [slot.name for slot, _, _ in adapter.matrices()] == ["0.weight", "1.weight", "2.weight"]
    drawn = [adapter.draw()[0][0].name for _ in range(300)]
    assert min(drawn.count(f"{i}.weight") for i in range(3)) > 60
    assert {slot.name for slot, _, _ in adapter.draw(3)} == {"0.weight", "1.weight", "2.weight"}
    with pytest.raises(ValueError, match="from 1 to the 3 matrices"):
        adapter.draw(4)
    with pytest.raises(ValueError, match="argument 'n'"):
        pk.sparse.attach(nn.Linear(5, 5), density=0.1).nuclear_penalty()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="a matrix"):
        pk.sparse.polar(torch.ones(3))
    with pytest.raises(ValueError, match="argument 'method'"):
        pk.sparse.nuclear_norm(torch.ones(3, 3), "svd")
    with pytest.raises(TypeError, match="argument 'a'"):
        pk.sparse.polar(torch.ones(3, 3, dtype=torch.int64))


def test_what_has_no_derivative_raises() -> None:
    """A second derivative that the engine would pass by is told, and not lost."""
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(pk.sparse.nuclear_norm(a), a, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"nuclear_norm.*second derivative.*matrix_norm"):
        (a.sum() + first.square().sum()).backward()
    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(NotImplementedError, match=r"nuclear_norm.*torch\.func.*matrix_norm"):
            transform(pk.sparse.nuclear_norm)(torch.randn(2, 3, 4) if transform is torch.func.vmap else a.detach())
