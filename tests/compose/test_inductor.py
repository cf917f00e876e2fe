"""Training under torch.compile's default backend equals eager in float64: outputs, gradients, and state moved in place.

Inductor fuses and reorders. It may drop a copy of state and read the moved state in the backward, which aot_eager does
not show.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from probkernels import nn, ops
from probkernels._core.registry import Op
from torch import Tensor

from tests.compose.test_compose import examples, results, same

ROWS, FEATURES = 6, 4
WEIGHT = torch.arange(1.0, FEATURES + 1, dtype=torch.float64)


def batch(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return ((1 + step) * torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=generator)).requires_grad_()


def train(module: torch.nn.Module, call: Any, *, forwards: int) -> list[Tensor]:
    """Everything that three steps show, each with so many forwards before its backward."""
    shown = []
    for step in range(3):
        module.zero_grad()
        xs = [batch(10 * step + k) for k in range(forwards)]
        ys = [call(x) for x in xs]
        sum((y.sin() * WEIGHT).mean() for y in ys).backward()
        shown += [*ys, *(x.grad for x in xs), *(p.grad for p in module.parameters())]
        shown += [buffer.clone() for buffer in module.buffers()]
    return shown


MODULES = {
    "default": lambda: nn.PowerNorm(FEATURES),
    "groups": lambda: nn.PowerNorm(FEATURES, num_groups=2),
    "warm-up": lambda: nn.PowerNorm(FEATURES, warmup_iters=2),
    "official": lambda: nn.PowerNorm(FEATURES, compat="official", warmup_iters=1),
    "PN-V": lambda: nn.PowerNormV(FEATURES),
}


@pytest.mark.parametrize("forwards", [1, 2])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "official" else n for n in MODULES])
def test_modules_train_like_eager(name: str, forwards: int) -> None:
    torch._dynamo.reset()
    eager = MODULES[name]().double()
    module = copy.deepcopy(eager)
    expected = train(eager, eager, forwards=forwards)
    same(tuple(train(module, torch.compile(module, fullgraph=True), forwards=forwards)), tuple(expected))


def test_state_that_a_caller_moves() -> None:
    """As the docs of ops.power_norm say: the caller moves psi2 towards mean_sq after the forward."""

    def step(x: Tensor, psi2: Tensor, nu: Tensor) -> Tensor:
        y, mean_sq = ops.power_norm(x, psi2, nu=nu)
        psi2.lerp_(mean_sq, 0.5)
        nu.add_(1)
        return y

    def run(function: Any) -> tuple[Tensor, ...]:
        x, psi2, nu = batch(1), WEIGHT.clone(), WEIGHT / 10
        y = function(x, psi2, nu)
        (y.sin() * WEIGHT).mean().backward()
        return y, x.grad, psi2, nu

    torch._dynamo.reset()
    x = batch(1)
    y, _ = ops.power_norm(x, WEIGHT, nu=WEIGHT / 10)
    (y.sin() * WEIGHT).mean().backward()
    eager = run(step)
    same(eager[:2], (y, x.grad))
    same(run(torch.compile(step, fullgraph=True)), eager)


@pytest.mark.parametrize("setting", [{"activation_memory_budget": 0.5}, {"aggressive_recomputation": True}], ids=str)
def test_settings_that_recompute_opaque_ops_are_refused(setting: dict[str, Any]) -> None:
    torch._dynamo.reset()
    norm = nn.PowerNorm(FEATURES)
    with functorch_config.patch(setting), pytest.raises(RuntimeError, match=f"config.{next(iter(setting))}.*moved"):
        torch.compile(norm)(torch.randn(ROWS, FEATURES))


@pytest.mark.parametrize(
    ("op", "args"), [p for p in examples() if not p.values[0].differentiable and p.id.endswith("-0")]
)
def test_ops_without_gradient(op: Op, args: tuple[Any, ...]) -> None:
    """What they return, and what they leave in the arguments that they change."""
    torch._dynamo.reset()
    same(results(op, torch.compile(op.call, fullgraph=True), args), results(op, op.call, args))
