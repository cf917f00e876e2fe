"""A delta: the changes of a fine-tuning, without the model, as a small file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core import checks, files
from .._core.errors import CorruptStreamError, ModelMismatchError, message
from ..ops import Selection, magnitude_select
from . import _beside, _rice
from ._checksum import frozen_checksum
from .slots import read, slots_of, write

FORMAT = "probkernels-sparse-delta"
CHECKSUM_DIGITS = 16
DTYPES = {str(dtype): dtype for dtype in checks.FLOATS}


@dataclass(frozen=True, eq=False)
class Part:
    """The trained entries of one parameter."""

    shape: torch.Size
    dtype: torch.dtype  # of the weight
    checksum: str  # of its other entries
    values: Tensor  # (count), on the CPU
    positions: Tensor | None  # (count) int64, ascending; None: to be found again in the base weight, by the threshold


@dataclass(frozen=True, eq=False)
class Delta:
    """The trained entries of a model, from :meth:`Adapter.delta`, :meth:`load` or an importer.

    Attributes:
        parts: trained entries, by parameter name.
        threshold: threshold that selected the entries; None if the selection used no threshold.
        beside: other tensors that training changed, by name: buffers such as running statistics, and parameters that
            were trained along.

    Example:
        >>> import copy, torch, probkernels as pk
        >>> base = torch.nn.Linear(64, 32)
        >>> tuned = copy.deepcopy(base)
        >>> adapter = pk.sparse.attach(tuned, threshold=0.01)
        >>> with torch.no_grad():
        ...     _ = tuned.weight_values.add_(1)
        >>> delta = adapter.delta()
        >>> _ = delta.apply(base)
        >>> torch.equal(base.weight, tuned.weight)
        True
    """

    parts: dict[str, Part]
    threshold: float | None
    beside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of entries."""
        return sum(part.values.numel() for part in self.parts.values())

    # --- files ---

    def save(self, path: str | Path, dtype: torch.dtype | None = None, *, positions: bool | None = None) -> None:
        """Writes a safetensors file, atomically.

        The file holds the values, checksums of the frozen entries, and either the threshold or the positions. From a
        threshold, loading finds the positions again in the base weights (4 bytes per entry, 2 in bfloat16). Stored
        positions take about 0.7 bytes more per entry at a density of 5.8 %, 1.1 at 0.58 %.

        Args:
            path: path of the file, replaced if it exists.
            dtype: dtype of the values. None: float32 (float64 for float64 weights), bit-exact. bfloat16 or float16
                make the file smaller.
            positions: whether to store positions. None: only if there is no threshold.

        Raises:
            TypeError: ``dtype`` is not a floating-point dtype.
            ValueError: a value is beyond the range of ``dtype``; ``positions=False`` without a threshold; or
                ``positions=True`` without known positions.
        """
        if dtype is not None and dtype not in checks.FLOATS:
            raise TypeError(message("Delta.save", "dtype", "a floating-point dtype", str(dtype)))
        if positions is None:
            positions = self.threshold is None
        if not positions and self.threshold is None:
            raise ValueError(message("Delta.save", "positions", "True without a threshold", "False"))
        tensors: dict[str, Tensor] = {}
        table: dict[str, Any] = {}
        for name, part in self.parts.items():
            entry: dict[str, Any] = {"shape": list(part.shape), "dtype": str(part.dtype), "checksum": part.checksum}
            tensors[f"values/{name}"] = _stored(name, part.values, dtype)
            if positions:
                entry["low_bits"] = _store_positions(tensors, name, part)
            table[name] = entry
        threshold = None if positions else self.threshold
        tensors |= {f"beside/{name}": t.contiguous() for name, t in self.beside.items()}
        version = "2" if self.beside else "1"  # what reads only the first must not forget the rest
        metadata = {
            "format": FORMAT,
            "version": version,
            "threshold": json.dumps(threshold),
            "parts": json.dumps(table),
        }
        files.write(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Delta:
        """Reads a file that :meth:`save` wrote.

        Raises:
            CorruptStreamError: the file is damaged or not a delta.
        """
        tensors, metadata = files.read(path)
        if metadata.get("format") != FORMAT or metadata.get("version") not in ("1", "2"):
            raise CorruptStreamError(f"'{path}': not a delta of this library, or of a later version of it")
        try:
            threshold, table = json.loads(metadata["threshold"]), json.loads(metadata["parts"])
            parts = {name: _load_part(name, entry, tensors, threshold) for name, entry in table.items()}
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorruptStreamError(f"'{path}': {error}") from None
        beside = {name.removeprefix("beside/"): t for name, t in tensors.items() if name.startswith("beside/")}
        if (metadata["version"] == "1" and beside) or beside.keys() & parts.keys():
            raise CorruptStreamError(f"'{path}': tensors that such a delta does not have")
        return cls(parts, threshold, beside)

    # --- use ---

    def resolve(self, model: nn.Module) -> dict[str, Selection]:
        """Finds the positions of every part and checks that they fit the weights of ``model``.

        Raises:
            ModelMismatchError: a parameter is missing, or its shape, dtype or frozen entries differ from those of the
                trained model.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        found = {}
        for name, part in self.parts.items():
            if name not in parameters:
                raise ModelMismatchError(f"Delta: the model has no parameter '{name}'")
            found[name] = self._fit(name, part, parameters[name])
        _beside.resolve(model, self.beside)
        return found

    def _fit(self, name: str, part: Part, weight: Tensor) -> Selection:
        if weight.shape != part.shape or weight.dtype is not part.dtype:
            expected = f"{part.dtype} {tuple(part.shape)}"
            raise ModelMismatchError(f"Delta: '{name}' is {weight.dtype} {tuple(weight.shape)}, not {expected}")
        if part.positions is None:
            assert self.threshold is not None
            selection = magnitude_select(weight.detach(), self.threshold)
        else:  # made only now, as a file may claim any shape
            selection = Selection.from_index(part.positions, part.shape)
        if selection.count != part.values.numel() or frozen_checksum(weight, selection) != part.checksum:
            hint = "give it the base weights that were fine-tuned, in their dtype"
            raise ModelMismatchError(f"Delta: '{name}' is not the weight that this was trained from. Hint: {hint}")
        return selection.to(weight.device)

    @torch.no_grad()
    def apply(self, model: nn.Module, alpha: float = 1.0) -> nn.Module:
        """Writes base + alpha (tuned - base) into the weights of a base model. To undo or sum, use :class:`Deltas`.

        Buffers are interpolated too, but never extrapolated. Counters take their tuned values unless alpha is 0.

        Args:
            model: a model with the base weights, changed in place.
            alpha: scale of the change; 1 gives the tuned weights exactly.

        Returns:
            The model.

        Raises:
            ModelMismatchError: as for :meth:`resolve`.
            ValueError: the model has an adapter, or alpha is not finite.
        """
        no_adapter("Delta.apply", model)
        alpha = checks.number("Delta.apply", "alpha", alpha)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, selection in self.resolve(model).items():
            base = read(parameters[name], selection)
            write(parameters[name], selection, mix(base, base, self.parts[name].values, alpha))
        _beside.put(model, self._blended(model, alpha))
        return model

    @torch.no_grad()
    def to_dense(self, model: nn.Module, alpha: float = 1.0) -> dict[str, Tensor]:
        """The state dictionary after :meth:`apply`. The model is not changed; untuned tensors are shared with it.

        Raises:
            ModelMismatchError: as for :meth:`resolve`.
        """
        alpha = checks.number("Delta.to_dense", "alpha", alpha)
        found = self.resolve(model)
        state = dict(model.state_dict())
        for key, parameter in model.named_parameters(remove_duplicate=False):
            name = next((n for n in found if n == key or _same(model, n, parameter)), None)
            if name is not None:
                dense = parameter.detach().clone(memory_format=torch.contiguous_format)
                base = found[name].gather(dense)
                found[name].scatter_(dense, mix(base, base, self.parts[name].values, alpha))
                state[key] = dense
        return {**state, **self._blended(model, alpha)}

    def _blended(self, model: nn.Module, alpha: float) -> dict[str, Tensor]:
        """``beside`` at an alpha."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        return {
            name: _beside.blend(base.detach(), [self.beside[name]], [alpha], parameter=name in parameters)
            for name, base in _beside.resolve(model, self.beside).items()
        }


