"""Gradients of likelihoods against finite differences."""

from __future__ import annotations

import pytest
import torch
from probkernels.diffusion import VP, Denoiser, grid, log_prob
from torch import Tensor, nn

from tests.diffusion.test_gradients import DIMS, leaf
from tests.diffusion.test_learned_schedules import ENDS, STEP, Learned, Scaled


class Twice(nn.Module):
    """A net of x, t and a condition whose second derivatives are not zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(DIMS + 1, 8), nn.Linear(8, DIMS)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None]], 1))) * cond)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_gradients_are_those_of_finite_differences(trace: str, solver: str) -> None:
    """To data, parameters, condition, guidance, times and what the process has learned."""
    model = Denoiser(Twice().double(), VP(), pred="v", time=Scaled())
    leaves = {
        "x0": leaf(2, DIMS), "weight": model.net.first.weight, "time": model.time.w, "cond": leaf(2, 8, seed=1),
        "guidance": torch.tensor(1.5, dtype=torch.float64, requires_grad=True),
        "times": grid(VP(t_min=0.02, t_max=0.98), 3, "lambda").requires_grad_(), "ends": ENDS.clone().requires_grad_(),
    }  # fmt: skip

    def value() -> Tensor:
        model.process = Learned(leaves["ends"])
        how = {name: leaves[name] for name in ("times", "guidance")}
        return log_prob(
            model, leaves["x0"], leaves["cond"], uncond=torch.zeros(1, 8).double(), solver=solver, trace=trace,
            generator=torch.Generator().manual_seed(0) if trace == "hutchinson" else None, **how,
        ).sum()  # fmt: skip

    grads = torch.autograd.grad(value(), list(leaves.values()))
    for (name, at), grad in zip(leaves.items(), grads, strict=True):
        along = torch.randn(at.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        with torch.no_grad():
            at.add_(along, alpha=STEP)
            up = value()
            at.add_(along, alpha=-2 * STEP)
            down = value()
            at.add_(along, alpha=STEP)
        assert float((grad * along).sum()) == pytest.approx(float((up - down) / (2 * STEP)), rel=1e-6), name


def test_no_graph_where_there_is_nothing_to_learn() -> None:
    model, x0, cond = Denoiser(Twice().double(), VP(), pred="v"), leaf(2, DIMS), torch.ones(2, 8).double()
    full = log_prob(model, x0, cond, steps=3)
    with torch.no_grad():
        plain = log_prob(model, x0, cond, steps=3)
    assert torch.allclose(full, plain, rtol=1e-14) and full.requires_grad and not plain.requires_grad
    model.requires_grad_(False)
    assert not log_prob(model, x0.detach(), cond, steps=3).requires_grad


def test_a_condition_made_of_the_data_is_no_part_of_the_trace() -> None:
    model, x0 = Denoiser(Twice().double(), VP(), pred="v"), leaf(2, DIMS)
    cond = torch.cat([x0, x0, x0[:, :2]], 1)
    expected = log_prob(model, x0, cond.detach(), steps=3)
    assert torch.allclose(log_prob(model, x0, cond, steps=3), expected, rtol=1e-14)


def test_an_undeclared_tensor_alone_is_refused() -> None:
    outside = leaf(DIMS)

    class Outside(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * outside

    model = Denoiser(Outside(), VP(), pred="v")
    with pytest.raises(ValueError, match="require a gradient are its parameters"):
        log_prob(model, leaf(2, DIMS).detach(), steps=3)
    log_prob(model, leaf(2, DIMS), steps=3).sum().backward()
    assert outside.grad is not None
