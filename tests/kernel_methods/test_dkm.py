"""Deep kernel machines: kernels of Gram matrices, closed forms, stationarity, limits, the layer of a fixed example."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from probkernels.kernel_methods import (
    DeepKernelMachine,
    GramBatchNorm,
    GramKernel,
    GramLayer,
    GramState,
    SparseDKM,
    dkm_objective,
    gram_kernels,
    gram_kl,
)
from probkernels.kernel_methods.gram_kernels import KERNELS
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
EQUAL_POINTS: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}  # their cosine is 1 - 1e-6


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def symmetric(*upper: float) -> Tensor:
    """A (3, 3) matrix of its upper triangle."""
    found = torch.zeros(3, 3, dtype=torch.float64)
    found[torch.triu_indices(3, 3).unbind()] = torch.tensor(upper, dtype=torch.float64)
    return found.triu(1).mT + found


G0 = symmetric(1, 0.3, 0.1, 1, 0.2, 1)
Y = matrix([1, -0.5, 0.2], [-0.7, 1.2, 0.4], [0.3, 0.6, -0.9])
S = Y @ Y.mT / 3
RELU = GramKernel("relu", learn=False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_of(points: int, seed: int = 0) -> Tensor:
    x = drawn(points, points + 2, seed=seed)
    return x @ x.mT / x.shape[1]


# --- kernels ---


def test_relu_kernel_and_divergence_of_the_worked_example() -> None:
    kernel = RELU(G0)
    expected = symmetric(1, 0.48274428, 0.36990277, 1, 0.42469756, 1)
    torch.testing.assert_close(kernel, expected, atol=1e-8, rtol=0)
    assert kernel.diagonal().tolist() == [1.0, 1.0, 1.0]
    assert gram_kl(G0, kernel).item() == pytest.approx(0.07916020899539644, abs=1e-13)
    assert gram_kl(S, G0).item() == pytest.approx(0.8546697445877824, abs=1e-13)


@pytest.mark.parametrize("name", ["relu", "heaviside"])
def test_arc_cosine_kernels_are_those_of_random_features(name: str) -> None:
    x = drawn(3, 2)
    features = drawn(2, 400_000, seed=1).mT @ x.mT
    made = features.relu() if name == "relu" else (features > 0).double()
    found = 2 * made.mT @ made / len(features)
    if name == "heaviside":
        lengths = x.norm(dim=1)
        found = found * lengths[:, None] * lengths
    torch.testing.assert_close(GramKernel(name, learn=False)(x @ x.mT), found, atol=0.02, rtol=0)


def test_smooth_kernels_by_their_formulas() -> None:
    x = drawn(4, 3)
    lengths = x.norm(dim=1)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    found = GramKernel("squared_exponential", learn=False)(x @ x.mT)
    torch.testing.assert_close(found, (-distances / 2).exp())
    unit = x / lengths[:, None]
    angles = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = lengths[:, None] * lengths * (-angles / 2).exp()
    torch.testing.assert_close(GramKernel("normalized_gaussian", learn=False)(x @ x.mT), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_parts_of_a_state_are_parts_of_the_whole_kernel(name: str) -> None:
    gram, kernel = gram_of(6), GramKernel(name, weight=1.5, bias=0.1)
    whole = kernel(gram)
    parts = kernel.of_state(GramState(gram[:4, :4], gram[4:, :4], gram.diagonal()[4:]))
    torch.testing.assert_close(parts.ii, whole[:4, :4])
    torch.testing.assert_close(parts.ti, whole[4:, :4])
    torch.testing.assert_close(parts.t, whole.diagonal()[4:])
    assert torch.linalg.eigvalsh(whole).min() > -1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KERNELS)
def test_equal_opposite_and_zero_points_have_finite_gradients(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    kernel = GramKernel(name)(x @ x.mT)
    (grad,) = torch.autograd.grad(kernel.square().sum(), x)
    assert kernel.isfinite().all() and grad.isfinite().all()
    assert kernel[0, 1].item() == pytest.approx(kernel[0, 0].item(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_relu_kernels_of_many_points_by_the_op_are_those_of_few(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Values and gradients, with equal, opposite and zero points, whose derivative is that of the limit."""
    x = torch.cat([drawn(9, 4), drawn(1, 4), -drawn(1, 4), torch.zeros(1, 4, dtype=torch.float64)]).to(dtype)
    kernel, weights = GramKernel("relu", weight=1.5, bias=0.1), drawn(12, 10, seed=3).to(dtype)
    found = []
    for least in (0, 1000):
        monkeypatch.setattr(gram_kernels, "OP_PAIRS", least)
        given = [(x @ x[:10].mT).requires_grad_(), *(x[:n].square().sum(1).requires_grad_() for n in (12, 10))]
        out = kernel.cross(*given)
        found.append([out, *torch.autograd.grad((out * weights).sum(), given)])
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    far = (x[:, None] != x[:10]).any(-1) & (x[:, None] != -x[:10]).any(-1)  # elsewhere rounding decides the angle
    for one, other in zip(*found[:2], strict=True):
        near = EQUAL_POINTS if dtype == torch.float64 else {"atol": 1e-2, "rtol": 1e-2}
        torch.testing.assert_close(one, other, **near)
        if one.ndim == 2:
            torch.testing.assert_close(one[far], other[far], atol=tolerance, rtol=tolerance)
    (slope,) = torch.autograd.grad(kernel.cross(*given)[9, 9], given[0])
    assert slope[9, 9].item() == pytest.approx(1.5, rel=1e-2)


