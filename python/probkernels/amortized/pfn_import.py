"""Weights of prior-fitted networks that the paper's authors released, as a PFN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import ModelMismatchError, message
from .pfn import PFN
from .pfn_heads import BarHead, PFNHead

OP = "pfn_from_released"
LAYER = {  # of a layer: their name -> ours
    "self_attn.in_proj_weight": "qkv.weight", "self_attn.in_proj_bias": "qkv.bias",
    "self_attn.out_proj.weight": "out.weight", "self_attn.out_proj.bias": "out.bias",
    "linear1.weight": "ff1.weight", "linear1.bias": "ff1.bias",
    "linear2.weight": "ff2.weight", "linear2.bias": "ff2.bias",
    "norm1.weight": "norm1.weight", "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight", "norm2.bias": "norm2.bias",
}  # fmt: skip
REST = {"encoder": "of_x", "y_encoder": "of_y", "decoder.0": "readout.0", "decoder.2": "readout.2"}
NORMALIZED = "encoder.1."  # a Normalize(0.5, sqrt(1/12)) comes before the linear map
BORDERS = "criterion.borders"


def pfn_from_released(
    state: Mapping[str, Tensor], head: PFNHead | None = None, *, heads: int = 4, tails: str = "half_normal"
) -> PFN:
    """A PFN with the weights of a model of the paper's code, github.com/automl/TransformersCanDoBayesianInference.

    That layout has the names ``encoder.weight`` (or ``encoder.1.weight`` behind its normalization of inputs on [0, 1]),
    ``y_encoder.weight``, ``transformer_encoder.layers.0.self_attn.in_proj_weight`` and so on, ``decoder.0.weight``,
    ``decoder.2.weight``, and ``criterion.borders`` if the bars were saved with the model. Names may start with
    "module.". Read a file with ``torch.load(path, weights_only=True)``.

    Later releases (names ``decoder_dict...``, ``transformer_layers...``) are refused: there, by default, a query does
    not see itself, or features are tokens. A ``decoder`` layout trained with ``efficient_eval_masking=True`` (TabPFN
    of 2022) has the same names and that other attention: do not import it, its predictions would differ.

    Args:
        state: names and tensors.
        head: what the outputs mean; None for bars at ``criterion.borders``.
        heads: attention heads, which the tensors do not tell.
        tails: of bars at ``criterion.borders``.

    Returns:
        The model in evaluation mode, in the dtype of the tensors, on the CPU. It takes batches first.

    Raises:
        ModelMismatchError: a name is missing or unknown, or a shape does not fit.
        TypeError, ValueError: an argument is of the wrong type, or no head is known.

    Example:
        >>> import torch
        >>> from probkernels.amortized import GaussianHead, pfn_from_released
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, activation="gelu")
        >>> parts = {"encoder": torch.nn.Linear(3, 8), "y_encoder": torch.nn.Linear(1, 8)}
        >>> parts["transformer_encoder"] = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        >>> parts["decoder"] = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 2))
        >>> model = pfn_from_released(torch.nn.ModuleDict(parts).state_dict(), GaussianHead(), heads=2)
        >>> model(torch.rand(4, 5, 3), torch.rand(4, 5), torch.rand(4, 6, 3)).mean.shape
        torch.Size([4, 6])
    """
    theirs = _named(state)
    for name in theirs:
        if name.startswith(("decoder_dict", "transformer_layers", "style_encoder", "global_att_embeddings")):
            raise _refused(f"'{name}'", "the layout of a later release, whose queries see other tokens")
    borders = theirs.pop(BORDERS, None)
    for name in ("criterion.bucket_widths", "criterion.smoothing"):  # follow from the borders, or are for training
        theirs.pop(name, None)
    normalized = any(name.startswith(NORMALIZED) for name in theirs)
    theirs = {name.replace(NORMALIZED, "encoder.", 1): tensor for name, tensor in theirs.items()}
    if head is None:
        if borders is None:
            hint = "GaussianHead(), BernoulliHead(), or BarHead(borders)"
            raise ValueError(message(OP, "head", f"a head, as there is no '{BORDERS}'", "None", hint))
        head = BarHead(borders.detach().cpu(), tails)
    ours = {_renamed(name): tensor.detach().cpu() for name, tensor in theirs.items()}
    config = _config(ours, heads)
    model = PFN(head=head, normalize_x="uniform" if normalized else None, **config).to(ours["of_x.weight"].dtype)
    _copied(model, ours)
    return model.eval()


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        hint = "torch.load(path, weights_only=True), or model.state_dict()"
        raise TypeError(message(OP, "state", "names and tensors", checks.describe(state), hint))
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(message(OP, "state", "tensors", f"{checks.describe(tensor)} at {name!r}"))
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in REST and kind in ("weight", "bias"):
        return f"{REST[stem]}.{kind}"
    start, _, inner = name.removeprefix("transformer_encoder.layers.").partition(".")
    if name.startswith("transformer_encoder.layers.") and start.isdigit() and inner in LAYER:
        return f"body.layers.{int(start)}.{LAYER[inner]}"
    raise _refused(f"'{name}'", "unknown")


def _config(ours: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    """The arguments of PFN that the shapes tell."""
    for name in ("of_x.weight", "readout.0.weight"):
        if name not in ours or ours[name].ndim != 2:
            theirs = next(key for key, value in REST.items() if name.startswith(value))
            raise _refused(f"'{theirs}.weight'", "absent or no matrix")
    layers = {name.split(".")[2] for name in ours if name.startswith("body.layers.")}
    d, features = ours["of_x.weight"].shape
    d_ff = len(ours["readout.0.weight"])
    return {"n_features": features, "d": d, "layers": len(layers), "heads": heads, "d_ff": d_ff}


@torch.no_grad()
def _copied(model: PFN, ours: Mapping[str, Tensor]) -> None:
    """Copies all tensors into the model; each must be there and fit."""
    mine = dict(model.named_parameters())
    for name in sorted({*mine, *ours}):
        one, other = mine.get(name), ours.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            wanted, got = ("absent" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (one, other))
            raise _refused(f"what becomes '{name}'", f"{got}, where the model has {wanted}")
        one.copy_(other)


def _refused(what: str, why: str) -> ModelMismatchError:
    return ModelMismatchError(f"{OP}: 'state': {what} is {why}")
