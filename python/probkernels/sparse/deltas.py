"""Several deltas on one model: switch, scale and sum them, and restore the base exactly."""

from __future__ import annotations

import torch
from torch import nn

from .._core import checks
from .._core.errors import ModelMismatchError, message
from ..ops import Selection
from . import _beside
from .delta import Delta, mix, no_adapter
from .slots import read, sketch, write


class Deltas:
    """Deltas of one base model. Applies any weighted sum of them, and restores the base bit by bit.

    Args:
        model: a model with the base weights; :meth:`set` changes it in place.

    Raises:
        ValueError: the model has an adapter.

    Example:
        >>> import copy, torch, probkernels as pk
        >>> base = torch.nn.Linear(64, 32)
        >>> tuned = copy.deepcopy(base)
        >>> adapter = pk.sparse.attach(tuned, density=0.1)
        >>> with torch.no_grad():
        ...     _ = tuned.weight_values.add_(1)
        >>> deltas = pk.sparse.Deltas(base)
        >>> deltas.add("one", adapter.delta())
        >>> deltas.set({"one": 0.6})
        >>> deltas.set({})  # the base
    """

    def __init__(self, model: nn.Module) -> None:
        no_adapter("Deltas", model)
        self.model = model
        self.alphas: dict[str, float] = {}
        self._deltas: dict[str, Delta] = {}
        self._selections: dict[str, dict[str, Selection]] = {}
        self._bases: dict[str, dict[str, torch.Tensor]] = {}
        self._beside: dict[str, torch.Tensor] = {}  # buffers and parameters trained along, of the base
        self._left: dict[str, int] = {}  # sketches of the weights as they were last left

    @torch.no_grad()
    def add(self, name: str, delta: Delta) -> None:
        """Registers a delta. The weights stay as they are until :meth:`set`.

        Raises:
            ModelMismatchError: the delta was trained from other base weights.
            ValueError: the name is taken.
        """
        if name in self._deltas:
            raise ValueError(message("Deltas.add", "name", "a new name", repr(name), "remove() the old one"))
        alphas = self.alphas
        self.set({})
        try:
            selections = delta.resolve(self.model)
            parameters = self._parameters()
            self._bases[name] = {key: read(parameters[key], s) for key, s in selections.items()}
            held = _beside.resolve(self.model, delta.beside)
            for key, t in held.items():
                self._beside.setdefault(key, t.detach().clone())
            self._deltas[name], self._selections[name] = delta, selections
        finally:
            self.set(alphas)

    def remove(self, name: str) -> None:
        """Removes a delta, also from the weights.

        Raises:
            ValueError: there is no such delta.
        """
        self._check(name)
        self.set({other: alpha for other, alpha in self.alphas.items() if other != name})
        for table in (self._deltas, self._selections, self._bases):
            table.pop(name)
        self._left = {key: self._left[key] for key in self._keys()}
        needed = {key for delta in self._deltas.values() for key in delta.beside}
        self._beside = {key: t for key, t in self._beside.items() if key in needed}

    @torch.no_grad()
    def set(self, alphas: dict[str, float]) -> None:
        """Writes base + sum of alpha (tuned - base) into the weights.

        Args:
            alphas: alphas by the name of the delta; unnamed deltas get 0. An entry that only one delta changes, with
                alpha 1, gets exactly its tuned value; an entry that no delta changes gets exactly its base value.

        Raises:
            ModelMismatchError: something else changed the weights since the last :meth:`set`.
            ValueError: there is no such delta, or an alpha is not finite.
        """
        for name in alphas:
            self._check(name)
        alphas = {name: checks.number("Deltas.set", f"alphas[{name!r}]", alpha) for name, alpha in alphas.items()}
        parameters = self._parameters()
        self._check_base(parameters)
        for name in self.alphas:
            for key, selection in self._selections[name].items():
                write(parameters[key], selection, self._bases[name][key])
        self.alphas = {}
        sums: dict[str, torch.Tensor] = {}  # float64, of the weights that more than one delta changes
        active = [name for name, alpha in alphas.items() if alpha != 0]
        shared = {key for name in active for key in self._selections[name] if self._users(active, key) > 1}
        for name in active:
            for key, selection in self._selections[name].items():
                target: torch.Tensor = parameters[key]
                if key in shared:
                    target = sums.setdefault(
                        key, target.detach().to(torch.float64, memory_format=torch.contiguous_format)
                    )
                base, values = self._bases[name][key], self._deltas[name].parts[key].values
                write(target, selection, mix(read(target, selection), base, values, alphas[name]))
        for key, total in sums.items():
            parameters[key].copy_(total)
        self._set_beside(alphas)
        self.alphas = alphas
        self._left = {key: sketch(parameters[key]) for key in self._keys()}

    def _set_beside(self, alphas: dict[str, float]) -> None:
        """Puts the same sum into buffers and parameters trained along."""
        parameters, made = self._parameters(), {}
        for key, base in self._beside.items():
            names = [name for name in alphas if key in self._deltas[name].beside]
            tuned = [self._deltas[name].beside[key] for name in names]
            made[key] = _beside.blend(base, tuned, [alphas[name] for name in names], parameter=key in parameters)
        _beside.put(self.model, made)

    def _check_base(self, parameters: dict[str, nn.Parameter]) -> None:
        """Raises if the weights are not what the last set() left: the base was replaced, say."""
        for key, left in self._left.items():
            if sketch(parameters[key]) != left:
                hint = "make new Deltas, with deltas of the model as it is now"
                raise ModelMismatchError(f"Deltas.set: '{key}' was changed since it was last set. Hint: {hint}")

    def _keys(self) -> list[str]:
        return list(dict.fromkeys(key for selections in self._selections.values() for key in selections))

    def _users(self, names: list[str], key: str) -> int:
        return sum(key in self._selections[name] for name in names)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters(remove_duplicate=False))

    def _check(self, name: str) -> None:
        if name not in self._deltas:
            known = ", ".join(map(repr, self._deltas)) or "none yet"
            raise ValueError(message("Deltas", "name", f"one of {known}", repr(name), "add() it first"))
