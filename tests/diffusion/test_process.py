"""Processes against their definitions, their inverses and published figures; grids."""

from __future__ import annotations

import pytest
import torch
from probkernels.diffusion import EDM, VE, VP, FlowMatching, Process, SubVP, VPDiscrete, grid

PROCESSES = {
    "VP": VP(),
    "VP constant rate": VP(3.0, 3.0),
    "SubVP": SubVP(),
    "VE": VE(),
    "EDM": EDM(),
    "flow": FlowMatching(1e-3, 0.999),
    "chain": VPDiscrete.linear(),
    "cosine chain": VPDiscrete.cosine(50),
}


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest) -> Process:
    return PROCESSES[request.param]


def inner(process: Process, n: int = 41) -> torch.Tensor:
    """Times strictly inside, none of them a knot of a chain."""
    u = (torch.arange(n, dtype=torch.float64) + 0.437) / n
    return process.t_min + u * (process.t_max - process.t_min)


def test_inverses(process: Process) -> None:
    t = inner(process)
    assert torch.allclose(process.t_of_rho(process.rho(t)), t, rtol=1e-9, atol=0)
    assert torch.allclose(process.t_of_lam(process.lam(t)), t, rtol=1e-9, atol=0)
    assert torch.allclose(process.rho(t).log(), -process.lam(t), rtol=0, atol=1e-12)
    assert torch.allclose(process.alpha(t), process.log_alpha(t).exp(), rtol=1e-14, atol=0)


def test_drift_and_diffusion_are_derivatives(process: Process) -> None:
    t = inner(process).requires_grad_()
    (slope,) = torch.autograd.grad((process.log_alpha(t) + 0 * t).sum(), t)
    (growth,) = torch.autograd.grad(process.sigma(t).square().sum(), t)
    f = process.drift(t).detach()
    assert torch.allclose(f, slope, rtol=1e-10, atol=1e-14)
    wanted = growth - 2 * f * process.sigma(t).detach().square()
    assert torch.allclose(process.diffusion2(t).detach(), wanted, rtol=1e-8, atol=0)


def test_inverses_differentiate(process: Process) -> None:
    t = inner(process, 7)
    assert torch.autograd.gradcheck(process.t_of_rho, process.rho(t).requires_grad_(), eps=1e-7, atol=1e-4, rtol=1e-3)


def test_numbers_and_tensors_are_alike(process: Process) -> None:
    t = float(inner(process)[3])
    for name in ("alpha", "sigma", "rho", "lam", "drift", "diffusion2"):
        of_number, of_single = getattr(process, name)(t), getattr(process, name)(torch.tensor([t], dtype=torch.float32))
        assert of_number.shape == () and of_number.dtype == of_single.dtype == torch.float64
        assert of_single.shape == (1,)
        assert torch.allclose(of_number, of_single[0], rtol=1e-3)


def test_figures_of_continuous_vp() -> None:
    process = VP()
    got = [process.alpha(1.0), process.sigma(1.0), process.alpha(1e-3), process.sigma(1e-3)]
    assert [float(value) for value in got[:3]] == pytest.approx([0.006571586495, 0.9999784069, 0.9999450265], rel=1e-9)
    assert float(got[3]) == pytest.approx(0.010485416335094896, rel=1e-13)  # by 40 digits: nothing cancels


def kept(process: VPDiscrete, step: int) -> float:
    return float(process.alpha(step / len(process)).square())


def test_figures_of_chains() -> None:
    linear = VPDiscrete.linear()
    assert kept(linear, 1) == pytest.approx(0.9999, rel=1e-12)
    assert f"{kept(linear, 500):.9g}" == "0.0785872429"
    assert kept(linear, 1000) == pytest.approx(4.0358297653756833e-5, rel=1e-12)  # by 40 digits
    btilde = float(linear.betas[1]) * (1 - kept(linear, 1)) / (1 - kept(linear, 2))
    assert f"{btilde:.9g}" == "5.45318766e-05"
    assert f"{kept(VPDiscrete.scaled_linear(), 1000):.10g}" == "0.004660098513"
    cosine = VPDiscrete.cosine()
    assert f"{kept(cosine, 500):.10g}" == "0.4938435904"
    assert f"{float(cosine.betas[0]):.9g}" == "4.12842248e-05"


def test_sigmoid_chain() -> None:
    betas = VPDiscrete.sigmoid(1001).betas
    assert float(betas[500]) == pytest.approx((1e-4 + 0.02) / 2, rel=1e-12)
    assert float(betas[0]) == pytest.approx(1e-4 + 0.0199 / (1 + torch.e**6), rel=1e-9)


