"""ProtoHead: figures of another program, exact updates, pure predictions, growth, state, bad input."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from probkernels.bnn import ProtoHead
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

DOUBLE = torch.float64
SUPPORT = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]], dtype=DOUBLE), torch.tensor([0, 0, 1])
QUERY = torch.tensor([[0.6, 0.5]], dtype=DOUBLE)


def taught() -> ProtoHead:
    head = ProtoHead(2, 2, dtype=DOUBLE)
    head.accumulate(*SUPPORT)
    return head


def drawn(n: int = 60, dim: int = 3, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=generator, dtype=DOUBLE)
    return z, torch.randint(classes, (n,), generator=generator)


def near(found: Tensor, expected: object, tolerance: float = 5e-9) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=tolerance)


def test_posterior_and_predictive_are_those_of_another_program() -> None:
    head = taught()
    near(head.precisions, [41.0, 21.0])
    near(head.means, [[0.87804878, 0.09756098], [0.0, 0.95238095]])
    near(head.concentrations, [4.18147227, 3.18147227])
    near(head.log_likelihood(QUERY), [[-0.84764331, -2.40329663]], 1e-8)
    near(head.predictive(QUERY), [[0.86163929, 0.13836071]])
    joint = head(QUERY)
    torch.testing.assert_close(
        joint - head.log_likelihood(QUERY), (head.concentrations / head.concentrations.sum()).log()[None]
    )
    torch.testing.assert_close(joint.softmax(1), head.predictive(QUERY))


def test_predictive_is_a_ratio_of_marginal_likelihoods() -> None:
    head = ProtoHead(1, 1, dtype=DOUBLE)
    head.accumulate(torch.tensor([[1.0], [0.8]], dtype=DOUBLE), torch.tensor([0, 0]))
    found = head.log_likelihood(torch.tensor([[0.6]], dtype=DOUBLE))
    near(found, [[-0.1393554423]], 1e-10)

    def marginal(*values: float) -> Tensor:
        z = torch.tensor(values, dtype=DOUBLE)
        covariance = 0.05 * torch.eye(len(z), dtype=DOUBLE) + 1
        return MultivariateNormal(torch.zeros_like(z), covariance).log_prob(z)

    torch.testing.assert_close(found[0, 0], marginal(1.0, 0.8, 0.6) - marginal(1.0, 0.8))


def test_updates_in_any_order_are_one_update() -> None:
    z, y = drawn()
    whole, parts, reverse = (ProtoHead(3, 4, dtype=DOUBLE) for _ in range(3))
    whole.accumulate(z, y)
    for rows in torch.arange(60).split(7):
        parts.accumulate(z[rows], y[rows])
    reverse.accumulate(z.flip(0), y.flip(0))
    for other in (parts, reverse):
        torch.testing.assert_close(other.means, whole.means, rtol=1e-12, atol=1e-12)
        assert torch.equal(other.precisions, whole.precisions)
        assert torch.equal(other.concentrations, whole.concentrations)


def test_every_row_counts_in_a_batch() -> None:
    """The authors' code kept a posterior for each row of a batch."""
    z, y = drawn()
    head = ProtoHead(3, 4, dtype=DOUBLE)
    head.accumulate(z, y)
    for j in range(4):
        own = z[y == j]
        expected = own.sum(0) / 0.05 / (1 + len(own) / 0.05)
        torch.testing.assert_close(head.means[j], expected)


@pytest.mark.parametrize("call", ["forward", "predictive", "log_likelihood", "loss"])
def test_predictions_leave_the_state_bit_equal(call: str) -> None:
    head = taught()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    z, y = drawn(9, 2, 2)
    for _ in range(2):
        getattr(head, call)(*((z, y) if call == "loss" else (z,)))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    torch.testing.assert_close(head(z)[4:5], head(z[4:5]))  # a row's prediction depends on no other row


def test_many_data_make_it_the_nearest_class_mean_with_a_prior() -> None:
    means = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], dtype=DOUBLE)
    head = ProtoHead(2, 3, noise=0.3, dtype=DOUBLE)
    head.counts += torch.tensor([10**9, 2 * 10**9, 3 * 10**9])
    head.sums += means * head.counts[:, None]
    z = drawn(20, 2)[0]
    linear = z @ means.T / 0.3 - means.square().sum(1) / 0.6 + head.counts.double().log()
    torch.testing.assert_close(head.predictive(z), linear.softmax(1), rtol=1e-6, atol=1e-8)


