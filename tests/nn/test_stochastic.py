"""Stochastic units: the biases of their gradients, exact against enumeration and within 4 standard errors of draws."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from probkernels import nn
from torch import Tensor

A, P = 0.5, 0.6224593312018546
SLOPE = P * (1 - P)
DRAWS = 2_000_000
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

UNITS: dict[str, Callable[..., Tensor]] = {
    "gauss": nn.noisy_rectifier,
    "logistic": lambda a, **more: nn.noisy_rectifier(a, "logistic", **more),
    "smooth": nn.stochastic_times_smooth,
    "identity": nn.straight_through,
    "sigmoid": lambda a, **more: nn.straight_through(a, "sigmoid", **more),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(values: Tensor, expected: float) -> bool:
    """Whether a mean of draws lies within 4 standard errors."""
    values = values.double()
    return bool((values.mean() - expected).abs() < 4 * values.std() / len(values) ** 0.5 + 1e-6)  # of float32


def drawn(unit: str, f: Callable[[Tensor], Tensor], count: int = DRAWS) -> tuple[Tensor, Tensor]:
    """Draws of h at A, and the gradients that f(h) gives with respect to each a."""
    a = torch.full((count,), A, dtype=torch.float32, requires_grad=True)
    h = UNITS[unit](a, generator=seeded())
    (grad,) = torch.autograd.grad(f(h).sum(), a)
    return h.detach(), grad


def states(unit: str, f: Callable[[Tensor], Tensor]) -> dict[float, tuple[float, float]]:
    """For each value of h of a discrete unit, f and the gradient, in float64."""
    a = torch.full((64,), A, dtype=torch.float64, requires_grad=True)
    h = UNITS[unit](a, generator=seeded())
    loss = f(h)
    (grad,) = torch.autograd.grad(loss.sum(), a)
    found = {}
    for value, at, slope in zip(h.tolist(), loss.tolist(), grad.tolist(), strict=True):
        assert found.setdefault(value, (at, slope)) == (at, slope)
    assert len(found) == 2
    return found


def expectation(unit: str, f: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """E f(h) and the mean gradient, by enumeration."""
    found = states(unit, f)
    on = math.sqrt(P) if unit == "smooth" else P
    chances = dict(zip(sorted(found), (1 - on, on), strict=True))
    return tuple(sum(chances[h] * pair[i] for h, pair in found.items()) for i in (0, 1))


def identity(h: Tensor) -> Tensor:
    return h * 1


# --- oracles of the units' moments and biases ---


@pytest.mark.parametrize(
    ("unit", "f", "mean", "gradient"),
    [
        ("smooth", identity, P, 0.1175018561),
        ("smooth", torch.square, 0.4910960858, 0.1854087447),
        ("identity", identity, P, 1),
        ("identity", torch.square, P, 1.2449186624),
        ("sigmoid", identity, P, SLOPE),
        ("sigmoid", torch.square, P, 0.2925605071),
    ],
)
def test_biases_are_exact(unit: str, f: Callable[[Tensor], Tensor], mean: float, gradient: float) -> None:
    assert expectation(unit, f) == pytest.approx((mean, gradient), abs=1e-9)
    h, grad = drawn(unit, f)
    assert near(f(h), mean) and near(grad, gradient)


def test_bias_of_stochastic_times_smooth_is_half_the_gradient() -> None:
    assert expectation("smooth", identity)[1] == pytest.approx(SLOPE / 2, abs=1e-12)
    assert near((drawn("smooth", identity)[0] > 0).float(), math.sqrt(P))


@pytest.mark.parametrize(
    ("unit", "on", "mean", "gradient"),
    [("gauss", 0.6914624613, 0.6977965574, 0.6914624613), ("logistic", P, 0.9740769842, P)],
)
def test_noisy_rectifier_has_its_moments(unit: str, on: float, mean: float, gradient: float) -> None:
    h, grad = drawn(unit, identity)
    assert near((h > 0).float(), on) and near(h, mean) and near(grad, gradient)
    assert torch.equal(grad, (h > 0).float())
    if unit == "logistic":
        assert near(h**2, 2.4734335737)
        assert near(drawn(unit, torch.square)[1], 2 * mean)  # unbiased for smooth losses: d E h^2 / da = 2 E h


# --- REINFORCE ---


def estimates(a: list[float], losses: Callable[[Tensor], Tensor], baseline: object) -> tuple[Tensor, Tensor]:
    """Mean and variance of the estimator for each unit, over all states."""
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(a))), dtype=torch.float64)
    p = torch.tensor(a, dtype=torch.float64).sigmoid()
    chances = torch.where(bits == 1, p, 1 - p).prod(1, keepdim=True)
    at = torch.tensor(a, dtype=torch.float64).repeat(len(bits), 1).requires_grad_()
    nn.reinforce(at, bits, losses(bits), baseline).backward()
    g = at.grad * len(bits)  # the surrogate is a mean over examples
    mean = (chances * g).sum(0)
    return mean, (chances * g**2).sum(0) - mean**2


def test_reinforce_of_one_unit() -> None:
    for baseline, variance in ((0.0, 0.0041333855), (0.8673779936, 0.1268705989), (0.1326220064, 0.0)):
        mean, found = estimates([A], lambda h: 3 * h[:, 0] - 1, baseline)
        assert mean.item() == pytest.approx(0.7050111366, abs=1e-10)
        assert found.item() == pytest.approx(variance, abs=1e-9)


def test_reinforce_of_two_units() -> None:
    def losses(h: Tensor) -> Tensor:
        return (h.sum(1) - 1.3) ** 2

    optimal = torch.tensor([0.8587013039, 0.4344798121], dtype=torch.float64)
    for baseline, variances in (
        (0.0, (0.2497019904, 0.0743308438)),
        (0.5985689904, (0.0923202137, 0.0425097040)),
        (optimal, (0.0764177897, 0.0372158769)),
    ):
        mean, found = estimates([0.5, -1.0], losses, baseline)
        assert mean.tolist() == pytest.approx([-0.2496014747, -0.0698132283], abs=1e-9)
        assert found.tolist() == pytest.approx(variances, abs=1e-9)


def test_running_baselines_approach_the_optimal_ones() -> None:
    units, generator = nn.Reinforce(2, decay=0.5), seeded()
    a = torch.tensor([0.5, -1.0]).repeat(100_000, 1).requires_grad_()
    for _ in range(8):
        h = units(a, generator=generator)
        a.grad = None
        units.surrogate((h.sum(1) - 1.3) ** 2).backward()
    assert units.baseline.tolist() == pytest.approx([0.8587013039, 0.4344798121], abs=4e-3)
    g = a.grad * len(a)
    assert near(g[:, 0], -0.2496014747) and near(g[:, 1], -0.0698132283)
    assert g.var(0).tolist() == pytest.approx([0.0764177897, 0.0372158769], rel=0.03)


def test_reinforce_of_draws_is_unbiased() -> None:
    a = torch.full((DRAWS, 1), A, requires_grad=True)
    units = nn.Reinforce(1)
    h = units(a, generator=seeded())
    units.surrogate(3 * h[:, 0] - 1).backward()
    assert near(a.grad[:, 0] * DRAWS, 0.7050111366)


def test_a_batch_is_judged_by_the_batches_before_it() -> None:
    units = nn.Reinforce(3)
    a = torch.zeros(4, 3, requires_grad=True)
    h, loss = units(a, generator=seeded()), torch.tensor([1.0, 2.0, 3.0, 4.0])
    total = units.surrogate(loss)
    total.backward()
    assert total.item() == 0
    torch.testing.assert_close(a.grad, (h - 0.5) * loss[:, None] / 4)
    torch.testing.assert_close(units.baseline, torch.full((3,), 2.5))  # all weights (h - p)^2 are 1/4


def test_above_and_below_learn_through_autograd() -> None:
    """The layer above gets the gradient of the loss with h constant, the layer below that of the surrogate."""
    torch.manual_seed(0)
    below, above, units = torch.nn.Linear(5, 3), torch.nn.Linear(3, 2), nn.Reinforce(3)
    x = torch.randn(2, 7, 5)
    h = units(below(x), generator=seeded())
    assert not h.requires_grad
    loss = above(h).square().sum(-1)
    (loss.mean() + units.surrogate(loss)).backward()
    g = (h - below(x).sigmoid()) * loss[..., None] / 14
    torch.testing.assert_close(below.bias.grad, g.detach().sum((0, 1)))
    torch.testing.assert_close(above.bias.grad, (2 * above(h)).detach().sum((0, 1)) / 14)


def test_a_forward_pass_has_one_surrogate() -> None:
    units = nn.Reinforce(2)
    with pytest.raises(RuntimeError, match="waits"):
        units.surrogate(torch.ones(3))
    units(torch.zeros(3, 2, requires_grad=True))
    with pytest.raises(ValueError, match="reduction='none'"):
        units.surrogate(torch.tensor(1.0))
    copy.deepcopy(units)
    units.surrogate(torch.ones(3))
    with pytest.raises(RuntimeError, match="waits"):
        units.surrogate(torch.ones(3))


def test_a_loss_that_is_not_finite_leaves_the_baseline() -> None:
    units = nn.Reinforce(2)
    units(torch.zeros(3, 2, requires_grad=True))
    units.surrogate(torch.tensor([1.0, torch.nan, 1.0]))
    assert units.baseline.tolist() == [0, 0]


# --- edges: shapes, dtypes, seeds, numbers that are not finite ---


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_probabilities_are_finite(unit: str, dtype: torch.dtype) -> None:
    a = torch.tensor([-torch.inf, -1e4, -30, 0, 30, 1e4], dtype=dtype, requires_grad=True)
    h = UNITS[unit](a, generator=seeded())
    h.sum().backward()
    assert h.dtype is a.grad.dtype is dtype and h.isfinite().all() and a.grad.isfinite().all()
    assert h[:2].tolist() == [0, 0]
    if unit in ("smooth", "sigmoid"):
        assert a.grad[[0, 1, 2, 5]].abs().max() < 1e-6
    units = nn.Reinforce(6)
    b = a.detach().requires_grad_()
    units(b, generator=seeded())
    units.surrogate(torch.tensor(-3.0, dtype=dtype)).backward()
    assert b.grad.abs().max() <= 3 and b.grad[:2].tolist() == [0, 0]


@pytest.mark.parametrize("unit", UNITS)
def test_any_shape_and_nan(unit: str) -> None:
    for shape in ((), (0,), (3, 0), (2, 3, 4)):
        assert UNITS[unit](torch.zeros(shape)).shape == shape
    a = torch.zeros(4, 6).t()
    assert UNITS[unit](a).shape == (6, 4)
    assert UNITS[unit](torch.tensor([torch.nan, 9.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("unit", UNITS)
def test_a_generator_decides(unit: str) -> None:
    a = torch.zeros(50)
    one, other = UNITS[unit](a, generator=seeded(1)), UNITS[unit](a, generator=seeded(2))
    assert torch.equal(one, UNITS[unit](a, generator=seeded(1))) and not torch.equal(one, other)
    torch.manual_seed(5)
    first, second = UNITS[unit](a), UNITS[unit](a)
    torch.manual_seed(5)
    assert torch.equal(first, UNITS[unit](a)) and not torch.equal(first, second)


def test_ranks_that_are_seeded_alike_draw_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a generator; with one, the caller decides."""
    a = torch.zeros(64)

    def of_rank(rank: int, **more: torch.Generator) -> Tensor:
        torch.manual_seed(0)
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
        return nn.noisy_rectifier(a, **more)

    assert not torch.equal(of_rank(0), of_rank(1))
    assert torch.equal(of_rank(1), of_rank(1))
    assert torch.equal(of_rank(0, generator=seeded()), of_rank(1, generator=seeded()))