def test_geometric_levels_of_ve() -> None:
    sigma = VE(0.01, 50.0).sigma(torch.linspace(1, 0, 232, dtype=torch.float64))
    ratio = sigma[:-1] / sigma[1:]
    assert torch.allclose(ratio, torch.full_like(ratio, 1.037559132), rtol=0, atol=5e-10)


def test_zero_terminal_snr() -> None:
    chain = VPDiscrete.scaled_linear(100).zero_terminal_snr()
    before = VPDiscrete.scaled_linear(100)
    assert float(chain.alpha(1.0)) == 0 and float(chain.sigma(1.0)) == 1
    assert float(chain.alpha(0.01)) == pytest.approx(float(before.alpha(0.01)), rel=1e-12)
    t = torch.tensor([0.992, 0.997], dtype=torch.float64)  # within the last step alpha is linear
    assert torch.allclose(chain.alpha(t) / chain.alpha(0.99), (1 - t) / 0.01, rtol=1e-9)
    assert torch.allclose(chain.t_of_rho(chain.rho(t)), t, rtol=1e-9)
    assert torch.allclose(chain.drift(t), -1 / (1 - t), rtol=1e-9)


def test_noised_uses_one_time_a_row() -> None:
    x0, noise, t = torch.randn(3, 2, 2), torch.randn(3, 2, 2), torch.tensor([0.1, 0.5, 0.9])
    x = VP().noised(x0, t, noise)
    assert x.dtype == torch.float32
    for i in range(3):
        assert torch.equal(x[i], VP().noised(x0[i : i + 1], t[i], noise[i : i + 1])[0])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: VP(beta_min=0), ValueError),
        (lambda: VP(beta_min="1"), TypeError),
        (lambda: VP(t_min=1.0), ValueError),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), ValueError),
        (lambda: EDM(t_min=-1), ValueError),
        (lambda: FlowMatching(t_max=1.5), ValueError),
        (lambda: VPDiscrete([0.1, 0.0]), ValueError),
        (lambda: VPDiscrete([1.0, 0.5]), ValueError),
        (lambda: VPDiscrete([]), ValueError),
        (lambda: VPDiscrete(torch.full((2, 2), 0.5)), ValueError),
        (lambda: VPDiscrete([float("nan"), 0.5]), ValueError),
    ],
)
def test_wrong_processes_raise(make: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        make()


# --- grids ---


@pytest.mark.parametrize("kind", ["t", "quadratic", "lambda", "rho", "edm"])
@pytest.mark.parametrize("name", ["VP", "SubVP", "VE", "EDM", "flow"])
def test_grids_are_even_on_their_scale(name: str, kind: str) -> None:
    process = PROCESSES[name]
    times = grid(process, 12, kind)
    assert times.shape == (13,) and times.dtype == torch.float64
    assert float(times[0]) == process.t_max and float(times[-1]) == process.t_min
    scales = {
        "t": lambda t: t,
        "quadratic": lambda t: t.sqrt(),
        "lambda": process.lam,
        "rho": process.rho,
        "edm": lambda t: process.rho(t) ** (1 / 7),
    }
    gaps = scales[kind](times).diff()
    assert torch.allclose(gaps, gaps.mean().expand(12), rtol=1e-7, atol=0)


def test_grid_ends() -> None:
    assert grid(VP(), 4, t_max=0.5, t_min=0.1).tolist() == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])


def test_grids_of_whole_steps() -> None:
    chain = VPDiscrete.linear(10)
    index = {
        kind: ((grid(chain, 3, kind) * 10).round().int() - 1).tolist() for kind in ("leading", "trailing", "linspace")
    }
    assert index == {"leading": [6, 3, 0, -1], "trailing": [9, 6, 2, -1], "linspace": [9, 6, 3, -1]}


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: grid(VP(), 0), ValueError),
        (lambda: grid(VP(), 2.0), TypeError),
        (lambda: grid(VP(), 5, "even"), ValueError),
        (lambda: grid(VP(), 5, "leading"), ValueError),
        (lambda: grid(VPDiscrete.linear(10), 11, "trailing"), ValueError),
        (lambda: grid(FlowMatching(), 5, "lambda"), ValueError),
        (lambda: grid(VP(), 5, t_min=0.9, t_max=0.5), ValueError),
    ],
)
def test_wrong_grids_raise(make: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        make()
