"""Settings of diffusers schedulers: read from mappings, and where it is installed held to its tables and samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.diffusion import EDM, Denoiser, FlowMatching, Process, VPDiscrete, from_diffusers, sample
from probkernels.diffusion._diffusers_keys import KEYS
from torch import Tensor, nn

DPM = {"_class_name": "DPMSolverMultistepScheduler"}
EULER = {"_class_name": "EulerDiscreteScheduler"}
UNIPC = {"_class_name": "UniPCMultistepScheduler"}
DDPM = {"_class_name": "DDPMScheduler"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def theirs(name: str, **config: Any) -> Any:
    return getattr(pytest.importorskip("diffusers"), name)(**config)


# --- without diffusers ---


def test_a_file_of_settings() -> None:
    """Stable Diffusion 2's, as it is stored."""
    config = {"_class_name": "DDIMScheduler", **SD, "clip_sample": False, "prediction_type": "v_prediction",
              "set_alpha_to_one": False, "steps_offset": 1, "num_train_timesteps": 1000}  # fmt: skip
    settings = from_diffusers(config)
    assert settings.denoiser == {"pred": "v"}
    expected = VPDiscrete.scaled_linear()
    assert torch.equal(settings.process.betas, expected.betas)
    assert (settings.times(4) * 1000).round().tolist() == [752, 502, 252, 2, 1]


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (DDPM, {"pred": "eps", "clip": 1.0}),
        ({**DDPM, "clip_sample": False}, {"pred": "eps"}),
        ({**DDPM, "clip_sample_range": 2.0, "prediction_type": "sample"}, {"pred": "x0", "clip": 2.0}),
        ({**DDPM, "thresholding": True}, {"pred": "eps", "clip": 1.0}),
        (
            {**DDPM, "thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.95},
            {"pred": "eps", "clip": 1.0, "dynamic": (0.95, 1.5)},
        ),
        ({**DDPM, "clip_sample": False, "variance_type": "learned_range"}, {"pred": "eps", "variance": True}),
        ({"_class_name": "UniPCMultistepScheduler"}, {"pred": "eps"}),
    ],
)
def test_arguments_of_the_denoiser(config: dict[str, Any], arguments: dict[str, Any]) -> None:
    found = from_diffusers(config).denoiser
    assert found == arguments
    Denoiser(nn.Identity(), from_diffusers(config).process, **found)


