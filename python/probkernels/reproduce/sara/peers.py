"""Other parameter-efficient fine-tuning methods, for comparison."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(nn.Module):
    """LoRA: a frozen linear layer plus the product of two thin matrices. The second one starts at zero."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)


def add_lora(model: nn.Module, rank: int) -> None:
    """Freezes the model and gives each of its linear layers a low-rank term."""
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, LowRank(child, rank))


def has_shira() -> bool:
    """Whether peft with SHiRA is installed."""
    if importlib.util.find_spec("peft") is None:
        return False
    import peft

    return hasattr(peft, "ShiraConfig")


def add_shira(model: nn.Module, rank: int, seed: int) -> Any:
    """Freezes the model and lets peft train random entries of its linear layers, as many in each as LoRA of that rank.

    Layers with fewer entries than that stay frozen, as peft refuses them.

    Returns:
        peft's model around it, which can save what was trained.
    """
    import peft

    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    large = [name for name, m in linears.items() if rank * (m.in_features + m.out_features) <= m.weight.numel()]
    return peft.get_peft_model(model, peft.ShiraConfig(r=rank, target_modules=large, random_seed=seed))


def rank_for(model: nn.Module, numbers: int) -> int:
    """The rank at which LoRA on all linear layers trains about so many numbers."""
    sides = sum(m.in_features + m.out_features for m in model.modules() if isinstance(m, nn.Linear))
    return max(1, round(numbers / sides))


def add(name: str, model: nn.Module, density: float, seed: int) -> Any:
    """Makes ``model`` train the numbers of a peer, about as many as the given share of its weights.

    Returns:
        What the peer's own function returns; None when all weights are trained.
    """
    rank = rank_for(model, int(density * sum(p.numel() for p in model.parameters())))
    if name == "LoRA":
        return add_lora(model, rank)
    return add_shira(model, rank, seed) if name == "SHiRA" else None
