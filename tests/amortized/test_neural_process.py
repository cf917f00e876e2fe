"""All neural processes: what does not matter does not matter; gradients; bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from probkernels.amortized import BANP, BNP, CNP, MPANP, NP, NeuralProcess
from probkernels.amortized._np_encoders import AttentionBlock
from probkernels.amortized._np_inputs import Points
from torch import Tensor

from .np_support import ALL, STOCHASTIC, points, seeded, small


@pytest.fixture(params=ALL, ids=lambda kind: kind.__name__)
def model(request: pytest.FixtureRequest) -> NeuralProcess:
    return small(request.param)


def both(found: object) -> tuple[Tensor, Tensor]:
    return found.functions, found.stddevs  # type: ignore[attr-defined]


def assert_same(found: object, expected: object, rows: slice = slice(None)) -> None:
    for one, other in zip(both(found), both(expected), strict=True):
        torch.testing.assert_close(one[:, rows], other, rtol=1e-11, atol=1e-11)


def test_one_signature(model: NeuralProcess) -> None:
    (x, y), (t, _) = points(4), points(6, seed=2)
    found = model(x, y, t, n_samples=5, generator=seeded())
    assert found.functions.shape == (5 if type(model) in STOCHASTIC else 1, 3, 6, 1)
    assert bool((found.stddevs > 0.1).all())
    flat = model(x, y[..., 0], t, n_samples=5, generator=seeded())
    torch.testing.assert_close(flat.functions, found.functions[..., 0], rtol=0, atol=0)
    assert flat.log_prob(y[:, :1, 0].expand(3, 6)).shape == flat.mean.shape == flat.stddev.shape == (3, 6)


def test_padding_is_removed_rows(model: NeuralProcess) -> None:
    """Each row has its own number of contexts, hidden ones anywhere and of any value."""
    (x, y), (t, _) = points(5), points(4, seed=2)
    wide_x, wide_y = (torch.full((3, 9, s), math.nan, dtype=torch.float64) for s in (2, 1))
    places = [2, 4, 5, 7, 8]
    wide_x[:, places], wide_y[:, places] = x, y
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[:, places] = True
    assert_same(
        model(wide_x, wide_y, t, mask, n_samples=3, generator=seeded()), model(x, y, t, n_samples=3, generator=seeded())
    )
    if type(model) not in STOCHASTIC:
        mask[0, 2], mask[1, 4:6] = False, False
        uneven = model(wide_x, wide_y, t, mask)
        for row in range(3):
            left = mask[row]
            assert_same(
                uneven,
                model(wide_x[row : row + 1, left], wide_y[row : row + 1, left], t[row : row + 1]),
                slice(row, row + 1),
            )


def test_hidden_targets_and_contexts_have_no_influence_on_the_loss(model: NeuralProcess) -> None:
    (x, y), (t, u) = points(4), points(6, seed=2)
    expected = model.loss(x, y, t, u, n_samples=3, generator=seeded())
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, torch.full_like(values[:, :2], math.nan)], 1)

    masks = [torch.arange(n + 2).expand(3, -1) < n for n in (4, 6)]
    found = model.loss(padded(x), padded(y), padded(t), padded(u), *masks, n_samples=3, generator=seeded())
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for grad, other in zip((p.grad for p in model.parameters() if p.grad is not None), gradients, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-11)


def test_orders_do_not_matter(model: NeuralProcess) -> None:
    """Of contexts, of targets and of the other targets; a seed gives the same functions at any targets."""
    (x, y), (t, _) = points(5), points(6, seed=2)
    expected = model(x, y, t, n_samples=4, generator=seeded())
    order = torch.tensor([3, 0, 5, 1])
    few = model(x, y, t[:, order], n_samples=4, generator=seeded())
    for one, other in zip(both(few), both(expected), strict=True):
        torch.testing.assert_close(one, other[:, :, order], rtol=1e-11, atol=1e-11)
    if not isinstance(model, BNP):  # a bootstrap of permuted contexts is another draw of the same law
        order = torch.tensor([4, 2, 0, 1, 3])
        assert_same(model(x[:, order], y[:, order], t, n_samples=4, generator=seeded()), expected)


@pytest.mark.parametrize("kind", ALL[:2], ids=lambda kind: kind.__name__)
def test_rows_are_independent(kind: type[NeuralProcess]) -> None:
    model, (x, y), (t, _) = small(kind), points(5), points(6, seed=2)
    assert_same(model(x, y, t), model(x[1:2], y[1:2], t[1:2]), slice(1, 2))


def test_every_parameter_learns(model: NeuralProcess) -> None:
    (x, y), (t, u) = points(4), points(6, seed=2)
    loss = model.loss(x, y, t, u, n_samples=3, generator=seeded())
    loss.backward()
    assert loss.shape == () and bool(loss.isfinite())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_missing_target_touches_no_other(model: NeuralProcess) -> None:
    (x, y), (t, _) = points(4), points(6, seed=2)
    hole = t.clone()
    hole[0, 1] = math.nan
    found, expected = (model(x, y, targets, n_samples=3, generator=seeded()).mean for targets in (hole, t))
    assert bool(found[0, 1].isnan().all()) and int(found.isnan().sum()) == 1
    torch.testing.assert_close(found.nan_to_num(7), expected.where(~found.isnan(), torch.tensor(7.0).double()))


def test_loss_of_a_conditional_process_is_its_density() -> None:
    model, (x, y), (t, u) = small(CNP), points(4), points(6, seed=2)
    every = model(x, y, torch.cat([x, t], 1)).log_prob(torch.cat([y, u], 1))
    torch.testing.assert_close(model.loss(x, y, t, u), -every.mean())


@pytest.mark.parametrize("k", [1, 3])
def test_latent_bounds(k: int) -> None:
    """The ELBO, and for K > 1 the importance-weighted bound, of the same z by torch's distributions."""
    model, (x, y), (t, u) = small(NP), points(4), points(6, seed=2)
    every = Points(torch.cat([x, t], 1), torch.cat([y, u], 1), None)
    prior, posterior = (torch.distributions.Normal(*model.latent(given)) for given in (Points(x, y, None), every))
    z = posterior.mean + posterior.stddev * torch.randn(k, 3, 8, generator=seeded(), dtype=torch.float64)
    found = torch.distributions.Normal(*model._decode(Points(x, y, None), every.x, z))
    fit = found.log_prob(every.y).sum((-2, -1))
    weights = fit + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
    elbo = fit[0] - torch.distributions.kl_divergence(posterior, prior).sum(-1)
    expected = elbo if k == 1 else weights.exp().mean(0).log()
    torch.testing.assert_close(model.loss(x, y, t, u, n_samples=k, generator=seeded()), -expected.mean() / 10)


