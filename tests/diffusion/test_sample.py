"""The loop: laws of samples, determinism, noise, gradients by autograd, conditions, shapes, dtypes, and wrong input."""

from __future__ import annotations

import copy
import math
import sys

import pytest
import torch
from probkernels.diffusion import (
    EDM,
    VE,
    VP,
    Denoiser,
    FlowMatching,
    Process,
    StepNoise,
    SubVP,
    VPDiscrete,
    annealed_langevin,
    grid,
    predictor_corrector,
    sample,
    scheme,
    table,
)
from torch import Tensor, nn

from tests.diffusion.densities import gaussian, mixture

MANY = 8_000


def prior(process: Process, n: int = MANY, seed: int = 0) -> Tensor:
    return process.prior_std * torch.randn(n, 1, generator=torch.Generator().manual_seed(seed))


def has_law_of_the_mixture(x: Tensor, t: float, process: Process, slack: float = 0.0) -> None:
    """The distribution function at nine places, within 4.5 standard errors (and ``slack`` for steps of finite size)."""
    model = mixture(process).net
    mean, variance = model.moments(torch.tensor(t, dtype=torch.float64))
    for place in torch.linspace(-1.4, 1.4, 9, dtype=torch.float64):
        exact = float((model.weights * torch.special.ndtr((place - mean) / variance.sqrt())).sum())
        error = math.sqrt(exact * (1 - exact) / len(x))
        assert abs(float((x <= place).double().mean()) - exact) < 4.5 * error + slack


@pytest.mark.parametrize(
    ("solver", "steps", "slack"),
    [
        ("dpmpp_2m", 40, 0.01),
        ("ab3", 40, 0.01),
        ("heun", 25, 0.01),
        ("unipc", 30, 0.01),
        ("alf", 40, 0.01),
        ("ancestral", 150, 0.015),
        ("ancestral_beta", 150, 0.02),
        ("dpmpp_2m_sde", 80, 0.01),
        ("dpmpp_3m_sde", 80, 0.01),
        ("reverse_diffusion", 150, 0.02),
        ("edm_stochastic", 50, 0.01),
    ],
)
def test_samples_have_the_law_of_the_data(solver: str, steps: int, slack: float) -> None:
    process = VP()
    x = sample(mixture(), prior(process), solver=solver, steps=steps, grid="lambda")
    has_law_of_the_mixture(x, process.t_min, process, slack)


@pytest.mark.parametrize("process", [VE(), SubVP(), EDM(), VPDiscrete.linear()], ids=["VE", "SubVP", "EDM", "chain"])
def test_laws_of_all_processes(process: Process) -> None:
    for solver in ("dpmpp_2m", "ancestral"):
        times = grid(process, 100, "edm", t_min=max(process.t_min, 1e-3))
        x = sample(mixture(process), prior(process), solver=solver, times=times)
        has_law_of_the_mixture(x, float(times[-1]), process, 0.02)


def test_euler_maruyama_has_the_law() -> None:
    x = sample(mixture(), prior(VP()), solver="euler_maruyama", steps=400, grid="quadratic")
    has_law_of_the_mixture(x, 1e-3, VP(), 0.02)


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "ancestral"])
@pytest.mark.parametrize("process", [VP(), VE()], ids=["VP", "VE"])
def test_predictor_corrector_has_the_law(process: Process, predictor: str) -> None:
    """Corrector steps keep the law that predictor steps bring about."""
    times, generator = grid(process, 60, "edm", t_min=1e-2), torch.Generator().manual_seed(0)
    x = predictor_corrector(mixture(process), prior(process), times, predictor=predictor, generator=generator)
    has_law_of_the_mixture(x, float(times[-1]), process, 0.03)


@pytest.mark.parametrize("process", [VP(), VE()], ids=["VP", "VE"])
def test_predictor_corrector_step_by_step(process: Process) -> None:
    """As printed: a = 2 alpha (snr |z| / |s|)^2, x += a s + sqrt(2 a) z; the last predictor adds no z."""
    model, x = mixture(process), prior(process, 6).double()
    times = grid(process, 4, "edm", t_min=0.05)
    got = predictor_corrector(model, x, times, snr=0.2, inner=2, generator=torch.Generator().manual_seed(5))
    noise = StepNoise(x, torch.Generator().manual_seed(5))
    for n in range(4):
        a, a1, s, s1 = (*process.alpha(times[n : n + 2]), *process.sigma(times[n : n + 2]))
        for i in range(2):
            score, z = model.score(x, times[n]), noise(3 * n + i)
            norms = [v.flatten(1).norm(dim=1).mean() for v in (z, score)]
            step = 2 * (a / a1) ** 2 * (0.2 * norms[0] / norms[1]) ** 2
            x = x + step * score + (2 * step).sqrt() * z
        variance = s**2 - (a / a1) ** 2 * s1**2
        x = (2 - a / a1) * x + variance * model.score(x, times[n])
        if n < 3:
            x = x + variance.sqrt() * noise(3 * n + 2)
    assert torch.allclose(got, x, rtol=1e-10)


