"""PowerNorm over two gloo processes: statistics of the joint batch, under DDP and FSDP2, and never waited for."""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from probkernels import nn, sparse
from probkernels.training import EMA, DataParallel
from torch import Tensor

WORLD, STEPS = 2, 4
# One process loads these, once a run. Every rank is a fork of it, so that no rank spends seconds on importing torch.
PRELOADED = ["pytest", "torch.distributed.fsdp", "torch.nn.parallel", "probkernels.nn", "probkernels.ops"]


def _worker(rank: int, body: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.save(body(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def on_two_processes(body: Callable[[int], Any]) -> list[Any]:
    """Runs ``body(rank)`` in two processes and returns what each gave."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_worker, args=(body, folder), nprocs=WORLD, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (12, 4), grad_y (12, 4) and pad_mask (12) of the joint batch."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    return x * (1 + step), torch.randn(12, 4, dtype=torch.float64, generator=generator), torch.arange(12) % 5 == step


def rows(rank: int, step: int) -> slice:
    """Rank 0 gets less and less of the batch, in the end nothing."""
    cut = 6 - 2 * (step - 1)
    return slice(0, cut) if rank == 0 else slice(cut, 12)


def train(norm: nn.PowerNorm, part: Callable[[int], slice]) -> dict[str, Any]:
    grads = []
    for step in range(1, STEPS + 1):
        x, grad_y, mask = (t[part(step)] for t in batch(step))
        x = x.clone().requires_grad_()
        norm(x, mask).backward(grad_y)
        grads.append(x.grad)
    return {"state": norm.state_dict(), "grads": grads, "grad_weight": norm.weight.grad}


def _synchronized(rank: int) -> list[dict[str, Any]]:
    settings: list[dict[str, Any]] = [{}, {"warmup_iters": 2, "num_groups": 2}]
    return [train(nn.PowerNorm(4, sync=True, **s).double(), lambda step: rows(rank, step)) for s in settings]


def test_two_processes_equal_one_on_the_joined_batch() -> None:
    results = on_two_processes(_synchronized)
    for case, settings in enumerate([{}, {"warmup_iters": 2, "num_groups": 2}]):
        joint = train(nn.PowerNorm(4, **settings).double(), lambda step: slice(0, 12))
        for rank in range(WORLD):
            got = results[rank][case]
            for name in ("running_psi2", "running_nu", "iters"):
                torch.testing.assert_close(got["state"][name], joint["state"][name], rtol=1e-12, atol=1e-14)
            for step in range(1, STEPS + 1):
                expected = joint["grads"][step - 1][rows(rank, step)]
                torch.testing.assert_close(got["grads"][step - 1], expected, rtol=1e-11, atol=1e-13)
        total = results[0][case]["grad_weight"] + results[1][case]["grad_weight"]
        torch.testing.assert_close(total, joint["grad_weight"], rtol=1e-11, atol=1e-13)


def _several_calls(rank: int) -> dict[str, Tensor]:
    norm = nn.PowerNorm(4, sync=True).double()
    norm(batch(1)[0][rank::2])  # psi2 moves, nu stays 0
    ys = [norm(batch(step)[0][rank::2]) for step in (2, 3)]
    torch.autograd.backward(ys, [batch(step)[1][rank::2] for step in (2, 3)])
    return norm.state_dict()


def test_two_forwards_before_a_synchronized_backward() -> None:
    norm = nn.PowerNorm(4).double()
    norm(batch(1)[0])
    torch.autograd.backward([norm(batch(step)[0]) for step in (2, 3)], [batch(step)[1] for step in (2, 3)])
    for got in on_two_processes(_several_calls):
        torch.testing.assert_close(got["running_nu"], norm.running_nu, rtol=1e-11, atol=1e-14)


def _separate_backwards(rank: int) -> list[dict[str, Tensor]]:
    """Two forwards of unequal batches and a backward for each; then a step in which rank 1 runs none."""
    norm = nn.PowerNorm(4, sync=True).double()
    for step in (1, 2, 3):
        ys = [norm(batch(step)[0][part][rank::2]) for part in (slice(0, 8), slice(8, 12))]
        for y, part in zip(ys, (slice(0, 8), slice(8, 12)), strict=True):
            y.backward(batch(step)[1][part][rank::2])
    norm.eval()(batch(1)[0])
    together = {k: v.clone() for k, v in norm.state_dict().items()}
    y = norm.train()(batch(4)[0][rank::2])
    if rank == 0:
        y.backward(batch(4)[1][rank::2])
    norm(batch(5)[0][rank::2]).backward(batch(5)[1][rank::2])
    norm.eval()(batch(1)[0])
    return [together, norm.state_dict()]


def test_a_backward_for_each_forward_and_a_rank_that_skips_one() -> None:
    norm = nn.PowerNorm(4).double()
    for step in (1, 2, 3):
        ys = [norm(batch(step)[0][part]) for part in (slice(0, 8), slice(8, 12))]
        for y, part in zip(ys, (slice(0, 8), slice(8, 12)), strict=True):
            y.backward(batch(step)[1][part])
    results = on_two_processes(_separate_backwards)
    for name in ("running_psi2", "running_nu"):
        for together, _ in results:
            torch.testing.assert_close(together[name], getattr(norm, name), rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(results[0][1][name], results[1][1][name], rtol=0, atol=0)
    # The skipped step: nu learns from the rows of rank 0 alone.
    before = copy.deepcopy(norm)
    norm(batch(4)[0])
    before(batch(4)[0][0::2]).backward(batch(4)[1][0::2])
    norm.running_nu.copy_(before.running_nu)
    norm(batch(5)[0]).backward(batch(5)[1])
    torch.testing.assert_close(results[0][1]["running_nu"], norm.running_nu, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(results[0][1]["running_psi2"], norm.running_psi2, rtol=1e-11, atol=1e-14)


def _unequal_order(rank: int) -> str:
    norm = nn.PowerNorm(4, sync=True)
    ys = [norm(torch.randn(6, 4)) for _ in range(2)]
    for y in ys if rank == 0 else ys[::-1]:
        y.sum().backward()
    try:
        norm.state_dict()
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_ranks_that_reduce_different_things_are_told() -> None:
    for text in on_two_processes(_unequal_order):
        assert "the ranks reduce different things" in text


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), nn.PowerNorm(8, sync=True), torch.nn.Linear(8, 1)).double()


def fit(net: torch.nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        net(part(batch(step)[0])).square().mean().backward()
        optimizer.step()
    return net(batch(1)[0]).detach()


def _data_parallel(rank: int) -> list[Tensor]:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    half = lambda x: x[rank::2]  # noqa: E731
    sharded = model()
    fully_shard(sharded, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (WORLD,)))
    return [fit(DistributedDataParallel(model()), half), fit(sharded, half)]


def test_ddp_and_fsdp2_train_like_one_process() -> None:
    torch.manual_seed(0)
    alone = model()
    alone[1].sync = None
    expected = fit(alone, lambda x: x)
    for rank_results in on_two_processes(_data_parallel):
        for got in rank_results:
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


class _Work:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait(self) -> None:
        self.log.append("wait")


@pytest.mark.parametrize("warmup", [0, 1])
def test_no_all_reduce_is_waited_for_within_a_step(monkeypatch: pytest.MonkeyPatch, warmup: int) -> None:
    log: list[str] = []

    def all_reduce(tensor: Tensor, group: Any = None, async_op: bool = False) -> _Work:
        assert async_op
        log.append("start")
        return _Work(log)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    norm = nn.PowerNorm(4, sync=True, warmup_iters=warmup)
    for _ in range(warmup):
        norm(torch.randn(6, 4)).sum().backward()
    norm.state_dict()  # settles
    log.clear()
    y = norm(torch.randn(6, 4))
    log.append("forward done")
    y.sum().backward()
    log.append("backward done")
    norm(torch.randn(6, 4))
    assert log == ["start", "forward done", "start", "backward done", "wait", "wait", "start"]


def _buffers_of_the_last_step(rank: int) -> list[Tensor]:
    nets = [torch.nn.Sequential(nn.PowerNorm(4, sync=True)).double() for _ in range(3)]
    adapter = sparse.attach(nets[2], density=1.0)
    average = EMA(nets[0])
    for net in nets:
        net(batch(1)[0][rows(rank, 1)]).sum().backward()
    average.update(nets[0])
    nets[1].eval()
    return [average.module[0].running_psi2, nets[1][0].running_psi2, adapter.delta().beside["0.running_psi2"]]


def test_averages_deltas_and_eval_mode_see_the_last_step() -> None:
    joint = nn.PowerNorm(4).double()
    joint(batch(1)[0])
    for buffer in [t for result in on_two_processes(_buffers_of_the_last_step) for t in result]:
        torch.testing.assert_close(buffer, joint.running_psi2, rtol=1e-12, atol=1e-14)


def _mixed_sum(rank: int) -> str:
    with pytest.raises(TypeError, match=r"DataParallel.sum_: argument 'tensors'") as error:
        DataParallel(dist.group.WORLD).sum_([torch.ones(2), torch.tensor([2**40 + rank])])
    return str(error.value)


def test_a_sum_of_two_dtypes_is_refused() -> None:
    assert "torch.int64" in on_two_processes(_mixed_sum)[0]  # as float32 it would be rounded
