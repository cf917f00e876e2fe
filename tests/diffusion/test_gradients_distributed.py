"""Exact gradients over two gloo processes: under DDP and FSDP2 those of the joint batch."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from probkernels.diffusion import VP, Denoiser, sample
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.diffusion.test_gradients import DIMS, denoiser, leaf
from tests.nn.test_distributed import on_two_processes

HOW = {"solver": "dpmpp_2m", "steps": 4}


def _loss(model: Denoiser, x_T: Tensor, grad: str, **how: Any) -> Tensor:
    x = sample(model, x_T, cond=x_T.new_ones(len(x_T), 4), grad=grad, **{**HOW, **how})
    return x.square().sum(1).mean()


def _ddp(rank: int) -> list[Tensor]:
    plain = denoiser()
    model = Denoiser(DistributedDataParallel(plain.net), VP(), pred="v")
    for _ in range(2):  # a second iteration finds the reducer ready again
        plain.zero_grad()
        _loss(model, leaf(6, DIMS)[3 * rank : 3 * rank + 3].detach(), "exact").backward()
    return [p.grad for p in plain.parameters()]


def test_ddp_averages_gradients() -> None:
    model = denoiser()
    _loss(model, leaf(6, DIMS).detach(), "autograd").backward()
    for found in on_two_processes(_ddp):
        for grad, parameter in zip(found, model.parameters(), strict=True):
            assert torch.allclose(grad, parameter.grad, rtol=1e-12, atol=1e-14)


class Hooked(nn.Module):
    """Has a hook on a parameter, and a buffer that DDP sends around."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(DIMS, DIMS)
        self.register_buffer("shift", torch.ones(DIMS))
        self.used.weight.register_hook(lambda grad: grad / 2)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.tanh(self.used(x)) + self.shift


def _hooked(rank: int, store: str | int) -> list[Tensor]:
    torch.manual_seed(0)
    net = Hooked().double()
    model = Denoiser(DistributedDataParallel(net), VP(), pred="v")
    for _ in range(2):
        net.zero_grad()
        _loss(model, leaf(6, DIMS)[3 * rank : 3 * rank + 3].detach(), "exact", store=store).backward()
    return [net.used.weight.grad, net.used.bias.grad]


@pytest.mark.parametrize("store", ["states", 10**9, "revolve=2"])
def test_ddp_with_buffers_and_hooks(store: str | int) -> None:
    torch.manual_seed(0)
    net = Hooked().double()
    _loss(Denoiser(net, VP(), pred="v"), leaf(6, DIMS).detach(), "autograd").backward()
    for found in on_two_processes(functools.partial(_hooked, store=store)):
        for grad, parameter in zip(found, net.used.parameters(), strict=True):
            assert torch.allclose(grad, parameter.grad, rtol=1e-12, atol=1e-14)


def _fsdp(rank: int, **how: str) -> list[Tensor]:
    model = denoiser()
    fully_shard(model.net, mesh=dist.init_device_mesh("cpu", (2,)))
    found: list[Tensor] = []
    for _ in range(2):
        model.zero_grad()
        x_T = leaf(6, DIMS)[3 * rank : 3 * rank + 3].detach().requires_grad_()
        _loss(model, x_T, "exact", **how).backward()
        assert x_T.grad is not None
        found = [x_T.grad, *(p.grad.full_tensor() for p in model.parameters())]
    return found


@pytest.mark.parametrize("how", [{}, {"store": "revolve=2"}, {"store": "revolve=2", "solver": "heun"}])
def test_fsdp_averages_gradients(how: dict[str, str]) -> None:
    """With several graphs at a time too, where a step has more than one call."""
    model, x_T = denoiser(), leaf(6, DIMS)
    _loss(model, x_T, "autograd", solver=how.get("solver", HOW["solver"])).backward()
    for rank, (of_x, *found) in enumerate(on_two_processes(functools.partial(_fsdp, **how))):
        assert torch.allclose(of_x, 2 * x_T.grad[3 * rank : 3 * rank + 3], rtol=1e-12, atol=1e-14)
        for grad, parameter in zip(found, model.parameters(), strict=True):
            assert torch.allclose(grad, parameter.grad, rtol=1e-12, atol=1e-14)
