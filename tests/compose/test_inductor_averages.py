"""A SaRA-adapted model with averages of its weights trains under torch.compile's default backend as in eager."""

from __future__ import annotations

import copy
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.training import EMA
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.compose.test_compose import same

DECAY = 0.5
X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5)).double()


def train(model: nn.Module, values: str, run: Any) -> list[Tensor]:
    """Losses, weights and both averages of three steps; the averages are also held to the dense weights'."""
    optimizer = pk.optim.SaRAAdamW(model, density=0.4, lr=0.1, values=values)
    ours, torchs = EMA(model, DECAY), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    dense = {name: t.clone() for name, t in model.state_dict().items()}
    from_first: dict[str, Tensor] = {}  # torch's average starts with the first update
    shown = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = run(X).sin().sum()
        loss.backward()
        optimizer.step()
        ours.update(model)
        torchs.update_parameters(model)
        now = {name: t.clone() for name, t in model.state_dict().items()}
        dense = {name: torch.lerp(t, now[name], 1 - DECAY) for name, t in dense.items()}
        from_first = {name: torch.lerp(from_first.get(name, t), t, 1 - DECAY) for name, t in now.items()}
        shown += [loss.detach(), *now.values()]
    for averaged, expected in ((ours.module, dense), (torchs.module, from_first)):
        torch.testing.assert_close(dict(averaged.state_dict()), expected)
        shown += [averaged(X), *expected.values()]
    return shown


@pytest.mark.parametrize("values", ["own", pytest.param("weights", marks=pytest.mark.slow)])
def test_it_trains_like_eager(values: str) -> None:
    torch._dynamo.reset()
    eager, model = make(), make()
    start = copy.deepcopy(eager[0].weight.detach())
    expected = train(eager, values, eager)
    same(tuple(train(model, values, torch.compile(model, fullgraph=True))), tuple(expected))
    assert not torch.allclose(expected[1], start, atol=1e-3)
