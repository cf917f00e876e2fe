"""Prob-PSENN: closed values of the laws, limits and invariances of the model, its uncertainties, bad input."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.uncertainty import GaussianPrototypes, ProbPSENN, overlap_index
from probkernels.uncertainty._prototype_fit import clusters
from probkernels.uncertainty.prob_psenn import PrototypeOutput
from probkernels.uncertainty.prototypes import COVARIANCES, DIRECT, squared_distances
from scipy.stats import multivariate_normal
from torch import Tensor, nn

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def blobs(classes: int = 3, each: int = 40, dim: int = 4, apart: float = 4.0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes).repeat_interleave(each)
    return normal(classes * each, dim) + apart * normal(classes, dim, seed=1)[labels], labels


def fitted(covariance: str = "full", decoder: bool = True, **options: Any) -> tuple[ProbPSENN, Tensor, Tensor]:
    """A model whose codes are its inputs, and the inputs that its prototypes are fitted to."""
    torch.manual_seed(0)
    x, labels = blobs()
    prototypes = GaussianPrototypes(3, 4, covariance, dtype=F64, **options).fit_(x, labels)
    model = ProbPSENN(nn.Identity(), prototypes, nn.Linear(4, 4, dtype=F64) if decoder else None)
    return model, x, labels


def set_scale(prototypes: GaussianPrototypes, std: float) -> None:
    """Makes all covariances std^2 times the unit matrix; about 1e-5 is the smallest."""
    with torch.no_grad():
        raw = torch.full_like(prototypes.mean, max(std - 1e-5, 1e-30)).expm1().log()
        prototypes.raw_scale.copy_(raw if prototypes.covariance == "diag" else torch.diag_embed(raw))


# --- laws ---


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_distance_has_its_mean_and_variance(covariance: str) -> None:
    prototypes = GaussianPrototypes(2, 2, covariance, dtype=F64)
    with torch.no_grad():
        prototypes.mean.zero_()
        raw = (torch.tensor([1.0, 2.0], dtype=F64) - 1e-5).expm1().log().expand(2, 2)
        prototypes.raw_scale.copy_(raw if covariance == "diag" else torch.diag_embed(raw))
    z = torch.tensor([[1.0, 0.0]], dtype=F64)
    assert prototypes.mean_distances(z)[0].tolist() == pytest.approx([6, 6])
    assert prototypes.log_prob(z)[0].tolist() == pytest.approx([-3.0310242] * 2, abs=1e-7)
    drawn = squared_distances(z, prototypes.rsample(200_000, seeded()).flatten(0, 1))
    assert drawn.mean().item() == pytest.approx(6, abs=0.06)
    assert drawn.var().item() == pytest.approx(38, rel=0.03)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("per_class", [1, 2])
def test_draws_have_the_density_that_log_prob_says(covariance: str, per_class: int) -> None:
    x, labels = blobs()
    prototypes = GaussianPrototypes(3, 4, covariance, per_class=per_class, dtype=F64).fit_(x, labels)
    drawn = prototypes.rsample(40_000, seeded())
    assert drawn.shape == (40_000, 3 * per_class, 4)
    z = normal(5, 4, seed=3)
    gap = squared_distances(z, drawn.flatten(0, 1)).view(5, -1, 3 * per_class).mean(1) / prototypes.mean_distances(z)
    assert gap.sub(1).abs().max() < 0.02
    law = prototypes.distribution()
    assert law.batch_shape == (3 * per_class,) and law.event_shape == (4,)
    torch.testing.assert_close(drawn.mean(0), law.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.var(0, unbiased=True), law.variance, atol=0.03, rtol=0.06)


def test_log_prob_is_scipys() -> None:
    x, labels = blobs()
    full = GaussianPrototypes(3, 4, dtype=F64).fit_(x, labels, jitter=1e-3)
    for c in range(3):
        own = x[labels == c].numpy()
        law = multivariate_normal(own.mean(0), np.cov(own.T, bias=True) + 1e-3 * np.eye(4))
        np.testing.assert_allclose(full.log_prob(x)[:, c].detach(), law.logpdf(x.numpy()), rtol=1e-9)
    diag = GaussianPrototypes(3, 4, "diag", dtype=F64).fit_(x, labels, jitter=0)
    std = torch.stack([x[labels == c].std(0, unbiased=False) for c in range(3)])
    torch.testing.assert_close(diag.scale(), std)


def test_several_prototypes_find_the_groups_of_a_class() -> None:
    centers = torch.tensor([[0.0, 0], [9, 0], [0, 9], [9, 9]], dtype=F64)  # classes 0, 0, 1, 1
    group = torch.arange(4).repeat_interleave(30)
    x, labels = normal(120, 2) + centers[group], group // 2
    for law in (GaussianPrototypes(2, 2, per_class=2, dtype=F64), GaussianPrototypes(2, 2, "mixture", dtype=F64)):
        means = law.fit_(x, labels).mean.reshape(4, 2)
        assert sorted(torch.cdist(centers, means).argmin(1)[:2].tolist()) == [0, 1]
        assert torch.cdist(centers, means).amin(1).max() < 0.7
        assert (law.class_log_prob(x).argmax(1) == labels).all()
    plain = GaussianPrototypes(2, 2, per_class=2, dtype=F64).fit_(x, labels)
    expected = plain.log_prob(x).exp().view(-1, 2, 2).mean(2).log()
    torch.testing.assert_close(plain.class_log_prob(x), expected)
    assert torch.equal(clusters(x, 4), clusters(x, 4)) and len(clusters(x, 4).unique()) == 4


def test_mixture_draws_components_by_weight_and_centers_are_the_heaviest() -> None:
    law = GaussianPrototypes(2, 1, "mixture", components=3, dtype=F64)
    set_scale(law, 1e-3)
    with torch.no_grad():
        law.mean.copy_(torch.tensor([0.0, 10, 20], dtype=F64)[None, :, None].expand(2, 3, 1))
        law.mixture_logits.copy_(torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]).log())
    share = law.rsample(20_000, seeded()).div(10).round().squeeze(2)
    for k, weights in enumerate([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]):
        assert [(share[:, k] == m).double().mean().item() for m in range(3)] == pytest.approx(weights, abs=0.015)
    assert law.centers().flatten().tolist() == [20, 0]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gradients_are_those_of_finite_differences(covariance: str) -> None:
    model, x, labels = fitted(covariance, per_class=2)
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in model.parameters()]
    x, labels = x[::20].clone().requires_grad_(), labels[::20]

    def loss(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        out = torch.func.functional_call(model, given, (x, 3), {"generator": seeded()})
        total = out.logits.log_softmax(2)[torch.arange(len(x)), :, labels].mean() + out.recon.square().mean()
        return total + out.distances.mean() / 100

    assert torch.autograd.gradcheck(loss, (x, *values), atol=1e-6)
    free = GaussianPrototypes(3, 4, covariance, per_class=2, dtype=F64)
    laws = [p.detach().clone().requires_grad_() for p in free.parameters()]

    class Density(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.law = free

        def forward(self, z: Tensor) -> Tensor:
            return self.law.class_log_prob(z).sum() + self.law.mean_distances(z).mean()

    keys = [f"law.{name}" for name, _ in free.named_parameters()]
    call = lambda z, *p: torch.func.functional_call(Density(), dict(zip(keys, p, strict=True)), (z,))  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, *laws), atol=1e-6)


@pytest.mark.parametrize("dim", [DIRECT, DIRECT + 1])
def test_distances_far_from_zero_are_exact(dim: int) -> None:
    points, codes = normal(7, dim) + 1000, normal(5, dim, seed=1) + 1000
    exact = (codes[:, None] - points).square().sum(-1)
    torch.testing.assert_close(squared_distances(codes.float(), points.float()).double(), exact, rtol=3e-4, atol=0)
    assert squared_distances(points.float(), points.float()).diagonal().max() < 1e-4
    assert (squared_distances(points.float(), points.float()) >= 0).all()


# --- model ---


def test_without_spread_it_is_the_point_model() -> None:
    model, x, _ = fitted()
    set_scale(model.prototypes, 0)
    out, point = model(x, 20, generator=seeded()), model(x, None)
    expected = ((x[:, None] - model.prototypes.mean).square().sum(-1) @ model.weight).softmax(1)
    torch.testing.assert_close(point.mean_probs, expected)
    torch.testing.assert_close(out.probs, expected[:, None].expand_as(out.probs), atol=1e-6, rtol=1e-3)
    assert model.uncertainty(x, 20, explanation=False)["epistemic"].max() < 1e-6


def test_translation_and_rotation_change_nothing() -> None:
    model, x, _ = fitted()
    turn, move = torch.linalg.qr(normal(4, 4, seed=5))[0], 3 * normal(4, seed=6)
    moved = copy.deepcopy(model)
    noise = normal(10, 3, 4, seed=7)
    drawn = model.prototypes.mean + (noise[..., None, :] @ model.prototypes.scale().mT)[..., 0, :]
    with torch.no_grad():
        # the factor of a turned covariance, for which turned noise gives turned draws
        covariance = turn @ model.prototypes.scale() @ model.prototypes.scale().mT @ turn.mT
    law = torch.distributions.MultivariateNormal(model.prototypes.mean @ turn.mT + move, covariance)
    same = moved.classify(x @ turn.mT + move, drawn @ turn.mT + move)
    for one, other in zip(model.classify(x, drawn), same, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(model.prototypes.log_prob(x), law.log_prob((x @ turn.mT + move)[:, None]))


def test_logits_of_unit_covariances_are_log_likelihoods() -> None:
    model = ProbPSENN(nn.Identity(), GaussianPrototypes(2, 4, dtype=F64))
    x = normal(6, 4)
    logits, distance = model(x, None).logits[:, 0], squared_distances(x, model.prototypes.mean)
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], (distance[:, 1] - distance[:, 0]) / 2, atol=1e-5, rtol=0)
    density = model.prototypes.log_prob(x)
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], density[:, 0] - density[:, 1], atol=1e-5, rtol=0)


def test_loss_is_the_sum_of_its_parts() -> None:
    model, x, labels = fitted()
    out = model(x, 7, generator=seeded())
    zero = {"likelihood": 0.0, "reconstruction": 0.0, "coverage": 0.0, "density": 0.0}

    def part(name: str) -> float:
        return model.loss(out, x, labels, **{**zero, name: 1.0}).item()

    own = out.probs[torch.arange(len(x)), :, labels]
    assert part("likelihood") == pytest.approx(-own.log().mean().item())
    assert part("likelihood") >= -own.mean(1).log().mean().item()  # Jensen
    assert part("reconstruction") == pytest.approx((x - out.recon).square().mean().item())
    density = model.prototypes.log_prob(x)
    assert part("coverage") == pytest.approx(-density.max(0).values.mean().item())
    nll = -density[torch.arange(len(x)), labels]
    assert part("density") == pytest.approx(nll.clamp(-1, 10000).mean().item())
    expected = part("likelihood") + 10 * part("reconstruction") + 0.05 * part("density")
    assert model.loss(out, x, labels).item() == pytest.approx(expected)
    narrow, far = copy.deepcopy(model), out._replace(codes=x + 1000)
    set_scale(narrow.prototypes, 1e-4)
    assert narrow.loss(far, x, labels, **{**zero, "density": 1.0}).item() == 10_000
    bare, x, labels = fitted(decoder=False)
    assert bare(x).recon is None and bare.loss(bare(x), x, labels).isfinite()


def test_training_learns_all_parameters() -> None:
    torch.manual_seed(0)
    x, labels = blobs()
    x = x.float()
    encoder = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    model = ProbPSENN(encoder, GaussianPrototypes(3, 3, "mixture"), nn.Linear(3, 4))
    model.prototypes.fit_(encoder(x).detach(), labels)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer, generator, losses = torch.optim.Adam(model.parameters(), lr=0.02), seeded(), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(model(x, 5, generator=generator), x, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert (model(x, 20, generator=generator).mean_probs.argmax(1) == labels).double().mean() > 0.9


def test_draws_are_shared_and_repeatable() -> None:
    model, x, _ = fitted()
    one, again = model(x, 5, generator=seeded(3)), model(x[:4], 5, generator=seeded(3))
    torch.testing.assert_close(one.logits[:4], again.logits)
    found = model.uncertainty(x, 9, explanation=False, generator=seeded())
    parts = model.uncertainty(x, 9, explanation=False, generator=seeded(), batch_size=7)
    for name, value in found.items():
        torch.testing.assert_close(parts[name], value)


# --- uncertainty and explanation ---


@pytest.mark.parametrize("per_class", [1, 2])
def test_entropies_are_a_decomposition(per_class: int) -> None:
    model, x, labels = fitted("mixture", per_class=per_class)
    found = model.remember_(x, labels).uncertainty(x, 40, generator=seeded())
    probs = model(x, 40, generator=seeded()).probs.detach()
    mean = probs.mean(1)
    divergence = (probs * (probs / mean[:, None]).log()).nan_to_num().sum(2).mean(1)
    torch.testing.assert_close(found["epistemic"], divergence, atol=1e-10, rtol=1e-6)
    torch.testing.assert_close(found["total"], -(mean * mean.log()).nan_to_num().sum(1))
    assert (found["epistemic"] >= 0).all() and (found["total"] <= math.log(3)).all()
    assert (found["aleatoric"] <= found["total"] + 1e-12).all()
    for name in ("expl_epistemic", "expl_aleatoric"):
        assert ((found[name] >= 0) & (found[name] <= 1)).all()


def test_percentile_is_uniform_on_training_inputs_and_rises_with_distance() -> None:
    model, x, _ = fitted()
    near = model.prototypes.mean_distances(x).argmin(1)
    model.remember_(x, near)  # labels at which every input's own class is its nearest one
    found = model.uncertainty(x, 2)["expl_epistemic"]
    for c in range(3):
        own = found[near == c].sort().values
        torch.testing.assert_close(own, torch.arange(len(own), dtype=F64) / len(own))
    away = model.prototypes.mean[0].detach() + torch.tensor([0, 0.5, 1, 50], dtype=F64)[:, None] * normal(1, 4)
    rising = model.uncertainty(away, 2)["expl_epistemic"]
    assert rising[0] == 0 and rising[-1] == 1 and (rising.diff() >= 0).all()


def test_overlap_of_the_model_is_that_of_its_distances() -> None:
    model, x, labels = fitted(per_class=2)
    found = model.remember_(x, labels).uncertainty(x, 50, generator=seeded())["expl_aleatoric"]
    out = model(x, 50, generator=seeded())
    nearest = out.distances.detach().view(len(x), 50, 3, 2).amin(3)
    for i in range(0, len(x), 17):
        c = int(out.mean_probs[i].argmax())
        rest = [overlap_index(nearest[i, :, c], nearest[i, :, k]).item() for k in range(3) if k != c]
        assert found[i].item() == pytest.approx(max(rest))
    between = model.prototypes.centers()[[0, 2]].mean(0, keepdim=True).detach()
    assert model.uncertainty(between, 50)["expl_aleatoric"] > found.median()


def test_explanations_show_the_prototype_of_the_class() -> None:
    model, x, labels = fitted(per_class=2)
    shown = model.explain(x[:10], 6, generator=seeded())
    drawn, out = model.prototypes.rsample(6, seeded()), model(x[:10], 6, generator=seeded())
    assert torch.equal(shown.classes, out.mean_probs.argmax(1))
    for i, k in enumerate(shown.prototypes.tolist()):
        c = int(shown.classes[i])
        assert k == 2 * c + int(model.prototypes.mean_distances(x[:10])[i, 2 * c : 2 * c + 2].argmin())
        torch.testing.assert_close(shown.gallery[i], model.decoder(drawn[:, k]))
        torch.testing.assert_close(shown.center[i], model.decoder(model.prototypes.mean[k]))
        torch.testing.assert_close(shown.distances[i], out.distances[i, :, k])
    assert torch.equal(model.explain(x, labels=labels).classes, labels)
    torch.testing.assert_close(model.gallery(6, generator=seeded()), model.decoder(drawn).movedim(0, 1))
    bare, x, _ = fitted(decoder=False)
    assert bare.explain(x[:2], 5).gallery.shape == (2, 5, 4)


def test_images_are_decoded_in_evaluation_mode() -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5))
    decoder = nn.Sequential(nn.Linear(5, 64), nn.Dropout(), nn.Unflatten(1, (1, 8, 8)))
    model = ProbPSENN(encoder, GaussianPrototypes(3, 5), decoder)
    x = torch.randn(12, 1, 8, 8, generator=seeded())
    model.encoder[1].eval()
    before = copy.deepcopy(model.state_dict())
    model.remember_(x, torch.arange(12) % 3)
    once, twice = (model.explain(x, 4, generator=seeded()).gallery for _ in range(2))
    assert once.shape == (12, 4, 1, 8, 8) and torch.equal(once, twice)
    assert torch.equal(model.uncertainty(x[:1], 3, generator=seeded())["total"],
                       model.uncertainty(x[:1], 3, generator=seeded())["total"])  # fmt: skip
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.training and model.decoder[1].training and not model.encoder[1].training


def test_state_and_copies_are_whole() -> None:
    model, x, labels = fitted("mixture", per_class=2)
    model.remember_(x, labels)
    fresh = ProbPSENN(
        nn.Identity(), GaussianPrototypes(3, 4, "mixture", per_class=2, dtype=F64), nn.Linear(4, 4).double()
    )
    fresh.load_state_dict(model.state_dict())
    for other in (fresh, copy.deepcopy(model)):
        expected = model.uncertainty(x, 5, generator=seeded())
        for name, value in other.uncertainty(x, 5, generator=seeded()).items():
            assert torch.equal(value, expected[name])
    other, _, _ = fitted("mixture", per_class=2)
    model.load_state_dict(other.remember_(x[::2], labels[::2]).state_dict())  # of another number of inputs
    assert torch.equal(model.references, other.references)


# --- bad input ---


@pytest.mark.parametrize(
    ("kind", "text", "call"),
    [
        (ValueError, "'covariance': expected one of", lambda: GaussianPrototypes(3, 4, "diagonal")),
        (ValueError, "'num_classes'", lambda: GaussianPrototypes(1, 4)),
        (TypeError, "'dim'", lambda: GaussianPrototypes(2, 4.0)),
        (ValueError, "'per_class'", lambda: GaussianPrototypes(2, 4, per_class=0)),
        (ValueError, "'components'", lambda: GaussianPrototypes(2, 4, "mixture", components=0)),
        (ValueError, "'dtype'", lambda: GaussianPrototypes(2, 4, dtype=torch.float16)),
        (ValueError, "'samples'", lambda: GaussianPrototypes(2, 4).rsample(0)),
        (ValueError, r"'codes': expected shape \(N, 4\)", lambda: GaussianPrototypes(2, 4).log_prob(torch.zeros(3, 5))),
        (ValueError, "finite", lambda: GaussianPrototypes(2, 2).fit_(math.nan * torch.eye(2), torch.arange(2))),
        (ValueError, "0 to 1, got 2", lambda: GaussianPrototypes(2, 1).fit_(torch.zeros(3, 1), torch.arange(3))),
        (ValueError, "0 of class 1", lambda: GaussianPrototypes(2, 1).fit_(torch.zeros(3, 1), torch.zeros(3).long())),
        (ValueError, "'labels'.*3 of class 0", lambda: GaussianPrototypes(2, 1, per_class=2).fit_(
            torch.zeros(6, 1), torch.arange(2).repeat_interleave(3))),
        (ValueError, "'jitter'", lambda: GaussianPrototypes(2, 3).fit_(torch.eye(3)[:2], torch.arange(2), jitter=0.0)),
        (TypeError, "'encoder'", lambda: ProbPSENN(len, GaussianPrototypes(2, 3))),
        (TypeError, "'decoder'", lambda: ProbPSENN(nn.Identity(), GaussianPrototypes(2, 3), len)),
        (TypeError, "'prototypes'", lambda: ProbPSENN(nn.Identity(), nn.Identity())),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(kind: type[Exception], text: str, call: Any) -> None:
    with pytest.raises(kind, match=text):
        call()


def test_bad_inputs_of_the_model_are_named() -> None:
    model, x, labels = fitted()
    out = model(x)
    for kind, text, call in [
        (ValueError, "'encoder\\(x\\)'.*Flatten", lambda: model(x[:, :3])),
        (ValueError, "'labels'", lambda: model.loss(out, x, labels[:5])),
        (ValueError, "'labels'.*got 3", lambda: model.loss(out, x, labels + 1)),
        (ValueError, "'density'", lambda: model.loss(out, x, labels, density=-1.0)),
        (ValueError, "'x'", lambda: model.loss(out, x[:, :2], labels)),
        (RuntimeError, "remember_", lambda: model.uncertainty(x)),
        (ValueError, "'samples'", lambda: model.uncertainty(x, 1)),
        (TypeError, "'x'", lambda: model.uncertainty([0.0])),
        (ValueError, "none of class 1", lambda: model.remember_(x, 2 * (labels > 0))),
        (ValueError, "'batch_size'", lambda: model.remember_(x, labels, batch_size=0)),
        (ValueError, "'labels'", lambda: model.explain(x, labels=labels + 1)),
    ]:
        with pytest.raises(kind, match=text):
            call()
    assert isinstance(out, PrototypeOutput)