def test_attention_block_is_that_of_the_equations() -> None:
    """Also with the scale of a head, a mask, values of their own, and by finite differences."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5, 5))
    mask = torch.tensor([[True, True, False, True, True], [False, True, True, True, False]])
    for scale, divisor in (("model", 2.0), ("head", math.sqrt(2))):
        block = AttentionBlock(4, heads=2, scale=scale).double()
        query, key, value = block.query(q), block.key(k), block.value(v)
        parts = []
        for head in (slice(0, 2), slice(2, 4)):
            scores = (query[..., head] @ key[..., head].mT / divisor).masked_fill(~mask[:, None], -math.inf)
            parts.append(scores.softmax(-1) @ value[..., head])
        h = block.norm(query + torch.cat(parts, -1))
        torch.testing.assert_close(
            block(q, k, v, mask), block.out_norm(h + block.out(h).relu()), rtol=1e-12, atol=1e-12
        )
    assert torch.autograd.gradcheck(lambda *inputs: block(*inputs, mask), (q, k, v))


@pytest.mark.parametrize("kind", [BNP, BANP], ids=lambda kind: kind.__name__)
def test_bootstrap(kind: type[BNP]) -> None:
    """Equal residuals vanish when centered: the new values are the predictions, here those of a single context."""
    model = small(kind)
    x, y = points(1)
    drawn = model.bootstrap(Points(x, y, None), 4, seeded())
    plain = model._base(Points(x, y, None), x)[0].detach()
    torch.testing.assert_close(drawn.y, plain.expand(4, -1, -1, -1), rtol=1e-12, atol=1e-12)
    x, y = points(6)
    drawn = model.bootstrap(Points(x, y, None), 4, seeded())
    assert not drawn.y.requires_grad
    assert bool((drawn.y.std(0) > 0).all())


def test_models_can_be_copied_and_saved() -> None:
    model, (x, y), (t, _) = small(MPANP), points(4), points(6, seed=2)
    again = small(MPANP, n_pseudo=1)
    again.load_state_dict(copy.deepcopy(model).state_dict())
    assert_same(again(x, y, t, generator=seeded()), model(x, y, t, generator=seeded()))


def test_bad_input(model: NeuralProcess) -> None:
    (x, y), (t, u) = points(4), points(6, seed=2)
    empty = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    nan = y.clone()
    nan[1, 2] = math.nan
    cases = [
        ((x[:, :0], y[:, :0], t), ValueError, "x_ctx.*one point or more"),
        ((x, y, t, empty), ValueError, "row 1 of 'mask'"),
        ((x, nan, t), ValueError, r"y_ctx.*nan at \[1, 2, 0\]"),
        ((x, y[:, :3], t), ValueError, "y_ctx"),
        ((x[..., :1], y, t), ValueError, r"x_ctx.*\(B, n, 2\)"),
        ((x, y, t[:2]), ValueError, "x_tar.*3 rows"),
        ((x.float(), y, t), TypeError, "x_ctx.*float64"),
        ((x, y, t, empty.double()), TypeError, "mask.*bool"),
        ((x.tolist(), y, t), TypeError, "x_ctx"),
    ]
    for arguments, error, text in cases:
        with pytest.raises(error, match=text):
            model(*arguments)
    bad = u.clone()
    bad[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"y_tar.*inf at"):
        model.loss(x, y, t, bad)
    with pytest.raises(ValueError, match=r"y.*finite targets, got nan"):
        model(x, y, t).log_prob(u * math.nan)
    with pytest.raises(ValueError, match="n_samples"):
        model(x, y, t, n_samples=0)


def test_bad_constructors() -> None:
    for options, text in (
        ({"heads": 3, "width": 8}, "heads"),
        ({"attention_scale": "heads"}, "did you mean 'head'"),
        ({"least_stddev": 0.0}, "least_stddev"),
        ({"n_pseudo": -1}, "n_pseudo"),
        ({"weights": (1.0, 1.0)}, "weights"),
    ):
        with pytest.raises(ValueError, match=text):
            MPANP(1, 1, **options)  # type: ignore[arg-type]
