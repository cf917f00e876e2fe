"""SaRAAdamW's checkpoints. Everything lies in ``state`` and ``param_groups``: checkpointers keep nothing else.

The state of one parameter has the same shapes before and after the progressive stage, which lets
torch.distributed.checkpoint load in place: moments are padded, and a bitmap says which entries are still trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.errors import ModelMismatchError
from .._core.formats.bitmap import pack, unpack
from ..ops import Selection, dequantize_blocks, quantize_blocks
from ..ops.sparse_adamw import BLOCK
from ..sparse.slots import Slot, places
from ..sparse.state import pack_selection, unpack_selection

MOMENTS = ("exp_avg", "exp_avg_sq")
SIGNED = {"exp_avg": True, "exp_avg_sq": False}
KINDS = ("float32", "int8")
GROUP_KEYS = ("moments", "updates", "rule", "generator")


def start(state: dict[str, Any], kind: str, m: Tensor, v: Tensor) -> None:
    """Stores moments (count) in a state. 8-bit codes of v are codes of its square root."""
    for name, moment in ((MOMENTS[0], m), (MOMENTS[1], v)):
        if kind == "int8":
            root = moment if SIGNED[name] else moment.sqrt()
            state[name], state[name + "_scale"] = quantize_blocks(root, signed=SIGNED[name])
        else:
            state[name] = moment.clone()


def in_full(state: dict[str, Any], kind: str) -> tuple[Tensor, Tensor]:
    """The moments m and v (count) of a state, decoded."""
    if kind != "int8":
        return state[MOMENTS[0]], state[MOMENTS[1]]
    m, root = (dequantize_blocks(state[n], state[n + "_scale"], signed=SIGNED[n]) for n in MOMENTS)
    return m, root.square()


def _padded(t: Tensor, size: int) -> Tensor:
    return t if t.numel() == size else torch.cat([t, t.new_zeros(size - t.numel())])


def entry_of(part: dict[str, Any], slot: Slot, state: dict[str, Any], kind: str) -> dict[str, Any]:
    """One parameter's state for a checkpoint, from the adapter's part (sparse/state.py) and the moments."""
    count, device = slot.first.count, part["values"].device
    if MOMENTS[0] not in state:
        zeros = torch.zeros(slot.selection.count, dtype=part["values"].dtype, device=device)
        state = {"step": 0}
        start(state, kind, zeros, zeros)
    entry: dict[str, Any] = {"step": state["step"]}
    for name in MOMENTS:
        entry[name] = _padded(state[name], count)
        if kind == "int8":
            entry[name + "_scale"] = _padded(state[name + "_scale"], -(-count // BLOCK))
    trained = torch.zeros(count, dtype=torch.bool, device=device)
    trained[places(slot.selection, slot.first)] = True
    entry["trained"] = pack(trained)[0]
    entry |= {key: t.clone() for key, t in part["first"].items() if isinstance(t, Tensor)}
    entry["values"] = part["values"]
    if part["base"] is not None:
        entry["base"] = part["base"].clone()
    threshold = float("nan") if part["threshold"] is None else part["threshold"]
    entry["threshold"] = torch.tensor(threshold, dtype=torch.float64)
    entry["shape"] = torch.tensor(part["shape"], dtype=torch.int64)
    entry["checksum"] = torch.tensor(int(part["checksum"], 16) - 2**63, dtype=torch.int64)
    return entry


def part_of(name: str, entry: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The adapter's part of a parameter's state."""
    lacking = {"step", *MOMENTS, "trained", "values", "threshold", "shape", "checksum"} - entry.keys()
    if lacking:
        raise ModelMismatchError(f"SaRAAdamW.load_state_dict: the state of '{name}' lacks {sorted(lacking)}")
    count = entry["values"].numel()
    first = {key: entry.get(key) for key in ("index", "words", "ranks")} | {"count": count}
    trained = unpack(entry["trained"].to(device), count)
    whole: Selection = unpack_selection(first, torch.Size(entry["shape"].tolist()), device)
    threshold = float(entry["threshold"])
    return {
        "shape": entry["shape"].tolist(),
        "first": first,
        "now": None if bool(trained.all()) else pack_selection(whole.within(trained)),
        "values": entry["values"],
        "base": entry.get("base"),
        "threshold": None if threshold != threshold else threshold,
        "checksum": f"{int(entry['checksum']) + 2**63:016x}",
    }


def moments_of(entry: dict[str, Any], saved: str, kept: str, values: Tensor) -> dict[str, Any]:
    """Step and moments of a checkpoint's state, converted to this optimizer's kind of moments."""
    count, state = values.numel(), {"step": int(entry["step"])}
    for name in MOMENTS:
        dtype = torch.uint8 if saved == "int8" else values.dtype
        state[name] = entry[name][:count].to(values.device, dtype, copy=True)
        if saved == "int8":
            scale = entry[name + "_scale"][: -(-count // BLOCK)]
            state[name + "_scale"] = scale.to(values.device, values.dtype, copy=True)
    if saved == kept:
        return state
    converted: dict[str, Any] = {"step": state["step"]}
    start(converted, kept, *in_full(state, saved))
    return converted
