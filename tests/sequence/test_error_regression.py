"""The bank of posteriors against torch's Adam, training, and error regression."""

from __future__ import annotations

import pytest
import torch
from probkernels.sequence import PVRNN, ErrorRegression, GaussianOutput, PosteriorBank, PVLayer, fit_pvrnn

F64 = torch.float64


def network() -> PVRNN:
    torch.manual_seed(0)
    return PVRNN([PVLayer(4, 2, 2.0, 0.1)], GaussianOutput(2)).double()


def test_rows_move_as_by_torchs_adam_and_others_do_not() -> None:
    bank = PosteriorBank(4, 2, 1, lr=0.1).double()
    rows = [torch.nn.Parameter(torch.zeros(2, 2, dtype=F64)) for _ in range(4)]
    each = [torch.optim.Adam([row], lr=0.1) for row in rows]
    generator = torch.Generator().manual_seed(0)
    for index in ([0, 2], [2, 1], [2, 0]):
        pull = torch.randn(2, 2, 2, generator=generator, dtype=F64)
        (bank(torch.tensor(index)) * pull).sum().backward()
        bank.step()
        for i, one in zip(index, pull, strict=True):
            rows[i].grad = one
            each[i].step()
    torch.testing.assert_close(bank.a, torch.stack([row.detach() for row in rows]))
    assert bank.steps.tolist() == [2, 1, 3, 0]
    other = PosteriorBank(4, 2, 1).double()
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.a, bank.a) and torch.equal(other.square, bank.square)


def test_rows_given_twice_move_once_by_the_sum() -> None:
    bank, row = PosteriorBank(3, 2, 1, lr=0.1).double(), torch.nn.Parameter(torch.zeros(2, 2, dtype=F64))
    adam = torch.optim.Adam([row], lr=0.1)
    for _ in range(2):
        (bank(torch.tensor([2, 0]))[0] - 1).square().sum().backward()
        (3 * bank(torch.tensor([1, 2]))[1]).sum().backward()
        bank.step()
        adam.zero_grad()
        ((row - 1).square().sum() + 3 * row.sum()).backward()
        adam.step()
    torch.testing.assert_close(bank.a[2], row.detach())
    assert bank.steps.tolist() == [2, 2, 2]


def test_a_buffer_of_observations_may_be_filled_again() -> None:
    found = []
    for buffer in (None, torch.empty(2, 2, dtype=F64)):
        online = ErrorRegression(network(), 2, 3, 2, 0.1, generator=torch.Generator().manual_seed(0))
        for t in range(3):
            new = torch.full((2, 2), float(t), dtype=F64)
            last = online.step(new if buffer is None else buffer.copy_(new))
        found.append(last.values)
    assert torch.equal(*found)


def test_a_bank_in_evaluation_mode_is_trained() -> None:
    model = network()
    bank = PosteriorBank(3, 4, model, lr=0.02).eval()
    fit_pvrnn(model, bank, torch.ones(3, 4, 2, dtype=F64), 2, generator=torch.Generator().manual_seed(0))
    assert bank.steps.tolist() == [2, 2, 2] and not bank.training


def test_bank_errors() -> None:
    bank = PosteriorBank(3, 2, 1)
    with pytest.raises(IndexError, match=r"'index'.*0 to 2"):
        bank(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="once"):
        bank(torch.tensor([1, 1]))
    assert not bank.eval()(torch.tensor([0])).requires_grad


def test_training_lowers_the_loss_and_repeats() -> None:
    x = torch.sin(torch.arange(12, dtype=F64)).view(3, 4, 1).expand(3, 4, 2)
    runs = []
    for _ in range(2):
        model, generator = network(), torch.Generator().manual_seed(0)
        bank = PosteriorBank(3, 4, model, lr=0.02)
        how = {"lengths": torch.tensor([4, 3, 4]), "max_norm": 5.0, "generator": generator}
        runs.append(fit_pvrnn(model, bank, x, 60, lr=0.02, batch_size=2, **how))
    assert runs[0] == runs[1]
    assert sum(runs[0][-10:]) < sum(runs[0][:10]) - 2
    assert not bank.a[1, 3].any()  # beyond its length


def test_a_window_of_the_whole_sequence_has_the_loss_of_training() -> None:
    """The same objective, so that A moves as it does in training with the weights at rest; weights get no gradient."""
    model, generator = network(), torch.Generator().manual_seed(3)
    x = torch.randn(2, 1, 2, dtype=F64)
    online = ErrorRegression(model, 2, window=4, iterations=3, lr=0.05, generator=generator)
    got = online.step(x[:, 0])
    bank, generator = PosteriorBank(2, 1, model, lr=0.05), torch.Generator().manual_seed(3)
    for _ in range(3):
        loss = model.loss(bank(torch.arange(2)), x, generator=generator)
        (2 * loss.total).backward()
        bank.step()
    torch.testing.assert_close(online.adapt, bank.a)
    torch.testing.assert_close(got.loss, loss.rec + 0.1 * loss.kl[:, 0])
    fresh = network()
    ErrorRegression(fresh, 2, window=4, iterations=2).step(x[:, 0])
    assert all(p.grad is None for p in fresh.parameters())
    assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), network().parameters(), strict=True))


def test_a_window_slides() -> None:
    model = network()
    online = ErrorRegression(model, 3, window=2, iterations=2, w=0.0, ahead=3, samples=4)
    for t in range(4):
        predicted = online.step(torch.full((3, 2), float(t), dtype=F64))
        assert online.adapt.shape == (3, min(t + 1, 2), 4)
        assert (online.before is None) == (t < 2)
    assert online.seen is not None
    assert online.seen[0, :, 0].tolist() == [2.0, 3.0]
    assert predicted.values.shape == (3, 3, 2) and predicted.values.isfinite().all()


def test_regression_follows_a_constant() -> None:
    """A window explains values that the network never saw, through A alone."""
    model = network()
    x = torch.tensor([[0.4, -0.4]], dtype=F64)
    generator = torch.Generator().manual_seed(0)
    online = ErrorRegression(model, 1, window=4, iterations=40, lr=0.1, w=1e-3, generator=generator)
    first = online.step(x).loss
    for _ in range(5):
        last = online.step(x).loss
    far = torch.log(2 * torch.tensor(torch.pi, dtype=F64)) * 4  # the constant of four steps of two values
    assert (last - far).abs() < 1.0
    assert first.isfinite().all()


def test_error_regression_errors() -> None:
    with pytest.raises(ValueError, match="'window'"):
        ErrorRegression(network(), 2, window=0)
    online = ErrorRegression(network(), 2, window=3)
    with pytest.raises(ValueError, match=r"'x'.*\(2, outputs\)"):
        online.step(torch.zeros(3, 2, dtype=F64))
    with pytest.raises(ValueError, match="finite"):
        online.step(torch.full((2, 2), torch.nan, dtype=F64))
