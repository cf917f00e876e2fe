"""Weights and values that a functional call gives to an adapted model, and what torch.func differentiates."""

from __future__ import annotations

import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from .._core import registry
from .slots import Slot


def is_given(weight: Tensor) -> bool:
    """Whether a weight is one that a functional call gave: those of an adapter are frozen parameters."""
    return weight.requires_grad or not isinstance(weight, nn.Parameter)


def transformed() -> bool:
    """Whether torch.func, vmap or forward mode is at work, in which only differentiable functions of torch do."""
    active = registry.HAVE_PRIVATE_NAMES and registry.transforms_active()
    return active or forward_ad._current_level >= 0


def compose(slot: Slot, weight: Tensor, values: Tensor) -> Tensor:
    """The weight in use, of its own memory: differentiable in weight and values, any number of times.

    Values of their own replace the selected entries. Those that live in the weights (``values="weights"``) are
    placeholders of zero, so that what a functional call gives in their place is added to the entries.
    """
    if slot.merged or (values is slot.parameter and is_given(weight)):
        return weight  # the whole weight was given
    selection = slot.selection.to(weight.device)
    if slot.own:
        return selection.scatter(weight, values)
    return selection.scatter(weight, selection.gather(weight) + values.to(weight.dtype))