def test_trained_betas() -> None:
    betas = [0.1, 0.2, 0.3]
    assert from_diffusers({**DDPM, "trained_betas": betas}).process.betas.tolist() == betas


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: from_diffusers(3), TypeError, "'scheduler': expected a diffusers scheduler"),
        (lambda: from_diffusers({"_class_name": "PNDMScheduler"}), ValueError, "'_class_name': expected one of"),
        (lambda: from_diffusers({**DDPM, "beta_schedule": "laplace"}), ValueError, "'beta_schedule'"),
        (lambda: from_diffusers({**DDPM, "prediction_type": "flow_prediction"}), ValueError, "'prediction_type'"),
        (lambda: from_diffusers({**DDPM, "variance_type": "learned"}), ValueError, "'variance_type'"),
        (lambda: from_diffusers({"_class_name": "EDMEulerScheduler", "rho": -5.0}), ValueError, "'rho'"),
        (lambda: from_diffusers({**DDPM, "timestep_spacing": "even"}).times(5), ValueError, "'timestep_spacing'"),
        (lambda: from_diffusers({**UNIPC, "use_beta_sigmas": True}).times(5), ValueError, "without 'use_beta_sigmas'"),
        (lambda: from_diffusers(DDPM).times(0), ValueError, "'steps'"),
    ],
)
def test_what_is_not_read(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    "config",
    [
        {**DDPM, "no_such_setting": 3},
        {**DDPM, "no_such_flag": True},
        {**EULER, "sigma_max": 700.0},
        {**EULER, "sigma_min": 0.002},
        {**UNIPC, "sigma_max": 50.0},
        {**DPM, "use_flow_sigmas": True},
        {**FLOW, "stochastic_sampling": True},
        {"_class_name": "DDIMScheduler", "timestep_type": "continuous"},
        {"_class_name": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": True},
        {"_class_name": "DDIMScheduler", "lambda_min_clipped": -5.1},
        {"_class_name": "DEISMultistepScheduler", "rescale_betas_zero_snr": True},
        {**EULER, "thresholding": True},
        {**DPM, "shift": 3.0},
        {"_class_name": "EDMEulerScheduler", "beta_end": 0.012},
        {**EULER, "timestep_type": "other"},
    ],
    ids=lambda config: list(config)[-1],
)
def test_every_setting_with_an_effect_is_read_or_refused(config: dict[str, Any]) -> None:
    key = list(config)[-1]
    with pytest.raises(ValueError, match=f"'{key}'"):
        from_diffusers(config)


@pytest.mark.parametrize(
    "config",
    [
        {**EULER, "interpolation_type": "log_linear"}, {**FLOW, "shift_terminal": 0.1}, {**FLOW, "invert_sigmas": True},
        {**UNIPC, "use_beta_sigmas": True}, {**DPM, "final_sigmas_type": "other"},
    ],
)  # fmt: skip
def test_other_spacings_are_refused_where_times_are_asked_for(config: dict[str, Any]) -> None:
    settings = from_diffusers(config)
    with pytest.raises(ValueError, match=list(config)[-1]):
        settings.times(5)


def test_defaults_and_leftovers_of_other_classes_change_nothing() -> None:
    """What stored files carry from the class they were made of, which diffusers drops."""
    left = {
        "skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": True, "interpolation_type": "linear",
        "timestep_type": "discrete", "sigma_min": None, "use_karras_sigmas": False, "_diffusers_version": "0.42.1",
    }  # fmt: skip
    plain, full = from_diffusers(DPM), from_diffusers({**DPM, **left})
    assert full.denoiser == plain.denoiser == {"pred": "eps"}
    assert torch.equal(full.times(7), plain.times(7)) and full.times(7)[-1] == 0


def test_continuous_times() -> None:
    """A network of such a scheduler is given log(sigma) / 4, as with EDM."""
    settings = from_diffusers({**EULER, "prediction_type": "v_prediction", "timestep_type": "continuous"})
    model = Denoiser(nn.Identity(), settings.process, **settings.denoiser)
    t = torch.tensor([0.002, 0.5, 1.0], dtype=torch.float64)
    assert torch.equal(model.point("x0", t).given, settings.process.rho(t).log() / 4)
    settings = from_diffusers({**EULER, "timestep_type": "continuous"})  # only with v, as theirs
    assert settings.denoiser == {"pred": "eps"}


def test_clipped_lambda() -> None:
    """Steps with less signal are left out: of the cosine chain, the last 4, of log ratios below -5.1."""
    config = {**DPM, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    chain = VPDiscrete.cosine()
    steps = int((chain.lam(torch.arange(1, 1001, dtype=torch.float64) / 1000) >= -5.1).sum())
    assert steps == 996
    for spacing in ("linspace", "trailing"):
        times = from_diffusers({**config, "timestep_spacing": spacing}).times(10)
        assert times[0] == steps / 1000 and chain.lam(times[0]) >= -5.1
    assert from_diffusers({**config, "timestep_spacing": "leading"}).times(10)[0] == (10 * (996 // 11) + 1) / 1000


def test_thresholding_of_edm() -> None:
    config = {"_class_name": "EDMDPMSolverMultistepScheduler", "thresholding": True, "sample_max_value": 2.0}
    found = from_diffusers(config).denoiser
    assert found == {"pred": "edm", "sigma_data": 0.5, "clip": 1.0, "dynamic": (0.995, 2.0)}


@pytest.mark.parametrize("config", [{}, {"num_train_timesteps": 1000, "shift": 1.0}, {"solver_order": 2}])
def test_a_config_that_names_no_class_is_refused(config: dict[str, Any]) -> None:
    """As of a scheduler just built: it was read as DDPM's, a flow's as a chain with clipped data."""
    with pytest.raises(ValueError, match=r"'_class_name': .* without it\. Hint: pass the scheduler itself"):
        from_diffusers(config)


class FlowMatchEulerDiscreteScheduler:
    """What is read of theirs: set_shift changes the shift and leaves the config."""

    def __init__(self, shift: float) -> None:
        self.config, self.shift = {"shift": shift}, shift


class EulerDiscreteScheduler:
    """What is read of theirs: its config and its table, in float32."""

    def __init__(self) -> None:
        self.config = {"num_train_timesteps": 10, **SD}
        self.alphas_cumprod = VPDiscrete.scaled_linear(10).alpha(torch.arange(1, 11) / 10).square().float()


def test_a_scheduler_that_was_changed_after_it_was_built_is_refused() -> None:
    flow = FlowMatchEulerDiscreteScheduler(3.0)
    assert from_diffusers(flow).times(4)[0] == 1
    flow.shift = 2.0
    with pytest.raises(ValueError, match="'shift': expected what the scheduler's config gives"):
        from_diffusers(flow)
    chain = EulerDiscreteScheduler()
    assert len(from_diffusers(chain).process) == 10
    chain.alphas_cumprod = chain.alphas_cumprod**2
    with pytest.raises(ValueError, match="'alphas_cumprod'"):
        from_diffusers(chain)


# --- with diffusers ---


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_every_class(name: str) -> None:
    """Each setting that theirs takes is listed; those of its siblings too are refused or have no effect."""
    assert set(theirs(name).config) - {"_use_default_values"} <= KEYS[name]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_clipped_lambda_as_theirs(spacing: str) -> None:
    how = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1, "timestep_spacing": spacing}
    scheduler = theirs("DPMSolverMultistepScheduler", **how)
    scheduler.set_timesteps(10)
    times = from_diffusers(scheduler).times(10)
    assert torch.equal((times[: len(scheduler.timesteps)] * 1000 - 1).round().long(), scheduler.timesteps.long())


def test_continuous_times_as_theirs() -> None:
    scheduler = theirs("EulerDiscreteScheduler", prediction_type="v_prediction", timestep_type="continuous")
    scheduler.set_timesteps(10)
    settings = from_diffusers(scheduler)
    given = settings.denoiser["time"](settings.times(10)[:-1])
    assert torch.allclose(given, scheduler.timesteps.double(), atol=2e-3)  # fractional steps are interpolated otherwise


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("zero", [False, True])
def test_tables(schedule: str, zero: bool) -> None:
    scheduler = theirs("DDPMScheduler", beta_schedule=schedule, rescale_betas_zero_snr=zero)
    chain = from_diffusers(scheduler).process
    alpha = chain.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000).square()
    assert torch.allclose(alpha, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
        "DEISMultistepScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    ],
)  # fmt: skip
def test_visited_steps(name: str, spacing: str) -> None:
    for steps, offset in ((10, 0), (30, 1)):
        scheduler = theirs(name, **SD, timestep_spacing=spacing, steps_offset=offset)
        scheduler.set_timesteps(steps)
        times = from_diffusers(scheduler).times(steps)
        index = scheduler.timesteps.double()
        assert torch.allclose(times[:steps] * 1000 - 1, index, atol=1e-4)  # Euler's are float32
        if hasattr(scheduler, "sigmas"):
            end = from_diffusers(scheduler).process.rho(times[-1])
            assert float(end) == pytest.approx(float(scheduler.sigmas[-1]), rel=1e-4)
        else:
            assert times[-1] == 0


def test_singlestep_and_final_sigma() -> None:
    for name in ("DPMSolverSinglestepScheduler", "DPMSolverMultistepScheduler"):
        scheduler = theirs(name, **SD, final_sigmas_type="sigma_min")
        scheduler.set_timesteps(12)
        settings = from_diffusers(scheduler)
        times = settings.times(12)
        assert torch.equal((times[:-1] * 1000 - 1).round().long(), scheduler.timesteps.long())
        assert float(settings.process.rho(times[-1])) == pytest.approx(float(scheduler.sigmas[-1]), rel=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift: float) -> None:
    scheduler = theirs("FlowMatchEulerDiscreteScheduler", shift=shift)
    scheduler.set_timesteps(9)
    settings = from_diffusers(scheduler)
    times = settings.times(9)
    assert isinstance(settings.process, FlowMatching)
    assert torch.allclose(times, scheduler.sigmas.double(), atol=1e-6)
    assert torch.allclose(settings.denoiser["time"](times[:-1]), scheduler.timesteps.double(), atol=1e-3)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_edm(name: str, end: str) -> None:
    """Their c_noise is our network's time; their preconditioned output is our data."""
    scheduler = theirs(name, final_sigmas_type=end)
    scheduler.set_timesteps(9)
    settings = from_diffusers(scheduler)
    times = settings.times(9)
    assert isinstance(settings.process, EDM)
    assert torch.allclose(times, scheduler.sigmas.double()[: len(times)], rtol=1e-5)
    model = Denoiser(nn.Identity(), settings.process, **settings.denoiser)
    assert model.point("x0", times[0]).given == pytest.approx(float(scheduler.timesteps[0]), rel=1e-5)
    x, out = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    expected = scheduler.precondition_outputs(x, out, times[3])
    assert torch.allclose(model.convert(model.point("x0", times[3]), "x0", out, x), expected, rtol=1e-6)


class Exact(nn.Module):
    """Noise or v of N(0.5, 0.5^2), at times without signal too."""

    def __init__(self, process: Process, pred: str) -> None:
        super().__init__()
        self.process, self.pred = process, pred

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, s = (c.view(-1, *[1] * (x.ndim - 1)) for c in (self.process.alpha(t), self.process.sigma(t)))
        data = (a * x / 4 + s**2 / 2) / (a**2 / 4 + s**2)
        eps = (x - a * data) / s
        return eps if self.pred == "eps" else a * eps - s * data


def drawn(scheduler: Any, model: Denoiser, x: Tensor, steps: int, **how: Any) -> Tensor:
    """Their sample, their network being given what ours is."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        given = (t.double() + 1) / 1000
        x = scheduler.step(model.net(x, given.expand(len(x))), t, x, **how).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "config", "solver", "how"),
    [
        ("DDIMScheduler", {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}, "ddim", {}),
        ("DDIMScheduler", {"clip_sample_range": 0.6}, "ddim_x0", {"use_clipped_model_output": True}),
        (
            "DDIMScheduler",
            {"clip_sample": False, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
             "prediction_type": "v_prediction"},
            "ddim_x0",
            {},
        ),
        (
            "DDIMScheduler",
            {"thresholding": True, "sample_max_value": 1.2, "dynamic_thresholding_ratio": 0.6},
            "ddim_x0",
            {"use_clipped_model_output": True},
        ),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, "dpmpp_2m", {}),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "dpmpp_2m", {}),
    ],
)  # fmt: skip
def test_samples(name: str, config: dict[str, Any], solver: str, how: dict[str, Any]) -> None:
    """Everything together gives their samples; of DDIM's tables in double precision, else up to theirs."""
    scheduler = theirs(name, **{**SD, **config})
    settings = from_diffusers(scheduler)
    scheduler.alphas_cumprod = settings.process.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000).square()
    net = Exact(settings.process, settings.denoiser["pred"])
    model = Denoiser(net, settings.process, time=lambda t: t, **settings.denoiser)
    x = torch.randn(5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = sample(model, x, solver=solver, times=settings.times(10))
    assert torch.allclose(got, drawn(scheduler, model, x, 10, **how), atol=1e-5 if name == "DDIMScheduler" else 1e-3)
