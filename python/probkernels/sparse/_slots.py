"""What an adapted parameter carries: which entries are trained, and how values and weight are kept equal."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..ops import Selection

SUFFIX = "_values"
NEVER = -1  # in place of a version


@dataclass(frozen=True)
class Rule:
    """How the entries of a model were chosen; shared by all its slots."""

    threshold: float | None
    density: float | None
    select: str
    scope: str
    values: str


@dataclass(eq=False)
class Slot:
    """The state of one adapted parameter, shared by all modules that hold it."""

    name: str
    rule: Rule
    selection: Selection  # the entries trained now
    first: Selection  # those chosen when the adapter was attached; differs after progress()
    threshold: float | None  # of this tensor, for progress()
    base: Tensor | None  # values of `first` before training, in the weight's dtype
    trained_before: bool  # requires_grad before attaching
    written: int = 0  # version of the values that the weight holds
    merged: bool = False
    tuned: Tensor | None = None  # values of `first`, while a scaled merge hides them

    @property
    def own(self) -> bool:
        """Whether values have storage of their own."""
        return self.rule.values == "own"

    def on(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The tensors of the selection, on a device."""
        tensors = self.selection.tensors
        held = tensors[1] if tensors[0] is None else tensors[0]
        if held is not None and held.device != device:
            first = self.first.to(device)
            self.selection = first if self.selection is self.first else self.selection.to(device)
            self.first = first
        return self.selection.tensors

    def refresh(self, weight: Tensor, values: Tensor) -> None:
        """Writes values that changed since they were last written."""
        if self.own and not self.merged and values._version != self.written:
            self.on(weight.device)
            write(weight, self.selection, values)
            self.written = values._version

    def reread(self, weight: Tensor, values: Tensor) -> None:
        """Takes the values from a weight that was set from outside."""
        if self.own:
            self.on(weight.device)
            with torch.no_grad():
                values.copy_(read(weight, self.selection))
            self.written = values._version


def values_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of trained values: float64 for float64 weights, else float32."""
    return torch.float64 if weight.dtype is torch.float64 else torch.float32


def sharded(weight: Tensor) -> Any:
    """The weight as a DTensor, if it is one; told by its methods, as importing the class takes half a second."""
    return weight if hasattr(weight, "full_tensor") else None


def whole(weight: Tensor) -> Tensor:
    """The weight, or what all processes' shards make."""
    spread = sharded(weight)
    return weight if spread is None else spread.full_tensor()


def read(weight: Tensor, selection: Selection) -> Tensor:
    """The selected entries (count) of a weight of any strides, or of all processes' shards of it."""
    return selection.gather(whole(weight).detach().contiguous())


def places(inner: Selection, outer: Selection) -> Tensor:
    """Where the entries of a sub-selection stand among those of the selection that holds it: (count) int64."""
    return torch.searchsorted(outer.to_index(), inner.to_index())


def tuned(slot: Slot, weight: Tensor, values: Tensor) -> Tensor:
    """The trained values of all entries chosen at first, those frozen by progress() too."""
    if slot.tuned is not None:
        return slot.tuned
    slot.on(weight.device)
    found = read(weight, slot.first).to(values.dtype)
    if slot.own and weight.dtype is not values.dtype:  # values are more exact than the weight
        found[places(slot.selection, slot.first)] = values.detach()
    return found


@torch.no_grad()
def settle(slot: Slot, weight: Tensor, values: Tensor, wanted: Tensor) -> None:
    """Sets the trained values of all entries chosen at first."""
    slot.merged, slot.tuned = False, None
    slot.on(weight.device)
    write(weight, slot.first, wanted.to(weight.device))
    if slot.own:
        values.copy_(wanted if slot.selection is slot.first else wanted[places(slot.selection, slot.first)])
        slot.written = values._version


def resize(slot: Slot, values: nn.Parameter, data: Tensor) -> None:
    """Gives a values parameter another size, so that optimisers that hold it go on with it."""
    other = torch.float32 if data.dtype is torch.float64 else torch.float64
    values.grad = None
    values.data = torch.empty(0, dtype=other, device=data.device)  # makes autograd forget the size that it expects
    values.data = data
    values.requires_grad_(data.numel() > 0)
    slot.written = values._version


@torch.no_grad()
def write(weight: Tensor, selection: Selection, values: Tensor) -> None:
    """Sets the selected entries of a weight of any strides, or of this process's shard of it."""
    if sharded(weight) is not None:
        _write_shard(sharded(weight), selection, values)
    elif weight.is_contiguous():
        selection.scatter_(weight, values.detach())
    else:
        dense = weight.contiguous()
        selection.scatter_(dense, values.detach())
        weight.copy_(dense)


def _write_shard(weight: Any, selection: Selection, values: Tensor) -> None:
    local = weight.to_local()
    start = 0
    for dim, placement in enumerate(weight.placements):
        if placement.is_shard():
            if placement.dim != 0 or sum(p.is_shard() for p in weight.placements) > 1:
                raise NotImplementedError("probkernels.sparse: weights sharded other than once along dimension 0")
            rows = -(-weight.shape[0] // weight.device_mesh.size(dim))
            start = rows * weight.device_mesh.get_local_rank(dim) * (weight.numel() // weight.shape[0])
    index = selection.to_index()
    low, high = torch.searchsorted(index, torch.tensor([start, start + local.numel()], device=index.device)).tolist()
    local.view(-1)[index[low:high].long() - start] = values.detach()[low:high].to(local.dtype)


# --- keeping weights equal to values: eagerly at every use, and after every optimiser step for compiled models ---

LIVE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def slots_of(module: nn.Module) -> dict[str, Slot]:
    """Adapted parameters of this module itself, by attribute name."""
    return module.__dict__.get("_sparse_slots", {})


def sync(module: nn.Module) -> None:
    """Writes changed values of one module into its weights."""
    for name, slot in slots_of(module).items():
        weight, values = module._parameters[name], module._parameters[name + SUFFIX]
        assert weight is not None
        assert values is not None
        slot.refresh(weight, values)


def _after_step(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    """Writes what an optimiser stepped: all of it, as torch's fused steps leave no mark on a tensor's version."""
    stepped = set()
    if not getattr(optimiser, "writes_weights", False):
        stepped = {id(p) for group in optimiser.param_groups for p in group["params"]}
    for module in list(LIVE):
        for name, slot in slots_of(module).items():
            if id(module._parameters[name + SUFFIX]) in stepped:
                slot.written = NEVER
        sync(module)


register_optimizer_step_post_hook(_after_step)
