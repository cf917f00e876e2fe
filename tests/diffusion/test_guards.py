"""One set of guards for all functions, conditions of every form, arguments that would be dropped, torch's own ways."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from probkernels.diffusion import (
    EDM,
    VE,
    VP,
    Denoiser,
    FlowMatching,
    StepNoise,
    SubVP,
    VPDiscrete,
    annealed_langevin,
    bits_per_dim,
    decode,
    dsm_loss,
    encode,
    fit,
    from_diffusers,
    grid,
    invert,
    learned_ancestral,
    log_prob,
    loss_weight,
    predictor_corrector,
    sample,
)
from probkernels.diffusion.solvers.build import SOLVERS
from torch import Tensor, nn

from tests.diffusion.test_calls import Net, noise, seeded

# --- conditions ---


class Pair(NamedTuple):
    a: Tensor
    b: Any


@dataclass(frozen=True)
class Record:
    a: Tensor
    b: Any


@dataclass(slots=True)
class Slots:
    a: Tensor
    b: Any


class Sums(nn.Module):
    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        a, b = (cond["a"], cond["b"]) if isinstance(cond, dict) else (cond.a, cond.b)
        if isinstance(cond, defaultdict):
            assert cond["missing"] == []
        return 0 * x + a * (1.0 if b is None or isinstance(b, str) else b[0])


@pytest.mark.parametrize("grad", [None, "autograd", "exact"])
@pytest.mark.parametrize(
    "form",
    [
        lambda a, b: Pair(a, [b]),
        lambda a, b: {"a": a * b, "b": None},
        lambda a, b: Pair(a * b, None),
        lambda a, b: {"a": a * b, "b": "a word"},
        lambda a, b: defaultdict(list, {"a": a, "b": (b,)}),
        lambda a, b: Record(a, (b,)),
        lambda a, b: Slots(a * b, "a word"),
        lambda a, b: SimpleNamespace(a=a, b=[b]),
    ],
    ids=[
        "named tuple",
        "dict with None",
        "named tuple with None",
        "dict with a word",
        "defaultdict",
        "dataclass",
        "slots",
        "namespace",
    ],
)
def test_conditions_of_every_form(form: Callable[[Tensor, Tensor], Any], grad: str | None) -> None:
    a, b = noise(3, 4, seed=1).requires_grad_(), torch.full((3, 1), 2.0)
    model, plain = Denoiser(Sums(), VP(), pred="v"), Denoiser(Plain(), VP(), pred="v")
    null, how = torch.zeros(3, 4), {"solver": "ddim", "steps": 3}
    right = sample(plain, noise(), cond=2 * a, **how)
    assert torch.allclose(sample(model, noise(), cond=form(a, b), grad=grad, **how), right)
    right = sample(plain, noise(), cond=6 * a, **how)
    got = sample(model, noise(), cond=form(a, b), uncond=form(null, b), guidance=3.0, grad=grad, **how)
    assert torch.allclose(got, right, rtol=1e-4, atol=1e-5)
    assert got.requires_grad == (grad is not None)


class Plain(nn.Module):
    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return 0 * x + cond


@pytest.mark.parametrize("form", [Record, Slots])
def test_records_are_copies(form: Callable[[Tensor, Any], Any]) -> None:
    """A net that writes to a condition, as everywhere."""

    class Writes(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
            return 0 * x + cond.a.mul_(2)

    cond = form(torch.ones(3, 4), None)
    sample(Denoiser(Writes(), VP(), pred="v"), noise(), steps=3, cond=cond)
    assert bool((cond.a == 1).all())


def test_conditions_that_differ_in_what_is_no_tensor() -> None:
    cond, null = {"a": torch.ones(3, 4), "b": "yes"}, {"a": torch.zeros(3, 4), "b": "no"}
    with pytest.raises(TypeError, match=r"'uncond'.*the same in all that is no tensor"):
        sample(Denoiser(Sums(), VP(), pred="v"), noise(), steps=2, cond=cond, uncond=null, guidance=2.0)


@pytest.mark.parametrize(
    ("grad", "solver"),
    [(None, "dpmpp_2m"), ("autograd", "dpmpp_2m"), ("exact", "ddim"), ("reversible", "alf"), ("continuous", "heun")],
)
def test_tensors_made_in_inference_mode(grad: str | None, solver: str) -> None:
    model = Denoiser(Net(), VP(), pred="v")
    with torch.inference_mode():
        x, cond, times = noise(), noise(seed=2), grid(VP(), 4)
    got = sample(model, x, solver=solver, times=times, cond=cond, grad=grad)
    assert torch.allclose(got, sample(model, noise(), solver=solver, steps=4, cond=noise(seed=2)), atol=1e-5)
    if grad is not None:
        got.sum().backward()
        assert float(model.net.layer.weight.grad.norm()) > 0


def test_log_prob_in_inference_mode() -> None:
    """There autograd makes no graph, and the traces were left out without a word."""
    model = Denoiser(Net(), VP(), pred="v")
    with torch.no_grad():
        right = log_prob(model, noise(), noise(seed=2), steps=4)
    with torch.inference_mode():
        assert torch.equal(log_prob(model, noise(), noise(seed=2), steps=4), right)


# --- random numbers and running statistics ---


class Draws(nn.Module):
    """Adds a random number of a library's."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x + 1e-3 * self.draw()


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=self.generator)


