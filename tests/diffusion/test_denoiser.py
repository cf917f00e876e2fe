"""Predictions into each other, clipping, guidance, and what networks are given."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from probkernels.diffusion import EDM, VP, Denoiser, FlowMatching, SubVP, VPDiscrete, dsm_loss
from probkernels.diffusion.denoiser import PREDICTIONS
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from tests.diffusion.densities import Known, gaussian, mixture


@pytest.mark.parametrize("pred", ["eps", "x0", "v", "score", "flow"])
@pytest.mark.parametrize("process", [VP(), SubVP(), FlowMatching(0, 0.99)], ids=["VP", "SubVP", "flow"])
def test_predictions_agree(pred: str, process: object) -> None:
    exact = mixture(process)
    model = Denoiser(Known(exact, pred), process, pred=pred)
    x, t = torch.randn(5, 3, dtype=torch.float64), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for kind in ("eps", "x0", "v", "score"):
        assert torch.allclose(getattr(model, kind)(x, t), getattr(exact, kind)(x, t), rtol=1e-9, atol=1e-11)


def test_edm_net() -> None:
    """With F = 0 the prediction is c_skip x, the best for normal data of deviation 0.5."""
    seen = []

    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((x, t))
            return torch.zeros_like(x)

    for process in (EDM(), VP()):
        model = Denoiser(Zero(), process, pred="edm")
        x, t = torch.randn(4, 2, dtype=torch.float64), 0.7
        rho, y = process.rho(t), x / process.alpha(t)
        assert torch.allclose(model.x0(x, t), 0.25 / (0.25 + rho**2) * y, rtol=1e-12)
        assert torch.allclose(model.eps(x, t), (x - process.alpha(t) * model.x0(x, t)) / process.sigma(t), rtol=1e-11)
        assert torch.allclose(seen[0][0], y / (0.25 + rho**2).sqrt(), rtol=1e-12)
        assert torch.allclose(seen[0][1], (rho.log() / 4).expand(4), rtol=1e-12)
        seen.clear()


class Recorder(nn.Module):
    """Remembers what it was given; answers with the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.t: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        self.t.append(t)
        return torch.zeros_like(x) if cond is None else cond.view(len(x), -1).to(x).mean(1, keepdim=True).expand_as(x)


def test_time_of_the_net() -> None:
    x = torch.zeros(3, 2, dtype=torch.bfloat16)
    net = Recorder()
    Denoiser(net, VP()).eps(x, 0.25)
    Denoiser(net, VPDiscrete.linear(1000)).eps(x, 1.0)
    Denoiser(net, VP(), time=lambda t: 1000 * t).eps(x, torch.tensor([0.1, 0.2, 0.3]))
    assert [t.dtype for t in net.t] == [torch.float32] * 3
    assert [t.shape for t in net.t] == [(3,)] * 3
    assert net.t[0].tolist() == [0.25] * 3 and net.t[1].tolist() == [999.0] * 3
    assert torch.allclose(net.t[2], torch.tensor([100.0, 200.0, 300.0]))


def test_guidance_is_one_call() -> None:
    net = Recorder()
    model = Denoiser(net, VP())
    x, c, u = torch.randn(3, 2), torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.5)
    got = model.eps(x, 0.5, c, uncond=u, guidance=4.0)
    assert [len(t) for t in net.t] == [6]
    assert torch.allclose(got[:, 0], 0.5 + 4 * (c - 0.5))
    w = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
    got = model.eps(x, torch.tensor([0.1, 0.5, 0.9]), c, uncond=u, guidance=w)
    assert torch.allclose(got[:, 0], torch.tensor([0.5, 2.0, 5.5]))
    got.sum().backward()
    assert torch.allclose(w.grad, 2 * (c - 0.5))


def test_guidance_of_several_conditions() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return x * 0 + cond["a"][:, :1] + cond["b"][0][:, None]

    model = Denoiser(Two(), VP())
    cond = {"a": torch.full((3, 4), 2.0), "b": (torch.arange(3.0),)}
    null = {"a": torch.zeros(1, 4), "b": (torch.zeros(3),)}
    got = model.eps(torch.randn(3, 2), 0.5, cond, uncond=null, guidance=2.0)
    assert torch.allclose(got[:, 0], torch.tensor([4.0, 6.0, 8.0]))
    with pytest.raises(TypeError, match="uncond"):
        model.eps(torch.randn(3, 2), 0.5, cond, uncond=torch.zeros(3), guidance=2.0)