# --- the objective ---


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_deep_linear_machine_interpolates_geometrically(depth: int) -> None:
    """The closed form G_l = G_0 (G_0^-1 S)^(l / (L + 1)) is where the gradient is 0, and has the known value."""
    values, vectors = np.linalg.eig(np.linalg.solve(G0.numpy(), S.numpy()))
    powers = [vectors @ np.diag(values ** (n / (depth + 1))) @ np.linalg.inv(vectors) for n in range(1, depth + 1)]
    grams = [(G0 @ torch.from_numpy(power.real)).requires_grad_() for power in powers]
    found = dkm_objective(grams, G0, Y, noise=0.0, nu=3.0, kernel="linear")
    expected = {1: -1.8046744321, 2: -1.3662980094, 3: -1.1109642811}[depth]
    assert found.item() + 4.5 * LOG_2PI == pytest.approx(expected, abs=1e-9)
    for grad in torch.autograd.grad(found, grams):
        torch.testing.assert_close(grad + grad.mT, torch.zeros_like(grad), atol=1e-10, rtol=0)
    if depth == 1:
        known = symmetric(0.53879519, -0.19457712, -0.02846901, 0.71462070, 0.07912105, 0.64089932)
        torch.testing.assert_close(grams[0].detach(), known, atol=1e-8, rtol=0)


def fitted(nu: float, depth: int = 1) -> tuple[DeepKernelMachine, float]:
    machine = DeepKernelMachine(3, depth=depth, nu=nu, kernel=RELU, noise=0.1, learn_noise=False)
    losses = machine.fit(G0, Y[:, :1], steps=300, tolerance=1e-10)
    return machine, 1.5 * LOG_2PI - losses[-1]


@pytest.mark.parametrize(
    ("nu", "expected"), [(0.1, 0.1264440717), (1.0, -0.7928927020), (10.0, -1.2072435796), (1000.0, -1.2742382057)]
)
def test_relu_machine_of_the_worked_example(nu: float, expected: float) -> None:
    machine, objective = fitted(nu)
    assert objective == pytest.approx(expected, abs=1e-8)
    gram = machine.grams(G0)[0].detach()
    assert dkm_objective([gram], G0, Y[:, :1], nu=nu).item() + 1.5 * LOG_2PI == pytest.approx(objective, abs=1e-10)
    if nu == 1.0:
        known = symmetric(0.91865884, -0.02245273, 0.28857587, 0.65741226, 0.07496230, 0.38270012)
        torch.testing.assert_close(gram, known, atol=1e-6, rtol=0)
    if nu == 10.0:
        assert gram[0, 1].item() == pytest.approx(0.40536241, abs=1e-6)


def test_the_optimum_is_a_fixed_point() -> None:
    machine, _ = fitted(1.0)
    gram = machine.grams(G0)[0].detach().requires_grad_()
    evidence = dkm_objective([gram], G0, Y[:, :1], nu=1.0) + gram_kl(gram, RELU(G0))
    (gamma,) = torch.autograd.grad(evidence, gram)
    again = torch.linalg.inv(torch.linalg.inv(RELU(G0)) - (gamma + gamma.mT))
    torch.testing.assert_close(again, gram.detach(), atol=1e-8, rtol=0)


