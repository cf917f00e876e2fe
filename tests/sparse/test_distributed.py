"""Adapters under DDP and FSDP2 on two gloo processes train like one process on the joined batch."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import torch
from torch import Tensor, nn

from tests.nn.test_distributed import WORLD, on_two_processes
from tests.sparse.toy import weights

STEPS = 4


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 70), nn.Tanh(), nn.Linear(70, 66)).double()


def batch(step: int) -> Tensor:
    return torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def fit(net: nn.Module, optimizer: torch.optim.Optimizer, part: Any, before_step: Any = lambda: None) -> None:
    for step in range(STEPS):
        optimizer.zero_grad()
        net(part(batch(step))).square().mean().backward()
        before_step()
        optimizer.step()


def alone(settings: dict[str, Any]) -> dict[str, Tensor]:
    net = model()
    fit(net, pk.optim.SaRAAdamW(net, 0.05, lr=1e-2, **settings), lambda x: x)
    return weights(net)


SETTINGS: list[dict[str, Any]] = [{}, {"rank_penalty": 0.01}]


def _ddp(rank: int) -> list[dict[str, Tensor]]:
    from torch.nn.parallel import DistributedDataParallel

    results = []
    for settings in SETTINGS:
        net = model()
        optimizer = pk.optim.SaRAAdamW(net, 0.05, lr=1e-2, **settings)
        assert optimizer.adapter.parameters()[0].untyped_storage().nbytes() > 8  # values of their own, which DDP sends
        fit(DistributedDataParallel(net), optimizer, lambda x: x[rank::WORLD])
        results.append(weights(net))
    net = model()
    adapter = pk.sparse.attach(net, 0.05)
    fit(DistributedDataParallel(net), torch.optim.AdamW(adapter.parameters(), lr=1e-2), lambda x: x[rank::WORLD])
    return [*results, weights(net)]


def _fsdp(rank: int) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, results = init_device_mesh("cpu", (WORLD,)), []
    for fused in (False, True):
        net = model()
        optimizer: torch.optim.Optimizer
        if fused:
            optimizer = pk.optim.SaRAAdamW(net, 0.05, lr=1e-2, progressive_iter=2)
            adapter = optimizer.adapter
        else:
            adapter = pk.sparse.attach(net, 0.05)
            optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
        values = set(adapter.parameters())
        for layer in (net[0], net[2], net[4]):
            fully_shard(layer, mesh=mesh, ignored_params=values)
        fully_shard(net, mesh=mesh, ignored_params=values)
        assert net[2]._parameters["weight"].to_local().shape[0] == 35
        fit(net, optimizer, lambda x: x[rank::WORLD], adapter.reduce_gradients)
        whole = {name: t.full_tensor() for name, t in net.state_dict().items()}
        delta = {name: part.values for name, part in adapter.delta().parts.items()}
        results.append((whole, delta, net(batch(0)).detach()))
    return results


def _both(rank: int) -> tuple[list[Any], list[Any]]:
    return _ddp(rank), _fsdp(rank)


def test_ddp_and_fsdp2_train_like_one_process() -> None:
    alike = [*(alone(s) for s in SETTINGS), alone({})]
    sharded = [alone({}), alone({"progressive_iter": 2})]
    for ddp, fsdp in on_two_processes(_both):
        for got, want in zip(ddp, alike, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        for (got, delta, y), want in zip(fsdp, sharded, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
            plain = model()
            plain.load_state_dict(want)
            torch.testing.assert_close(y, plain(batch(0)).detach(), rtol=1e-9, atol=1e-11)
            chosen = pk.sparse.attach(model(), 0.05).selections
            for name, values in delta.items():
                torch.testing.assert_close(values, chosen[name].gather(want[name]), rtol=1e-9, atol=1e-11)
