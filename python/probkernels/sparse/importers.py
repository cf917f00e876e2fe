"""Reads deltas from checkpoints of other libraries: the official SaRA code and peft's SHiRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks, files
from .._core.errors import ModelMismatchError, message
from ..ops import Selection, magnitude_select
from ._checksum import frozen_checksum
from .delta import Delta, Part


def import_sara(checkpoint: str | Path | Mapping[Any, Any], model: nn.Module) -> Delta:
    """A delta from a checkpoint of the official SaRA code, ``{'threshold': t, 0: values, 1: values, ...}``.

    Args:
        checkpoint: the mapping, or the path of a file that torch.save wrote. It holds no positions; they are found
            again in the base weights.
        model: a model with the base weights, in the dtype of the training.

    Returns:
        The delta.

    Raises:
        ModelMismatchError: the number of parameters or of selected entries differs, so the base model or dtype differs.
        ValueError: ``checkpoint`` is not a SaRA checkpoint.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Linear(4, 2, bias=False)
        >>> small = model.weight.detach().abs() < 0.2
        >>> delta = pk.sparse.import_sara({"threshold": 0.2, 0: model.weight.detach()[small] + 1}, model)
        >>> delta.count == int(small.sum())
        True
    """
    if not isinstance(checkpoint, Mapping):
        checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("threshold"), (int, float)):
        raise ValueError(
            message("import_sara", "checkpoint", "a mapping with a 'threshold'", type(checkpoint).__name__)
        )
    threshold, parameters = float(checkpoint["threshold"]), list(model.named_parameters())
    if set(checkpoint) != {"threshold", *range(len(parameters))}:
        raise ModelMismatchError(
            f"import_sara: the checkpoint has {len(checkpoint) - 1} parameters, the model {len(parameters)}"
        )
    parts = {}
    for i, (name, weight) in enumerate(parameters):
        selection, values = magnitude_select(weight.detach(), threshold), checkpoint[i]
        if selection.count != values.numel():
            raise ModelMismatchError(
                f"import_sara: '{name}' has {selection.count} entries below {threshold}, the checkpoint has "
                f"{values.numel()}. Hint: give it the base weights that were fine-tuned, in their dtype"
            )
        parts[name] = _part(weight, values.detach(), selection)
    return Delta(parts, threshold)


def import_shira(checkpoint: str | Path | Mapping[str, Tensor], model: nn.Module, scaling: float = 1.0) -> Delta:
    """A delta from an adapter of peft's SHiRA.

    Args:
        checkpoint: the adapter's state, or the path of its ``adapter_model.safetensors``. It holds for every adapted
            linear layer ``<name>.shira_weight`` (count) and ``<name>.shira_indices`` (2, count), with or without
            peft's prefix ``base_model.model.``.
        model: a model with the base weights.
        scaling: the factor that peft applies to the adapter's weights; 1 by default.

    Returns:
        The delta. Its alpha 1 corresponds to ``scaling`` in peft.

    Raises:
        CorruptStreamError: the file is damaged.
        ModelMismatchError: the model lacks a layer, or an index is outside of its weight.
        ValueError: ``checkpoint`` is not a SHiRA checkpoint.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> state = {"0.shira_weight": torch.ones(2), "0.shira_indices": torch.tensor([[1, 0], [0, 3]])}
        >>> pk.sparse.import_shira(state, model).parts["0.weight"].positions.tolist()
        [3, 4]
    """
    scale = checks.number("import_shira", "scaling", scaling)
    tensors = checkpoint if isinstance(checkpoint, Mapping) else files.read(checkpoint, digest=False)[0]
    layers = [key.removesuffix(".shira_weight") for key in tensors if key.endswith(".shira_weight")]
    if not layers:
        raise ValueError(message("import_shira", "checkpoint", "keys ending in '.shira_weight'", "none"))
    parameters, parts = dict(model.named_parameters()), {}
    for layer in layers:
        name = layer.removeprefix("base_model.model.") + ".weight"
        if name not in parameters or f"{layer}.shira_indices" not in tensors:
            raise ModelMismatchError(f"import_shira: the model or the checkpoint lacks what belongs to '{layer}'")
        learned, indices = tensors[f"{layer}.shira_weight"], tensors[f"{layer}.shira_indices"].long()
        parts[name] = _shira_part(name, parameters[name].detach(), learned.detach() * scale, indices)
    return Delta(parts, None)


def _shira_part(name: str, weight: Tensor, learned: Tensor, indices: Tensor) -> Part:
    rows, columns = indices.cpu()
    inside = weight.dim() == 2 and bool(
        ((rows >= 0) & (rows < weight.shape[0]) & (columns >= 0) & (columns < weight.shape[1])).all()
    )
    if not inside or learned.shape != rows.shape:
        raise ModelMismatchError(f"import_shira: indices do not fit '{name}' of shape {tuple(weight.shape)}")
    positions, inverse = (rows * weight.shape[1] + columns).unique(return_inverse=True)
    added = torch.zeros(positions.numel(), dtype=torch.float64).index_add_(0, inverse, learned.cpu().double())
    selection = Selection.from_index(positions.to(weight.device), weight.shape)
    return _part(weight, selection.gather(weight).cpu().double() + added, selection)


def _part(weight: Tensor, values: Tensor, selection: Selection) -> Part:
    wide = torch.float64 if weight.dtype is torch.float64 else torch.float32
    checksum = frozen_checksum(weight, selection)
    return Part(weight.shape, weight.dtype, checksum, values.cpu().to(wide), selection.to_index().long().cpu())
