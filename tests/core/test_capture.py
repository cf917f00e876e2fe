"""While a CUDA graph is captured, a call whose numbers every replay would repeat refuses, and so does one that waits
for the device. The capture is pretended, as the tests have no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels._core.registry import OPS
from probkernels.bnn import AdaptiveSGHMC
from probkernels.diffusion.noise import StepNoise
from torch import nn

CPU = torch.device("cpu")
BAKED = ("em_update_", "sghmc_step_", "sparse_adamw8_", "sparse_adamw_")
WORDS = torch.zeros(1, 4, dtype=torch.int32)
CDF = pk.ops.quantize_cdf(torch.ones(3))
MASK = torch.eye(3, dtype=torch.bool)
ENDS = torch.tensor([0, 4])


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Starts a pretended capture."""

    def start() -> None:
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    return start


def test_which_ops_bake_numbers_in() -> None:
    assert sorted(name for name, op in OPS.items() if op.baked is not None) == sorted(BAKED)
    changed = {name for name, op in OPS.items() if op.mutated}
    # a new op in place belongs to BAKED if a step or learning rate is among its numbers
    assert changed - set(BAKED) == {"leapfrog_adjoint_", "leapfrog_step_", "selection_scatter_"}


@pytest.mark.parametrize("name", BAKED)
def test_ops_that_bake_numbers_in_refuse(name: str, capture: Callable[[], None]) -> None:
    args = OPS[name].examples(CPU, torch.float32)[0]
    before = [t.clone() for t in OPS[name].tensors(args)]
    capture()
    with pytest.raises(RuntimeError, match=f"{name}: cannot be captured in a CUDA graph: every replay would repeat"):
        OPS[name].call(*args)
    assert all(map(torch.equal, before, OPS[name].tensors(args)))


def test_optimizers_refuse_before_they_change_anything(capture: Callable[[], None]) -> None:
    net = nn.Linear(4, 4)
    makers: list[Any] = [lambda: pk.optim.SaRAAdamW(net, density=0.5, lr=0.1), lambda: AdaptiveSGHMC(net.parameters())]
    optimizers = [make() for make in makers]
    capture()
    for optimizer in optimizers:
        before = [p.detach().clone() for p in net.parameters()]
        with pytest.raises(RuntimeError, match="in a CUDA graph: every replay would repeat the step"):
            optimizer.step(lambda: pytest.fail("the closure ran"))
        assert all(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize(
    "call",
    [
        lambda: pk.ops.magnitude_select(torch.ones(3), 0.5),
        lambda: pk.ops.magnitude_kth([torch.ones(3)], 1),
        lambda: pk.ops.Selection.from_mask(MASK),
        lambda: pk.ops.Selection.from_index(torch.tensor([1]), (3,)),
        lambda: pk.ops.rans_encode(WORDS, CDF),
        lambda: pk.ops.rans_encode_pmf(WORDS, torch.ones(3)),
        lambda: pk.ops.rans_decode(torch.zeros(4, dtype=torch.uint8), ENDS, CDF, 4),
        lambda: pk.ops.rans_decode_pmf(torch.zeros(4, dtype=torch.uint8), ENDS, torch.ones(3), 4),
        lambda: pk.ops.quantize_cdf(torch.ones(3)),
        lambda: pk.ops.RansCoder(1).push(WORDS, CDF),
        lambda: pk.ops.RansCoder(1).pop(CDF),
        lambda: pk.ops.adaptive_decode(torch.zeros(4, dtype=torch.uint8), ENDS, ENDS, 1, 4),
    ],
)
def test_calls_that_wait_for_the_device_refuse(call: Callable[[], Any], capture: Callable[[], None]) -> None:
    capture()
    with pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph: the host reads values"):
        call()


def test_a_seed_that_the_host_draws_is_not_captured(capture: Callable[[], None]) -> None:
    x = torch.zeros(2, 3)
    capture()
    with pytest.raises(RuntimeError, match="every replay would repeat the seed"):
        StepNoise(x, generator=torch.Generator())
    assert StepNoise(x, seeds=3)(0).shape == x.shape  # a seed of the user's own may repeat
