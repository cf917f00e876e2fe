"""Guidance by measurements, against the exact posterior of normal data; gradients through it; and wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, ClassifierGuidance, Denoiser, Guided, sample
from probkernels.inverse import (
    Fourier,
    GaussianNoise,
    Identity,
    Mask,
    Measurement,
    PoissonNoise,
    Radon,
    latent_map,
    reconstruct,
)
from torch import Tensor

from tests.inverse.oracles import COVARIANCE, MEAN, POSTERIOR, Normal, normal

FIRST, NOISE = Mask(torch.tensor([True, False])), GaussianNoise(0.1)
ONE = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
METHODS = ["replacement", "repaint", "dps", "mcg", "pigdm", "ddnm", "ddrm", "exact"]
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {"covariance": COVARIANCE},
    "repaint": {"resample": 4},
    "dps": {"step": 0.3},
}


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(method: str, y: Tensor = ONE, mask: Tensor | None = None) -> Measurement:
    operator = FIRST if mask is None else Mask(mask)
    return Measurement(operator, y, NOISE, method, **OPTIONS.get(method, {}))


def moments(method: str, steps: int = 60, **how: Any) -> tuple[Tensor, Tensor]:
    how = {"solver": "ddim", "eta": 1.0, **how}
    x = reconstruct(
        normal(VP()), measured(method), (3000, 2), steps=steps, grid_kind="lambda", generator=seeded(), **how
    )
    return x.mean(0), torch.cov(x.T)


@pytest.mark.parametrize(("solver", "steps", "eta"), [("ddim", 200, 1.0), ("dpmpp_2m", 40, None), ("heun", 30, None)])
def test_the_exact_term_gives_the_posterior(solver: str, steps: int, eta: float | None) -> None:
    mean, covariance = moments("exact", steps, solver=solver, eta=eta)
    assert (mean - MEAN).abs().max() < 0.04
    assert (covariance / POSTERIOR - 1).abs().diag().max() < 0.12
    assert abs(float(covariance[0, 1] - POSTERIOR[0, 1])) < 0.004


def test_biases() -> None:
    """The unmeasured mean is .792 and its variance .366: who comes near, and who does not."""
    found = {method: moments(method) for method in ("replacement", "repaint", "pigdm", "ddnm", "ddrm")}
    off = {method: abs(float(mean[1] - MEAN[1])) for method, (mean, _) in found.items()}
    assert off["pigdm"] < 0.08
    assert off["repaint"] < 0.6 * off["replacement"]
    assert all(0.2 < off[method] < 0.4 for method in ("replacement", "ddnm", "ddrm"))
    assert float(found["ddnm"][1][0, 0]) < 1e-3  # it knows of no noise
    assert 0.006 < float(found["ddrm"][1][0, 0]) < 0.012


def test_pigdm_is_exact_for_independent_data() -> None:
    y = torch.tensor([[1.0, 0.0]], dtype=torch.float64)

    model = Denoiser(Normal(VP(), torch.eye(2, dtype=torch.float64)), VP(), pred="x0", time=lambda t: t)
    how: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 30, "generator": None}
    x_T = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    both = [
        reconstruct(model, Measurement(FIRST, y, NOISE, method, **options), x_T=x_T, **how)
        for method, options in (("pigdm", {}), ("exact", {"covariance": torch.eye(2, dtype=torch.float64)}))
    ]
    assert torch.allclose(*both, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_measured_and_all_measured(method: str) -> None:
    """Mask 0 is sampling without a measurement; with mask 1 and no noise, the data come back."""
    how: dict[str, Any] = {"x_T": torch.randn(3, 2, generator=seeded(), dtype=torch.float64), "steps": 8}
    none = measured(method, 0 * ONE, torch.zeros(2))
    if method != "repaint":  # takes steps again, so it has other noise
        plain = sample(normal(), how["x_T"], solver="ddim", steps=8)
        assert torch.allclose(reconstruct(normal(), none, solver="ddim", **how), plain, atol=1e-12)
    if method not in ("dps", "exact", "pigdm"):  # the others have weights of their own
        y = torch.tensor([[0.7, -0.3]], dtype=torch.float64)
        whole = Measurement(Mask(torch.ones(2)), y, None, method, **OPTIONS.get(method, {}))
        # ddim's last step, to sigma 0, returns the predicted data
        found = reconstruct(normal(), whole, solver="ddim", generator=seeded(), **how)
        assert torch.allclose(found, y.expand(3, 2), atol=1e-6)


@pytest.mark.parametrize("method", ["pigdm", "ddnm", "ddrm", "exact"])
@pytest.mark.parametrize("grad", ["exact", "reversible"])
def test_gradients_of_changed_predictions(method: str, grad: str) -> None:
    """To x_T, to y, to the network: as those of autograd."""
    found = []
    for mode in ("autograd", grad):
        x_T = torch.randn(3, 2, generator=seeded(), dtype=torch.float64).requires_grad_()
        y, model = ONE.clone().requires_grad_(), normal(VP())
        solver = "alf" if grad == "reversible" else "dpmpp_2m"
        x = reconstruct(model, measured(method, y), x_T=x_T, solver=solver, steps=4, grad=mode)
        found.append(torch.autograd.grad(x.sin().sum(), [x_T, y, *model.parameters()]))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 if grad == "reversible" else 1e-9)


@pytest.mark.parametrize("method", ["replacement", "repaint", "dps", "mcg"])
def test_gradients_of_changed_states(method: str) -> None:
    """Autograd against finite differences; other modes refuse."""
    x_T = torch.randn(2, 2, generator=seeded(), dtype=torch.float64)

    def end(x: Tensor, grad: str | None = "autograd") -> Tensor:
        return reconstruct(normal(), measured(method), x_T=x, steps=3, grad=grad, generator=seeded())

    assert torch.autograd.gradcheck(end, (x_T.requires_grad_(),), atol=1e-6)
    with pytest.raises(ValueError, match="'callback': expected a function that returns None, as grad is 'exact'"):
        end(x_T, "exact")


def test_many_samples_and_rows() -> None:
    """Rows keep their measurements; a row does not depend on what stands beside it."""
    y = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    x = reconstruct(normal(), measured("ddnm", y), (2, 2), n_samples=5, steps=10, generator=seeded())
    assert x.shape == (5, 2, 2)
    assert (x[:, :, 0] - y[:, 0]).abs().max() < 1e-6


def test_weights_of_a_row_do_not_depend_on_others() -> None:
    y = torch.tensor([[1.0, 4.0], [50.0, 200.0]])
    both, alone = (Measurement(Identity(), rows, PoissonNoise(10.0), "dps") for rows in (y, y[:1]))
    assert torch.equal(both.weighted(torch.ones(2, 2))[:1], alone.weighted(torch.ones(1, 2)))


def test_complex_measurements() -> None:
    """An image of 8 x 8 from half of its Fourier samples: what is measured comes back."""
    lines = torch.tensor([1, 1, 0, 0, 1, 0, 0, 1])[:, None]
    scan = Fourier(lines, real=True)
    image = torch.randn(1, 8, 8, generator=seeded(), dtype=torch.float64)

    class White(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * VP().alpha(t).to(x).view(-1, 1, 1)

    model = Denoiser(White(), VP(), pred="x0")
    for method in ("replacement", "ddnm", "pigdm"):
        y = scan(image)
        noise = GaussianNoise(0.01) if method == "pigdm" else None
        x = reconstruct(model, Measurement(scan, y, noise, method), (1, 8, 8), steps=20, generator=seeded())
        assert (scan(x) - y).abs().max() < 0.1


def test_latent_map_is_the_posterior_mean() -> None:
    """The flow of normal data is linear, so the most probable latent is that of the posterior's mean."""
    x = latent_map(normal(VP()), measured("ddnm"), torch.zeros(1, 2, dtype=torch.float64), solver="dpmpp_2m", steps=60)
    assert torch.allclose(x[0], MEAN, atol=0.02)


