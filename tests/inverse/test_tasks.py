"""Tasks against closed forms of normal data; and wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.diffusion import EDM, VP, ClassifierGuidance, Denoiser, VPDiscrete, fit, sample
from probkernels.inverse import (
    Concatenated,
    Identity,
    LatentDenoiser,
    Mask,
    Measurement,
    SmallVAE,
    anomaly_map,
    deblur,
    denoise,
    diffusion_classifier,
    inpaint,
    memorization_check,
    reconstruct,
    register,
    segment,
    super_resolve,
    translate,
    warp,
)
from torch import Tensor, nn

from tests.inverse.oracles import COVARIANCE, normal

DOUBLE = torch.float64


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class White(nn.Module):
    """The best denoiser of data N(mean, std^2) in all entries, of any shape; cond replaces the mean."""

    def __init__(self, mean: float = 0.0, std: float = 1.0, process: Any = None) -> None:
        super().__init__()
        self.mean, self.std, self.process = mean, std, process or VP()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        rows = (-1, *[1] * (x.ndim - 1))
        a, s = (c.view(rows).to(x) for c in (self.process.alpha(t), self.process.sigma(t)))
        mean = self.mean if cond is None else cond.view(rows).to(x)
        gain = a * self.std**2 / (a**2 * self.std**2 + s**2)
        return mean + gain * (x - a * mean)


def white(mean: float = 0.0, std: float = 1.0, process: Any = None) -> Denoiser:
    process = process or VP()
    return Denoiser(White(mean, std, process), process, pred="x0")


# --- restoration ---


@pytest.mark.parametrize("process", [VP(), VPDiscrete.linear(), EDM()])
def test_mmse_is_wieners_filter(process: Any) -> None:
    y, std = torch.randn(5, 2, generator=seeded(), dtype=DOUBLE), 0.5
    wiener = y @ torch.linalg.solve(COVARIANCE + std**2 * torch.eye(2, dtype=DOUBLE), COVARIANCE)
    assert torch.allclose(denoise(normal(process), y, std), wiener, atol=1e-9)


def test_samples_of_the_posterior_have_its_moments() -> None:
    y, std = torch.tensor([[1.0, -0.5]], dtype=DOUBLE), 0.5
    x = denoise(normal(VP()), y, std, method="sample", n_samples=4000, steps=60, generator=seeded())[:, 0]
    gain = torch.linalg.solve(COVARIANCE + std**2 * torch.eye(2, dtype=DOUBLE), COVARIANCE)
    assert (x.mean(0) - y[0] @ gain).abs().max() < 0.03
    assert (torch.cov(x.T) - (COVARIANCE - gain @ COVARIANCE)).abs().max() < 0.02


def test_rows_are_one_batch_and_repeat_by_generator() -> None:
    y = torch.randn(2, 3, 4, 4, 4, generator=seeded())  # volumes
    first, again = (
        denoise(white(), y, 0.5, method="sample", n_samples=3, steps=4, generator=seeded()) for _ in range(2)
    )
    assert first.shape == (3, *y.shape) and torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_inpainting_finds_the_conditional_mean() -> None:
    y = torch.tensor([[1.0, math.nan]], dtype=DOUBLE)  # what is hidden may be anything
    how: dict[str, Any] = {"n_samples": 1500, "steps": 60, "generator": seeded(), "grid_kind": "lambda"}
    how |= {"noise_std": 0.1, "method": "exact", "options": {"covariance": COVARIANCE}}
    x = inpaint(normal(VP()), y, torch.tensor([1, 0]), **how)[:, 0]
    assert (x.mean(0) - torch.tensor([0.990, 0.792])).abs().max() < 0.05
    repainted = inpaint(white(), torch.ones(1, 2, 4), torch.tensor([1, 1, 0, 0]), n_samples=2, steps=10)
    assert repainted.shape == (2, 1, 2, 4)
    assert torch.allclose(repainted[..., :2], torch.ones(2, 1, 2, 2), atol=0.1)


def test_super_resolution_and_deblurring_fit_the_measurement() -> None:
    y = torch.randn(2, 4, 4, generator=seeded())
    x = super_resolve(white(), y, 2, steps=30, generator=seeded())
    assert x.shape == (2, 8, 8)
    assert (x.unflatten(2, (4, 2)).unflatten(1, (4, 2)).mean((2, 4)) - y).abs().max() < 0.1
    truth = torch.randn(1, 16, generator=seeded(2), dtype=DOUBLE)
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=DOUBLE) / 4
    blurred = (truth.roll(1, 1) + 2 * truth + truth.roll(-1, 1)) / 4
    x = deblur(white(), blurred, kernel, noise_std=0.1, n_samples=400, steps=100, generator=seeded()).mean(0)
    h = torch.fft.fft(torch.nn.functional.pad(kernel, (0, 13)).roll(-1))
    wiener = torch.fft.ifft(torch.fft.fft(blurred) * h.conj() / (h.abs() ** 2 + 0.01)).real
    assert (x - wiener).abs().max() < 0.2  # PiGDM is exact for white data; what is left is chance


# --- anomaly maps ---


@pytest.mark.parametrize("method", ["denoise", "inversion", "counterfactual", "likelihood"])
def test_every_map_finds_the_spoiled_entry(method: str) -> None:
    model = white(std=0.3)
    x = 0.3 * torch.randn(3, 4, 4, generator=seeded())
    x[:, 1, 2] = 3.0
    healthy = ClassifierGuidance(lambda x, t: -0.5 * x.square().flatten(1).sum(1), weight=2.0)
    needs: dict[str, dict[str, Any]] = {
        "inversion": {"changes": [healthy]},
        "counterfactual": {"cond": torch.zeros(1), "uncond": torch.tensor([2.0]), "guidance": 2.0},
        "likelihood": {"reference": 0.3 * torch.randn(64, 4, 4, generator=seeded(2))},
    }
    found = anomaly_map(model, x, method, level=1.0, steps=8, generator=seeded(), **needs.get(method, {}))
    assert found.shape == x.shape
    if method != "counterfactual":  # which moves all entries alike
        assert (found.flatten(1).argmax(1) == 6).all()
    again = anomaly_map(model, x, method, level=1.0, steps=8, generator=seeded(), **needs.get(method, {}))
    assert torch.equal(found, again)


def test_counterfactual_moves_by_the_guided_flow() -> None:
    """Guidance 1 is the healthy class alone: the map is the closed-form bridge from one normal to the other."""
    model = white(std=0.5, process=EDM(0.002, 40.0))
    x = torch.tensor([[2.0, 1.0]], dtype=DOUBLE)
    how: dict[str, Any] = {"cond": torch.zeros(1), "uncond": torch.tensor([2.0]), "guidance": 1.0}
    found = anomaly_map(model, x, "counterfactual", level=1.0, steps=400, **how)
    gain = math.sqrt(0.25 + 1) / 0.5
    expected = (2 * (gain - 1) / gain) * torch.ones(1, 2, dtype=DOUBLE)  # latent 2 + gain (x - 2), back by 1 / gain
    assert (found - expected).abs().max() < 0.02


def test_the_denoising_map_has_its_closed_form() -> None:
    """One step from level 1 of white data is D: the mean absolute x - D(x_t) of normal noise."""
    x = torch.full((1, 4000), 2.0, dtype=DOUBLE)
    found = anomaly_map(white(process=EDM(1e-4, 80.0)), x, level=1.0, n=4, steps=1, generator=seeded())
    gap = 1.0 - 0.5 * torch.randn(200_000, generator=seeded(2), dtype=DOUBLE)  # 2 - (2 + z) / 2
    assert abs(float(found.mean() - gap.abs().mean())) < 0.02


# --- translation and registration ---


def test_the_bridge_of_two_normals_is_the_closed_form_map() -> None:
    process = EDM(0.002, 80.0)
    source, target = white(-1.0, 0.5, process), white(2.0, 1.5, process)
    x = torch.linspace(-2, 0, 5, dtype=DOUBLE)[:, None]
    found = translate(target, x, source=source, steps=200)
    ratio = [math.sqrt(std**2 + 0.002**2) / math.sqrt(std**2 + 80.0**2) for std in (0.5, 1.5)]
    latent = -1 + (x + 1) / ratio[0]
    assert torch.allclose(found, 2 + (latent - 2) * ratio[1], atol=2e-3)


def test_sdedit_keeps_more_at_small_levels() -> None:
    x = torch.full((2000, 1), -3.0, dtype=DOUBLE)
    ends = [translate(white(2.0, 0.5), x, level=level, generator=seeded()).mean() for level in (0.1, 0.5, 5.0)]
    expected = [2 - 5 * 0.25 / (0.25 + level**2) for level in (0.1, 0.5, 5.0)]  # the posterior's mean
    assert torch.allclose(torch.stack(ends), torch.tensor(expected, dtype=DOUBLE), atol=0.05)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_warp_shifts_whole_entries(d: int) -> None:
    x = torch.randn(2, 3, *[5] * d, generator=seeded())
    shift = torch.zeros(2, d, *[5] * d)
    shift[:, -1] = 1
    assert torch.allclose(warp(x, shift)[..., :-1], x[..., 1:], atol=1e-5)


@pytest.mark.parametrize("with_model", [False, True])
def test_registration_recovers_a_shift(with_model: bool) -> None:
    place = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 2, indexing="ij"))

    def bump(at: tuple[float, float]) -> Tensor:
        return (-((place - torch.tensor(at)[:, None, None]).square().sum(0)) / 18).exp()[None, None]

    moving, fixed = bump((7.0, 8.0)), bump((8.5, 7.0))
    found = register(moving, fixed, white() if with_model else None, smoothness=0.001, generator=seeded())
    assert (found.warped - fixed).square().mean() < 0.05 * (moving - fixed).square().mean()
    seen = found.displacement[0, :, 6:10, 6:10].mean((1, 2))
    assert (seen - torch.tensor([-1.5, 1.0])).abs().max() < 0.5
    assert found.losses[-1] < found.losses[0]


# --- recognition ---


def test_the_classifier_is_bayes_rule_for_two_normals() -> None:
    x = torch.randn(200, 2, generator=seeded(), dtype=DOUBLE) + 0.5
    labels = diffusion_classifier(white(), x, torch.tensor([-1.0, 1.0], dtype=DOUBLE), n=512, generator=seeded()).label
    clear = x.sum(1).abs() > 0.5  # elsewhere chance decides
    assert torch.equal(labels[clear], (x.sum(1) > 0).long()[clear])


def test_losses_do_not_depend_on_rows_per_call() -> None:
    x, classes = torch.randn(3, 2, generator=seeded()), torch.tensor([-1.0, 0.0, 1.0])
    whole, parts = (
        diffusion_classifier(white(), x, classes, n=4, rows=rows, generator=seeded()).losses for rows in (8192, 7)
    )
    assert whole.shape == (3, 3) and torch.allclose(whole, parts)


def test_segments_have_the_mean_and_spread_of_the_model() -> None:
    class Unsure(nn.Module):
        """Where the image is 1 the mask is 1; where it is 0, -1 or 1 with equal probability."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            a, s = (c.view(-1, 1, 1).to(x) for c in (VP().alpha(t), VP().sigma(t)))
            mask, image = x[:, :1], x[:, 1:]
            return torch.where(image > 0, torch.ones_like(mask), (a * mask / s**2).tanh())

    model = Denoiser(Concatenated(Unsure()), VP(), pred="x0")
    mean, std = segment(model, torch.tensor([[[1.0, 0.0]]]), n=400, steps=40, generator=seeded())
    assert float(mean[0, 0, 0]) > 0.98 and float(std[0, 0, 0]) < 0.05
    assert abs(float(mean[0, 0, 1]) - 0.5) < 0.1 and abs(float(std[0, 0, 1]) - 0.5) < 0.05