def test_annealed_langevin_has_the_law() -> None:
    process = VE(0.02, 5.0)
    rows = annealed_langevin(process, grid(process, 25, t_min=0.0), inner=8, step=1.2e-4)
    x = sample(mixture(process), prior(process, 5000), solver=rows)
    has_law_of_the_mixture(x, 0.0, process, 0.06)


def test_one_exact_step_is_the_posterior() -> None:
    """One ancestral step with the exact prediction of a point mass: mean and variance of q(x' | x, x_0)."""

    class Point(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, 0.5)

    process = VP()
    times = torch.tensor([0.6, 0.3], dtype=torch.float64)
    start = torch.full((MANY, 1), 0.2, dtype=torch.float64)
    x = sample(Denoiser(Point(), process, pred="x0"), start, solver="ancestral", times=times)
    a, a1, s, s1 = (*process.alpha(times), *process.sigma(times))
    beta = s * s - (a / a1) ** 2 * s1 * s1
    precision = 1 / s1**2 + (a / a1) ** 2 / beta  # of x' given x and x_0 = 0.5, by Bayes
    mean = (a1 * 0.5 / s1**2 + (a / a1) * 0.2 / beta) / precision
    assert x.var().item() == pytest.approx(float(1 / precision), rel=0.05)
    assert x.mean().item() == pytest.approx(float(mean), abs=4 / float(precision * MANY) ** 0.5)


# --- determinism and noise ---


def test_noise_depends_on_seed_and_step_alone() -> None:
    like = torch.zeros(3, 4)
    first, second = (StepNoise(like, torch.Generator().manual_seed(7)) for _ in range(2))
    forwards = [first(n) for n in range(5)]
    backwards = [second(n) for n in reversed(range(5))][::-1]
    assert all(torch.equal(x, y) for x, y in zip(forwards, backwards, strict=True))
    assert not torch.equal(forwards[0], StepNoise(like, torch.Generator().manual_seed(8))(0))
    together = torch.cat([StepNoise(torch.zeros(1000), torch.Generator().manual_seed(n))(n) for n in range(50)])
    assert abs(together.mean().item()) < 0.02 and abs(together.std().item() - 1) < 0.02


def test_neighboring_seeds_share_no_noise() -> None:
    first, second = StepNoise(torch.zeros(9)), StepNoise(torch.zeros(9))
    first.seed, second.seed = 5, 6
    drawn = torch.stack([noise(n) for noise in (first, second) for n in range(20)])
    assert len(drawn.unique(dim=0)) == 40


def test_half_precision_rounds_the_same_noise() -> None:
    single = StepNoise(torch.zeros(9), torch.Generator().manual_seed(1))(2)
    half = StepNoise(torch.zeros(9, dtype=torch.bfloat16), torch.Generator().manual_seed(1))(2)
    assert torch.equal(half, single.bfloat16())


@pytest.mark.parametrize("solver", ["ancestral", "dpmpp_2m_sde", "edm_stochastic"])
def test_a_generator_fixes_everything(solver: str) -> None:
    x = torch.randn(4, 2)
    runs = [sample(mixture(), x, solver=solver, steps=5, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_deterministic_solvers_draw_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x = torch.full((2, 2), 0.3)
    sample(mixture(), x, solver="dpmpp_2m", steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, torch.full((2, 2), 0.3))


def test_given_noise_is_used() -> None:
    model, x = mixture(), torch.zeros(2, 1, dtype=torch.float64)
    noise = torch.randn(3, 2, 1, dtype=torch.float64)
    rows = table(VP(), grid(VP(), 3), "ancestral")
    state = x
    for n in range(3):
        state = rows.a[n] * state + rows.b[n, 0] * model.x0(state, rows.t[n]) + rows.d[n] * noise[n]
    assert torch.allclose(sample(model, x, solver=rows, noise=noise), state, rtol=1e-13)


# --- gradients by autograd, conditions, shapes ---


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3).double()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return torch.tanh(self.inner(x) + t[:, None] + (0 if cond is None else cond))


@pytest.mark.parametrize("solver", ["ab3", "dpmpp_2m_sde", "unipc", "heun", "alf", "obelm"])
def test_autograd_mode(solver: str) -> None:
    model, process = Denoiser(Net(), VP(), pred="v"), VP()
    times = grid(process, 4, "edm", t_max=0.8, t_min=0.05)
    made = scheme(process, times, solver)
    noise = torch.randn(made.steps, 2, 3, dtype=torch.float64)

    def run(x: Tensor, cond: Tensor, w: Tensor, z: Tensor) -> Tensor:
        u = torch.zeros(1, 3, dtype=torch.float64)
        return sample(model, x, solver=made, cond=cond, uncond=u, guidance=w, noise=z, grad="autograd")

    inputs = [torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)]
    inputs += [torch.tensor(2.0, dtype=torch.float64), noise]
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs], fast_mode=True)


