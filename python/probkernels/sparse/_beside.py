"""Other tensors that training changes: buffers such as running statistics, and unadapted trainable parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .._core.errors import ModelMismatchError, message
from .._core.pending import settle
from ._checksum import digest
from .slots import SUFFIX, slots_of, whole


@dataclass(eq=False)
class Beside:
    """Buffers and unadapted parameters at the time of attaching. All slots share it, so that copies keep it."""

    buffers: dict[str, Tensor]  # copies
    digests: dict[str, str]  # of parameters that were trainable and not adapted
    tuned: dict[str, Tensor] = field(default_factory=dict)  # buffers while a merge hides them


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state dictionary holds, by full name."""
    settle(model)
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }


def trained_along(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters that are not adapted: neither weights nor values of an adapter."""
    found: dict[int, tuple[str, Tensor]] = {}
    adapted: set[int] = set()
    for path, module in model.named_modules():
        held = {n for name in slots_of(module) for n in (name, name + SUFFIX)}
        for name, p in module._parameters.items():
            if p is not None and name in held:
                adapted.add(id(p))
            elif p is not None and p.requires_grad:
                found.setdefault(id(p), (f"{path}.{name}" if path else name, p))
    return {name: p for key, (name, p) in found.items() if key not in adapted}


def remember(model: nn.Module) -> Beside:
    """Records the state of a model that was just attached to."""
    buffers = {name: t.detach().clone() for name, t in buffers_of(model).items()}
    return Beside(buffers, {name: digest(whole(p)) for name, p in trained_along(model).items()})


def learned(model: nn.Module, beside: Beside) -> dict[str, Tensor]:
    """Buffers and unadapted parameters that have changed, on the CPU."""
    now = buffers_of(model)
    check_names(beside.buffers.keys() - now.keys())
    found = {name: beside.tuned.get(name, t) for name, t in now.items()}
    found = {n: t for n, t in found.items() if n not in beside.buffers or not _same(t, beside.buffers[n])}
    found |= parameters_learned(model, beside)
    return {name: whole(t).detach().to("cpu", copy=True) for name, t in found.items()}


def parameters_learned(model: nn.Module, beside: Beside) -> dict[str, Tensor]:
    """Unadapted parameters that have changed."""
    along = trained_along(model)
    return {name: p for name, p in along.items() if beside.digests.get(name) != digest(whole(p))}


def check_names(missing: set[str]) -> None:
    """Raises if the model lacks one of the names."""
    if missing:
        hint = "give it the model that was attached to, not a wrapper or a part of it"
        raise ModelMismatchError(f"probkernels.sparse: the model has no '{min(missing)}'. Hint: {hint}")


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype is not other.dtype:
        return False
    return digest(one) == digest(other)


def resolve(model: nn.Module, beside: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors that a delta's tensors belong to, checked."""
    held: dict[str, Tensor] = {**dict(model.named_parameters(remove_duplicate=False)), **buffers_of(model)}
    for name, t in beside.items():
        if name not in held:
            raise ModelMismatchError(f"Delta: the model has no parameter or buffer '{name}'")
        if held[name].shape != t.shape or held[name].dtype is not t.dtype:
            got, expected = (f"{x.dtype} {tuple(x.shape)}" for x in (held[name], t))
            raise ModelMismatchError(f"Delta: '{name}' is {got}, not {expected}")
    return {name: held[name] for name in beside}


def blend(base: Tensor, tuned: Sequence[Tensor], alphas: Sequence[float], *, parameter: bool) -> Tensor:
    """base + sum of alpha (tuned - base).

    Buffers hold statistics such as variances, which must not be extrapolated: negative alphas count as 0, and alphas
    with a sum above 1 are divided by it. Integer buffers such as counters are those of the largest alpha.
    """
    shares = list(alphas)
    if not parameter:
        shares = [max(a, 0.0) for a in shares]
        total = max(1.0, sum(shares))
        shares = [a / total for a in shares]
    reached = [(t.to(base.device), a) for t, a in zip(tuned, shares, strict=True) if a != 0]
    if not reached:
        return base
    if not base.is_floating_point():
        return max(reached, key=lambda pair: pair[1])[0]
    if len(reached) == 1 and reached[0][1] == 1:
        return reached[0][0]
    start = base.double()
    return sum((a * (t.double() - start) for t, a in reached), start).to(base.dtype)


@torch.no_grad()
def merge(model: nn.Module, beside: Beside, alpha: float) -> None:
    """Puts base + alpha (tuned - base) into the buffers."""
    now = buffers_of(model)
    check_names(beside.buffers.keys() - now.keys())
    if alpha != 1:
        along = parameters_learned(model, beside)
        if along:
            expected = "1 where parameters that are not adapted were trained along"
            raise ValueError(message("merge", "alpha", expected, f"{alpha!r} and '{min(along)}'"))
    for name, base in beside.buffers.items():
        tuned = beside.tuned.setdefault(name, now[name].detach().clone())
        now[name].copy_(blend(base.to(now[name].device), [tuned], [alpha], parameter=False))


@torch.no_grad()
def unmerge(model: nn.Module, beside: Beside) -> None:
    """Puts the tuned buffers back."""
    put(model, beside.tuned)
    beside.tuned.clear()


@torch.no_grad()
def put(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Sets buffers and parameters."""
    for name, target in resolve(model, state).items():
        target.copy_(state[name])
