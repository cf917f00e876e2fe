"""The state of an adapted parameter (a slot): its trained entries, and how values and weight are kept equal."""

from __future__ import annotations

import functools
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .._core import digests
from .._core.errors import ModelMismatchError, message
from ..ops import Selection

SUFFIX = "_values"
NO_VERSION = -2  # of tensors made in inference mode
MARK = "selection"  # the key in an optimizer's state that says which entries it belongs to
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}  # by bytes an entry
FACTORS = tuple(f - (1 << 64) for f in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))  # SplitMix64's
PARTS = {True: 2**24, False: 2**16}  # entries hashed at a time, on a GPU and in a CPU's cache


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
    parameter: Tensor | None = None  # the values of this slot itself; any other tensor was given by a functional call
    weight: Tensor | None = None  # the weight of this slot itself, which values may be written into
    beside: Any = None  # of all slots (_beside.py): buffers and parameters trained along, as they were at first
    marked: tuple[Selection, int] | None = None  # the last selection that mark() was asked for, and its answer
    written: int = -1  # version of the values that a weight on a GPU holds
    seen: Any = None  # what identified the weight's entries when they last equaled the values, see note()
    merged: bool = False
    tuned: Tensor | None = None  # values of `first`, while a merge hides them
    shown: Any = None  # the sketch of what the merge wrote in their place

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
            moved = first if self.selection is self.first else self.selection.to(device)
            if device.type == "meta":
                return moved.tensors  # which hold nothing, so those that do are kept
            if self.marked is not None and self.marked[0] is self.selection:
                self.marked = moved, self.marked[1]
            self.selection, self.first = moved, first
        return self.selection.tensors

    def mark(self) -> int:
        """A number that identifies the currently trained entries, for optimizers' states."""
        if self.marked is None or self.marked[0] is not self.selection:
            chosen = self.selection.index if self.selection.words is None else self.selection.words
            assert chosen is not None
            digest = digests.of_bytes(digests.raw(chosen), size=7)
            self.marked = self.selection, int.from_bytes(digest, "little")
        return self.marked[1]

    def refresh(self, weight: Tensor, values: Tensor, *, stepped: bool = False) -> None:
        """Compares all entries and makes weight and values equal, however one of them was changed.

        A weight that was set from outside sets the values. Otherwise, and if both were changed, values are written into
        the weight. ``stepped``: an optimizer has just changed the values.
        """
        if not self.own or self.merged or weight.is_meta:
            return
        self.on(weight.device)
        if weight.is_cuda and sharded(weight) is None:
            self._refresh_on_gpu(weight, values)
        elif not same(weight, self.selection, values):
            if not stepped and self._set_from_outside(weight, values):
                self.reread(weight, values)
            else:
                write(weight, self.selection, values)
                self.note(weight, values)
        elif self.seen is None or self.seen[0] != versions(weight, values):
            self.note(weight, values)

    def _refresh_on_gpu(self, weight: Tensor, values: Tensor) -> None:
        """Comparing would wait for the GPU, so a weight that was set from outside is known by version and address.

        Writing what is there already changes nothing, so only a change that the values' version tells is told to
        autograd, as for any tensor.
        """
        version = version_of(values)
        told = version != self.written
        if not told and self.seen is not None and self.seen != (weight.data_ptr(), version_of(weight)):
            self.reread(weight, values)
            return
        write(weight if told else weight.data, self.selection, values)
        self.written = version
        self.note(weight, values)

    def _set_from_outside(self, weight: Tensor, values: Tensor) -> bool:
        """Whether the weight's entries are no longer those last seen, and the values still are."""
        if self.seen is None or sharded(weight) is not None:
            return False
        before = self.seen[1]
        return sketch(read(weight, self.selection)) != before and sketch(values.to(weight.dtype)) == before

    def note(self, weight: Tensor, values: Tensor) -> None:
        """Records the weight's state while it equals the values, to detect later changes."""
        if not self.own or weight.is_meta or sharded(weight) is not None:
            self.seen = None
        elif weight.is_cuda:
            self.written, self.seen = version_of(values), (weight.data_ptr(), version_of(weight))
        else:
            self.seen = versions(weight, values), sketch(values.to(weight.dtype))

    def show(self, weight: Tensor) -> None:
        """Notes what a merge wrote."""
        if not weight.is_meta:
            self.on(weight.device)
            self.shown = sketch(read(weight, self.first))

    def hides(self, weight: Tensor) -> bool:
        """Whether the weight is what a merge wrote, and not set from outside since."""
        if not self.merged or weight.is_meta:
            return False
        self.on(weight.device)
        return bool(self.shown == sketch(read(weight, self.first)))

    def check_values(self, values: Tensor | None) -> None:
        """Raises if the values belong to another slot or a placeholder was written to: the numbers would be lost."""
        if values is not self.parameter or values is None:
            hint = "keep the parameter and write to it; under FSDP2 ignore it"
            raise ValueError(message("attach", f"{self.name}{SUFFIX}", "the parameter made then", "another", hint))
        if not self.own and values.numel() > 1 and values.stride() != (0,) and values.detach().any():
            hint = "attach with values='own', or train them by SaRAAdamW alone"
            got = f"numbers for '{self.name}'"
            raise ValueError(message("attach", "values", "placeholders that nobody writes to", got, hint))

    @torch.no_grad()
    def reread(self, weight: Tensor, values: Tensor) -> None:
        """Sets the values from a weight that was set from outside. Values that merely round to the weight stay."""
        if self.own:
            self.on(weight.device)
            found = read(weight, self.selection)
            values.copy_(torch.where(found == values.to(found.dtype), values, found.to(values.dtype)))
            self.note(weight, values)


