"""Weights in the layout of the paper's code: a small model of that layout gives the same outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from probkernels._core.errors import ModelMismatchError
from probkernels.amortized import BarDistribution, GaussianHead, pfn_from_released
from torch import Tensor, nn

State = dict[str, Tensor]


class Released(nn.Module):
    """A transformer of that layout, time first: contexts see contexts, a query sees contexts and itself."""

    def __init__(self, encoder: nn.Module, n_out: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, 0.0, activation="gelu")
        self.transformer_encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.encoder, self.y_encoder = encoder, nn.Linear(1, 16)
        self.decoder = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, n_out))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Outputs of the points (T - n) after the n that have a target; x (T, B, F), y (n, B)."""
        n, h = len(y), self.encoder(x)
        h = torch.cat([h[:n] + self.y_encoder(y[..., None]), h[n:]])
        sees = (torch.arange(len(x)) < n)[None] | torch.eye(len(x), dtype=torch.bool)
        return self.decoder(self.transformer_encoder(h, ~sees))[n:]


class Uniform(nn.Module):
    """(x - 1/2) sqrt(12)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / math.sqrt(1 / 12)


def released(uniform: bool = False, n_out: int = 4) -> Released:
    torch.manual_seed(0)
    encoder = nn.Linear(3, 16)
    model = Released(nn.Sequential(Uniform(), encoder) if uniform else encoder, n_out).double()
    for p in model.parameters():  # the layers of a stack start alike
        p.data += 0.2 * torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize("uniform", [False, True])
def test_outputs_are_equal(uniform: bool) -> None:
    theirs, draw = released(uniform), torch.Generator().manual_seed(1)
    x, y = (torch.rand(*s, generator=draw, dtype=torch.float64) for s in ((2, 9, 3), (2, 5)))
    borders = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    state = {f"module.{name}": t for name, t in theirs.state_dict().items()}
    state |= {"criterion.borders": borders, "criterion.bucket_widths": borders.diff()}
    model = pfn_from_released(state, heads=2)
    found = model(x[:, :5], y, x[:, 5:])
    assert isinstance(found, BarDistribution) and found.batch_shape == (2, 4)
    want = BarDistribution(theirs(x.transpose(0, 1), y.T).transpose(0, 1), borders)
    at = torch.full((2, 4), 0.7, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob(at), want.log_prob(at), rtol=0, atol=1e-10)
    assert model.normalize_x == ("uniform" if uniform else None) and not model.training


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: t for key, t in state.items() if key != name}


def with_(name: str, tensor: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: tensor}


@pytest.mark.parametrize(
    "change, error, text",
    [
        (without("encoder.weight"), ModelMismatchError, "'encoder.weight' is absent"),
        (without("transformer_encoder.layers.1.norm2.bias"), ModelMismatchError, "body.layers.1.norm2.bias' is absent"),
        (without("decoder.2.bias"), ModelMismatchError, "readout.2.bias' is absent"),
        (with_("pos_encoder.pe", torch.ones(2)), ModelMismatchError, "'pos_encoder.pe' is unknown"),
        (
            with_("encoder.bias", torch.ones(7)),
            ModelMismatchError,
            r"\(7,\), where the model has torch.float64 \(16,\)",
        ),
        (with_("decoder_dict.standard.0.weight", torch.ones(2)), ModelMismatchError, "layout of a later release"),
        (lambda state: {**state, "encoder.bias": 3}, TypeError, "expected tensors, got"),
        (lambda state: [state], TypeError, "names and tensors"),
    ],
)
def test_strict(change: Callable[[State], State], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pfn_from_released(change(released(n_out=2).state_dict()), GaussianHead(), heads=2)


def test_a_head_is_needed() -> None:
    with pytest.raises(ValueError, match=r"'head': expected a head, as there is no 'criterion.borders'"):
        pfn_from_released(released().state_dict(), heads=2)
