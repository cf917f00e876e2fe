"""Monotone Boltzmann machines: printed fixed points, uniqueness, bounds, gradients, clamping, training, errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from probkernels.energy import MonotoneConvCoupling, MonotoneCoupling, MonotoneDBM, focal_loss, random_mask
from probkernels.energy.monotone_dbm import free_energy
from torch import Tensor

A = [
    [1, -0.5, 0.3, 0.2, -0.4, 0.6],
    [0.2, 0.7, -0.1, -0.8, 0.5, 0.1],
    [-0.6, 0.4, 0.9, 0.3, 0.2, -0.7],
    [0.5, 0.1, -0.2, 0.6, -0.3, 0.4],
]
Q = [0.3136117602, 0.2602751765, 0.4261130633, 0.3167961298, 0.3948279258, 0.2883759444]


def machine(weight: Any, sizes: list[int], bias: Any, m: float = 0.1, **how: Any) -> MonotoneDBM:
    """A float64 machine with given numbers."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    coupling = MonotoneCoupling(sizes, len(weight), m).double()
    found = MonotoneDBM(coupling, **{"tol": 1e-14, "max_iterations": 5000, **how}).double()
    with torch.no_grad():
        coupling.weight.copy_(weight)
        found.bias.copy_(torch.as_tensor(bias, dtype=torch.float64))
    return found


def printed(**how: Any) -> MonotoneDBM:
    return machine(A, [3, 3], [0.1, -0.2, 0.3, 0, 0.2, -0.1], **how)


def free(model: MonotoneDBM, batch: int = 1) -> tuple[Tensor, Tensor]:
    """A query in which nothing is observed."""
    shape = batch, len(model.sizes)
    return torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)


@pytest.mark.parametrize(("alpha", "iterations"), [(0.125, 103), (0.5, 33), (1.0, 21), ("auto", 21)])
def test_printed_fixed_point(alpha: Any, iterations: int) -> None:
    model = printed(alpha=alpha)
    norms = torch.tensor([1.4381797, 1.2888066], dtype=torch.float64)
    torch.testing.assert_close(model.coupling.block_norms(), norms, rtol=0, atol=1e-7)
    assert model.min_eig() == pytest.approx(0.2062473994, abs=1e-9)
    assert model.coupling.norm(200) == pytest.approx(1.7937526006, abs=1e-6)
    found = model.infer(*free(model))
    torch.testing.assert_close(found.marginals[0], torch.tensor(Q, dtype=torch.float64), rtol=0, atol=1e-10)
    assert abs(int(found.iterations) - iterations) <= 0.1 * iterations + 2
    torch.testing.assert_close(model.log_marginals(found).exp(), found.marginals, rtol=1e-12, atol=0)


def test_free_energy_bounds_the_normalizer() -> None:
    model = printed(alpha=0.5)
    energy = float(model.free_energy(model.infer(*free(model)).marginals).detach())
    phi, log_weights = model.coupling.matrix(), []
    for states in product(range(3), repeat=2):
        x = model.coupling.groups.one_hot(torch.tensor(states), phi)
        log_weights.append(x @ phi @ x / 2 + model.bias @ x)
    log_z = float(torch.stack(log_weights).logsumexp(0).detach())
    assert energy == pytest.approx(-2.3104271497, abs=1e-9) and log_z == pytest.approx(2.3433300864, abs=1e-9)
    assert energy >= -log_z
    other = torch.rand(50, 6, dtype=torch.float64).unflatten(1, (2, 3)).softmax(-1).flatten(1)
    assert bool((model.free_energy(other) >= energy).all())
    assert bool(free_energy(model.coupling.product(), model.bias, torch.eye(6).double()).isfinite().all())


def test_divergence_of_the_plain_mean_field() -> None:
    """Ten groups that repel each other: steps above 2 / L oscillate, below it they converge."""
    weight = math.sqrt(0.9) * torch.eye(2, dtype=torch.float64).repeat(1, 10)
    bias = torch.linspace(-0.3, 0.3, 20, dtype=torch.float64)
    model = machine(weight, [2] * 10, bias)
    assert model.coupling.norm() == pytest.approx(9.1, abs=1e-6)
    for alpha in (1.0, 0.5, 0.25):
        model.alpha, model.max_iterations = alpha, 300
        with pytest.warns(RuntimeWarning, match="smaller alpha"):
            found = model.infer(*free(model))
        assert not found.converged and float(found.residual) > 0.3
    expected = torch.tensor([0.4984366868, 0.5015633132], dtype=torch.float64).repeat(10)
    for alpha, iterations in ((0.2, 58), (0.125, 12), (0.05, 33), ("auto", 15)):
        model.alpha = alpha
        found = model.infer(*free(model))
        torch.testing.assert_close(found.marginals[0], expected, rtol=0, atol=1e-10)
        assert found.converged and int(found.iterations) <= 1.6 * iterations


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_automatic_steps_are_below_two_over_the_norm(kind: str) -> None:
    """Also where power iteration underestimates the norm: clustered eigenvalues, a norm a little above 2."""
    for seed in range(4):
        torch.manual_seed(seed)
        coupling = (
            MonotoneCoupling([1] * 120, 480)
            if kind == "dense"
            else MonotoneConvCoupling([(3, 1, 6, 6), (2, 1, 3, 3)], [[3, 0], [3, 1]])
        ).double()

        def norm(coupling: Any = coupling) -> float:
            return float((1 - torch.linalg.eigvalsh(coupling.matrix().detach())).max())

        with torch.no_grad():
            for weight in coupling.parameters():
                weight *= 0.1  # not scaled by the coupling any more, so that Phi is quadratic in the weights
            factor = (1.02 / (norm() - 1)) ** 0.5
            for weight in coupling.parameters():
                weight *= factor
        assert norm() > 1.6
        assert MonotoneDBM(coupling).double().step_size() * norm() < 2