def test_beside_other_guidance() -> None:
    """Classifier-free guidance and a classifier shift the mean before the measurement counts."""
    x_T = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    how: dict[str, Any] = {"x_T": x_T, "steps": 40, "solver": "dpmpp_2m", "eta": None}
    cond, uncond = (torch.full((1, 2), c, dtype=torch.float64) for c in (1.0, 0.0))
    seen = Measurement(FIRST, ONE, None, "ddnm")
    x = reconstruct(normal(VP()), seen, cond=cond, uncond=uncond, guidance=3.0, **how)
    plain = reconstruct(normal(VP()), seen, **how)
    assert torch.allclose(x[:, 0], plain[:, 0], atol=0.01)
    assert (x[:, 1] > plain[:, 1] + 0.2).all()
    up = Guided(normal(VP()), ClassifierGuidance(lambda x, t: 2 * x.sum(1)))
    assert (reconstruct(up, seen, **how)[:, 1] > plain[:, 1] + 0.2).all()


def test_a_step_that_varies() -> None:
    how: dict[str, Any] = {"x_T": torch.ones(2, 2, dtype=torch.float64), "steps": 5}
    never = Measurement(FIRST, ONE, NOISE, "dps", step=lambda t: 0.3 if t > 2 else 0.0)
    assert torch.equal(reconstruct(normal(), never, **how), sample(normal(), how["x_T"], solver="ddim", steps=5))
    counts = Measurement(Identity(), torch.full((1, 2), 4.0, dtype=torch.float64), PoissonNoise(5.0), "dps")
    assert torch.allclose(counts.weighted(counts.y), counts.y)  # equal variances
    x = reconstruct(normal(), counts, **how)
    assert (counts.log_prob(x) > counts.log_prob(sample(normal(), how["x_T"], solver="ddim", steps=5))).all()