def test_gradient_to_the_times() -> None:
    model = mixture()
    x = torch.full((1, 1), 0.3, dtype=torch.float64)

    def run(t: Tensor) -> Tensor:
        return sample(model, x, solver="dpmpp_2m", times=t, grad="autograd")

    assert torch.autograd.gradcheck(run, grid(VP(), 5, t_max=0.9, t_min=0.05).requires_grad_(), atol=1e-4, rtol=1e-3)


def test_no_gradient_by_default() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert not sample(Denoiser(Net(), VP()), x, steps=2).requires_grad


def test_guidance_moves_the_sample() -> None:
    """With guidance w the noise of two conditions extrapolates; w = 1 is the condition alone, w = 0 the other."""
    model, x = Denoiser(Net(), VP(), pred="v"), torch.randn(2, 3, dtype=torch.float64)
    c, u = torch.ones(2, 3).double(), torch.zeros(3).double()
    how = {"solver": "dpmpp_2m", "steps": 4}
    assert torch.allclose(sample(model, x, cond=c, uncond=u, guidance=1.0, **how), sample(model, x, cond=c, **how))
    none = sample(model, x, cond=u.expand(2, 3), **how)
    assert torch.allclose(sample(model, x, cond=c, uncond=u, guidance=0.0, **how), none)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 4, 4), (1, 2, 3, 3, 2), (0, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    for solver in ("dpmpp_2m", "ancestral", "heun"):
        assert sample(mixture(), torch.randn(shape), solver=solver, steps=3).shape == shape


def test_complex_data_as_pairs() -> None:
    z = torch.randn(4, 3, dtype=torch.complex64)
    pairs = sample(mixture(), torch.view_as_real(z), steps=10)
    alone = sample(mixture(), z.real.contiguous(), steps=10)
    assert torch.allclose(torch.view_as_complex(pairs).real, alone, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(50, 2, dtype=torch.float64)
    low = sample(mixture(), x.to(dtype), steps=20, grid="lambda")
    assert low.dtype == dtype
    wide = sample(mixture(), x.to(dtype).double(), steps=20, grid="lambda")
    assert (low.double() - wide).abs().mean() < {torch.float32: 1e-5}.get(dtype, 0.05)


def test_callback_and_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    seen: list[int] = []
    x = sample(mixture(), torch.randn(2, 1), steps=4, progress=True, callback=lambda n, state: seen.append(n))
    assert seen == [0, 1, 2, 3] and x.shape == (2, 1)
    assert "4/4" in capsys.readouterr().err


def test_models_copy() -> None:
    model = copy.deepcopy(Denoiser(Net(), VPDiscrete.linear(), pred="v"))
    x = torch.randn(2, 3, dtype=torch.float64)
    assert sample(model, x, steps=3, grid="trailing").isfinite().all()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: sample(nn.Identity(), x, steps=2), TypeError),
        (lambda x: sample(gaussian(), [1.0], steps=2), TypeError),
        (lambda x: sample(gaussian(), x.long(), steps=2), TypeError),
        (lambda x: sample(gaussian(), x), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, times=grid(VP(), 2)), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, solver="heun3"), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, solver=3), TypeError),
        (lambda x: sample(gaussian(), x, steps=2, solver=table(VP(), grid(VP(), 2))), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, grad="adjoint"), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, noise=torch.zeros(3, 4, 1)), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, noise=torch.zeros(2, 4, 2)), ValueError),
        (lambda x: sample(gaussian(), x, steps=2, gamma=0.5), TypeError),
        (lambda x: sample(gaussian(FlowMatching()), x, steps=2, solver="dpmpp_2m"), ValueError),
        (lambda x: predictor_corrector(nn.Identity(), x, grid(VP(), 2)), TypeError),
        (lambda x: predictor_corrector(gaussian(), x, grid(VP(), 2), predictor="heun"), ValueError),
        (lambda x: predictor_corrector(gaussian(), x, grid(VP(), 2), snr=0.0), ValueError),
        (lambda x: predictor_corrector(gaussian(), x.requires_grad_(), grid(VP(), 2)), NotImplementedError),
    ],
)
def test_wrong_input_raises(call: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(torch.randn(4, 1))


def test_one_grid_serves_a_whole_batch() -> None:
    times = grid(VP(), 4)[:, None].expand(-1, 3)
    with pytest.raises(ValueError, match=r"'times': expected shape \(N \+ 1,\).*call once for the rows of each grid"):
        sample(gaussian(), torch.randn(3, 1), solver="ddim", times=times)