def version_of(t: Tensor) -> int:
    """How often a tensor was changed, as far as autograd knows."""
    return NO_VERSION if t.is_inference() else t._version


def versions(weight: Tensor, values: Tensor) -> tuple[int, int]:
    """The versions of values and weight. Both change if both are overwritten, for instance by an average."""
    return version_of(weight), version_of(values)


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
    """Positions (count) int64 of a sub-selection's entries within the selection that contains it."""
    return torch.searchsorted(outer.to_index(), inner.to_index())


def tuned(slot: Slot, weight: Tensor, values: Tensor) -> Tensor:
    """The trained values of all entries chosen at first, those frozen by progress() too.

    While merged, they are those that the merge hides, unless the weight was set from outside since.
    """
    slot.on(weight.device)
    if slot.hides(weight):
        assert slot.tuned is not None
        return slot.tuned
    found = read(weight, slot.first).to(values.dtype)
    if slot.own and not slot.merged and weight.dtype is not values.dtype:  # values are more exact than the weight
        found[places(slot.selection, slot.first)] = values.detach()
    return found


@torch.no_grad()
def settle(slot: Slot, weight: Tensor, values: Tensor, wanted: Tensor) -> None:
    """Sets the trained values of all entries chosen at first."""
    slot.merged, slot.tuned, slot.shown = False, None, None
    slot.on(weight.device)
    write(weight, slot.first, wanted.to(weight.device))
    if slot.own:
        values.copy_(wanted if slot.selection is slot.first else wanted[places(slot.selection, slot.first)])
        slot.note(weight, values)


def resize(values: nn.Parameter, data: Tensor) -> None:
    """Resizes a values parameter in place, so that optimizers that hold it keep working."""
    other = torch.float32 if data.dtype is torch.float64 else torch.float64
    values.grad = None
    values.data = torch.empty(0, dtype=other, device=data.device)  # makes autograd forget the size that it expects
    values.data = data
    values.requires_grad_(data.numel() > 0)


@torch.no_grad()
def same(weight: Tensor, selection: Selection, values: Tensor) -> bool:
    """Whether the selected entries of a weight equal the values bit by bit, so that NaN equals NaN."""
    if sharded(weight) is not None:
        return False  # this process's shard is compared as it is written
    bits = BITS[weight.element_size()]
    return torch.equal(read(weight, selection).view(bits), values.detach().to(weight.dtype).contiguous().view(bits))