def test_infinite_width_is_the_gaussian_process_of_the_network() -> None:
    machine, objective = fitted(math.inf)
    assert objective == pytest.approx(-1.2749789098, abs=1e-9)
    kernel = RELU(RELU(G0))
    torch.testing.assert_close(machine.grams(G0)[0], RELU(G0))
    mean, variance = machine.predict(GramState(G0, G0, G0.diagonal()), Y)
    solved = torch.linalg.solve(kernel + 0.1 * torch.eye(3), torch.cat([Y, kernel], 1))
    torch.testing.assert_close(mean, kernel @ solved[:, :3], **EQUAL_POINTS)
    torch.testing.assert_close(variance, kernel.diagonal() - (kernel @ solved[:, 3:]).diagonal(), **EQUAL_POINTS)


def test_finite_width_tends_to_the_machine() -> None:
    """One point, linear, G_0 = 1, y^2 = 4. At width N the exact posterior of g is generalized inverse Gaussian."""
    special = pytest.importorskip("scipy.special")
    known = {1: 2.456074, 4: 2.121505, 16: 2.031013, 64: 2.007797, 256: 2.001952}
    log_g = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    for width, expected in known.items():
        ratio = 2 * special.kve(1, 2 * width) / special.kve(0, 2 * width)
        assert ratio == pytest.approx(expected, abs=1e-6)
        # The same posterior from the objective: exp(width * objective), up to the measure 1 / g.
        prior_and_evidence = -(log_g.exp() - log_g) / 2 - (log_g + 4 * (-log_g).exp()) / 2
        weights = (width * prior_and_evidence).softmax(0)
        assert (weights * log_g.exp()).sum().item() == pytest.approx(expected, abs=1e-6)
    one = torch.ones(1, 1, dtype=torch.float64)
    machine = DeepKernelMachine(1, depth=1, kernel=GramKernel("linear", learn=False), noise=1e-12, learn_noise=False)
    machine.fit(one, 2 * one)
    assert machine.grams(one)[0].item() == pytest.approx(2, abs=1e-7)


def test_taylor_agrees_to_third_order() -> None:
    kernel = gram_of(5)
    for e in (0.3, 0.01):
        exact, taylor = (2 * gram_kl((1 + e) * kernel, kernel, form).item() for form in ("exact", "taylor"))
        assert exact == pytest.approx(5 * (e - math.log1p(e)), rel=1e-9)
        assert taylor == pytest.approx(5 / 2 * (e / (1 + e)) ** 2, rel=1e-9)
        assert abs(exact - taylor) < 5 * e**3


