"""Fixed points: values and gradients of both solvers, sample by sample; what does not converge is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.energy import fixed_point
from torch import Tensor

SOLVERS = ["damped", "anderson"]


def linear(radius: float) -> tuple[Tensor, Tensor]:
    """A matrix of a given spectral radius, and an offset (5, 8)."""
    torch.manual_seed(0)
    matrix = torch.randn(8, 8, dtype=torch.float64)
    return radius * matrix / torch.linalg.eigvals(matrix).abs().max(), torch.randn(5, 8, dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
def test_value_and_gradient_of_a_linear_function(solver: str) -> None:
    matrix, offset = (t.requires_grad_() for t in linear(0.9))
    found = fixed_point(lambda z: z @ matrix + offset, torch.zeros(5, 8).double(), tol=1e-13, solver=solver)
    exact = torch.linalg.solve(torch.eye(8).double() - matrix.mT, offset.mT).mT
    torch.testing.assert_close(found.value, exact, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(exact)
    for got, truth in zip(
        torch.autograd.grad(found.value, (matrix, offset), grad),
        torch.autograd.grad(exact, (matrix, offset), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=1e-8)


def test_second_derivatives_are_refused() -> None:
    """The first one is exact; to differentiate it again would take the solution for a constant."""
    a = torch.tensor(2.0, requires_grad=True)
    found = fixed_point(lambda z: (z + a / z) / 2, torch.ones(1, 1), tol=1e-6)
    with pytest.raises(NotImplementedError, match=r"no second derivatives.*create_graph"):
        torch.autograd.grad(found.value.sum(), a, create_graph=True)


def test_anderson_is_faster_and_falls_back() -> None:
    matrix, offset = linear(0.97)
    runs = [
        fixed_point(lambda z: z @ matrix + offset, torch.zeros(5, 8).double(), tol=1e-10, solver=s, max_iterations=2000)
        for s in SOLVERS
    ]
    assert all(run.converged for run in runs)
    assert int(runs[1].iterations.max()) < 0.5 * int(runs[0].iterations.max())
    rough = fixed_point(
        lambda z: 0.5 * z.abs() + torch.where(z > 1, -0.4, 0.4) * (z - 1), torch.full((3, 2), 5.0), solver="anderson"
    )
    assert rough.converged


def test_samples_do_not_see_each_other() -> None:
    slopes = torch.tensor([[0.1], [0.9], [0.5]])
    both = fixed_point(lambda z: slopes * z + 1, torch.zeros(3, 1))
    for i in range(3):
        alone = fixed_point(lambda z, i=i: slopes[i] * z + 1, torch.zeros(1, 1))
        assert torch.equal(alone.value[0], both.value[i]) and alone.iterations[0] == both.iterations[i]
    assert int(both.iterations[0]) < int(both.iterations[2]) < int(both.iterations[1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_divergence_is_told(solver: str) -> None:
    def grows(z: Tensor) -> Tensor:
        return z + z.abs() + 1

    with pytest.warns(RuntimeWarning, match="100 iterations.*got a largest relative residual"):
        found = fixed_point(grows, torch.ones(2, 3), max_iterations=100, solver=solver)
    assert not found.converged
    with pytest.raises(RuntimeError, match="converges"):
        fixed_point(grows, torch.ones(2, 3), max_iterations=100, solver=solver, on_failure="raise")
    with pytest.raises(RuntimeError, match="residual of inf"):
        fixed_point(lambda z: z * math.nan, torch.ones(2, 3), on_failure="raise")


@pytest.mark.parametrize(
    ("error", "text", "how"),
    [
        (ValueError, "'start'", {"start": torch.ones(3)}),
        (ValueError, "'solver'.*did you mean 'damped'", {"solver": "dampd"}),
        (ValueError, "'tol'", {"tol": 0.0}),
        (ValueError, "'damping'", {"damping": 0.0}),
        (ValueError, "'function'.*shape", {"function": lambda z: z[:, :1]}),
        (ValueError, "'on_failure'", {"on_failure": "stop"}),
    ],
)
def test_errors(error: type[Exception], text: str, how: dict[str, Any]) -> None:
    with pytest.raises(error, match=text):
        fixed_point(how.pop("function", lambda z: z / 2), how.pop("start", torch.ones(3, 2)), **how)
