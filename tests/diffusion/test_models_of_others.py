"""Networks of diffusers, MONAI and peft in samplers. Stand-ins with their signatures are always tested; where diffusers
or peft is installed, tiny random models and their own loops too."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from probkernels.diffusion import AdaptedNet, Denoiser, from_diffusers, sample
from torch import Tensor, nn

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EULER = {"_class_name": "EulerDiscreteScheduler", **SD}
SVD = {**EULER, "prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True,
       "sigma_min": 0.002, "sigma_max": 700.0, "timestep_spacing": "leading", "steps_offset": 1}  # fmt: skip


class UNet(nn.Module):
    """Called as UNet2DConditionModel is."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = {"in_channels": 2, "out_channels": outputs}
        self.conv, self.of_time, self.of_text = nn.Conv2d(2, outputs, 3, padding=1), nn.Linear(2, 2), nn.Linear(3, 2)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        added: dict[str, Tensor] | None = None,
        return_dict: bool = True,
    ) -> Any:
        at = timestep[:, None].float() / 1000
        shift = self.of_time(torch.cat([at.sin(), at.cos()], 1).to(sample.dtype))
        if encoder_hidden_states is not None:
            shift = shift + self.of_text(encoder_hidden_states).mean(1)
        if added is not None:
            shift = shift + added["size"]
        out = self.conv((sample + shift[:, :, None, None]).tanh())
        return SimpleNamespace(sample=out) if return_dict else (out,)


