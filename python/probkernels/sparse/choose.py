"""Chooses the parameters to adapt and their entries."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..ops import Selection, magnitude_kth, magnitude_select
from .slots import SUFFIX, Rule, slots_of

Target = None | str | Sequence[str] | Callable[[str, nn.Module, Tensor], bool]


@dataclass(eq=False)
class Home:
    """A parameter, and every module and attribute that holds it."""

    name: str  # its first full name in the model
    parameter: nn.Parameter
    places: list[tuple[nn.Module, str]]


def _every_home(model: nn.Module) -> list[Home]:
    found: dict[int, Home] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{path}.{name}" if path else name
                found.setdefault(id(parameter), Home(full, parameter, [])).places.append((module, name))
    return list(found.values())


def find_homes(op: str, model: nn.Module, target: Target) -> list[Home]:
    """The parameters that ``target`` names, checked."""
    homes = _every_home(model)
    for home in homes:
        for module, _ in home.places:
            if slots_of(module):
                hint = "call adapter.detach() first"
                raise ValueError(message(op, "model", "a model without an adapter", f"one at '{home.name}'", hint))
    if target is None:
        chosen = [home for home in homes if home.parameter.dtype in checks.FLOATS]
    elif callable(target):
        chosen = [home for home in homes if any(target(home.name, m, home.parameter) for m, _ in home.places)]
    else:
        chosen = _by_pattern(op, homes, [target] if isinstance(target, str) else list(target))
    if not chosen:
        raise ValueError(message(op, "target", "at least one floating-point parameter", "none of the model's"))
    for home in chosen:
        _check(op, home)
    _check_storage(op, chosen)
    return chosen


def _by_pattern(op: str, homes: list[Home], patterns: list[str]) -> list[Home]:
    chosen: dict[int, Home] = {}
    for pattern in patterns:
        hits = [home for home in homes if fnmatch.fnmatchcase(home.name, pattern)]
        if not hits:
            known = ", ".join(home.name for home in homes[:5])
            raise ValueError(message(op, "target", f"patterns of parameter names, such as {known}", repr(pattern)))
        chosen.update((id(home), home) for home in hits)
    return [home for home in homes if id(home) in chosen]


def _check(op: str, home: Home) -> None:
    parameter, name = home.parameter, f"parameter '{home.name}'"
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise ValueError(message(op, "model", "initialized parameters", name, "run one forward of the lazy module"))
    if parameter.is_meta:
        hint = "materialize it with model.to_empty() and load its weights first"
        raise ValueError(message(op, "model", "parameters with data", f"{name} on the meta device", hint))
    checks.float_tensor(op, name, parameter)
    if type(parameter.data) is not Tensor:
        hint = "attach before fully_shard"
        raise ValueError(message(op, "model", "plain tensors", f"{name}, a {type(parameter.data).__name__}", hint))
    for module, attribute in home.places:
        if hasattr(module, attribute + SUFFIX):
            raise ValueError(message(op, "model", f"no attribute '{attribute + SUFFIX}'", f"one beside {name}"))
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(message(op, "model", "Python modules", f"{name} of a scripted one"))
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise ValueError(message(op, "model", "embeddings without max_norm, which changes frozen entries", name))


def _check_storage(op: str, homes: list[Home]) -> None:
    """Refuses parameters that share memory: a write to one would change frozen entries of the other."""
    full = [home for home in homes if home.parameter.numel()]
    spans = sorted((str(h.parameter.device), h.parameter.data_ptr(), h.parameter.nbytes, h.name) for h in full)
    for (device, start, size, name), (place, after, _, other) in itertools.pairwise(spans):
        if place == device and after < start + size:
            hint = "tie them by sharing one nn.Parameter"
            raise ValueError(message(op, "model", "parameters in memory of their own", f"'{name}' and '{other}'", hint))


# --- entries ---


@dataclass(frozen=True, eq=False)
class Chosen:
    """The entries of one parameter, and the threshold that its progressive stage compares with."""

    selection: Selection
    threshold: float | None


def choose(homes: list[Home], rule: Rule, seed: int) -> list[Chosen]:
    """The entries that a rule selects."""
    weights = [home.parameter.detach() for home in homes]
    if rule.threshold is not None:
        theta, largest = float(rule.threshold), rule.select == "largest"
        kept = None if largest else theta
        return [Chosen(magnitude_select(w, theta, largest=largest), kept) for w in weights]
    assert rule.density is not None
    if rule.select == "random":
        return _random(weights, rule.density, seed)
    if rule.scope == "global":
        return _extreme(weights, rule.density, rule.select == "largest")
    return [c for w in weights for c in _extreme([w], rule.density, rule.select == "largest")]


def _random(weights: list[Tensor], density: float, seed: int) -> list[Chosen]:
    generator, found = np.random.default_rng(seed), []
    for w in weights:
        positions = generator.choice(w.numel(), round(density * w.numel()), replace=False, shuffle=False)
        positions.sort()
        found.append(Chosen(Selection.from_index(torch.from_numpy(positions).to(w.device), w.shape), None))
    return found


def _extreme(weights: list[Tensor], density: float, largest: bool) -> list[Chosen]:
    """Selects the smallest or largest entries, a share ``density`` of all. Ties are resolved by position."""
    k = round(density * sum(w.numel() for w in weights))
    if k == 0:
        return [Chosen(magnitude_select(w, math.inf if largest else 0.0, largest=largest), None) for w in weights]
    kth = magnitude_kth(weights, k, largest)
    found, quota = [], k
    for w in weights:
        beyond = magnitude_select(w, kth, largest=largest)
        quota -= beyond.count
    for w in weights:
        reached = magnitude_select(w, _next(w, kth, -1 if largest else 1), largest=largest)
        tied = reached.gather(w).abs() == kth
        if quota < int(tied.sum()):
            reached = reached.within(~tied | (tied & (tied.cumsum(0) <= quota)))
            tied = reached.gather(w).abs() == kth
        quota -= int(tied.sum())
        found.append(Chosen(reached, None if largest else _next(w, kth, 1)))
    return found


def _next(w: Tensor, value: float, step: int) -> float:
    """The number after (or before) ``value`` in w's dtype."""
    end = torch.tensor(math.inf * step, dtype=w.dtype)
    near = torch.nextafter(torch.tensor(value, dtype=w.dtype), end)
    return max(near.item(), 0.0)
