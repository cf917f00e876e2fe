"""Bytes beyond the weights: those of the method's byte model, and fewer than LoRA's at equal trained numbers."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn


def tensor_bytes(*roots: Any) -> int:
    """Bytes of the distinct storages of all tensors in nested containers."""
    seen: dict[int, int] = {}

    def walk(x: Any) -> None:
        if isinstance(x, Tensor):
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            if x.grad is not None:
                walk(x.grad)
        elif isinstance(x, dict):
            for item in x.values():
                walk(item)
        elif isinstance(x, (list, tuple)):
            for item in x:
                walk(item)

    walk(list(roots))
    return sum(seen.values())


def held_bytes(model: nn.Module, state: Any) -> int:
    """All tensors of a model, of its adapter's bookkeeping and of an optimizer's state."""
    slots = [vars(s) for m in model.modules() for s in m.__dict__.get("_sparse_slots", {}).values()]
    selections = [list(s[key].tensors) for s in slots for key in ("selection", "first")]
    kept = [[s["base"], s["tuned"]] for s in slots]
    return tensor_bytes(list(model.parameters()), list(model.buffers()), selections, kept, state)


@pytest.mark.parametrize(("moments", "per_entry"), [("float32", 8.0), ("int8", 2.0 + 8 / 256)])
@pytest.mark.parametrize("density", [0.058, 0.0058])
def test_memory_is_that_of_the_byte_model(moments: str, per_entry: float, density: float) -> None:
    model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False))
    numbers = sum(p.numel() for p in model.parameters())
    plain = tensor_bytes(list(model.parameters()))
    optimizer = pk.optim.SaRAAdamW(model, density=density, lr=1e-3, moments=moments)
    model(torch.randn(4, 512)).square().mean().backward()
    optimizer.step()
    beyond = held_bytes(model, list(optimizer.state.values())) - plain
    encoding = 4 * density if density < 1 / 30 else 1 / 8 + 4 / 512
    expected = numbers * (encoding + density * (4 + per_entry))
    assert expected * 0.98 < beyond < expected * 1.02


def test_memory_is_below_that_of_lora_at_equal_trained_numbers() -> None:
    size, rank = 512, 15
    count = 2 * size * rank
    model = nn.Linear(size, size, bias=False)
    plain = tensor_bytes(list(model.parameters()))
    optimizer = pk.optim.SaRAAdamW(model, density=count / size**2, lr=1e-3)
    model(torch.randn(4, size)).square().mean().backward()
    optimizer.step()
    ours = held_bytes(model, list(optimizer.state.values())) - plain

    down, up = nn.Linear(size, rank, bias=False), nn.Linear(rank, size, bias=False)
    lora = torch.optim.AdamW([*down.parameters(), *up.parameters()])
    up(down(torch.randn(4, size))).square().mean().backward()
    lora.step()
    theirs = tensor_bytes(list(down.parameters()), list(up.parameters()), list(lora.state.values()))
    assert optimizer.adapter.count == count == down.weight.numel() + up.weight.numel()
    assert ours < theirs
