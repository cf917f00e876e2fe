"""Parameter groups of SaRAAdamW: maps groups of model parameters to groups of the adapter's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..sparse.state import Held

OPTIONS = ("lr", "betas", "eps", "weight_decay")


def find_groups(op: str, model: nn.Module, groups: Sequence[Mapping[str, Any]] | None) -> dict[int, int] | None:
    """Maps the id of every grouped parameter to the number of its group."""
    if groups is None:
        return None
    found: dict[int, int] = {}
    known = {id(p) for p in model.parameters()}
    for k, group in enumerate(groups):
        name = f"groups[{k}]"
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(message(op, name, "a dictionary with 'params'", type(group).__name__))
        odd = group.keys() - {"params", *OPTIONS}
        if odd:
            raise ValueError(message(op, name, f"any of {', '.join(OPTIONS)}", repr(sorted(odd)[0])))
        _check_options(op, name, group)
        given = group["params"]
        for p in [given] if isinstance(given, Tensor) else list(given):
            if not isinstance(p, nn.Parameter) or id(p) not in known:
                raise ValueError(message(op, name, "parameters of the model", checks.describe(p)[:80]))
            if id(p) in found:
                raise ValueError(message(op, name, "every parameter once", f"one of groups[{found[id(p)]}] again"))
            found[id(p)] = k
        if k not in found.values():
            raise ValueError(message(op, name, "at least one parameter", "none"))
    return found


def _check_options(op: str, name: str, group: Mapping[str, Any]) -> None:
    for key in ("lr", "eps", "weight_decay"):
        if key in group:
            checks.non_negative(op, f"{name}[{key!r}]", group[key])
    for k, beta in enumerate(group.get("betas", ())):
        checks.fraction(op, f"{name}['betas'][{k}]", beta)


def split(held: Held, groups: Sequence[Mapping[str, Any]], chosen: dict[int, int] | None) -> list[dict[str, Any]]:
    """Splits an adapter's values into groups with their options."""
    made = [{**group, "params": []} for group in groups]
    for _, weight, values in held:
        made[0 if chosen is None else chosen[id(weight)]]["params"].append(values)
    return made