def test_a_class_without_data_keeps_its_prior() -> None:
    head = ProtoHead(2, 3, prior_mean=torch.tensor([0.5, -1.0], dtype=DOUBLE), prior_precision=4.0, dtype=DOUBLE)
    head.accumulate(*SUPPORT)
    near(head.means[2], [0.5, -1.0])
    assert head.precisions[2] == 4
    near(head.concentrations[2], math.exp(0.78))
    expected = Normal(head.means[2], math.sqrt(0.25 + 0.05)).log_prob(QUERY).sum(1)
    torch.testing.assert_close(head.log_likelihood(QUERY)[:, 2], expected)
    far = torch.full((1, 2), 3.0, dtype=DOUBLE)
    assert head.predictive(far).argmax() == 2  # -k/2 log s decides between seen and unseen classes
    seen = head.predictive(far, seen=True)
    assert seen[0, 2] == 0
    torch.testing.assert_close(seen.sum(), torch.ones((), dtype=DOUBLE))


def test_gradient_to_an_embedding() -> None:
    head, y = taught(), torch.tensor([1])
    z = QUERY.clone().requires_grad_()
    (grad,) = torch.autograd.grad(-head(z)[0, 1], z)
    variance = 1 / head.precisions[1] + 0.05
    torch.testing.assert_close(grad, (QUERY - head.means[1]) / variance)
    assert torch.autograd.gradcheck(lambda z: head.loss(z, y), z)


def test_gradients_reach_the_support_and_the_concentration() -> None:
    head = ProtoHead(2, 2, learn_concentration=True, dtype=DOUBLE)
    z, y = SUPPORT
    z = z.clone().requires_grad_()
    query, label = torch.tensor([[0.6, 0.5]], dtype=DOUBLE), torch.tensor([0])
    assert torch.autograd.gradcheck(lambda z: head.loss(query, label, support=(z, y)), z)
    direct = taught().loss(query, label)
    torch.testing.assert_close(head.loss(query, label, support=(z, y)), direct)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(3):  # the authors' code replaced the parameter after the first step
        before = head.log_concentration.item()
        optimizer.zero_grad()
        head.loss(query, label, support=(z, y)).backward()
        optimizer.step()
        head.accumulate(*SUPPORT)
        assert head.log_concentration.item() != before
    assert torch.equal(head.counts, torch.tensor([6, 3]))


def test_accumulate_between_loss_and_backward() -> None:
    head, z = taught(), QUERY.clone().requires_grad_()
    expected = torch.autograd.grad(head.loss(z, torch.tensor([0])), z)[0]
    loss = head.loss(z, torch.tensor([0]))
    head.accumulate(z, torch.tensor([0]))
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)
    assert not head.sums.requires_grad


def test_refresh_forgets_old_embeddings() -> None:
    head = taught()
    z, y = drawn(10, 2, 2)
    head.refresh(z, y)
    other = ProtoHead(2, 2, dtype=DOUBLE)
    other.accumulate(z, y)
    assert torch.equal(head.means, other.means) and torch.equal(head.counts, other.counts)
    head.refresh(z[:0], y[:0])
    assert not head.counts.any() and not head.means.any()


def test_classes_grow_with_the_labels() -> None:
    head = ProtoHead(2, dtype=DOUBLE)
    assert head(QUERY).shape == head.predictive(QUERY).shape == (1, 0)
    head.accumulate(*SUPPORT)
    assert head.classes == 2
    with torch.inference_mode():
        head.accumulate(QUERY, torch.tensor([4]))
    assert head.classes == 5 and head.counts.tolist() == [2, 1, 0, 0, 1]
    head.grow(6)
    fixed = ProtoHead(2, 6, dtype=DOUBLE)
    fixed.accumulate(torch.cat([SUPPORT[0], QUERY]), torch.tensor([0, 0, 1, 4]))
    assert torch.equal(fixed.predictive(QUERY), head.predictive(QUERY))
    z = QUERY.clone().requires_grad_()
    head.loss(z, torch.tensor([5])).backward()  # no tensor of inference mode is left


def test_state_dict_holds_all() -> None:
    head = ProtoHead(3, noise=0.2, prior_precision=3.0, prior_mean=0.7, concentration=5.0)
    z, y = drawn()
    head.accumulate(z.float(), y)
    other = ProtoHead(3)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.predictive(z.float()), head.predictive(z.float()))
    other.accumulate(z.float(), y + 3)
    assert other.classes == 7 and head.classes == 4
    with pytest.raises(RuntimeError, match="size mismatch"):
        ProtoHead(3, 2).load_state_dict(head.state_dict())
    again = copy.deepcopy(torch.nn.Sequential(torch.nn.Identity(), head))
    again.load_state_dict(torch.nn.Sequential(torch.nn.Identity(), other).state_dict())
    assert again[1].classes == 7