def test_a_line_search_that_leaves_the_cone_turns_back(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = DeepKernelMachine(3, depth=1, kernel=RELU, learn_noise=False)
    inner, calls = machine.objective, iter(range(10_000))

    def objective(first: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == 3:
            raise ValueError("not positive definite")
        return inner(first, targets)

    monkeypatch.setattr(machine, "objective", objective)
    losses = machine.fit(G0, Y[:, :1], steps=300, tolerance=1e-10)
    assert 1.5 * LOG_2PI - losses[-1] == pytest.approx(-0.7928927020, abs=1e-8)


def test_gradients_to_the_factors() -> None:
    machine = DeepKernelMachine(4, depth=2, nu=[0.5, 2.0], kernel="relu")
    with torch.no_grad():
        for n, layer in enumerate(machine.layers):
            layer.white.raw.add_(0.3 * drawn(4, 4, seed=n))
    parameters = dict(machine.named_parameters())
    first, targets = gram_of(4), drawn(4, 2)

    def objective(*values: Tensor) -> Tensor:
        return torch.func.functional_call(_Objective(machine), _named(parameters, values), (first, targets))

    assert torch.autograd.gradcheck(objective, tuple(parameters.values()))


class _Objective(torch.nn.Module):
    def __init__(self, machine: DeepKernelMachine) -> None:
        super().__init__()
        self.machine = machine

    def forward(self, first: Tensor, targets: Tensor) -> Tensor:
        return self.machine.objective(first, targets)


def _named(parameters: dict[str, Tensor], values: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"machine.{name}": value for name, value in zip(parameters, values, strict=True)}


def test_order_of_points_and_rotation_of_inputs_do_not_matter() -> None:
    x, grams, y = drawn(5, 3), [gram_of(5, seed=s) for s in (1, 2)], drawn(5, 2)
    first = x @ x.mT / 3 + 0.1 * torch.eye(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = [gram[order][:, order] for gram in grams]
    expected = dkm_objective(grams, first, y)
    torch.testing.assert_close(dkm_objective(shuffled, first[order][:, order], y[order]), expected)
    rotation = torch.linalg.qr(drawn(3, 3, seed=5)).Q
    model = SparseDKM(x[:3], 2, likelihood="gaussian")
    turned = SparseDKM(x[:3] @ rotation, 2, likelihood="gaussian")
    for model_ in (model, turned):
        model_.start_from(y[:3])
    torch.testing.assert_close(model(x).mean, turned(x @ rotation).mean)
    torch.testing.assert_close(model.elbo(x, y, 5), turned.elbo(x @ rotation, y, 5))


# --- inducing points ---


def test_the_layer_of_the_worked_example() -> None:
    x = matrix([1, 0.2], [0.3, -0.5], [-0.8, 0.4], [0.1, 0.9], [0.6, 0.6])
    kernel = RELU(x @ x.mT / 2 + 1e-3 * torch.eye(5))
    gram = symmetric(0.6, 0.1, -0.2, 0.4, 0.05, 0.5)
    layer = GramLayer(3)
    layer.set_gram(gram, kernel[:3, :3])
    state, kl = layer(GramState(kernel[:3, :3], kernel[3:, :3], kernel.diagonal()[3:]))
    torch.testing.assert_close(state.ii, gram)
    expected = matrix([0.18259948, -0.10080569, 0.11960373], [0.42567222, -0.08323052, -0.11523384])
    torch.testing.assert_close(state.ti, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(state.t, torch.tensor([0.39328884, 0.43983442], dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(kl, gram_kl(gram, kernel[:3, :3]))


def test_inducing_points_at_all_points_give_the_full_machine() -> None:
    x, y = drawn(5, 7), drawn(5, 2)
    first = x @ x.mT / 7
    full = DeepKernelMachine(5, depth=2, nu=[0.5, 2.0])
    sparse = SparseDKM(x, 2, depth=2, nu=[0.5, 2.0], likelihood="gaussian")
    with torch.no_grad():
        for seed, (one, other) in enumerate(zip(full.layers, sparse.layers, strict=True)):
            one.white.raw.add_(0.3 * drawn(5, 5, seed=seed))
            other.white.raw.copy_(one.white.raw)
    state, kl = sparse.last_kernel(x)
    known, known_kl = full(GramState(first, first, first.diagonal()))
    torch.testing.assert_close(kl, known_kl)
    for found, expected in zip(state, known, strict=True):
        torch.testing.assert_close(found, expected, **EQUAL_POINTS)
    torch.testing.assert_close(state.ti, state.ii, **EQUAL_POINTS)
    # With the optimal q(u) the bound of the output is the evidence, and predictions are those of the full machine.
    noisy = state.ii + 0.1 * torch.eye(5)
    factor = torch.linalg.cholesky(state.ii)
    with torch.no_grad():
        sparse.output.mean.copy_(factor.mT @ torch.linalg.solve(noisy, y))
        covariance = torch.eye(5) - factor.mT @ torch.linalg.solve(noisy, factor)
        sparse.output.white.set(torch.linalg.cholesky(covariance))
    torch.testing.assert_close(5 * sparse.elbo(x, y, 5), full.objective(first, y), **EQUAL_POINTS)
    mean, variance = full.predict(GramState(first, first, first.diagonal()), y)
    torch.testing.assert_close(sparse(x).mean, mean, **EQUAL_POINTS)
    torch.testing.assert_close(sparse(x).variance, variance, **EQUAL_POINTS)


@pytest.mark.parametrize("kl", ["exact", "taylor"])
def test_infinite_width_and_depth_zero_are_sparse_gaussian_processes(kl: str) -> None:
    x, y = drawn(9, 3), drawn(9, 1)
    deep = SparseDKM(x[:4], 1, depth=2, nu=math.inf, kernel=RELU, likelihood="gaussian", kl=kl)
    assert [type(layer.white) for layer in deep.layers] == [type(None)] * 2
    state, divergence = deep.last_kernel(x)
    whole = RELU(RELU(RELU(x @ x.mT / 3)))
    torch.testing.assert_close(state.ti, whole[:, :4], **EQUAL_POINTS)
    assert divergence.item() == 0
    shallow = SparseDKM(x[:4], 1, depth=0, kernel=RELU, likelihood="gaussian", kl=kl)
    shallow.start_from(y[:4])
    kernel = RELU(x @ x.mT / 3)
    A = torch.linalg.solve(kernel[:4, :4], kernel[:4]).mT
    factor = torch.linalg.cholesky(kernel[:4, :4])
    mean, covariance = factor @ shallow.output.mean, 0.1 * kernel[:4, :4]
    found = shallow(x)
    torch.testing.assert_close(found.mean, A @ mean, **EQUAL_POINTS)
    variance = kernel.diagonal() - (A @ kernel[:4]).diagonal() + (A @ covariance @ A.mT).diagonal()
    torch.testing.assert_close(found.variance, variance, **EQUAL_POINTS)
    expected = gram_kl(covariance, kernel[:4, :4], kl) + mean.mT @ torch.linalg.solve(kernel[:4, :4], mean) / 2
    torch.testing.assert_close(found.kl, expected.squeeze())
    torch.testing.assert_close(shallow.kl(), found.kl)


def test_sampled_gram_matrices_have_the_right_mean() -> None:
    kernel = gram_of(6)
    layer = GramLayer(4, stochastic=True)
    state = GramState(kernel[:4, :4], kernel[4:, :4], kernel.diagonal()[4:])
    generator = torch.Generator().manual_seed(0)
    draws = [layer(state, generator)[0].ii for _ in range(1500)]
    expected = kernel[:4, :4] + 0.1 * torch.eye(4)
    torch.testing.assert_close(torch.stack(draws).mean(0), expected, atol=0.2, rtol=0)
    layer.eval()
    known, kl = layer(state)
    torch.testing.assert_close(known.ii, expected)
    assert kl.item() == 0
    A = torch.linalg.solve(kernel[:4, :4], kernel[:4, 4:]).mT
    torch.testing.assert_close(known.ti, A @ expected)
    torch.testing.assert_close(known.t, kernel.diagonal()[4:] + 0.1 * A.square().sum(1))


@pytest.mark.parametrize("kind", ["global", "local"])
def test_batch_norm_keeps_angles_and_looks_at_no_other_point(kind: str) -> None:
    gram = gram_of(6)
    state = GramState(gram[:4, :4], gram[4:, :4], gram.diagonal()[4:])
    norm = GramBatchNorm(kind)
    found = norm(state)
    mean = found.ii.diagonal().mean()
    assert mean.item() == pytest.approx(1)
    for part, given in ((found, state),):
        lengths = part.t[:, None] * part.ii.diagonal()
        torch.testing.assert_close(part.ti / lengths.sqrt(), given.ti / (given.t[:, None] * given.ii.diagonal()).sqrt())
    if kind == "local":
        torch.testing.assert_close(found.t, torch.ones_like(found.t))
    alone = norm(GramState(state.ii, state.ti[:1], state.t[:1]))
    torch.testing.assert_close(alone.ti, found.ti[:1])


def test_tempering_divides_the_divergence_of_the_output() -> None:
    x = drawn(6, 3)
    models = [SparseDKM(x[:3], 4, depth=0, temper=temper) for temper in (False, True)]
    assert models[0].kl().item() == pytest.approx(4 * models[1].kl().item())


def test_float32_stays_near_float64() -> None:
    x = drawn(40, 5)
    wide = SparseDKM(x[:20], 3, likelihood="gaussian", kl="taylor")
    wide.start_from(drawn(20, 3, seed=1))
    narrow = SparseDKM(x[:20].float(), 3, likelihood="gaussian", kl="taylor")
    narrow.load_state_dict(wide.state_dict())
    found = narrow(x.float())
    assert found.mean.dtype == found.kl.dtype == torch.float32
    torch.testing.assert_close(found.mean.double(), wide(x).mean, atol=1e-2, rtol=1e-2)
    assert (found.variance >= 0).all()
