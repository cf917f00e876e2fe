"""Coefficients: closed forms to every printed digit, orders, equivalences, limits and wrong input."""

from __future__ import annotations

import pytest
import torch
from probkernels.diffusion import (
    EDM,
    VE,
    VP,
    Denoiser,
    FlowMatching,
    SubVP,
    VPDiscrete,
    annealed_langevin,
    grid,
    sample,
    scheme,
    table,
)
from probkernels.diffusion.solvers import SOLVERS
from probkernels.diffusion.table import METHODS
from torch import Tensor

from tests.diffusion.densities import Known, gaussian, mixture

# solver, grid, sample and slope of O2 from x_T = 0.3 in 20 steps
O2 = [
    ("ddim", "t", "0.737677137468", "0.488850458462"),
    ("ab1", "t", "0.737677137468", "0.488850458462"),
    ("dpm1", "t", "0.737677137468", "0.488850458462"),
    ("ddim_x0", "t", "0.737677137468", "0.488850458462"),
    ("dpmpp_1", "t", "0.737677137468", "0.488850458462"),
    ("ab2", "t", "0.752665681877", "0.520566291469"),
    ("ab3", "t", "0.751824646451", "0.540678394147"),
    ("dpmpp_2m", "t", "0.762204750430", "0.639067735286"),
    ("alf", "t", "0.753626853047", "0.549970915244"),
    ("obelm", "t", "0.753070867691", "0.532392279017"),
    ("ddim", "lambda", "0.716192636447", "0.523920133781"),
    ("ab2", "lambda", "0.739014731922", "0.540334894037"),
    ("ab3", "lambda", "0.744564162602", "0.544307458381"),
    ("dpmpp_2m", "lambda", "0.761969290248", "0.557627805077"),
    ("alf", "lambda", "0.754183690380", "0.551662072334"),
    ("obelm", "lambda", "0.745593055662", "0.545108561726"),
]
# DDIM's slope of O1
O1 = [
    ("t", 10, ".3743710455"),
    ("t", 20, ".4339415882"),
    ("t", 50, ".4726279205"),
    ("t", 100, ".4861643969"),
    ("lambda", 10, ".3936467576"),
    ("lambda", 20, ".4436599832"),
    ("lambda", 50, ".4767047046"),
]
EXACT = (0.7529391751950101, 0.5505110091845856)  # of O2 by its distribution functions
RANDOM = {"dpmpp_1_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "ancestral", "ancestral_beta", "reverse_diffusion"}
RANDOM |= {"euler_maruyama", "edm_stochastic"}


def solve(model: Denoiser, start: float, **how: object) -> tuple[float, float]:
    """The sample from ``start``, and its slope."""
    x = torch.full((1, 1), start, dtype=torch.float64, requires_grad=True)
    out = sample(model, x, grad="autograd", **how)
    return out.item(), torch.autograd.grad(out.sum(), x)[0].item()


@pytest.mark.parametrize(("solver", "kind", "value", "slope"), O2)
def test_mixture_digits(solver: str, kind: str, value: str, slope: str) -> None:
    got = solve(mixture(), 0.3, solver=solver, steps=20, grid=kind)
    assert [f"{number:.12f}" for number in got] == [value, slope]


@pytest.mark.parametrize(("kind", "steps", "slope"), O1)
def test_gaussian_digits(kind: str, steps: int, slope: str) -> None:
    _, got = solve(gaussian(), 1.0, solver="ddim", steps=steps, grid=kind)
    assert f"{got:.10f}" == f"0{slope}"


@pytest.mark.parametrize(
    ("solver", "kind", "value", "slope"),
    [
        ("alf", "t", ".998419408167", ".500090087544"),
        ("obelm", "t", ".988963751043", ".490603258662"),
        ("alf", "lambda", ".998419868591", None),
    ],
)
def test_gaussian_digits_of_reversible_methods(solver: str, kind: str, value: str, slope: str | None) -> None:
    got = solve(gaussian(), 1.0, solver=solver, steps=20, grid=kind)
    assert f"{got[0]:.12f}" == f"0{value}"
    if slope:
        assert f"{got[1]:.12f}" == f"0{slope}"


def test_the_exact_flow_of_the_gaussian() -> None:
    """The limit is the closed form: x_0 = .9984198691316941, slope .5000905500285501."""
    half, full = (solve(gaussian(), 1.0, solver="rk4", steps=n, grid="edm") for n in (50, 100))
    limit = [fine + (fine - coarse) / 15 for coarse, fine in zip(half, full, strict=True)]
    assert limit == pytest.approx([0.9984198691316941, 0.5000905500285501], abs=5e-9)


ORDERS = {
    "ddim": 1, "euler": 1, "ab2": 2, "ab3": 3, "deis2": 2, "deis": 3, "dpm2m": 2, "dpmpp_2m": 2, "dpm3m": 2,
    "dpmpp_3m": 2, "heun": 2,
    "midpoint": 2, "rk4": 4, "dpm2s": 2, "dpm3s": 3, "dpmpp_2s": 2, "alf": 2, "obelm": 2,
}  # fmt: skip


@pytest.mark.parametrize("solver", ORDERS)
def test_orders(solver: str) -> None:
    """Error on the mixture's exact flow, with twice the steps."""
    kind = {"dpm": "lambda", "dei": "edm"}.get(solver[:3], "t")
    errors = [abs(solve(mixture(), 0.3, solver=solver, steps=n, grid=kind)[0] - EXACT[0]) for n in (80, 160)]
    assert torch.tensor(errors[0] / errors[1]).log2().item() > ORDERS[solver] - 0.25


@pytest.mark.parametrize(
    ("solver", "order"), [("dpm2m", 2), ("dpmpp_2m", 2), ("dpm3m", 2), ("dpmpp_3m", 2), ("ab3", 3)]
)
def test_local_orders_of_multistep_methods(solver: str, order: int) -> None:
    """One step with an exact state and history is off by h^(order + 1).

    The published formulas of dpm3m and dpmpp_3m multiply half the second derivative by the weight of a whole one.
    """
    process, errors = VP(), []
    for h in (0.004, 0.002):
        lam = process.lam(0.5) + h * torch.arange(6, dtype=torch.float64)
        rows = table(process, process.t_of_lam(lam), solver)
        z = 0.3  # data N(1/2, 1/4): the exact flow keeps it
        a, s = process.alpha(rows.times), process.sigma(rows.times)
        deviation = (a * a / 4 + s * s).sqrt()
        x = a / 2 + z * deviation
        outputs = s * z / deviation if rows.kind == "eps" else (x - s * s * z / deviation) / a
        got = rows.a[4] * x[4] + sum(rows.b[4, j] * outputs[4 - j] for j in range(rows.b.shape[1]))
        errors.append(abs(float(got - x[5])))
    assert torch.tensor(errors[0] / errors[1]).log2().item() == pytest.approx(order + 1, abs=0.25)


@pytest.mark.parametrize(("options", "order"), [({"order": 1}, 2), ({"order": 2}, 2.7), ({"order": 3}, 2.7)])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_orders_of_unipc(variant: str, options: dict[str, int], order: float) -> None:
    errors = [
        abs(solve(mixture(), 0.3, solver="unipc", steps=n, grid="lambda", variant=variant, **options)[0] - EXACT[0])
        for n in (80, 160)
    ]
    assert torch.tensor(errors[0] / errors[1]).log2().item() > order - 0.25


# --- the same method under two names, in two forms ---


def same(first: object, second: object) -> bool:
    pairs = ((getattr(first, name), getattr(second, name)) for name in "abd")
    return all(torch.allclose(x, y, rtol=1e-10, atol=1e-13) for x, y in pairs)


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), EDM(), FlowMatching(0.01, 0.99), VPDiscrete.linear(100)])
def test_equal_methods(process: object) -> None:
    times = grid(process, 10, t_min=max(process.t_min, 1e-3))
    assert same(table(process, times, "ancestral"), table(process, times, "dpmpp_1_sde"))
    assert same(table(process, times, "ab1"), table(process, times, "dpm1"))
    assert same(table(process, times, "ddim_x0", eta=0.0), table(process, times, "dpmpp_1"))
    for order in "23":
        assert same(table(process, times, f"dpmpp_{order}m_sde", eta=0.0), table(process, times, f"dpmpp_{order}m"))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_in_noise_and_data(eta: float) -> None:
    model, noise = mixture(), torch.randn(12, 4, 1, dtype=torch.float64)
    x = torch.randn(4, 1, dtype=torch.float64)
    runs = [sample(model, x, solver=s, steps=12, noise=noise, eta=eta) for s in ("ddim", "ddim_x0")]
    assert torch.allclose(*runs, rtol=1e-11, atol=1e-12)


