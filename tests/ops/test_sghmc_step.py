"""A step of SGHMC: the equations, the same bits on every backend, and stationary variances in closed form."""

from __future__ import annotations

import math
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops import philox_normal, sghmc_step_
from torch import Tensor

SHAPES = [(1,), (3, 5), (70,), (), (2, 300)]


class Chain:
    """Tensors with their state; gradients depend on the step alone."""

    def __init__(self, device: torch.device | str, dtypes: list[torch.dtype], shapes: Any = SHAPES) -> None:
        self.weights = []
        for k, shape in enumerate(shapes):
            w = torch.randn(shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            self.weights.append(w.to(device, dtypes[k % len(dtypes)]))
        self.momentum = [torch.zeros_like(w) for w in self.weights]
        self.tau, self.g, self.v = ([torch.ones_like(w) for w in self.weights] for _ in range(3))

    @property
    def state(self) -> list[list[Tensor]]:
        return [self.momentum, self.tau, self.g, self.v]

    def step(self, step: int, **rule: Any) -> None:
        generator = torch.Generator().manual_seed(step)
        grads = [
            torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.device, w.dtype) for w in self.weights
        ]
        sghmc_step_(self.weights, grads, *self.state, seed=2**40 + 1, step=step, **rule)


def test_a_step_by_hand(on: torch.device) -> None:
    """Two steps of one entry in Python's floats; the noise is that of ``philox_normal``."""
    w, m, tau, g, v = (torch.tensor([x], device=on, dtype=torch.float64) for x in (0.5, 0.0, 1.0, 1.0, 1.0))
    x, p, t, mean, square = 0.5, 0.0, 1.0, 1.0, 1.0
    lr, decay, eps = 0.1, 0.2, 1e-10
    for step, grad in enumerate((0.3, -0.8)):
        sghmc_step_([w], [torch.tensor([grad], device=on, dtype=torch.float64)], [m], [tau], [g], [v],
                    seed=3, step=step, rows=[5], lr=lr, mdecay=decay, scale_grad=2.0)  # fmt: skip
        z = philox_normal(3, (1, 1), step=step, first_row=5, dtype=torch.float64).item()
        share, full = 1 / (t + 1), 2 * grad
        t, mean, square = t + 1 - t * mean**2 / (square + eps), mean + share * (full - mean), square + share * (full**2 - square)  # fmt: skip # noqa: E501
        scale = 1 / (math.sqrt(square) + eps)
        p += -(lr**2) * scale * full - decay * p + math.sqrt(2 * lr**2 * decay * scale - lr**4) * z
        x += p
        for got, expected in ((w, x), (m, p), (tau, t), (g, mean), (v, square)):
            assert got.item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float64], [torch.float32, torch.float64]], ids=str)
def test_every_backend_gives_the_same_bits(on: torch.device, dtypes: list[torch.dtype]) -> None:
    ours = Chain(on, dtypes)
    with pk.use_backend("reference"):
        theirs = Chain("cpu", dtypes)
        for step in range(6):
            theirs.step(step, burn_in=step < 3, lr=0.05, scale_grad=40.0)
    for step in range(6):
        ours.step(step, burn_in=step < 3, lr=0.05, scale_grad=40.0)
    for got, expected in zip([ours.weights, *ours.state], [theirs.weights, *theirs.state], strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))


def test_strides_and_empty_tensors(on: torch.device) -> None:
    plain, turned = Chain(on, [torch.float32], [(4, 6)]), Chain(on, [torch.float32], [(4, 6)])
    turned.weights = [turned.weights[0].T.contiguous().T]
    turned.momentum = [torch.zeros(6, 4, device=on).T]
    plain.step(1)
    turned.step(1)
    assert turned.weights[0].stride() == (1, 4)
    assert torch.equal(plain.weights[0], turned.weights[0])
    Chain(on, [torch.float32], [(0, 3)]).step(1)


def test_threads_and_chunks_do_not_change_a_bit() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            chain = Chain("cpu", [torch.float32], [(40_001,), (7,)])
            chain.step(0)
            found.append(chain.weights)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("precision", [1.0, 4.0, 25.0])
def test_the_stationary_variance_of_a_normal_target(precision: float) -> None:
    """Fixed scale M = 1: the chain is linear, and its variance has a closed form, with the noise that is missing."""
    lr, decay, n = 0.1, 0.05, 20_000
    w, m = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    tau, g, v = (torch.ones(n, dtype=torch.float64) for _ in range(3))
    for step in range(400):
        rule = {"seed": 1, "step": step, "burn_in": False, "lr": lr, "mdecay": decay}
        sghmc_step_([w], [precision * w], [m], [tau], [g], [v], **rule)
    h = lr**2
    expected = (1 - lr**4 / (2 * h * decay)) / precision / (1 - h * precision / (2 * (2 - decay)))
    assert abs(float(w.var()) / expected - 1) < 4 * math.sqrt(2 / n)
    assert torch.equal(v, torch.ones_like(v))  # nothing adapts after the burn-in


def test_the_burn_in_finds_the_scale_of_gradients() -> None:
    """v becomes the mean square of gradients, whatever their size: tau stays near its fixed point."""
    chain = Chain("cpu", [torch.float64], [(2000,)])
    for step in range(300):
        chain.step(step, scale_grad=100.0, lr=0.001)
    assert abs(float(chain.v[0].mean()) / 1e4 - 1) < 0.1


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": 0.0}, ValueError, "argument 'lr': expected a positive number"),
    ({"lr": float("nan")}, ValueError, "argument 'lr'"),
    ({"mdecay": 1.5}, ValueError, "argument 'mdecay'"),
    ({"seed": -1}, ValueError, "argument 'seed'"),
    ({"step": 0.5}, TypeError, "argument 'step'"),
    ({"rows": [1, 2]}, ValueError, "argument 'rows': expected 1 items"),
    ({"rows": [2**32]}, ValueError, "argument 'rows\\[0\\]'"),
    ({"weights": [torch.zeros(3).half()]}, TypeError, "argument 'weights\\[0\\]': expected dtype float32 or float64"),
    ({"weights": torch.zeros(1, 3)}, TypeError, "argument 'weights': expected a list of tensors"),
    ({"grads": [torch.zeros(3).double()]}, TypeError, "argument 'grads\\[0\\]': expected a torch.float32 tensor"),
    ({"tau": [torch.zeros(4)]}, ValueError, "argument 'tau\\[0\\]': expected shape \\(3,\\)"),
    ({"v": []}, ValueError, "argument 'v': expected 1 items"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    names = ("weights", "grads", "momentum", "tau", "g", "v")
    good: dict[str, Any] = {name: [torch.ones(3)] for name in names} | {"seed": 0, "step": 0}
    sghmc_step_(**good)
    with pytest.raises(error, match=text):
        sghmc_step_(**(good | change))


def test_tensors_that_share_memory_are_refused() -> None:
    w = torch.ones(3)
    with pytest.raises(ValueError, match="expected every tensor to change once"):
        sghmc_step_([w], [w], [w], *([torch.ones(3)] for _ in range(3)), seed=0, step=0)