@pytest.mark.parametrize("missing", ["cond", "uncond"])
def test_guidance_needs_both(missing: str) -> None:
    given = {"cond": torch.zeros(3), "uncond": torch.zeros(3), missing: None}
    with pytest.raises(ValueError, match=f"'{missing}'"):
        Denoiser(Recorder(), VP()).eps(torch.randn(3, 2), 0.5, given["cond"], uncond=given["uncond"], guidance=2.0)


def test_clipped_noise_follows_the_data() -> None:
    exact, process = gaussian(), VP()
    model = Denoiser(exact.net, process, clip=0.6)
    x, t = torch.randn(50, 2, dtype=torch.float64) * 3, 0.3
    data = exact.x0(x, t)
    assert data.abs().max() > 0.6
    assert torch.equal(model.x0(x, t), data.clamp(-0.6, 0.6))
    assert torch.allclose(process.noised(model.x0(x, t), t, model.eps(x, t)), x, rtol=1e-12)


def test_dynamic_clipping() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.stack([torch.arange(10.0) / 20, -torch.arange(10.0)])

    model = Denoiser(Fixed(), VP(), pred="x0", clip=1.0, dynamic=0.8)
    got = model.x0(torch.zeros(2, 10), 0.5)
    assert torch.equal(got[0], torch.arange(10.0) / 20)  # within the bounds: unchanged
    assert torch.allclose(got[1], (-torch.arange(10.0)).clamp(-7.2, 7.2) / 7.2)  # place 0.8 of 0 .. 9
    model = Denoiser(Fixed(), VP(), pred="x0", clip=1.0, dynamic=(0.8, 3.0))
    assert torch.allclose(model.x0(torch.zeros(2, 10), 0.5)[1], (-torch.arange(10.0)).clamp(-3, 3) / 3)