ODES = {
    "log_prob": lambda m: log_prob(m, noise(), steps=3),
    "encode": lambda m: encode(m, noise(), steps=3),
    "invert": lambda m: invert(m, noise(), steps=3),
    "bits_per_dim": lambda m: bits_per_dim(Denoiser(m.net, VPDiscrete.linear(3)), noise().clamp(-1, 1)),
}


@pytest.mark.parametrize("op", ODES)
@pytest.mark.parametrize(
    "net",
    [lambda: Net(middle=nn.Dropout(0.5)).train(), lambda: Draws(random.random), lambda: Draws(np.random.random), Holds],
    ids=["dropout", "random", "numpy", "own generator"],
)
def test_nets_that_draw_random_numbers(net: Callable[[], nn.Module], op: str) -> None:
    model = Denoiser(net(), VP(), pred="v")
    with pytest.raises(ValueError, match=f"{op}: argument 'model': expected a net that draws no random numbers"):
        ODES[op](model)


@pytest.mark.parametrize("grad", ["autograd", "exact"])
def test_encode_refuses_dropout_with_gradients(grad: str) -> None:
    model = Denoiser(Net(middle=nn.Dropout(0.5)), VP(), pred="v").train()
    with pytest.raises(ValueError, match="encode: argument 'model'"):
        encode(model, noise().requires_grad_(), steps=3, grad=grad)
    encode(model.eval(), noise().requires_grad_(), steps=3, grad=grad)


def test_a_latent_is_not_decoded_with_dropout() -> None:
    model = Denoiser(Net(middle=nn.Dropout(0.5)), VP(), pred="v").eval()
    latent = invert(model, noise(), steps=3)
    with pytest.raises(ValueError, match="decode: argument 'model'"):
        decode(model.train(), latent)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.InstanceNorm1d(3, track_running_stats=True)])
def test_running_statistics_in_training(norm: nn.Module) -> None:
    model = Denoiser(Net(middle=norm), VP(), pred="v").train()
    chain = Denoiser(Net(middle=norm, width=2), VPDiscrete.linear(5), variance=True).train()
    before = copy.deepcopy(norm.state_dict())
    for call in (
        *(lambda grad=grad: sample(model, noise(), steps=2, grad=grad) for grad in (None, "autograd", "exact")),
        *(lambda op=op: op(model) for op in ODES.values()),
        lambda: predictor_corrector(model, noise(), grid(VP(), 2)),
        lambda: learned_ancestral(chain, noise(), grid(chain.process, 2)),
        lambda: bits_per_dim(chain, noise().clamp(-1, 1)),
    ):
        with pytest.raises(ValueError, match=r"batch normalization in eval mode, got net\.middle in training"):
            call()
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    sample(model.eval(), noise(), steps=2)


# --- arguments that nothing would look at ---


