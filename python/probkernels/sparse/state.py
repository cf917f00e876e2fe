"""An adapter's values as a delta, and its whole state as a dictionary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._core.errors import ModelMismatchError
from ..ops import Selection
from . import _beside
from ._checksum import frozen_checksum
from ._modules import standin
from .delta import Delta, Part
from .slots import Slot, resize, settle, tuned

Held = list[tuple[Slot, nn.Parameter, nn.Parameter]]


def delta_of(held: Held, model: nn.Module) -> Delta:
    """The delta of an adapter."""
    parts = {}
    for slot, weight, values in held:
        slot.refresh(weight, values)
        learned = tuned(slot, weight, values)
        checksum = frozen_checksum(weight, slot.first)
        parts[slot.name] = Part(weight.shape, weight.dtype, checksum, learned.cpu(), slot.first.to_index().long().cpu())
    rule = held[0][0].rule
    threshold = rule.threshold if rule.select == "smallest" else None
    return Delta(parts, threshold, _beside.learned(model, held[0][0].beside))


def load_delta(held: Held, model: nn.Module, delta: Delta) -> None:
    """Sets an adapter's values from a delta of the same selection."""
    rule = held[0][0].rule
    threshold = rule.threshold if rule.select == "smallest" else None
    same_names("Adapter.load", {slot.name for slot, _, _ in held}, set(delta.parts))
    for slot, weight, _ in held:
        part = delta.parts[slot.name]
        if part.positions is None:
            same = delta.threshold == threshold and part.values.numel() == slot.first.count
        else:
            same = torch.equal(part.positions, slot.first.to_index().long().cpu())
        if not same or part.checksum != frozen_checksum(weight, slot.first):
            raise ModelMismatchError(f"Adapter.load: '{slot.name}' is of another base model or selection")
    beside = held[0][0].beside
    _beside.check_names(set(delta.beside) - dict(model.named_parameters()).keys() - _beside.buffers_of(model).keys())
    beside.tuned.clear()
    _beside.put(model, {**beside.buffers, **delta.beside})
    for slot, weight, values in held:
        settle(slot, weight, values, delta.parts[slot.name].values.to(values.dtype).to(values.device))


def same_names(op: str, here: set[str], there: set[str]) -> None:
    """Raises unless both sets of parameter names are one."""
    if here != there:
        odd = ", ".join(sorted(here ^ there)[:5])
        raise ModelMismatchError(f"{op}: the adapted parameters differ, at {odd}")


def pack_selection(selection: Selection) -> dict[str, Any]:
    """A selection as tensors and a number."""
    index, words, ranks = selection.tensors
    return {"count": selection.count, "index": index, "words": words, "ranks": ranks}


def unpack_selection(state: dict[str, Any], shape: torch.Size, device: torch.device) -> Selection:
    """The selection of a weight of this shape that :func:`pack_selection` wrote."""
    tensors = (state[key] for key in ("index", "words", "ranks"))
    return Selection(shape, state["count"], *(None if t is None else t.to(device) for t in tensors))


def state_of(held: Held, model: nn.Module, generator: torch.Generator) -> dict[str, Any]:
    """The state of an adapter."""
    parts = {}
    for slot, weight, values in held:
        slot.refresh(weight, values)
        parts[slot.name] = {
            "shape": list(weight.shape),
            "first": pack_selection(slot.first),
            "now": None if slot.selection is slot.first else pack_selection(slot.selection),
            "values": tuned(slot, weight, values),
            "base": slot.base,
            "threshold": slot.threshold,
            "checksum": frozen_checksum(weight, slot.first),
        }
    beside = beside_of(held, model)
    return {"version": 2, "rule": rule_of(held), "parts": parts, "beside": beside, "generator": generator.get_state()}


def rule_of(held: Held) -> dict[str, Any]:
    """How the entries were chosen."""
    rule = held[0][0].rule
    return {name: getattr(rule, name) for name in ("threshold", "density", "select", "scope")}


def beside_of(held: Held, model: nn.Module) -> dict[str, Any]:
    """Buffers now and at first, and digests of parameters trained along."""
    kept = held[0][0].beside
    now = {name: kept.tuned.get(name, t).detach().clone() for name, t in _beside.buffers_of(model).items()}
    _beside.check_names(kept.buffers.keys() - now.keys())
    return {"now": now, "first": dict(kept.buffers), "digests": dict(kept.digests)}


def load_state(held: Held, model: nn.Module, state: dict[str, Any], generator: torch.Generator) -> None:
    """Loads the state of an adapter. Nothing changes unless the whole state fits."""
    parts, here = state["parts"], rule_of(held)
    there = state.get("rule")
    if there != here:
        raise ModelMismatchError(
            f"Adapter.load_state_dict: entries were selected by {there}, here by {here}. Hint: attach as it was"
        )
    same_names("Adapter.load_state_dict", {slot.name for slot, _, _ in held}, set(parts))
    for slot, weight, _ in held:
        part = parts[slot.name]
        if part["shape"] != list(weight.shape):
            raise ModelMismatchError(f"Adapter.load_state_dict: '{slot.name}' has another shape")
        if part["checksum"] != frozen_checksum(weight, unpack_selection(part["first"], weight.shape, weight.device)):
            raise ModelMismatchError(f"Adapter.load_state_dict: frozen entries of '{slot.name}' differ")
    kept, saved = held[0][0].beside, state["beside"]
    _beside.put(model, saved["now"])
    kept.buffers = {name: t.to(kept.buffers[name].device) for name, t in saved["first"].items()}
    kept.digests = dict(saved["digests"])
    kept.tuned.clear()
    for slot, weight, values in held:
        _load_part(slot, weight, values, parts[slot.name])
    generator.set_state(state["generator"].cpu())


@torch.no_grad()
def _load_part(slot: Slot, weight: Tensor, values: nn.Parameter, part: dict[str, Any]) -> None:
    slot.first = unpack_selection(part["first"], weight.shape, weight.device)
    slot.selection = slot.first if part["now"] is None else unpack_selection(part["now"], weight.shape, weight.device)
    slot.threshold, slot.base = part["threshold"], part["base"]
    count = slot.selection.count
    if count != values.numel():
        resize(values, values.new_empty(count) if slot.own else standin(values, count))
    settle(slot, weight, values, part["values"].to(values.device))