def test_learned_variance_is_split_off() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([x, x + 1], 1)

    model = Denoiser(Double(), VP(), variance=True)
    x = torch.randn(2, 3, 4)
    assert torch.equal(model.eps(x, 0.5), x)
    assert torch.equal(model.both(x, 0.5)[1], x + 1)
    with pytest.raises(ValueError, match="variance=True"):
        Denoiser(Double(), VP()).eps(x, 0.5)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: Denoiser(lambda x, t: x, VP()), TypeError),
        (lambda: Denoiser(nn.Identity(), "VP"), TypeError),
        (lambda: Denoiser(nn.Identity(), VP(), pred="noise"), ValueError),
        (lambda: Denoiser(nn.Identity(), VP(), clip=(1, -1)), ValueError),
        (lambda: Denoiser(nn.Identity(), VP(), dynamic=0.9), ValueError),
        (lambda: Denoiser(nn.Identity(), VP(), clip=1.0, dynamic=(0.9, 0.5)), ValueError),
        (lambda: Denoiser(Recorder(), VP()).eps(torch.zeros(2, 2, dtype=torch.int64), 0.5), TypeError),
        (lambda: Denoiser(Recorder(), VP()).eps(torch.zeros(2, 2, dtype=torch.complex64), 0.5), TypeError),
        (lambda: Denoiser(Recorder(), VP()).eps(torch.zeros(2, 2), torch.zeros(3)), ValueError),
        (lambda: Denoiser(Recorder(), VP()).predict("v", torch.zeros(2, 2), 0.5), ValueError),
        (lambda: Denoiser(Recorder(), VP()).both(torch.zeros(2, 2), 0.5), ValueError),
    ],
)
def test_wrong_input_raises(call: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        call()


# --- the ends: where no signal is left, and where no noise is ---

ENDS = {  # what has no limit there: (prediction, what is asked)
    1.0: {(pred, kind) for pred in ("eps", "score") for kind in ("x0", "v")},
    0.0: {("x0", "eps"), ("x0", "v")} | {(pred, "score") for pred in PREDICTIONS if pred != "score"},
}


class Fixed(nn.Module):
    """An output that depends on nothing."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.linspace(-0.5, 2.0, x.numel(), dtype=torch.float64).view(x.shape).to(x)


@pytest.mark.parametrize("pred", PREDICTIONS)
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_ends_of_the_times(pred: str, kind: str, end: float) -> None:
    """Limits from inside, or an error: FlowMatching has alpha = 0 at t = 1 and sigma = 0 at t = 0."""
    model = Denoiser(Fixed(), FlowMatching(), pred=pred, time=lambda t: t)
    x = torch.linspace(-1.5, 1.0, 8, dtype=torch.float64).view(4, 2)
    if (pred, kind) in ENDS[end]:
        lost = "signal" if end else "noise"
        for t in (end, torch.tensor([0.5, 0.5, end, 0.5])):
            with pytest.raises(ValueError, match=rf"'t': expected times with some {lost} left.*none at t = {end}"):
                getattr(model, kind)(x, t)
        return
    inside = getattr(model, kind)(x, abs(end - 1e-9))
    assert torch.allclose(getattr(model, kind)(x, end), inside, rtol=1e-6, atol=1e-7)
    assert inside.abs().max() < 1e3


@pytest.mark.parametrize("pred", PREDICTIONS)
def test_ends_with_bounds_on_the_data(pred: str) -> None:
    """Noise and velocity follow the clipped data: without noise these say nothing of it."""
    model = Denoiser(Fixed(), FlowMatching(), pred=pred, clip=1.0, time=lambda t: t)
    x = torch.ones(2, 2)
    for kind in ("eps", "v", "score"):
        with pytest.raises(ValueError, match="some noise left"):
            getattr(model, kind)(x, 0.0)
    assert model.x0(x, 0.0).isfinite().all()
    for kind in ("eps", "x0", "v", "score"):
        if pred in ("eps", "score"):
            with pytest.raises(ValueError, match="some signal left"):
                getattr(model, kind)(x, 1.0)
        else:
            assert getattr(model, kind)(x, 1.0).isfinite().all()


def test_ends_of_edm_nets_that_are_given_log_rho() -> None:
    model = Denoiser(Fixed(), FlowMatching(), pred="edm")
    for call in (model, model.x0, model.eps):
        for t, lost in ((0.0, "noise"), (1.0, "signal")):
            with pytest.raises(ValueError, match=f"some {lost} left"):
                call(torch.ones(2, 2), t)


class Halved(nn.Module):
    """An output that needs no parameters."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / 2


@pytest.mark.parametrize("pred", PREDICTIONS)
@pytest.mark.parametrize("fake", [False, True], ids=["meta", "fake"])
def test_tensors_without_numbers(pred: str, fake: bool) -> None:
    """Shapes are told, and ends are not looked at."""
    with FakeTensorMode() if fake else nullcontext():
        x = torch.zeros(4, 2, device="cpu" if fake else "meta")
        model = Denoiser(Halved(), VP(), pred=pred)
        for t in (0.5, torch.tensor(0.5), torch.full((4,), 0.5), torch.full((4,), 0.5, device=x.device)):
            for call in (model, model.eps, model.x0, model.v, model.score):
                assert call(x, t).shape == x.shape
        assert dsm_loss(model, x, reduce=False).shape == (4,)
        assert dsm_loss(model, x, t=torch.ones(4)).shape == ()


class Watched(VP):
    """Notes the devices of the times at which the noise or the signal is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def log_alpha(self, t: Tensor) -> Tensor:
        self.asked.append(t.device.type)
        return super().log_alpha(t)


def test_times_are_looked_at_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU before they move, and once: looking at them on a GPU would wait for it."""
    monkeypatch.setattr("probkernels._core.checks.readable", lambda *values: True)  # what meta stands for here: a GPU
    model, x = Denoiser(Halved(), process := Watched(), pred="edm"), torch.zeros(4, 2, device="meta")
    t, looked = torch.linspace(0.1, 0.9, 4), []
    plain = Tensor.__bool__
    monkeypatch.setattr(Tensor, "__bool__", lambda t: looked.append(t.device.type) or plain(t))
    for call in (
        lambda: model(x, t),
        lambda: model.eps(x, t),
        lambda: model.score(x, t),
        lambda: dsm_loss(model, x, t=t),
    ):
        looked.clear()
        process.asked.clear()
        call()
        assert looked == ["cpu"]
        assert process.asked[0] == "cpu" and "meta" in process.asked
    with pytest.raises(
        ValueError, match="dsm_loss: argument 't': expected times with some noise left, as pred is 'edm'"
    ):
        dsm_loss(model, x, t=torch.tensor([0.1, 0.0, 0.2, 0.3]))