def test_copies_are_found_also_of_points_that_occur_twice() -> None:
    train = torch.randn(50, 2, 3, generator=seeded())
    train = torch.cat([train, train[:1]])
    samples = torch.cat([train[:2], train[2:3] + 1e-3, torch.randn(20, 2, 3, generator=seeded(2))])
    found = memorization_check(samples, train, rows=7)
    assert found.copied[:3].all() and found.nearest[1:3].tolist() == [1, 2]
    assert found.copied[3:].float().mean() < 0.2 and (found.ratio <= 1).all()


# --- latents ---


def test_latent_diffusion_trains_samples_and_reconstructs() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 2, generator=seeded()) @ torch.randn(2, 12, generator=seeded(2))
    x = x.unflatten(1, (3, 4))
    vae = SmallVAE((3, 4), latent=2, hidden=64)
    losses = vae.fit(x, steps=400, beta=1e-4)
    assert losses[-1] < 0.1 * losses[0]
    model = LatentDenoiser(White(process=VP()), VP(), vae, x, pred="x0")  # standardized latents are about normal
    z = model.to_latents(x)
    assert abs(float(z.mean())) < 1e-5 and float(z.std()) == pytest.approx(1, abs=1e-4)
    assert (model.to_data(z) - x).square().mean() < 0.1 * x.square().mean()
    drawn = model.to_data(sample(model, torch.randn(500, 2, generator=seeded()), steps=20))
    assert drawn.shape == (500, 3, 4) and 0.5 < float(drawn.std() / x.std()) < 1.5
    mask = torch.tensor([1, 1, 1, 0])
    seen = model.measured(Measurement(Mask(mask), Mask(mask)(x[:4]), method="dps", step=0.2))
    found = model.to_data(reconstruct(model, seen, (4, 2), steps=100, solver="ddim", eta=1.0, generator=seeded()))
    assert (found - x[:4]).square().mean() < 0.2 * x[:4].square().mean()
    with pytest.raises(ValueError, match="measurement"):
        model.measured(Measurement(Identity(), x[:4]))