def test_large_embeddings_keep_their_digits() -> None:
    z, y = drawn()
    exact, single = ProtoHead(3, 4, dtype=DOUBLE), ProtoHead(3, 4, prior_mean=1000.0)
    exact.accumulate(z, y)
    single.accumulate(z.float() + 1000, y)
    found = single.predictive(z.float() + 1000).double()
    torch.testing.assert_close(found, exact.predictive(z), rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_are_widened(dtype: torch.dtype) -> None:
    head, (z, y) = ProtoHead(3, 4), drawn()
    z = z.to(dtype)
    head.accumulate(z, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.predictive(z)
    assert found.dtype is torch.float32
    assert torch.equal(found, head.predictive(z.float()))


BAD: list[tuple[str, type[Exception], str, Callable[[ProtoHead], object]]] = [
    ("width", ValueError, r"'z': expected embeddings of shape \(B, 2\), got shape \(1, 3\)",
     lambda head: head(torch.zeros(1, 3, dtype=DOUBLE))),
    ("dtype", TypeError, "'z': expected dtype torch.float64, as the head, got torch.float32",
     lambda head: head(QUERY.float())),
    ("integers", TypeError, "'z': expected dtype float32", lambda head: head(QUERY.long())),
    ("lengths", ValueError, r"'y': expected shape \(3,\)", lambda head: head.accumulate(SUPPORT[0], torch.tensor([0]))),
    ("float labels", TypeError, "'y': expected an integer tensor", lambda head: head.accumulate(*[SUPPORT[0]] * 2)),
    ("unseen", ValueError, r"'y': expected classes 0 to 1, got 2 at \[0\]. Hint: head.grow",
     lambda head: head.accumulate(QUERY, torch.tensor([2]))),
    ("unseen in loss", ValueError, r"'y': expected classes 0 to 1, got 2",
     lambda head: head.loss(QUERY, torch.tensor([2]))),
    ("negative", ValueError, r"got -1 at \[0\]", lambda head: head.accumulate(QUERY, torch.tensor([-1]))),
    ("nan", ValueError, r"'z': expected finite numbers, got nan at \[0, 0\]",
     lambda head: head.accumulate(QUERY * float("nan"), torch.tensor([0]))),
    ("nan in refresh", ValueError, "'z': expected finite numbers",
     lambda head: head.refresh(QUERY * float("inf"), torch.tensor([0]))),
    ("no batch", ValueError, "'z': expected at least one embedding", lambda head: head.loss(QUERY[:0], SUPPORT[1][:0])),
    ("support", TypeError, "'support': expected a tuple", lambda head: head.loss(QUERY, SUPPORT[1][:1], support=QUERY)),  # type: ignore[arg-type]
    ("class without data", ValueError, r"'y': expected classes with data, got 1 at \[0\]",
     lambda head: head.loss(QUERY, torch.tensor([1]), support=(QUERY, torch.tensor([0])), seen=True)),
    ("half", TypeError, "cannot hold sums", lambda head: head.half().accumulate(*SUPPORT)),
    ("shrink", ValueError, "'classes': expected a number >= 2", lambda head: head.grow(1)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "text", "call"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_named_and_changes_nothing(
    error: type[Exception], text: str, call: Callable[[ProtoHead], object]
) -> None:
    head = taught()
    with pytest.raises(error, match=text):
        call(head)
    assert head.counts.tolist() == [2, 1]


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="'noise': expected a positive number"):
        ProtoHead(2, noise=0.0)
    with pytest.raises(ValueError, match=r"'prior_mean': expected shape \(2,\)"):
        ProtoHead(2, prior_mean=torch.zeros(3))
    with pytest.raises(TypeError, match="'dtype'"):
        ProtoHead(2, dtype=torch.float16)
    with pytest.raises(ValueError, match="'seen': expected False while no class has data"):
        ProtoHead(2, 3).predictive(torch.zeros(1, 2), seen=True)
    with pytest.raises(ValueError, match="no labels: the head has no class yet"):
        ProtoHead(2).loss(torch.zeros(1, 2), torch.tensor([0]))


def test_documented_answers_to_nothing() -> None:
    """An empty batch changes nothing; NaN spoils its own row alone."""
    head = taught()
    head.accumulate(QUERY[:0], SUPPORT[1][:0])
    assert head.counts.tolist() == [2, 1]
    assert head.predictive(QUERY[:0]).shape == (0, 2)
    found = head.predictive(torch.cat([QUERY, QUERY * float("nan")]))
    assert found.isnan().any(1).tolist() == [False, True]