def test_ends_of_grids() -> None:
    chain = VPDiscrete.linear()
    for end in ({"t_max": 0.5}, {"t_min": 0.1}, {"t_max": 0.0}):
        for kind in ("leading", "trailing", "linspace"):
            with pytest.raises(ValueError, match=f"'{next(iter(end))}': expected none: '{kind}' visits the whole"):
                grid(chain, 4, kind, **end)
    with pytest.raises(ValueError, match="fall strictly"):
        grid(VP(), 2, t_max=0.0)
    assert grid(chain, 2, t_max=0.5).tolist() == [0.5, 0.25, 0.0]
    assert grid(VP(), 2, t_max=torch.tensor(0.5, dtype=torch.float64), t_min=0.1)[0] == 0.5
    with pytest.raises(ValueError, match="'t_max': expected a number without a gradient"):
        grid(VP(), 2, t_max=torch.tensor(0.5, requires_grad=True))
    ended = VPDiscrete(chain.betas, t_min=1e-4)
    assert grid(ended, 2, "trailing").tolist() == [1.0, 0.5, 1e-4]


def test_time_of_an_edm_net() -> None:
    seen = []

    class Seen(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(t)
            return 0 * x

    model = Denoiser(Seen(), EDM(), pred="edm", time=lambda t: 1000 * t)
    sample(model, noise(), solver="ddim", steps=1)
    model.eps(noise(), 2.0)
    assert [float(t[0]) for t in seen] == [80_000.0, 2000.0]


FIT = {"steps": 1, "batch_size": 2, "progress": False}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m, x: sample(m, x, steps=2, cond=x, uncond=x), "guidance"),
        (lambda m, x: m.eps(x, 0.5, uncond=x), "guidance"),
        (lambda m, x: m(x, 0.5, x, uncond=x), "guidance"),
        (lambda m, x: sample(m, x, times=grid(VP(), 2), grid="t"), "grid"),
        (lambda m, x: sample(m, x, solver=annealed_langevin(VE(), grid(VE(), 2)), grid="lambda"), "solver"),
        (lambda m, x: encode(m, x, times=grid(VP(), 2), grid="lambda"), "grid"),
        (lambda m, x: invert(m, x, times=grid(VP(), 2), grid="t"), "grid"),
        (lambda m, x: log_prob(m, x, times=grid(VP(), 2), grid="lambda"), "grid"),
        (lambda m, x: log_prob(m, x, steps=2, probes=3), "probes"),
        (lambda m, x: log_prob(m, x, steps=2, generator=seeded()), "generator"),
        (lambda m, x: sample(m, x, solver="ancestral", steps=2, noise=x.repeat(2, 1, 1), generator=seeded()), "gen"),
        (lambda m, x: dsm_loss(m, x, t=torch.ones(3) / 2, times="uniform"), "times"),
        (lambda m, x: dsm_loss(m, x, t=torch.ones(3) / 2, noise=x, generator=seeded()), "generator"),
        (lambda m, x: loss_weight(VP(), torch.ones(3) / 2, "eps", most=5.0), "most"),
        (lambda m, x: loss_weight(VP(), torch.ones(3) / 2, "min_snr", sigma_data=1.0), "sigma_data"),
        (lambda m, x: StepNoise(x, seeded(), x[None]), "generator"),
        (lambda m, x: predictor_corrector(m, x, grid(VP(), 2), inner=-1), "inner"),
        (lambda m, x: predictor_corrector(m, x, grid(VP(), 2), uncond=x), "guidance"),
        (lambda m, x: fit(m, x, null=x[0], **FIT), "null"),
        (lambda m, x: fit(m, x, x, drop=0.5, **FIT), "drop"),
        (lambda m, x: fit(m, x, loss=dsm_loss, weight="eps", **FIT), "weight"),
        (lambda m, x: fit(m, x, loss=dsm_loss, times="uniform", **FIT), "times"),
    ],
)
def test_arguments_that_would_be_dropped(call: Callable[[Denoiser, Tensor], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"argument '{name}.*expected"):
        call(Denoiser(Net(), VP(), pred="v"), noise())


@pytest.mark.parametrize(
    ("solver", "options", "text"),
    [
        ("ddim", {"etaa": 0.5}, "expected one of eta, as solver is 'ddim', got 'etaa'. Hint: did you mean 'eta'"),
        ("unipc", {"ordr": 2}, "expected one of order, variant, as solver is 'unipc', got 'ordr'.*'order'"),
        ("heun", {"eta": 0.5}, "expected none, as solver is 'heun', got 'eta'"),
    ],
)
def test_options_that_a_solver_has_not(solver: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        sample(Denoiser(Net(), VP()), noise(), solver=solver, steps=2, **options)


@pytest.mark.parametrize("op", ["sample", "log_prob", "encode", "invert", "dsm_loss", "predictor_corrector"])
def test_data_without_a_batch(op: str) -> None:
    calls = {
        "sample": lambda m, x: sample(m, x, steps=2),
        "dsm_loss": dsm_loss,
        "predictor_corrector": lambda m, x: predictor_corrector(m, x, grid(VP(), 2)),
        "log_prob": lambda m, x: log_prob(m, x, steps=2),
        "encode": lambda m, x: encode(m, x, steps=2),
        "invert": lambda m, x: invert(m, x, steps=2),
    }
    with pytest.raises(ValueError, match=rf"{op}: argument 'x.*': expected shape \(B, \*S\), got shape \(\)"):
        calls[op](Denoiser(Net(), VP()), torch.ones(()))


# --- torch's own ways ---


@pytest.mark.parametrize("process", [VP(), VPDiscrete.linear(), EDM(), VE(), SubVP(), FlowMatching()], ids=str)
def test_denoisers_are_saved_and_copied(process: Any) -> None:
    model = Denoiser(Net(), process, pred="v")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(other.x0(noise(), 0.5), model.x0(noise(), 0.5))


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0},
        {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", "timestep_type": "continuous"},
    ],
)
def test_denoisers_of_diffusers_are_saved(config: dict[str, Any]) -> None:
    settings = from_diffusers(config)
    model = Denoiser(Net(), settings.process, **settings.denoiser)
    assert torch.equal(pickle.loads(pickle.dumps(model)).x0(noise(), 0.5), model.x0(noise(), 0.5))