@torch.no_grad()
def sketch(weight: Tensor) -> int:
    """A sum over the hashed entries of a tensor, or of this process's shard, computed on its device.

    Each entry's bits are hashed with its place by SplitMix64's finalizer, which maps no two entries of a place to the
    same number. Thus every change of one entry is seen, and any other change but for one in 2**64.
    """
    held = weight if sharded(weight) is None else sharded(weight).to_local()
    bits = held.detach().contiguous().view(-1).view(BITS[held.element_size()])
    total, place = torch.zeros((), dtype=torch.int64, device=bits.device), 1
    for part in bits.split(PARTS[bits.is_cuda]):
        z = torch.arange(place, place + part.numel(), device=bits.device).mul_(FACTORS[0]).bitwise_xor_(part)
        for shift, factor in zip((30, 27), FACTORS[1:], strict=True):  # products of int64 wrap around
            z.bitwise_xor_(_shifted(z, shift)).mul_(factor)
        total += z.bitwise_xor_(_shifted(z, 31)).sum()
        place += part.numel()
    return int(total)


def _shifted(z: Tensor, by: int) -> Tensor:
    """int64 shifted to the right as if unsigned."""
    return (z >> by).bitwise_and_((1 << 64 - by) - 1)


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
    at, wanted = index[low:high].long() - start, values.detach()[low:high].to(local.dtype)
    if not torch.equal(local.view(-1)[at], wanted):
        local.view(-1)[at] = wanted


# --- keeping weights equal to values: eagerly at every use, and after every optimizer step for compiled models ---

LIVE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@functools.cache
def watch_optimizers() -> None:
    """Installs global optimizer hooks, at the first ``attach`` rather than at import."""
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def slots_of(module: nn.Module) -> dict[str, Slot]:
    """Adapted parameters of this module itself, by attribute name."""
    return module.__dict__.get("_sparse_slots", {})


def sync(module: nn.Module) -> None:
    """Writes the values of one module into its weights where they differ."""
    for name, slot in slots_of(module).items():
        weight, values = module._parameters[name], module._parameters[name + SUFFIX]
        assert weight is not None
        assert values is not None
        if values is slot.parameter:
            slot.refresh(weight, values)


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Writes the values that an optimizer stepped into the weights, for compiled or sharded models."""
    writes = getattr(optimizer, "writes_weights", False)  # its step has, but for weights that are sharded
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for module in list(LIVE):
        for name, slot in slots_of(module).items():
            weight, values = module._parameters[name], module._parameters[name + SUFFIX]
            if weight is None or values is None or id(values) not in stepped:
                continue
            if not writes or sharded(weight) is not None:
                slot.written = -1  # torch's fused steps leave no mark on a tensor's version
                slot.refresh(weight, values, stepped=True)
            if not writes and optimizer.state.get(values):
                optimizer.state[values].setdefault(MARK, slot.mark())


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Takes over weights that were set from outside. Raises if a loaded state belongs to other entries."""
    writes = getattr(optimizer, "writes_weights", False)  # then its step does both
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for module in list(LIVE):
        for name, slot in slots_of(module).items():
            weight, values = module._parameters[name], module._parameters[name + SUFFIX]
            if weight is None or values is None or id(values) not in stepped:
                if id(weight) in stepped:
                    warnings.warn(
                        f"{type(optimizer).__name__}.step: it has the frozen '{slot.name}' and not its values, so that "
                        "nothing of it is trained. Hint: make optimizers after attach()",
                        stacklevel=2,
                    )
                continue
            if not writes and sharded(weight) is None:
                slot.refresh(weight, values)
            state = optimizer.state.get(values)
            if state and state.get(MARK, slot.mark()) != slot.mark():
                hint = "load adapter.state_dict() too, name the optimizer in progress(), or make it anew"
                raise ModelMismatchError(
                    f"{type(optimizer).__name__}.step: its state is of other entries of '{slot.name}' than those "
                    f"trained now. Hint: {hint}"
                )