def rebuilt(**how: Any) -> Tensor:
    return reconstruct(normal(), how.pop("seen", measured("ddnm")), **{"shape": (2, 2), "steps": 3, **how})


COIL = Measurement(Fourier(torch.ones(2), ndim=1), ONE)
WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Measurement(FIRST, ONE * math.nan), ValueError, "Measurement: argument 'y': expected finite numbers"),
    (lambda: Measurement(FIRST, ONE, 0.1), TypeError, "'noise': expected a GaussianNoise"),  # type: ignore[arg-type]
    (lambda: Measurement(FIRST, ONE, method="dsp"), ValueError, "'method': expected one of .*did you mean 'dps'"),
    (lambda: Measurement(FIRST, ONE, method="dps", steps=1.0), TypeError, "'options': expected one of step"),
    (lambda: Measurement(FIRST, ONE, method="dps", step=0.0), ValueError, "'step': expected a positive"),
    (lambda: Measurement(torch.ones(2), ONE), TypeError, "as_operator: argument 'value'"),
    (
        lambda: Measurement(FIRST, ONE, method="exact", covariance=COVARIANCE),
        ValueError,
        "'noise': expected a Gaussian",
    ),
    (lambda: rebuilt(shape=(2, 3)), ValueError, "Mask: argument 'x'"),
    (lambda: rebuilt(seen=measured("ddnm", ONE.expand(3, 2))), ValueError, r"'y': expected shape \(2, 2\)"),
    (lambda: rebuilt(seen=COIL), TypeError, "'y': expected real or complex numbers, as A x, got torch.float64, while"),
    (lambda: rebuilt(x_T=torch.ones(2, 2)), ValueError, "'shape': expected either 'shape' or 'x_T', got both"),
    (
        lambda: rebuilt(solver="dpmpp_2m", seen=measured("repaint")),
        ValueError,
        "one-step solver, as method is 'repaint'",
    ),
    (lambda: rebuilt(solver="unipc", seen=measured("dps")), ValueError, "as the solver keeps other states"),
    (lambda: rebuilt(steps=None), ValueError, "'steps': expected either"),
    (lambda: latent_map(normal(), Measurement(FIRST, ONE), ONE), ValueError, "'noise': expected a noise, for a"),
    (
        lambda: rebuilt(seen=Measurement(Radon(4, torch.ones(2)), torch.ones(1, 2, 7), None, "ddnm"), shape=(1, 4, 4)),
        ValueError,
        "'y': expected shape",
    ),
    (
        lambda: rebuilt(seen=Measurement(Radon(2, torch.ones(2)), torch.ones(1, 2, 4), None, "ddnm"), shape=(1, 2, 2)),
        NotImplementedError,
        "Radon: has no pseudo-inverse in closed form. Hint: WithPinv",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_wrong_input(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
