"""Binomial checkpoints: the same bits as with all states, the least number of steps, and no more states than given."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, grid, sample, scheme
from probkernels.diffusion.gradients.revolve import Snapshots, advances, least_states
from probkernels.diffusion.solvers import SOLVERS
from probkernels.diffusion.solvers.mixing import Registers
from torch import Tensor

from tests.diffusion.test_gradients import DIMS, denoiser, everything, gradients, leaf


@functools.cache
def optimum(steps: int, states: int) -> int:
    """By dynamic programming: the first state is kept; the next one is set after m steps."""
    if states == 1:
        return steps * (steps - 1) // 2
    choices = (m + optimum(steps - m, states - 1) + optimum(m, states) for m in range(1, steps))
    return min(choices, default=0)


@pytest.mark.parametrize("states", range(1, 9))
def test_the_plan_is_the_binomial_optimum(states: int) -> None:
    for steps in range(1, 45):
        taken, most, plan = 0, 0, Snapshots(states)

        def step(i: int, registers: Registers) -> Registers:
            nonlocal taken
            taken += 1
            assert registers == [i]
            return [i + 1]

        plan.start(0, [0])
        for n in reversed(range(steps)):
            assert plan.reach(n, step) == [n]
            most = max(most, len(plan.kept))
            plan.passed(n)
        assert taken == advances(steps, states) == optimum(steps, states)
        assert most <= states


def test_known_counts() -> None:
    """Griewank and Walther: C(S + r, r) steps with S states, each taken again at most r times."""
    assert [least_states(n) for n in (1, 3, 50, 55, 56, 1000)] == [1, 1, 9, 9, 10, 44]
    assert advances(10, 3) == 15
    assert advances(50, 50) == 49 and advances(50, 1) == 50 * 49 // 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_equals_all_states_to_the_bit(solver: str) -> None:
    """For every input, with few states and many."""
    model, leaves = denoiser(), everything()
    leaves["times"] = grid(VP(t_min=0.02), 6).requires_grad_()
    rows = scheme(model.process, leaves["times"].detach(), solver)
    if any(rows.draws):
        leaves["noise"] = leaf(rows.steps, 2, DIMS, seed=3)
    expected = gradients(model, leaves, "exact", solver=solver)
    for store in ("revolve", "revolve=1", "revolve=3", "revolve=100"):
        got = gradients(model, leaves, "exact", solver=solver, store=store)
        assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))


@pytest.mark.parametrize("options", [{"last_k": 3}, {"solver": "ancestral"}, {"solver": "heun", "last_k": 2}])
def test_with_noise_and_truncation(options: dict[str, Any]) -> None:
    model, leaves = denoiser(dropout=0.3).train(), everything()
    found = []
    for store in ("states", "revolve=2"):
        torch.manual_seed(4)
        found.append(gradients(model, leaves, "exact", **{"solver": "ab3", "steps": 7, "store": store, **options}))
    assert all(torch.equal(g, e) for g, e in zip(*found, strict=True))


@pytest.mark.parametrize(("steps", "states"), [(10, 3), (20, 4), (20, 20), (7, 1)])
def test_the_net_is_called_as_seldom_as_possible(steps: int, states: int) -> None:
    model, count = denoiser(), 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    model.net.register_forward_hook(counted)
    x = sample(model, leaf(2, DIMS), solver="dpmpp_2m", steps=steps, grad="exact", store=f"revolve={states}")
    assert count == steps
    x.sum().backward()
    assert count == advances(steps, states) + 1 + steps  # the last step once without a graph, each once with one


def test_what_is_saved_does_not_depend_on_the_steps() -> None:
    def saved(steps: int) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            x = sample(model, x_T, solver="ddim", steps=steps, grad="exact", store="revolve=4")
            assert x.requires_grad
        return sum(sizes.values())

    model, x_T = denoiser(), leaf(64, DIMS)
    assert saved(10) == saved(100)


def test_the_graph_can_be_run_twice() -> None:
    model, x_T = denoiser(), leaf(2, DIMS)
    x = sample(model, x_T, solver="ab2", steps=9, grad="exact", store="revolve=3")
    first = torch.autograd.grad(x.sum(), x_T, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(x.sum(), x_T)[0], first)
