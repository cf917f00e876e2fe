"""Swaps a module's class for a subclass that trains values in place of whole parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.errors import message
from ._functions import Conv, Embedding, Linear, Selected
from ._given import compose, is_given, transformed
from ._in_use import in_use
from .slots import LIVE, SUFFIX, Slot, same, sharded, slots_of, sync, watch_optimizers

DENSE = 0.5  # above this density a dense gradient, gathered, is faster than a sampled one


Class = Any  # type[nn.Module], which mypy thinks cannot be hashed


def swap(module: nn.Module, slots: dict[str, Slot]) -> None:
    """Swaps the class of ``module``: the parameters named in ``slots`` are then trained through values."""
    module.__dict__["_sparse_slots"] = slots
    base: Class = type(module)
    module.__class__ = selected_class(base, tuple(slots))
    _live(module)


def _live(module: nn.Module) -> None:
    LIVE.add(module)
    watch_optimizers()


def unswap(module: nn.Module) -> None:
    """Gives ``module`` its own class back."""
    LIVE.discard(module)
    del module.__dict__["_sparse_slots"]
    made: Class = type(module)
    module.__class__ = made._base


def refuse_merged(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Raises if ``load_state_dict`` would overwrite a merged weight of ``module`` or of one of its submodules."""
    for path, part in module.named_modules(prefix=prefix.rstrip("."), remove_duplicate=False):
        for name, slot in slots_of(part).items():
            if slot.merged and f"{path}.{name}".lstrip(".") in state:
                expected, got = "a model that is not merged", f"one whose '{slot.name}' is"
                raise ValueError(message("load_state_dict", "self", expected, got, "call adapter.unmerge() first"))


def guard_loading(model: nn.Module, merged: bool) -> None:
    """Makes ``load_state_dict`` of a merged model, or of a submodule, raise before it loads the first parameter.

    The hooks are found by their function, as copies of the model have copies of them.
    """
    for module in model.modules():
        hooks = module._load_state_dict_pre_hooks
        for key in [k for k, hook in hooks.items() if getattr(hook, "hook", None) is refuse_merged]:
            del hooks[key]
        if merged and any(slots_of(part) for part in module.modules()):
            module.register_load_state_dict_pre_hook(refuse_merged)


def standin(like: Tensor, count: int) -> Tensor:
    """Zeros (count) of one element's storage."""
    return torch.zeros(1, dtype=like.dtype, device=like.device).expand(count)


def _revive(base: Class, names: tuple[str, ...]) -> nn.Module:
    made = selected_class(base, names)
    return made.__new__(made)


