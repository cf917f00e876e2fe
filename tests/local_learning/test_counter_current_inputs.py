"""Counter-current learning: what it refuses, by which error, and that no weight has changed then."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from probkernels.local_learning import CounterCurrent, CounterCurrentAutoencoder, linear_cka, mirror, weight_cosine
from torch import nn


def net(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), *extra, nn.ELU(), nn.Linear(5, 3))


X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
CNN = [nn.Conv2d(1, 2, 3), nn.ELU(), nn.Flatten(), nn.Linear(72, 3)]


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: CounterCurrent(nn.Linear(4, 3)), TypeError, "'forward_net': expected an nn.Sequential"),
        (lambda: CounterCurrent(nn.Sequential(nn.Linear(4, 3))), ValueError, "at least two layers with weights, got 1"),
        (lambda: CounterCurrent(net(), nn.Sequential(nn.Linear(3, 4))), ValueError, "'feedback_net'.*two.*got 1"),
        (
            lambda: CounterCurrent(net(), nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 4))),
            ValueError,
            "'feedback_net': expected 2 layers with weights.*got 3",
        ),
        (lambda: CounterCurrent(net(nn.LayerNorm(5))), ValueError, "got LayerNorm at position 1.*own feedback_net"),
        (lambda: CounterCurrent(nn.Sequential(net(), net())), ValueError, "got Sequential at position 0"),
        (lambda: CounterCurrent(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))), ValueError, "got Embedding at"),
        (lambda: CounterCurrent(nn.Sequential(*CNN)), ValueError, "'input_shape': expected a shape"),
        (lambda: CounterCurrent(net(), loss="mse"), ValueError, "'loss': expected one of 'plain'"),
        (lambda: CounterCurrent(net(), scale=0.0), ValueError, "'scale'"),
        (lambda: CounterCurrent(net(), ssl=-1.0), ValueError, "'ssl'"),
        (lambda: CounterCurrent(net(), flooding=1.0), ValueError, "'flooding'"),
        (lambda: CounterCurrent(net(), classes=1), ValueError, "'classes'"),
        (
            lambda: CounterCurrent(nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3))), net()),
            ValueError,
            "'classes': expected the number",
        ),
        (lambda: CounterCurrentAutoencoder(net(), scale=-1.0), ValueError, "'scale'"),
        (lambda: mirror(nn.Sequential(*CNN), (1, 0, 8)), ValueError, "'input_shape'"),
    ],
)
def test_what_cannot_be_built(build: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


def test_weights_are_not_shared() -> None:
    forward = net()
    middle = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="shared weights"):
        CounterCurrent(nn.Sequential(middle, nn.ELU(), middle, nn.ELU(), nn.Linear(4, 3)))
    back = nn.Sequential(nn.Linear(3, 5), nn.ELU(), nn.Linear(5, 4))
    back[0].weight = nn.Parameter(torch.zeros(5, 3))
    CounterCurrent(forward, back)
    tied = nn.Sequential(nn.Linear(3, 3), nn.ELU(), nn.Linear(3, 3))
    with pytest.raises(ValueError, match="shared weights"):
        CounterCurrent(tied, nn.Sequential(tied[2], nn.ELU(), nn.Linear(3, 3)))


@pytest.mark.parametrize("form", CounterCurrent.forms)
@pytest.mark.parametrize(
    ("x", "y", "error", "text"),
    [
        (X.long(), Y, TypeError, "'x'"),
        (X[0], Y[:1], ValueError, "'x'.*shape"),
        (X[:0], Y[:0], ValueError, "'x'.*N >= 1"),
        (X.where(X[2, 1] != X, torch.nan), Y, ValueError, r"'x': expected finite numbers, got nan at \[2, 1\]"),
        (X.where(X[2, 1] != X, torch.inf), Y, ValueError, r"'x': expected finite numbers, got inf at \[2, 1\]"),
        (X, Y.float(), TypeError, "'y'"),
        (X, None, TypeError, "'y'"),
        (X, Y[:5], ValueError, "'y': expected shape"),
        (X, nn.functional.one_hot(Y), ValueError, "'y': expected shape"),
        (X, Y + 1, ValueError, r"'y': expected labels from 0 to 2, got 3 at \[2\], and 1 more"),
        (X, Y - 1, ValueError, r"'y': expected labels from 0 to 2, got -1 at \[0\], and 1 more"),
    ],
)
def test_wrong_batches_change_nothing(form: str, x: Any, y: Any, error: type[Exception], text: str) -> None:
    model = CounterCurrent(net())
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error, match=text):
        model.step(x, y, optimizer, form=form)
    torch.testing.assert_close(model.state_dict(), before)


@pytest.mark.parametrize("form", CounterCurrent.forms)
def test_unequal_widths_are_named(form: str) -> None:
    model = CounterCurrent(net(), nn.Sequential(nn.Linear(3, 6), nn.ELU(), nn.Linear(6, 4)))
    with pytest.raises(ValueError, match=r"'feedback_net': expected a state of 5 values at depth 1.*got 6"):
        model.gradients(X, Y, form=form)


def test_a_batch_norm_needs_two_rows() -> None:
    model = CounterCurrent(net(nn.BatchNorm1d(5)))
    assert isinstance(model.feedback_net[1], nn.BatchNorm1d)
    model.gradients(X, Y)
    for call in (model.gradients, model.losses):
        with pytest.raises(ValueError, match=r"'x': expected at least two rows, got 1.*batch norm"):
            call(X[:1], Y[:1])
    model.eval()
    model.gradients(X[:1], Y[:1])


def test_the_closed_form_says_where_it_ends() -> None:
    model = CounterCurrent(net(nn.BatchNorm1d(5)))
    with pytest.raises(ValueError, match=r"'forward_net'.*another block, of Linear.*form='blockwise'"):
        model.gradients(X, Y, form="closed")
    smooth = CounterCurrent(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="form='blockwise'"):
        smooth.gradients(X, Y, form="batched")
    with pytest.raises(ValueError, match="'form': expected one of"):
        smooth.gradients(X, Y, form="close")
    smooth.gradients(X, Y)
    parametrized = CounterCurrent(net())
    nn.utils.parametrizations.weight_norm(parametrized.forward_net[0])
    with pytest.raises(ValueError, match="form='blockwise'"):
        parametrized.gradients(X, Y, form="closed")


def test_options_of_a_step_are_checked() -> None:
    model = CounterCurrent(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for options, text in (
        ({"max_norm": 0.0}, "'max_norm'"),
        ({"max_norm": (1.0,)}, "pair"),
        ({"factor": -1.0}, "factor"),
    ):
        with pytest.raises(ValueError, match=text):
            model.step(X, Y, optimizer, **options)
    with pytest.raises(ValueError, match="'batch_size'"):
        model.fit(X, Y, optimizer, epochs=1, batch_size=0)
    with pytest.raises(ValueError, match="'loss': expected finite losses"):
        model.forward_net[0].weight.data.fill_(torch.inf)
        model.step(X, Y, optimizer)


@pytest.mark.parametrize("form", CounterCurrent.forms)
def test_frozen_layers_get_no_gradient(form: str) -> None:
    model = CounterCurrent(net())
    model.gradients(X, Y, form=form)
    model.feedback_net.requires_grad_(False)
    model.forward_net[0].requires_grad_(False)
    model.gradients(X, Y, form=form)
    assert [p.grad is None for p in model.parameters()] == [True, True, False, False, True, True]


def test_autoencoder_inputs() -> None:
    model = CounterCurrentAutoencoder(nn.Sequential(nn.Linear(4, 2), nn.ELU(), nn.Linear(2, 4)))
    with pytest.raises(TypeError, match="'y': expected None"):
        model.gradients(X, Y)
    with pytest.raises(ValueError, match=r"outputs of shape \(6, 4\)"):
        CounterCurrentAutoencoder(net(), nn.Sequential(nn.Linear(4, 5), nn.ELU(), nn.Linear(5, 4))).gradients(X)
    with pytest.raises(ValueError, match="'encoder_layers'"):
        model.start_small(2)


def test_diagnostics_check_their_inputs() -> None:
    with pytest.raises(TypeError, match="'a'"):
        linear_cka(Y, X)
    with pytest.raises(ValueError, match="'b': expected 6 rows"):
        linear_cka(X, X[:5])
    with pytest.raises(ValueError, match="'a': expected at least two rows"):
        linear_cka(X[:1], X[:1])
    with pytest.raises(ValueError, match=r"'feedback_layer': expected weights of shape \(4, 3\)"):
        weight_cosine(nn.Linear(4, 3), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="'forward_layer': expected a linear layer or a convolution, got Sequential"):
        weight_cosine(nn.Sequential(nn.Linear(4, 3)), nn.Linear(3, 4))


def test_models_are_copied_and_stored() -> None:
    model = CounterCurrent(net())
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    torch.testing.assert_close(other.gradients(X, Y), model.gradients(X, Y))