def test_training_leaves_the_autoencoder_alone() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.scale * x

    x = torch.randn(20, 4, generator=seeded())
    model = LatentDenoiser(Scale(), VP(), SmallVAE((4,), latent=2, hidden=8), x)
    before = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
    fit(model, model.to_latents(x), steps=3, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.autoencoder.state_dict().items())
    assert float(model.net.scale.detach()) != 0


# --- wrong input ---

X, CLASSES = torch.zeros(2, 4), torch.zeros(2)
NAN = torch.full((2, 4), math.nan)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: denoise(white(), X, 0.0), ValueError, "noise_std"),
    (lambda: denoise(white(), X, -1.0), ValueError, "noise_std"),
    (lambda: denoise(white(), X, 1e6), ValueError, "noise_std"),
    (lambda: denoise(white(), NAN, 0.5), ValueError, "'y'"),
    (lambda: denoise(white(), X.to(torch.complex64), 0.5), TypeError, "'y'"),
    (lambda: denoise(white(), X, 0.5, method="mean"), ValueError, "method"),
    (lambda: denoise(white(), X, 0.5, n_samples=3), ValueError, "n_samples"),
    (lambda: denoise(White(), X, 0.5), TypeError, "model"),  # type: ignore[arg-type]
    (lambda: inpaint(white(), X, NAN), ValueError, "mask"),
    (lambda: inpaint(white(), X, torch.ones(3)), ValueError, "Mask"),
    (lambda: inpaint(white(), X, torch.ones(4), noise_std=0.0), ValueError, "std"),
    (lambda: super_resolve(white(), X, 2), ValueError, "'y'"),
    (lambda: anomaly_map(white(), X, "residual"), ValueError, "method"),
    (lambda: anomaly_map(white(), X, "inversion"), ValueError, "changes"),
    (lambda: anomaly_map(white(), X, "counterfactual", cond=CLASSES), ValueError, "uncond"),
    (lambda: anomaly_map(white(), X, "likelihood"), ValueError, "reference"),
    (lambda: anomaly_map(white(), X, "likelihood", reference=X[:, :3]), ValueError, "reference"),
    (lambda: anomaly_map(white(), X, reference=X), ValueError, "reference"),
    (lambda: anomaly_map(white(), X, n=0), ValueError, "'n'"),
    (lambda: translate(white(), X), ValueError, "level"),
    (lambda: translate(white(), X, level=0.5, source=white()), ValueError, "level"),
    (lambda: warp(X[:, None], torch.zeros(2, 2, 4)), ValueError, "displacement"),
    (lambda: register(X, X), ValueError, "moving"),
    (lambda: register(X[:, None], X[:1, None]), ValueError, "fixed"),
    (lambda: diffusion_classifier(white(), X, CLASSES[:1]), ValueError, "classes"),
    (lambda: segment(white(), X, n=0), ValueError, "'n'"),
    (lambda: memorization_check(X, X[:1]), ValueError, "train"),
    (lambda: memorization_check(X[:, :2], X), ValueError, "samples"),
    (lambda: SmallVAE((3,)).encode(X), ValueError, "'x'"),
]


@pytest.mark.parametrize(("call", "error", "name"), WRONG)
def test_wrong_input(call: Callable[[], Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        call()