@pytest.mark.parametrize("solver", ["damped", "anderson"])
def test_one_solution_from_all_starts(solver: str) -> None:
    """Also of clamped problems, and for any weights; sizes differ."""
    torch.manual_seed(3)
    sizes = [2, 4, 4, 3]
    model = machine(4 * torch.randn(9, 13, dtype=torch.float64), sizes, torch.randn(13), solver=solver, tol=1e-13)
    assert model.min_eig() >= 0.1 - 1e-12
    states, observed = torch.tensor([[1, 3, 0, 0]]).expand(20, -1), torch.tensor([False, True, False, False])
    for seen in (observed, ~observed, torch.zeros_like(observed)):
        start = model.coupling.groups.map(lambda part: part.softmax(-1), 3 * torch.randn(20, 13, dtype=torch.float64))
        q = model.infer(states, seen, start=start).marginals
        assert float((q - q[:1]).detach().abs().max()) < 1e-10
        residual = model.coupling.groups.map(lambda part: part.softmax(-1), model.coupling(q) + model.bias) - q
        free_states = ~model.coupling.groups.repeat(seen)
        assert float(residual[:, free_states].detach().abs().max()) < 1e-10
    assert torch.equal(model.infer(states, torch.ones(4, dtype=torch.bool)).marginals.argmax(1), torch.ones(20).long())


def test_no_coupling_is_a_softmax() -> None:
    model = machine(torch.zeros(2, 5), [2, 3], torch.randn(5))
    q = model.infer(*free(model)).marginals[0]
    torch.testing.assert_close(q, torch.cat([model.bias[:2].softmax(0), model.bias[2:].softmax(0)]))


def test_implicit_gradient() -> None:
    torch.manual_seed(1)
    model = machine(torch.randn(6, 12), [3] * 4, torch.randn(12), alpha=0.3)
    states, observed = torch.tensor([[2, 0, 0, 0]]), torch.tensor([True, False, False, False])
    toward = torch.randn(12, dtype=torch.float64)

    def value() -> Tensor:
        return (model(states, observed) * toward).sum() + model.infer(states, observed).logits.square().sum()

    grads = torch.autograd.grad(value(), [model.bias, model.coupling.weight])
    for parameter, grad in zip((model.bias, model.coupling.weight), grads, strict=True):
        along = torch.randn_like(parameter)
        with torch.no_grad():
            ends = []
            for sign in (1e-5, -2e-5):
                parameter += sign * along
                ends.append(float(value()))
            parameter += 1e-5 * along
        assert float((grad * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_autocast_rounds_nothing() -> None:
    torch.manual_seed(0)
    model = MonotoneDBM(MonotoneCoupling([3] * 12, 20), tol=1e-6)
    q = torch.full((2, 36), 1 / 3)

    def found() -> list[Any]:
        return [*model.infer(*free(model, 2))[:2], model.free_energy(q), model.min_eig(), model.step_size()]

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        got = found()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_convolutional_coupling() -> None:
    """Symmetric, without blocks on the diagonal, bounded, and with large weights too; odd and even kernels, strides."""
    for tiers, kernels in (
        ([(3, 1, 4, 6), (2, 2, 2, 3), (4, 1, 1, 1)], [[3, 0, 0], [3, 1, 0], [0, 0, 1]]),
        ([(2, 1, 4, 4), (2, 1, 1, 1)], [[2, 0], [5, 1]]),
    ):
        coupling = MonotoneConvCoupling(tiers, kernels, m=0.05).double()
        for factor in (1, 6):
            with torch.no_grad():
                for weight in coupling.parameters():
                    weight *= factor
            phi = coupling.matrix()
            group = coupling.groups.repeat(torch.arange(float(len(coupling.sizes))))
            own = group[:, None] == group
            assert float((phi - phi.mT).abs().max()) < 1e-12
            assert float(phi[own].abs().max()) < 1e-12 and float(phi.abs().max()) > 1e-3
            assert coupling.min_eig() >= 0.05 - 1e-12
        model = MonotoneDBM(coupling, tol=1e-12).double()
        found = model.infer(*free(model, 2))
        assert found.converged
        found.logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in coupling.parameters())


def test_learns_to_complete_and_classify() -> None:
    """Two patterns over six groups and their label: what is missing is recovered, and copies keep their answers."""
    torch.manual_seed(0)
    patterns = torch.tensor([[0, 1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1]])
    target = patterns[torch.arange(64) % 2]
    model = MonotoneDBM(MonotoneCoupling([2] * 7, 8, m=0.1), scale=3.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        observed = random_mask((64, 7), 0.5)
        observed[:, 6] = False
        observed[:, 0] = True
        loss = model.loss(target, observed, target, label=6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0] and model.min_eig() >= 0.1 - 1e-6
    seen = torch.tensor([True, True, False, False, False, False, False])
    assert torch.equal(model.complete(patterns, seen), patterns)
    assert torch.equal(model.classify(patterns, seen, 6), patterns[:, 6])
    twin = MonotoneDBM(MonotoneCoupling([2] * 7, 8, m=0.1))
    twin.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), twin):
        torch.testing.assert_close(other.predict_proba(patterns, seen, 6), model.predict_proba(patterns, seen, 6))