def test_ancestral_is_the_posterior() -> None:
    """DDIM with eta 1 over the whole chain: q(x_{t-1} | x_t, x_0) of DDPM, also with strides."""
    chain = VPDiscrete.linear(1000)
    for steps in (1000, 50):
        rows = table(chain, grid(chain, steps, "trailing"), "ancestral")
        kept = chain.alpha(rows.times).square()
        now, then = kept[:-1], kept[1:]
        beta = 1 - now / then
        assert torch.allclose(rows.b[:, 0], then.sqrt() * beta / (1 - now), rtol=1e-9)
        assert torch.allclose(rows.a, (1 - beta).sqrt() * (1 - then) / (1 - now), rtol=1e-9, atol=1e-14)
        assert torch.allclose(rows.d.square(), beta * (1 - then) / (1 - now), rtol=1e-9, atol=1e-14)
        large = table(chain, rows.times, "ancestral_beta").d.square()
        assert torch.allclose(large[:-1], beta[:-1], rtol=1e-9) and large[-1] == 0


def test_forms_of_score_sde() -> None:
    """Reverse diffusion and ancestral steps as the score-based papers print them."""
    chain = VPDiscrete.linear(100)
    rows, beta = table(chain, grid(chain, 100, "t"), "reverse_diffusion"), chain.betas.flip(0)
    sigma = chain.sigma(rows.t)
    assert torch.allclose(rows.a, 2 - (1 - beta).sqrt(), rtol=1e-12)
    assert torch.allclose(rows.b[:, 0], -beta / sigma, rtol=1e-9)
    assert torch.allclose(rows.d[:-1], beta[:-1].sqrt(), rtol=1e-9) and rows.d[-1] == 0
    ve = VE()
    rows = table(ve, grid(ve, 20), "ancestral")
    s, s1 = ve.sigma(rows.times)[:-1], ve.sigma(rows.times)[1:]
    # in the score: x' = x + (s^2 - s'^2) score; D = x + s^2 score
    assert torch.allclose(rows.b[:, 0] * s.square(), s.square() - s1.square(), rtol=1e-10)
    assert torch.allclose(rows.a + rows.b[:, 0], torch.ones(20, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(rows.d, (s1.square() * (s.square() - s1.square()) / s.square()).sqrt(), rtol=1e-10)


def test_forms_of_euler_and_langevin() -> None:
    """x' = x - (f x - g^2 score) dt + g sqrt(dt) z; x += a score + sqrt(2 a) z, then x += sigma^2 score."""
    process, times = SubVP(), grid(SubVP(), 10)
    sde, ode = (table(process, times, solver) for solver in ("euler_maruyama", "euler"))
    dt, t = -times.diff(), times[:-1]
    beta, alpha = 0.1 + 19.9 * t, process.alpha(t)
    g2 = beta * (1 - alpha**4)
    assert torch.allclose(sde.a, 1 + beta / 2 * dt, rtol=1e-12) and torch.equal(sde.a, ode.a)
    assert torch.allclose(sde.b[:, 0], -g2 / process.sigma(t) * dt, rtol=1e-10)
    assert torch.allclose(2 * ode.b, sde.b, rtol=1e-12)
    assert torch.allclose(sde.d[:-1], (g2 * dt).sqrt()[:-1], rtol=1e-10) and sde.d[-1] == 0

    ve, levels = VE(), grid(VE(), 3)
    rows = annealed_langevin(ve, levels, inner=2, step=1e-3)
    sigma = ve.sigma(levels.repeat_interleave(2))
    length = 1e-3 * (sigma / sigma[-1]).square()
    assert torch.allclose(rows.b[:-1, 0], -length / sigma) and torch.allclose(rows.d[:-1], (2 * length).sqrt())
    assert rows.b[-1, 0] == -sigma[-1] and rows.d[-1] == 0 and (rows.a == 1).all()


def test_forms_of_two_step_methods() -> None:
    """BDIA weighs x_{n-1} itself by gamma; its first step is DDIM's."""
    times = grid(VP(), 6)
    made, ddim = scheme(VP(), times, "bdia", gamma=0.5), table(VP(), times, "ddim")
    assert torch.allclose(made.carry[1:, 0, 1], torch.full((5,), 0.5, dtype=torch.float64), rtol=1e-12)
    assert made.carry[0, 0, 1] == 0 and torch.allclose(made.gather[0, 0, 0], ddim.b[0, 0])


def test_general_order_matches_the_printed_formulas() -> None:
    """AB2, AB3 and ++3M from their formulas, step by step."""
    process, times = VP(), grid(VP(), 8)
    rho, lam = process.rho(times), process.lam(times)
    a, s = process.alpha(times), process.sigma(times)
    ab2, ab3, pp3 = (table(process, times, solver) for solver in ("ab2", "ab3", "dpmpp_3m"))
    for n in range(2, 8):
        h, p, q = rho[n + 1] - rho[n], rho[n] - rho[n - 1], rho[n] - rho[n - 2]
        two = torch.stack([h + h * h / (2 * p), -h * h / (2 * p)])
        three = [h**3 / 3 + (p + q) * h**2 / 2 + p * q * h, h**3 / 3 + q * h**2 / 2, h**3 / 3 + p * h**2 / 2]
        three = torch.stack([three[0] / (p * q), -three[1] / (p * (q - p)), three[2] / (q * (q - p))])
        assert torch.allclose(ab2.b[n], a[n + 1] * two, rtol=1e-10)
        assert torch.allclose(ab3.b[n], a[n + 1] * three, rtol=1e-9)
        h, h0, h1 = lam[n + 1] - lam[n], lam[n] - lam[n - 1], lam[n - 1] - lam[n - 2]
        r0, r1 = h0 / h, h1 / h
        f1 = torch.expm1(-h)
        f2 = f1 / h + 1
        f3 = f2 / h - 0.5
        m = torch.eye(3, dtype=torch.float64)  # D_n, D_{n-1}, D_{n-2}
        d0, d1 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
        slope, curve = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
        assert torch.allclose(pp3.b[n], a[n + 1] * (-f1 * m[0] + f2 * slope - f3 * curve), rtol=1e-9)
        assert torch.allclose(pp3.a[n], s[n + 1] / s[n], rtol=1e-13)


# --- limits ---


@pytest.mark.parametrize("solver", [s for s in METHODS if METHODS[s].kind == "x0"])
def test_from_pure_noise_to_pure_data(solver: str) -> None:
    """Flow matching from t = 1 to 0: the first step forgets x, the last returns the predicted data."""
    rows = table(FlowMatching(), grid(FlowMatching(), 8), solver)
    assert rows.b.isfinite().all()
    assert rows.a[-1] == 0 and rows.b[-1, 0] == 1 and (rows.b[-1, 1:] == 0).all() and rows.d[-1] == 0


def test_flow_matching_starts_from_pure_noise() -> None:
    class Velocity(torch.nn.Module):  # of N(0.5, 0.25)
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            a, s = (1 - t.double())[:, None], t.double()[:, None]
            eps = s * (x - a * 0.5) / (a * a * 0.25 + s * s)
            return eps - (0.5 + a * 0.25 * (x - a * 0.5) / (a * a * 0.25 + s * s))

    model = Denoiser(Velocity(), FlowMatching(), pred="flow")
    for solver in ("ddim_x0", "dpmpp_2m", "dpmpp_3m"):
        value, slope = solve(model, 1.0, solver=solver, steps=400)
        assert (value, slope) == pytest.approx((1.0, 0.5), abs=5e-3)  # x_0 = 0.5 + 0.5 x_T


def test_zero_terminal_snr_starts() -> None:
    chain = VPDiscrete.scaled_linear(100).zero_terminal_snr()
    model = Denoiser(Known(gaussian(VPDiscrete.scaled_linear(100)), "v"), chain, pred="v", time=lambda t: t)
    out = sample(model, torch.randn(4, 1, dtype=torch.float64), solver="dpmpp_2m", times=grid(chain, 10, "trailing"))
    assert out.isfinite().all()
    blind = Denoiser(gaussian().net, chain)
    with pytest.raises(ValueError, match="some signal"):
        sample(blind, torch.randn(4, 1), solver="dpmpp_2m", times=grid(chain, 10, "trailing"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_noise_is_solved_exactly(solver: str) -> None:
    """y = x / alpha moves along a straight line if the noise is constant: no ODE solver may err."""
    if solver in RANDOM | {"euler"}:
        pytest.skip("not exact for this equation: adds noise, or is Euler's method in t")

    class Constant(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, 0.7)

    process = VP()
    x = torch.randn(3, 2, dtype=torch.float64)
    got = sample(Denoiser(Constant(), process), x, solver=solver, steps=9)
    ends = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    a, r = process.alpha(ends), process.rho(ends)
    wanted = a[1] * (x / a[0] + 0.7 * (r[1] - r[0]))
    assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_and_evaluations(solver: str) -> None:
    process = VP()
    for steps in (1, 2, 3):
        made = scheme(process, grid(process, steps), solver)
        assert sample(gaussian(), torch.randn(2, 1), solver=made).isfinite().all()
        calls = {"rk4": 4, "dpm3s": 3, "heun": 2, "midpoint": 2, "dpm2s": 2, "dpmpp_2s": 2, "edm_stochastic": 2}
        assert made.evaluations == steps * calls.get(solver, 1) + (solver == "alf")


def test_langevin_table() -> None:
    """The stationary variance of x += a s + sqrt(2 a) z with s = -x is 1 / (1 - a / 2)."""
    ve = VE(0.5, 1.0, t_min=0.0)
    rows = annealed_langevin(ve, grid(ve, 1), inner=600, step=0.1)
    assert len(rows.t) == 1201
    first = slice(0, 600)
    a = 0.1 * 4.0  # at sigma = 1, twice the last level's

    class Score(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

    assert torch.allclose(rows.d[first], torch.full((600,), (2 * a) ** 0.5, dtype=torch.float64))
    states = []
    model = Denoiser(Score(), ve, pred="score")
    torch.manual_seed(1)
    sample(model, torch.randn(1000, 1), solver=rows, callback=lambda n, x: states.append(x) if 30 < n < 600 else None)
    assert torch.cat(states).var().item() == pytest.approx(1 / (1 - a / 2), rel=0.02)


# --- gradients to the times, and errors ---


@pytest.mark.parametrize("solver", ["ddim", "ab3", "deis", "dpm3m", "dpmpp_3m", "dpmpp_2m_sde", "ancestral", "euler"])
def test_differentiable_in_the_times(solver: str) -> None:
    times = grid(VP(), 4, t_max=0.9, t_min=0.05).requires_grad_()

    def coefficients(t: Tensor) -> tuple[Tensor, ...]:
        rows = table(VP(), t, solver)
        return rows.a[:-1], rows.b[:-1], rows.d[:-1]

    assert torch.autograd.gradcheck(coefficients, times, eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: table(VP(), grid(VP(), 4).flip(0)), ValueError),
        (lambda: table(VP(), torch.tensor([1.0, 0.5, 0.5, 0.1], dtype=torch.float64)), ValueError),
        (lambda: table(VP(), torch.tensor([1.0, float("nan"), 0.1], dtype=torch.float64)), ValueError),
        (lambda: table(VP(), torch.tensor([2.0, 0.1], dtype=torch.float64)), ValueError),
        (lambda: table(VP(), grid(VP(), 4).float()), TypeError),
        (lambda: table(VP(), grid(VP(), 4)[:1]), ValueError),
        (lambda: table(VP(), grid(VP(), 4), "ddpm"), ValueError),
        (lambda: table(VP(), grid(VP(), 4), "ab2", eta=1.0), ValueError),
        (lambda: table(VP(), grid(VP(), 4), "ddim", eta=-1.0), ValueError),
        (lambda: table(FlowMatching(), grid(FlowMatching(), 4), "ddim"), ValueError),
        (lambda: table(FlowMatching(), grid(FlowMatching(), 4), "euler_maruyama"), ValueError),
        (lambda: scheme(FlowMatching(), grid(FlowMatching(), 4), "heun"), ValueError),
        (lambda: scheme(VP(), grid(VP(), 4), "alf", damping=0.5), ValueError),
        (lambda: scheme(VP(), grid(VP(), 4), "alf", gamma=0.5), TypeError),
        (lambda: scheme(VP(), grid(VP(), 4), "unipc", order=4), ValueError),
        (lambda: scheme(VP(), grid(VP(), 4), "unipc", variant="bh3"), ValueError),
        (lambda: scheme(VP(), grid(VP(), 4), "bdia", gamma=2.0), ValueError),
        (lambda: scheme(VP(), grid(VP(), 4), "edm_stochastic", churn=-1.0), ValueError),
        (lambda: annealed_langevin(VP(), grid(VP(), 4)), ValueError),
        (lambda: annealed_langevin(VE(), grid(VE(), 4), inner=0), ValueError),
    ],
)
def test_wrong_input_raises(make: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()
