"""Checkpoints: one file with everything that a training needs to resume. It refuses to resume another training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._core import checks, files
from .._core.errors import CorruptStreamError, ModelMismatchError, message

State = dict[str, Any]  # nested dicts, lists and tuples of tensors, numbers, strings, None


class Checkpoint:
    """A file that a training writes atomically and resumes from.

    Args:
        path: path of the safetensors file.
        owner: name of the training function, for instance "diffusion.fit". Checkpoints of other functions are refused.
        facts: values that must be equal for the training to resume, such as settings and digests of the data. They must
            be JSON-serializable.

    Example:
        >>> import tempfile, torch
        >>> from probkernels.training import Checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(f"{folder}/run.safetensors", "fit", {"seed": 0})
        ...     checkpoint.save({"model": {"weight": torch.ones(2)}, "step": 7})
        ...     checkpoint.load()
        {'model': {'weight': tensor([1., 1.])}, 'step': 7}
    """

    def __init__(self, path: str | Path, owner: str, facts: Mapping[str, Any]) -> None:
        self.path, self.owner, self.facts = Path(path), owner, json.loads(json.dumps(dict(facts)))

    def exists(self) -> bool:
        """Whether there is a file to resume from."""
        return self.path.exists()

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the state: dicts, lists and tuples of tensors, numbers, text and None. A crash leaves the previous
        file intact. A named tuple comes back as a tuple.

        Raises:
            TypeError: the state holds something else, or a tensor that is sparse or quantized.
        """
        tensors: dict[str, Tensor] = {}
        layout = json.dumps(_pack(state, tensors))
        metadata = {"format": "probkernels.training", "owner": self.owner, "facts": json.dumps(self.facts)}
        files.write(self.path, tensors, {**metadata, "state": layout})

    def load(self) -> State:
        """Reads the state, on the CPU.

        Raises:
            CorruptStreamError: the file is damaged or not a checkpoint of this function.
            ModelMismatchError: the checkpoint belongs to another training. The message names what differs.
        """
        tensors, metadata = files.read(self.path)
        if metadata.get("format") != "probkernels.training" or metadata.get("owner") != self.owner:
            raise CorruptStreamError(f"'{self.path}': not a checkpoint of {self.owner}")
        theirs = json.loads(metadata["facts"])
        changed = sorted(key for key in {*theirs, *self.facts} if theirs.get(key) != self.facts.get(key))
        if changed:
            raise self.mismatch(changed)
        return _unpack(json.loads(metadata["state"]), tensors)

    def mismatch(self, changed: list[str]) -> ModelMismatchError:
        """The error for a checkpoint whose facts differ in ``changed``."""
        text = f"a checkpoint of another training, which differs in {', '.join(changed)}"
        return ModelMismatchError(f"'{self.path}': {text}. Hint: delete the file, or name another one")


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Converts ``value`` to JSON: moves tensors out and preserves tuples and the types of keys."""
    if isinstance(value, Tensor):
        name, value = str(len(tensors)), value.detach()
        if value.is_complex():  # safetensors has no complex128
            tensors[name] = torch.view_as_real(value.resolve_conj()).clone()
            return {"complex": name}
        tensors[name] = value.clone()  # tied tensors are two entries
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, (str, int, float)):
        return value
    expected = "dicts, lists and tuples of tensors, numbers, text and None"
    raise TypeError(message("Checkpoint.save", "state", expected, checks.describe(value)))


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "complex" in value:
        return torch.view_as_complex(tensors[value["complex"]])
    if "list" in value:
        return [_unpack(item, tensors) for item in value["list"]]
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["items"]}


@torch.no_grad()
def copy_state_(mine: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Copies saved tensors into the tensors of the same names.

    Args:
        mine: the tensors to overwrite.
        saved: the tensors to copy.
        what: name of the function that the user called, for errors.

    Raises:
        ModelMismatchError: names, shapes or dtypes differ. The message names the first difference.

    Example:
        >>> import torch
        >>> from probkernels.training import copy_state_
        >>> mine = {"weight": torch.zeros(2)}
        >>> copy_state_(mine, {"weight": torch.ones(2)}, "fit")
        >>> mine["weight"]
        tensor([1., 1.])
    """
    for name in sorted({*mine, *saved}):
        one, other = mine.get(name), saved.get(name)
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            described = ["absent" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (one, other)]
            raise ModelMismatchError(f"{what}: '{name}' is {described[0]} here and {described[1]} in the checkpoint")
    for name, tensor in mine.items():
        tensor.copy_(saved[name])
