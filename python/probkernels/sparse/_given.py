"""Weights and values that a functional call passes to an adapted model, and their use under torch.func."""

from __future__ import annotations

import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from .._core import registry
from .slots import Slot


def is_given(weight: Tensor) -> bool:
    """Whether a functional call passed this weight: an adapter's own weights are frozen parameters."""
    return weight.requires_grad or not isinstance(weight, nn.Parameter)


def transformed() -> bool:
    """Whether torch.func, vmap or forward mode is active, which supports only torch's own functions."""
    return registry.transforms_active() or forward_ad._current_level >= 0


def compose(slot: Slot, weight: Tensor, values: Tensor) -> Tensor:
    """Composes the weight in use as a new tensor, differentiable in weight and values any number of times.

    With ``values="own"`` the values replace the selected entries. With ``values="weights"`` the values are placeholders
    of zeros; a functional call's tensor in their place is added to the entries.
    """
    if slot.merged or (values is slot.parameter and is_given(weight)):
        return weight  # the whole weight was given
    selection = slot.selection.to(weight.device)
    if slot.own:
        return selection.scatter(weight, values)
    return selection.scatter(weight, selection.gather(weight) + values.to(weight.dtype))