def test_unknown_labels_are_left_out() -> None:
    model, target = ready(), torch.tensor([[1, 2], [0, 1], [0, -1], [1, -100]])
    all_of, known = (model.loss(t, SEEN, t, label=1) for t in (target, target[:2]))
    assert torch.equal(all_of, known)
    assert float(model.loss(target[2:], SEEN, target[2:], label=1)) == 0


def test_focal_loss_values() -> None:
    logits, target = torch.randn(50, 3, dtype=torch.float64), torch.arange(50) % 2
    plain = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(focal_loss(logits, target, gamma=0, balanced=False), plain)
    p = logits.softmax(1)[range(50), target]
    torch.testing.assert_close(focal_loss(logits, target), (-((1 - p) ** 2) * p.log()).mean())  # equal counts


def ready(**how: Any) -> MonotoneDBM:
    return MonotoneDBM(MonotoneCoupling([2, 3]), **how)


STATES, SEEN = torch.zeros(4, 2, dtype=torch.long), torch.tensor([True, False])


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (ValueError, "'alpha'.*got 0", lambda: ready(alpha=0)),
        (ValueError, "'alpha'.*'auto'", lambda: ready(alpha="aut")),
        (ValueError, "'m'", lambda: MonotoneCoupling([2, 2], m=1.0)),
        (ValueError, r"'sizes\[1\]'", lambda: MonotoneCoupling([2, 0])),
        (TypeError, "'sizes'", lambda: MonotoneCoupling([])),
        (TypeError, "'coupling'", lambda: MonotoneDBM(torch.nn.Linear(2, 2))),  # type: ignore[arg-type]
        (ValueError, "'states'.*2 at .0, 0.", lambda: ready().infer(STATES + 2, SEEN)),
        (ValueError, "'states'.*shape", lambda: ready().infer(STATES[:, :1], SEEN)),
        (TypeError, "'states'", lambda: ready().infer(STATES.float(), SEEN)),
        (TypeError, "'observed'", lambda: ready().infer(STATES, SEEN.long())),
        (ValueError, "'observed'.*shape", lambda: ready().infer(STATES, SEEN[:1])),
        (ValueError, "'group'.*not observed", lambda: ready().predict_proba(STATES, SEEN, 0)),
        (ValueError, "'group'", lambda: ready().predict_proba(STATES, SEEN, 2)),
        (ValueError, "'label'.*not observed", lambda: ready().loss(STATES, SEEN, STATES, label=0)),
        (ValueError, "'label'.*got -1", lambda: ready().loss(STATES, SEEN, STATES, label=-1)),
        (
            ValueError,
            r"'kernels\[0\]\[1\]'",
            lambda: MonotoneConvCoupling([(2, 1, 2, 2), (2, 1, 1, 1)], [[0, 3], [0, 1]]),
        ),
        (ValueError, "'share'", lambda: random_mask((2,), 1.2)),
        (ValueError, "'target'.*3 at .1", lambda: focal_loss(torch.zeros(2, 3), torch.tensor([0, 3]))),
    ],
)
def test_errors(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=text):
        call()


def test_nan_parameters_and_groups_of_one_state() -> None:
    model = ready()
    with torch.no_grad():
        model.bias[1] = math.nan
    with pytest.raises(ValueError, match=r"'bias'.*nan"):
        model.infer(STATES, SEEN)
    lone = MonotoneDBM(MonotoneCoupling([1, 3]))
    q = lone.infer(STATES, torch.zeros(2, dtype=torch.bool)).marginals
    torch.testing.assert_close(q[:, 0], torch.ones(4))
    torch.testing.assert_close(q[:, 1:].sum(1), torch.ones(4))