def levels_of_svd(steps: int) -> Tensor:
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    return (700 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7


def test_stable_video_diffusions_settings_by_hand() -> None:
    """Its config, and Euler's loop over the network's v with c_noise = log(sigma) / 4."""
    settings, net = from_diffusers(SVD), UNet().double()
    times = settings.times(5)
    sigma = levels_of_svd(5)
    assert torch.allclose(settings.process.rho(times), torch.cat([sigma, torch.zeros(1).double()]), rtol=1e-12)
    noise = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    y = noise * (sigma[0] ** 2 + 1).sqrt()
    for s, after in zip(sigma, [*sigma[1:], torch.tensor(0.0)], strict=True):
        v = net(y / (s**2 + 1).sqrt(), (s.log() / 4).expand(2)).sample
        data = v * (-s / (s**2 + 1).sqrt()) + y / (s**2 + 1)
        y = y + (y - data) / s * (after - s)
    model = settings.wrap(net)
    assert settings.start_std(times) == 1
    got = sample(model, noise, solver="ddim", times=times)
    assert torch.allclose(got, y, atol=1e-10)
    assert pickle.loads(pickle.dumps(model)).time(times[0]) == model.time(times[0])


@pytest.mark.parametrize("steps", [2, 6])
def test_karras_levels_and_their_fractional_steps(steps: int) -> None:
    settings = from_diffusers({**EULER, "use_karras_sigmas": True})
    assert settings.chain is not None
    table = settings.chain.rho(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    times = settings.times(steps)
    ends = (table[-1], table[0])
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    expected = (ends[0] ** (1 / 7) + ramp * (ends[1] ** (1 / 7) - ends[0] ** (1 / 7))) ** 7
    assert torch.allclose(settings.process.rho(times[:-1]), expected, rtol=1e-10) and times[-1] == 0
    at = settings.denoiser["time"](settings.process.t_of_rho((table[7] * table[8]).sqrt()))
    assert float(at) == pytest.approx(7.5, abs=1e-9)  # halfway in the logarithm
    ends = settings.denoiser["time"](settings.process.t_of_rho(torch.tensor([0.0, 1e-6, 1e6])))
    assert ends.tolist() == [0, 0, 999]


def test_other_noise_spacings() -> None:
    rho = from_diffusers({**EULER, "use_exponential_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}).times(3)
    assert torch.allclose(rho, torch.tensor([10.0, 1.0, 0.1, 0.0]).double())
    edm = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.1, "sigma_max": 10.0}
    times = from_diffusers({**edm, "sigma_schedule": "exponential"}).times(3)
    assert torch.allclose(times, rho)
    assert torch.allclose(from_diffusers({**edm, "rho": 1.0}).times(3)[:3], torch.tensor([10.0, 5.05, 0.1]).double())
    with pytest.raises(ValueError, match="'sigma_data': expected 1"):
        from_diffusers({**edm, "prediction_type": "v_prediction"})
    with pytest.raises(ValueError, match="'rescale_betas_zero_snr'"):
        from_diffusers({**EULER, "rescale_betas_zero_snr": True, "use_karras_sigmas": True}).times(4)


def test_learned_variances_follow_from_the_channels() -> None:
    settings = from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False})
    x = torch.randn(1, 2, 4, 4)
    model = settings.wrap(UNet(4))
    assert model.variance and not settings.wrap(UNet()).variance and not settings.wrap(UNet(), variance=False).variance
    expected = UNet(4)(x, torch.tensor([499.0])).sample
    assert torch.equal(model(x, 0.5), expected[:, :2])
    assert torch.equal(model.both(x, 0.5)[1], expected[:, 2:])


class Diffusion(nn.Module):
    """Called as MONAI's DiffusionModelUNet is; ``named`` takes arguments by name only."""

    def __init__(self, named: bool, inputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.of_context = nn.Conv3d(inputs, 1, 3, padding=1), nn.Linear(2, 1)
        if named:
            self.forward = self.by_name  # type: ignore[method-assign]

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        shift = 0.001 * timesteps[:, None] + (0 if context is None else self.of_context(context).mean(1))
        return self.conv(x + shift[..., None, None, None])

    def by_name(self, x: Tensor, *, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        return Diffusion.forward(self, x, timesteps, context)


@pytest.mark.parametrize("named", [False, True])
def test_networks_called_as_monais(named: bool) -> None:
    net = Diffusion(named)
    x, context = torch.randn(2, 1, 4, 4, 4), torch.randn(2, 3, 2)
    model = from_diffusers({"_class_name": "DDPMScheduler", "clip_sample": False}).wrap(net)
    t = torch.tensor([499.0, 499.0])
    assert torch.equal(model(x, 0.5), net(x, timesteps=t))
    assert torch.equal(model(x, 0.5, context), net(x, timesteps=t, context=context))
    assert torch.equal(model(x, 0.5, {"context": context}), net(x, timesteps=t, context=context))
    wide = Diffusion(named, 2)
    image = torch.randn(1, 1, 4, 4, 4)
    given = torch.cat([x, image.expand(2, -1, -1, -1, -1)], 1)
    assert torch.equal(AdaptedNet(wide)(x, t, {"concat": image}), wide(given, timesteps=t))
    with pytest.raises(TypeError, match="'cond': expected a tensor, or a dict"):
        model(x, 0.5, (context,))


def test_conditions_by_name_and_guidance() -> None:
    """u + w (c - u), with arguments in dicts within dicts."""
    net, x = UNet(), torch.randn(2, 2, 4, 4)
    model = from_diffusers({**EULER}).wrap(net)
    cond = {"encoder_hidden_states": torch.randn(2, 5, 3), "added": {"size": torch.ones(2, 2)}}
    none = {"encoder_hidden_states": torch.zeros(1, 5, 3), "added": {"size": torch.zeros(1, 2)}}
    c, u = (net(x, torch.tensor([499.0] * 2), **how).sample for how in (cond, none))
    assert torch.allclose(model(x, 0.5, cond, uncond=none, guidance=3.0), u + 3 * (c - u), atol=1e-6)


class Lora(nn.Module):
    """A frozen layer with a trained low-rank part."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, 1, bias=False)
        self.lora_B = nn.Linear(1, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


def gradients(model: Denoiser, grad: str, x: Tensor, **how: Any) -> dict[str, Tensor]:
    """Of a loss on the sample, to x_T and every parameter that has one."""
    model = copy.deepcopy(model)
    x = x.clone().requires_grad_()
    sample(model, x, grad=grad, solver="ddim", **how).square().sum().backward()
    assert x.grad is not None
    return {"x_T": x.grad} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_exact(model: Denoiser, x: Tensor, **how: Any) -> dict[str, Tensor]:
    expected, got = gradients(model, "autograd", x, **how), gradients(model, "exact", x, **how)
    assert expected.keys() == got.keys() and all(bool(value.abs().max() > 0) for value in got.values())
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=1e-5, atol=1e-7 * float(value.abs().max())), name
    return got


def test_exact_gradients_reach_the_adapters_alone() -> None:
    net = UNet().double().requires_grad_(False)
    net.of_text = Lora(net.of_text).double()  # type: ignore[assignment]
    x, text = torch.randn(2, 2, 4, 4).double(), torch.randn(2, 5, 3).double()
    settings = from_diffusers(EULER)
    got = check_exact(settings.wrap(net), x, times=settings.times(3), cond=text)
    assert set(got) == {"x_T", "net.net.of_text.lora_A.weight", "net.net.of_text.lora_B.weight"}


# --- with diffusers and peft ---


def tiny(name: str, **config: Any) -> Any:
    library = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    size = {"sample_size": 8, "norm_num_groups": 4, "layers_per_block": 1, "block_out_channels": (8, 8)}
    if name == "UNet2DModel":
        size |= {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 4,
                 "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}  # fmt: skip
    elif name == "UNet2DConditionModel":
        size |= {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 6,
                 "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4}  # fmt: skip
    else:
        size = {"sample_size": 8, "num_attention_heads": 2, "attention_head_dim": 4, "norm_num_groups": 4,
                "in_channels": 4, "out_channels": 8, "num_layers": 1, "num_embeds_ada_norm": 10}  # fmt: skip
    return getattr(library, name)(**{**size, **config}).double().eval()


def drawn(scheduler: Any, predict: Any, noise: Tensor, steps: int) -> Tensor:
    """Their loop, as their pipelines write it."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(predict(scheduler.scale_model_input(x, t), t), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(
    ("name", "config", "solver"),
    [
        ("DDIMScheduler", {**SD, "clip_sample": False}, "ddim"),
        ("EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True}, "ddim"),
        ("EulerDiscreteScheduler", {**SD, "use_exponential_sigmas": True, "timestep_spacing": "leading"}, "ddim"),
        ("EulerDiscreteScheduler", {key: value for key, value in SVD.items() if key[0] != "_"}, "ddim"),
        ("EDMEulerScheduler", {}, "ddim"),
        ("EDMEulerScheduler", {"sigma_data": 1.0, "prediction_type": "v_prediction", "sigma_schedule": "exponential",
                               "sigma_max": 120.0}, "ddim"),
        ("DPMSolverMultistepScheduler", {**SD, "use_karras_sigmas": True, "euler_at_final": True}, "dpmpp_2m"),
    ],
)  # fmt: skip
def test_a_unets_samples_are_those_of_its_own_loop(name: str, config: dict[str, Any], solver: str) -> None:
    scheduler = getattr(pytest.importorskip("diffusers"), name)(**config)
    net, noise = tiny("UNet2DModel"), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        expected = drawn(scheduler, lambda x, t: net(x, t).sample, noise, 6)
    settings = from_diffusers(scheduler)
    model, times = settings.wrap(net), settings.times(6)
    x_T = noise * settings.start_std(times)
    got = sample(model, x_T, solver=solver, times=times)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
    if name == "EulerDiscreteScheduler":
        check_exact(model, x_T, times=times[-4:])


def test_exact_gradients_are_those_of_its_own_loop() -> None:
    """Of the pipeline's loop unrolled, to noise and to all parameters."""
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(**SD, clip_sample=False)
    net, noise = tiny("UNet2DModel"), torch.randn(1, 3, 8, 8).double().requires_grad_()
    wanted = [noise, *net.parameters()]
    expected = torch.autograd.grad(drawn(scheduler, lambda x, t: net(x, t).sample, noise, 4).square().sum(), wanted)
    settings = from_diffusers(scheduler)
    got = sample(settings.wrap(net), noise, solver="ddim", times=settings.times(4), grad="exact")
    for a, b in zip(torch.autograd.grad(got.square().sum(), wanted), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(expected[0].abs().max()))


def test_classifier_free_guidance_as_its_pipeline() -> None:
    scheduler = pytest.importorskip("diffusers").EulerDiscreteScheduler(**SD, use_karras_sigmas=True)
    net, noise = tiny("UNet2DConditionModel"), torch.randn(1, 4, 8, 8).double()
    text = torch.randn(2, 5, 6).double()  # none, and a prompt

    def predict(x: Tensor, t: Tensor) -> Tensor:
        u, c = net(torch.cat([x] * 2), t, encoder_hidden_states=text).sample.chunk(2)
        return u + 7.5 * (c - u)

    with torch.no_grad():
        expected = drawn(scheduler, predict, noise, 5)
    settings = from_diffusers(scheduler)
    times = settings.times(5)
    x_T, how = noise * settings.start_std(times), {"uncond": text[:1], "guidance": 7.5, "times": times}
    got = sample(settings.wrap(net), x_T, solver="ddim", cond=text[1:], **how)  # type: ignore[arg-type]
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_dit_with_labels_and_its_learned_half() -> None:
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(clip_sample=False)
    net, noise, label = tiny("DiTTransformer2DModel"), torch.randn(2, 4, 8, 8).double(), torch.tensor([1, 7])
    with torch.no_grad():
        expected = drawn(scheduler, lambda x, t: net(x, t.expand(2), label).sample[:, :4], noise, 4)
    settings = from_diffusers(scheduler)
    model = settings.wrap(net)
    assert model.variance
    got = sample(model, noise, solver="ddim", cond=label, times=settings.times(4))
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_adapters_of_peft() -> None:
    peft, net = pytest.importorskip("peft"), tiny("UNet2DModel")
    adapted = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    settings = from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False})
    got = check_exact(settings.wrap(adapted.eval()), torch.randn(1, 3, 8, 8).double(), times=settings.times(3))
    assert len(got) > 1 and all("lora_" in name for name in got if name != "x_T")