def _is_alias(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride() and one.data_ptr() == other.data_ptr()


class _Values:
    """The mixin that every swapped class adds to its base."""

    _base: type[nn.Module]
    _names: tuple[str, ...]

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        sync(self)
        get_state = getattr(self, "__getstate__", None)
        return _revive, (self._base, self._names), get_state() if get_state else self.__dict__

    def __setstate__(self: Any, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        for name, slot in slots_of(self).items():
            slot.note(self._parameters[name], self._parameters[name + SUFFIX])
        _live(self)

    def register_parameter(self: Any, name: str, param: Any) -> None:
        """Tying a weight to the one it is tied to already, as tie_weights() does, changes nothing.

        It is not ``__setattr__`` that is overridden, as FSDP2 sets its shards directly only where that is nn.Module's.
        """
        if name in self._names and isinstance(param, Tensor) and not self.__dict__.get("_sparse_loading", False):
            if _is_alias(param, self._parameters[name]):
                return
            hint = "copy into it, or call adapter.detach(), tie or replace weights, then attach again"
            raise ValueError(message("attach", name, "the weight that is there", "another tensor", hint))
        super().register_parameter(name, param)  # type: ignore[misc]

    def _apply(self: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves and casts the module. Values are moved but not cast: they stay float32 masters of half weights."""
        values = {id(self._parameters[name + SUFFIX]) for name in self._names}
        its_own = {n for n, slot in slots_of(self).items() if self._parameters[n + SUFFIX] is slot.parameter}
        sync(self)
        merged = [(n, slot) for n, slot in slots_of(self).items() if slot.hides(self._parameters[n])]

        def apply(t: Tensor) -> Tensor:
            made = fn(t)
            return t.to(made.device) if id(t) in values and made.dtype in (torch.half, torch.bfloat16) else made

        super()._apply(apply, recurse)  # type: ignore[misc]
        for name, slot in slots_of(self).items():
            held, own = self._parameters[name + SUFFIX], name in its_own
            if own:
                slot.parameter, slot.weight = held, self._parameters[name]
            if not slot.own:
                held.data = standin(held, held.numel())
            elif own:
                slot.note(self._parameters[name], held)
        for name, slot in merged:  # as cast
            slot.show(self._parameters[name])
        return self

    def _save_to_state_dict(self: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, slot in slots_of(self).items():
            slot.check_values(self._parameters[name + SUFFIX])
        sync(self)
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        for name in self._names:
            destination.pop(prefix + name + SUFFIX, None)

    def _load_from_state_dict(self: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        refuse_merged(self, state, prefix)
        self.__dict__["_sparse_loading"] = True  # with assign=True, parameters are set
        try:
            super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[misc]
        finally:
            del self.__dict__["_sparse_loading"]
        missing = rest[2]
        for name, slot in slots_of(self).items():
            if prefix + name + SUFFIX in missing:
                missing.remove(prefix + name + SUFFIX)
            if prefix + name in state:
                slot.weight = self._parameters[name].requires_grad_(False)
                slot.reread(self._parameters[name], self._parameters[name + SUFFIX])


def _state(module: nn.Module, name: str) -> tuple[Slot, Tensor, Tensor, bool]:
    """Slot, weight and values of an adapted parameter, and whether the weight in use is to be composed of them.

    It is where a functional call gave one of them, whose tensors are read and never written, and where torch.func or
    forward mode differentiates: plain torch does all of that. Elsewhere the weight, made up to date, is in use.
    """
    slot = module.__dict__["_sparse_slots"][name]
    weight, values = module._parameters[name], module._parameters[name + SUFFIX]
    assert weight is not None
    assert values is not None
    if weight.shape != slot.selection.shape:
        hint = "call adapter.detach(), change the model, then attach again"
        raise ValueError(message(slot.name, name, f"shape {tuple(slot.first.shape)}", f"{tuple(weight.shape)}", hint))
    if weight is slot.weight and weight.requires_grad and not torch.compiler.is_compiling():
        hint = "set that of adapter.parameters(), or call adapter.detach() to train the whole weight"
        raise ValueError(message(slot.name, name, "a frozen weight", "one with requires_grad=True", hint))
    given = values is not slot.parameter or is_given(weight)
    if given and slot.merged and not torch.compiler.is_compiling() and not _own(slot, values):
        raise ValueError(message(slot.name, name + SUFFIX, "a model that is not merged", "a merged one", "unmerge()"))
    if given or torch.compiler.is_compiling():
        return slot, weight, values, given
    if transformed():
        return slot, weight, values, True
    if weight is slot.weight or sharded(weight) is not None:
        slot.refresh(weight, values)
        slot.check_values(values)
        return slot, weight, values, False
    slot.on(weight.device)
    return slot, weight, values, slot.own and not slot.merged and not same(weight, slot.selection, values)


def _own(slot: Slot, values: Tensor) -> bool:
    """Whether these are the slot's own values or, outside torch.func, which hides addresses, an alias of them."""
    own = slot.parameter
    return values is own or (own is not None and not transformed() and _is_alias(values, own))


def _trains(slot: Slot, values: Tensor) -> bool:
    return torch.is_grad_enabled() and values.requires_grad and not slot.merged


def _parameter(name: str) -> property:
    def get(self: nn.Module) -> Tensor:
        held = self._parameters[name]
        if held is not None and sharded(held) is not None:
            return held  # FSDP2 asks for the parameter itself; what is computed with is its gathered weight
        slot, weight, values, composed = _state(self, name)
        if composed:
            return compose(slot, weight, values)
        if not _trains(slot, values):
            return weight
        used = Selected.apply(values, weight, *slot.on(weight.device))
        return used if torch.compiler.is_compiling() else in_use(used, weight)

    return property(get)


def _flat_weights(self: Any) -> list[Tensor]:
    """Recurrent layers keep a list of their parameters; this one is made from the attributes at every use."""
    return [getattr(self, name) for name in self._flat_weights_names]


def _samples(slot: Slot, values: Tensor, composed: bool, x: Any) -> bool:
    """Whether only selected entries of the gradient are computed, rather than gathered from a dense gradient."""
    if composed or not _trains(slot, values) or type(x) is not Tensor:
        return False
    return slot.selection.count <= DENSE * slot.selection.shape.numel()


def _cast(x: Tensor) -> Tensor:
    """Casts x as autocast would for a matrix product, so that the product's backward sees the same tensor."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.dtype is not torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


def _linear(self: Any, input: Tensor) -> Tensor:  # the name that callers of nn.Linear may use
    slot, weight, values, composed = _state(self, "weight")
    if not _samples(slot, values, composed, input):
        return F.linear(input, self.weight, self.bias)
    return Linear.apply(values, weight, _cast(input), self.bias, *slot.on(weight.device))


def _conv(self: Any, input: Tensor) -> Tensor:
    slot, weight, values, composed = _state(self, "weight")
    if not _samples(slot, values, composed, input):
        return self._conv_forward(input, self.weight, self.bias)
    x, padding = _padded(self, input)
    batched = x.dim() == weight.dim()
    x = _cast(x if batched else x.unsqueeze(0))
    settings = self.stride, padding, self.dilation, self.groups
    y = Conv.apply(values, weight, x, self.bias, *slot.on(weight.device), *settings)
    return y if batched else y.squeeze(0)


def _padded(conv: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Applies the padding that a convolution cannot do itself. Returns x and the remaining padding."""
    none = (0,) * len(conv.stride)
    if conv.padding_mode != "zeros":
        return F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), none
    if conv.padding == "valid":
        return x, none
    if conv.padding != "same":
        return x, conv.padding
    both = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if all(b % 2 == 0 for b in both):
        return x, tuple(b // 2 for b in both)
    return F.pad(x, conv._reversed_padding_repeated_twice), none


def _embedding(self: Any, input: Tensor) -> Tensor:
    slot, weight, values, composed = _state(self, "weight")
    if self.scale_grad_by_freq or not _samples(slot, values, composed, input):
        pad, norm = self.padding_idx, self.norm_type
        return F.embedding(input, self.weight, pad, None, norm, self.scale_grad_by_freq, self.sparse)
    padding_idx = -1 if self.padding_idx is None else self.padding_idx
    return Embedding.apply(values, weight, input, padding_idx, *slot.on(weight.device))


FORWARDS: dict[Any, Callable[..., Tensor]] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    nn.Conv3d.forward: _conv,
    nn.Embedding.forward: _embedding,
}


@functools.cache
def selected_class(base: Class, names: tuple[str, ...]) -> Class:
    """The subclass of ``base`` whose parameters ``names`` are trained through values."""
    members: dict[str, Any] = {name: _parameter(name) for name in names}
    members |= {"_base": base, "_names": names, "__module__": base.__module__, "__doc__": base.__doc__}
    if "weight" in names and base.forward in FORWARDS:
        members["forward"] = FORWARDS[base.forward]
    if issubclass(base, nn.RNNBase):
        members["_flat_weights"] = property(_flat_weights, lambda self, weights: None)
    return type(base.__name__, (_Values, base), members)