def test_slopes() -> None:
    a = torch.tensor([0.3, -0.2], requires_grad=True)
    unit = nn.StraightThrough("sigmoid", "threshold", slope=2.0, growth=2.0, most=5.0)
    unit(a).sum().backward()
    p = (2 * a.detach()).sigmoid()
    torch.testing.assert_close(a.grad, 2 * p * (1 - p))
    assert unit.anneal() == 4 and unit.anneal() == 5
    copied = nn.StraightThrough()
    copied.load_state_dict(unit.state_dict())
    assert copied.slope == 5
    h = nn.straight_through(torch.full((DRAWS // 10,), 0.25), slope=2.0, generator=seeded())
    assert near(h, P)


def test_evaluation_is_deterministic() -> None:
    a = torch.tensor([-1.0, 0.2, 3.0])
    p = a.sigmoid()
    for unit, expected in (
        (nn.NoisyRectifier(), a.relu()),
        (nn.StochasticTimesSmooth(), p),
        (nn.StraightThrough(), (p > 0.5).float()),
        (nn.Reinforce(3), (p > 0.5).float()),
    ):
        torch.testing.assert_close(unit.eval()(a), expected)
        unit.threshold.fill_(0.6)
        kept = unit.value(a) > 0.6
        torch.testing.assert_close(unit(a), torch.where(kept, expected.where(expected > 0, torch.ones(3)), 0))


@pytest.mark.parametrize("unit", UNITS)
def test_units_compile_in_one_graph(unit: str) -> None:
    torch._dynamo.reset()
    a = torch.zeros(20, requires_grad=True)
    compiled = torch.compile(lambda x: UNITS[unit](x), fullgraph=True, backend="eager")
    torch.manual_seed(3)
    h = compiled(a)
    h.sum().backward()
    torch.manual_seed(3)
    assert torch.equal(h, UNITS[unit](a)) and a.grad is not None


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: nn.noisy_rectifier(torch.zeros(2), "normal"), ValueError, "'noise'.*gauss"),
        (lambda: nn.noisy_rectifier(torch.zeros(2, dtype=torch.int64)), TypeError, "'a'.*int64"),
        (lambda: nn.stochastic_times_smooth([0.5]), TypeError, "'a'"),
        (lambda: nn.straight_through(torch.zeros(2), "identty"), ValueError, "did you mean 'identity'"),
        (lambda: nn.straight_through(torch.zeros(2), hard="soft"), ValueError, "'hard'"),
        (lambda: nn.straight_through(torch.zeros(2), slope=0.0), ValueError, "'slope'"),
        (lambda: nn.straight_through(torch.zeros(2), hard="threshold", generator=3), TypeError, "'generator'"),
        (lambda: nn.Reinforce((2, 3)), ValueError, "'shape'"),
        (lambda: nn.Reinforce(2)(torch.zeros(4, 3)), ValueError, "'a'"),
        (lambda: nn.reinforce(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0)), ValueError, "at least one"),
        (lambda: nn.StraightThrough(growth=0.0), ValueError, "'growth'"),
    ],
)
def test_bad_input(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