@pytest.mark.parametrize("grad", [None, "autograd"])
def test_vmap_over_a_sampler(grad: str | None) -> None:
    model, x = Denoiser(Net(), VP(), pred="v"), noise(5, 3, 4)
    for solver in ("dpmpp_2m", "unipc", "heun"):
        how = {"solver": solver, "steps": 4, "grad": grad}
        got = torch.vmap(lambda z, how=how: sample(model, z, **how))(x)
        assert torch.allclose(got, torch.stack([sample(model, z, **how) for z in x]), atol=1e-6)


def test_a_run_without_noise_leaves_the_generator_alone() -> None:
    model, before, ours = Denoiser(Net(), VP(), pred="v"), torch.get_rng_state(), seeded()
    sample(model, noise(), steps=3)
    sample(model, noise(), steps=3, generator=ours)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(ours.get_state(), seeded().get_state())


def test_another_default_device() -> None:
    """Coefficients and draws stay where they belong; on "meta" anything else would raise."""
    model, x = Denoiser(Net(), VP(), pred="v"), noise()
    cpu = seeded()
    with torch.device("meta"):
        for solver in SOLVERS:
            assert sample(model, x, solver=solver, steps=4, grid="lambda", generator=cpu).device.type == "cpu"
        times, chain = grid(VP(), 3), VPDiscrete.cosine(20)
        grid(chain, 3, "trailing"), chain.zero_terminal_snr(), annealed_langevin(VE(), grid(VE(), 3))
        sample(model, x, steps=3, grad="exact").sum().backward()
        decode(model, invert(model, x, steps=3))
        decode(model, encode(model, x, steps=3), steps=3)
        log_prob(model, x, steps=3), log_prob(model, x, steps=3, trace="hutchinson")
        predictor_corrector(model, x, times)
        dsm_loss(model, x), dsm_loss(model, x, generator=cpu)
        of_chain = Denoiser(model.net, chain)
        bits_per_dim(of_chain, x.clamp(-1, 1))
        for name in (
            "DDIMScheduler",
            "DPMSolverMultistepScheduler",
            "EDMEulerScheduler",
            "FlowMatchEulerDiscreteScheduler",
        ):
            assert from_diffusers({"_class_name": name, "clip_sample": False}).times(5).device.type == "cpu"
        fit(of_chain, x, steps=1, batch_size=2, progress=False)
