"""Prior-fitted networks: invariances, the cache, heads, training, files, estimators, bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probkernels._core.errors import CorruptStreamError, ModelMismatchError
from probkernels.amortized import (
    PFN,
    BarHead,
    BernoulliHead,
    ClassHead,
    GaussianHead,
    PFNClassifier,
    PFNHead,
    PFNRegressor,
    fit_prior,
)
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

BORDERS = torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0], dtype=torch.float64)


class Lines:
    """y = a x + noise, also as classes y > 0."""

    def __init__(self, classes: bool = False) -> None:
        self.classes = classes

    def sample(self, batch: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, n, 2) and y (B, n)."""
        x = torch.rand(batch, n, 2, generator=generator)
        y = x[..., 0] * torch.randn(batch, 1, generator=generator) + 0.1 * torch.randn(batch, n, generator=generator)
        return x, (y > 0).long() if self.classes else y


def trained(head: PFNHead, **settings: Any) -> PFN:
    """A float64 model whose layers are no longer the norms that they start as."""
    torch.manual_seed(0)
    model = PFN(2, head, d=16, layers=2, heads=2, **settings).double()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


def sets(n: int = 6, m: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts and queries of three data sets."""
    draw = torch.Generator().manual_seed(3)
    x, y = Lines().sample(3, n, draw)
    return x.double(), y.double(), torch.rand(3, m, 2, generator=draw, dtype=torch.float64)


def moments(found: Any) -> Tensor:
    """Means and variances (2, B, m)."""
    return torch.stack([found.mean, found.variance])


@pytest.mark.parametrize("normalize_x", [None, "uniform", "context"])
@pytest.mark.parametrize("head", [GaussianHead(), BarHead(BORDERS)], ids=["gaussian", "bars"])
def test_invariances(head: PFNHead, normalize_x: str | None) -> None:
    model = trained(copy.deepcopy(head), normalize_x=normalize_x)
    x, y, new = sets()
    truth = moments(model(x, y, new))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(moments(model(x[:, order], y[:, order], new)), truth, **close)
    singles = torch.cat([moments(model(x, y, new[:, j : j + 1])) for j in range(4)], -1)
    torch.testing.assert_close(singles, truth, **close)
    torch.testing.assert_close(moments(model.query(model.condition(x, y), new)), truth, **close)
    other = new.clone()
    other[:, 1] += 1
    changed = (moments(model(x, y, other)) - truth).abs().amax((0, 1)) > 1e-12
    assert changed.tolist() == [False, True, False, False]
    assert moments(model(x[:, :0], y[:, :0], new)).isfinite().all()


@pytest.mark.parametrize("normalize_x", [None, "context"])
def test_padding_and_own_counts(normalize_x: str | None) -> None:
    """Each row gives what it gives alone, whatever its padding holds; gradients stay finite."""
    model = trained(GaussianHead(), normalize_x=normalize_x)
    x, y, new = sets()
    counts = torch.tensor([6, 0, 2])
    for b, n in enumerate(counts):
        x[b, n:], y[b, n:] = float("nan"), float("inf")
    found = model(x, y, new, counts=counts)
    alone = [moments(model(x[b : b + 1, :n], y[b : b + 1, :n], new[b : b + 1])) for b, n in enumerate(counts)]
    torch.testing.assert_close(moments(found), torch.cat(alone, 1), rtol=1e-12, atol=1e-12)
    cached = model.query(model.condition(x, y, counts=counts), new)
    torch.testing.assert_close(moments(cached), moments(found), rtol=1e-12, atol=1e-12)
    found.mean.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_equals_the_dense_mask_model() -> None:
    """A transformer of plain torch with the mask of all pairs."""
    model = trained(GaussianHead())
    x, y, new = sets()
    h = torch.cat([model.of_x(x) + model.of_y(y[..., None]), model.of_x(new)], 1)
    mask = (torch.arange(10) < 6)[None] | torch.eye(10, dtype=torch.bool)
    for layer in model.body.layers:
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in layer.qkv(h).chunk(3, -1))
        h = layer.norm1(h + layer.out(scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)))
        h = layer.norm2(h + layer.ff2(gelu(layer.ff1(h))))
    want = model.head(model.readout(h[:, 6:]))
    torch.testing.assert_close(moments(model(x, y, new)), moments(want), rtol=1e-12, atol=1e-12)


def test_new_layers_only_normalize() -> None:
    model = PFN(2, GaussianHead(), d=16)
    h = torch.randn(2, 5, 16)
    for layer in model.body.layers:
        want = layer.norm2(layer.norm1(h))
        assert torch.equal(layer(h, lambda q, k, v: v), want)


def test_statistics_come_from_the_context() -> None:
    """Inputs of another scale and origin give the same predictions; a constant input and one context are allowed."""
    model = trained(GaussianHead(), normalize_x="context")
    x, y, new = sets()
    found = model(x * 7 + 3, y, new * 7 + 3)
    torch.testing.assert_close(moments(found), moments(model(x, y, new)), rtol=1e-10, atol=1e-10)
    x[..., 1] = 0.3
    assert moments(model(x, y, new)).isfinite().all()
    assert moments(model(x[:, :1], y[:, :1], new)).isfinite().all()


@pytest.mark.parametrize(
    "head, own_sizes",
    [(GaussianHead(), True), (BarHead(BORDERS.float()), False), (ClassHead(2), False), (BernoulliHead(), True)],
)
def test_fit_prior_learns_and_repeats(head: PFNHead, own_sizes: bool) -> None:
    def run(steps: int, seed: int = 1) -> list[float]:
        torch.manual_seed(0)
        model = PFN(2, copy.deepcopy(head), d=16, layers=1, heads=2)
        prior = Lines(head.discrete)
        losses = fit_prior(model, prior, steps, n_points=8, batch_size=32, lr=2e-2, own_sizes=own_sizes, seed=seed)
        assert not model.training
        return losses

    losses = run(20)
    assert len(losses) == 20 and sum(losses[-5:]) < sum(losses[:5])
    assert run(20) == losses and run(1) != run(1, seed=2)


def test_context_sizes() -> None:
    """P(n) is proportional to 1 / (N - n), or uniform up to a largest n."""
    sizes = []

    class Seen(PFN):
        def forward(self, x: Tensor, y: Tensor, x_query: Tensor, **_: Any) -> Any:
            sizes.append(x.shape[1])
            return torch.distributions.Normal(self.of_y.bias[0].expand(x_query.shape[:2]), 1.0)

    model = Seen(2, GaussianHead(), d=4, layers=1, heads=1)
    optimizer = torch.optim.SGD([model.of_y.bias], lr=0.1)
    fit_prior(model, Lines(), 400, n_points=3, batch_size=1, optimizer=optimizer)
    share = torch.tensor(sizes).bincount(minlength=3) / 400
    assert (share - torch.tensor([2, 3, 6]) / 11).abs().max() < 0.1
    sizes.clear()
    settings = {"context_sizes": "uniform", "max_context": 1, "optimizer": optimizer}
    fit_prior(model, Lines(), 100, n_points=9, batch_size=1, **settings)
    assert set(sizes) == {0, 1} and 25 < sum(sizes) < 75


def test_without_features() -> None:
    """Coins have no inputs: a query is one learned token."""
    model = PFN(0, BernoulliHead(), d=8, layers=1, heads=2)
    found = model(torch.zeros(2, 3, 0), torch.tensor([[1, 0, 1], [0, 0, 0]]), torch.zeros(2, 1, 0))
    assert found.probs.shape == (2, 1)
    found.probs.sum().backward()
    assert model.of_x.bias.grad is not None


@pytest.mark.parametrize("head", [GaussianHead(), BarHead(BORDERS, "bounded"), ClassHead(3), BernoulliHead()])
def test_save_and_load(head: PFNHead, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = trained(copy.deepcopy(head), normalize_x="context").eval()
    model.save(path)
    loaded = PFN.load(path)
    x, y, new = sets()
    y = (y > 0).double()
    assert torch.equal(loaded(x, y, new).mean.nan_to_num(), model(x, y, new).mean.nan_to_num())
    assert all(torch.equal(a, loaded.state_dict()[name]) for name, a in model.state_dict().items())
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(path)
    model.save(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(CorruptStreamError):
        PFN.load(path)


def test_regressor() -> None:
    model = trained(BarHead(BORDERS)).train()
    x, y, new = (t[0] for t in sets())
    fitted = PFNRegressor(model).fit(x.numpy(), y.numpy())
    mean, std = fitted.predict(new.numpy(), return_std=True)
    found = model(x[None], y[None], new[None])
    np.testing.assert_allclose(np.stack([mean, std**2]), moments(found)[:, 0].detach(), rtol=1e-10)
    bounds = fitted.predict_quantiles(new, [0.1, 0.9])
    torch.testing.assert_close(found.cdf(bounds.T[:, None])[:, 0], torch.tensor([[0.1], [0.9]]).double().expand(2, 4))
    assert model.training and isinstance(fitted.score(x, y), float)
    scaled = PFNRegressor(model, scale_y=True)
    torch.testing.assert_close(scaled.fit(x, y).predict(new) * 5 + 2, scaled.fit(x, y * 5 + 2).predict(new))
    for p in model.parameters():
        p.data.mul_(1.1)
    model.readout[0].weight.data.zero_()
    with torch.no_grad():
        model.of_y.weight.add_(1)  # the cache is of another model now
    torch.testing.assert_close(fitted.predict(new), model(x[None], y[None], new[None]).mean[0].detach())


@pytest.mark.parametrize("head", [ClassHead(3), BernoulliHead()])
def test_classifier(head: PFNHead) -> None:
    model = trained(copy.deepcopy(head))
    x, y, new = (t[0] for t in sets())
    fitted = PFNClassifier(model).fit(x, np.where(y > 0, "up", "down"))
    probs = fitted.predict_proba(new)
    found = model(x[None], (y > 0).long()[None], new[None]).probs[0]
    want = found if head.n_out == 1 else found[:, 1] / found[:, :2].sum(1)
    torch.testing.assert_close(probs[:, 1], want.detach())
    assert set(fitted.predict(new)) <= {"up", "down"} and 0 <= fitted.score(x, fitted.predict(x)) <= 1
    assert fitted.get_params()["model"] is model


X, Y, NEW = sets()
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": X[0]}, ValueError, r"'x': expected shape \(B, number of points, 2\).*x\[None\]"),
    ({"x": X.float()}, TypeError, "'x': expected dtype torch.float64 of the model"),
    ({"x": X.numpy()}, TypeError, "'x': expected a floating-point tensor"),
    ({"y": Y[:, :3]}, ValueError, r"'y': expected shape \(3, 6\)"),
    ({"y": Y.log()}, ValueError, r"'y': expected finite numbers, got nan"),
    ({"y": Y.long()}, TypeError, "'y': expected floating-point targets"),
    ({"y": Y + 9}, ValueError, "'y': expected -2.0 to 3.0, got"),
    ({"x_query": NEW[:2]}, ValueError, "'x_query': expected 3 rows"),
    ({"x_query": NEW / 0}, ValueError, "'x_query': expected finite numbers"),
    ({"counts": torch.tensor([7, 0, 0])}, ValueError, "'counts': expected 0 to 6, got 7"),
]


@pytest.mark.parametrize("bad, error, text", BAD)
def test_bad_data(bad: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        trained(BarHead(BORDERS, "bounded"))(**{"x": X, "y": Y, "x_query": NEW, **bad})


def test_fit_prior_resumes(tmp_path: Path) -> None:
    """Stopped by ``after``, then continued: the losses, weights and dropout of one run; another training is refused."""

    def run(steps: int = 6, **options: Any) -> tuple[list[float], Tensor]:
        torch.manual_seed(0)
        model = PFN(2, GaussianHead(), d=16, layers=1, heads=2, dropout=0.1)
        losses = fit_prior(model, Lines(), steps, n_points=6, batch_size=4, lr=1e-2, **options)
        return losses, model.readout[0].weight

    file = tmp_path / "run.safetensors"
    whole, weight = run()
    assert run(checkpoint=file, after=lambda step, loss: step == 2)[0] == whole[:3]
    again, resumed = run(checkpoint=file, save_every=2)
    assert again == whole and torch.equal(resumed, weight)
    with pytest.raises(ModelMismatchError, match="differs in steps"):
        run(steps=7, checkpoint=file)


class Broken(Lines):
    """Returns y of another shape."""

    def sample(self, batch: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """y has a point too many."""
        return torch.rand(batch, n, 2), torch.rand(batch, n + 1)


BAD_CALLS = [
    (lambda: PFN(2, "bars"), TypeError, "'head': expected a PFNHead"),
    (lambda: PFN(2, GaussianHead(), d=10, heads=4), ValueError, "'heads': expected a divisor of d = 10"),
    (lambda: PFN(2, GaussianHead(), normalize_x="contexts"), ValueError, "did you mean 'context'"),
    (lambda: BarHead(torch.tensor([0.0, 2.0, 1.0])), ValueError, "borders"),
    (lambda: ClassHead(1), ValueError, "'n_classes'"),
    (
        lambda: trained(ClassHead(2))(X, Y * 0 + 2, NEW),
        ValueError,
        r"'y': expected classes 0 to 1, got 2.0 at \[0, 0\]",
    ),
    (lambda: trained(GaussianHead())(X[..., :1], Y, NEW), ValueError, r"pad\(x, \(0, 1\)\) adds columns of zeros"),
    (lambda: fit_prior(trained(GaussianHead()), Broken(), 2), ValueError, "'prior': expected tensors x"),
    (lambda: fit_prior(trained(GaussianHead()), object(), 2), TypeError, "'prior': expected an object that samples"),
    (lambda: fit_prior(trained(GaussianHead()), Lines(), 2, max_context=30), ValueError, "'max_context'"),
    (lambda: fit_prior(trained(GaussianHead()), Lines(), 2, context_sizes="even"), ValueError, "'context_sizes'"),
    (lambda: PFNRegressor(trained(ClassHead(2))).fit(X[0], Y[0]), ValueError, "PFNClassifier is for this model"),
    (lambda: PFNRegressor(trained(GaussianHead())).predict(X[0]), RuntimeError, "call fit first"),
    (lambda: PFNRegressor(trained(GaussianHead())).fit(X[0], Y[0].log()), ValueError, "'y': expected finite"),
    (lambda: PFNClassifier(trained(ClassHead(2))).fit(X[0], [0, 1, 2, 0, 1, 2]), ValueError, "1 to 2 classes"),
]


@pytest.mark.parametrize("call, error, text", BAD_CALLS)
def test_bad_arguments(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