def _same(model: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether ``parameter`` is tied to the one called ``name``."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path)._parameters[attribute] is parameter


def no_adapter(op: str, model: nn.Module) -> None:
    """Raises if the model has an adapter, which would be overwritten."""
    if any(slots_of(module) for module in model.modules()):
        hint = "use the adapter's own merge() and load(), or detach() it"
        raise ValueError(message(op, "model", "one without an adapter", "one with", hint))


def mix(now: Tensor, base: Tensor, values: Tensor, alpha: float) -> Tensor:
    """now + alpha (values - base) in float64, of (count) each: exactly ``values`` for alpha 1 where now is base."""
    wide, start, end = now.double(), base.double(), values.to(base.device, torch.float64)
    return torch.where(wide == start, torch.lerp(start, end, alpha), wide + alpha * (end - start))


def _stored(name: str, values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The values in the dtype of the file. A finite value that it would turn into infinity is refused."""
    if dtype is None:
        return values
    stored = values.to(dtype)
    beyond = values[stored.isinf() & values.isfinite()]
    if len(beyond):
        expected, got = f"a dtype with the range of the values of '{name}'", f"{dtype} for {beyond[0].item():g}"
        raise ValueError(message("Delta.save", "dtype", expected, got, "None stores the values as they are"))
    return stored


def _store_positions(tensors: dict[str, Tensor], name: str, part: Part) -> int:
    if part.positions is None:
        hint = "resolve it with a model first, or store the threshold"
        raise ValueError(message("Delta.save", "positions", "known positions", f"none for '{name}'", hint))
    k = _rice.low_bits(part.positions.numel(), part.shape.numel())
    unary, low = _rice.encode(part.positions.numpy(), k)
    tensors[f"unary/{name}"], tensors[f"low/{name}"] = torch.from_numpy(unary), torch.from_numpy(low)
    return k


def _load_part(name: str, entry: dict[str, Any], tensors: dict[str, Tensor], threshold: float | None) -> Part:
    values, dtype, checksum = tensors[f"values/{name}"], DTYPES[entry["dtype"]], entry["checksum"]
    if values.dim() != 1 or values.dtype not in checks.FLOATS:
        raise ValueError(f"'{name}' is not described as trained entries of a weight")
    if not files.are_sizes(entry["shape"]) or math.prod(entry["shape"]) >= 2**63:
        raise ValueError(f"'{name}' has no shape")
    shape = torch.Size(entry["shape"])
    if not isinstance(checksum, str) or len(checksum) != CHECKSUM_DIGITS:
        raise ValueError(f"'{name}' has no checksum")
    if threshold is not None:
        if "low_bits" in entry or not float(threshold) >= 0:
            raise ValueError("a threshold that is none, or beside positions")
        return Part(shape, dtype, checksum, values, None)
    streams = tensors[f"unary/{name}"].numpy(), tensors[f"low/{name}"].numpy()
    if not all(s.dtype == np.uint8 and s.ndim == 1 for s in streams):
        raise ValueError(f"'{name}' has positions of another kind")
    if type(entry["low_bits"]) is not int:
        raise ValueError(f"'{name}' does not say how its positions are coded")
    positions = _rice.decode(*streams, values.numel(), shape.numel(), entry["low_bits"])
    return Part(shape, dtype, checksum, values, torch.from_numpy(positions))
