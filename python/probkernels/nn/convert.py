"""``convert_layernorm``: replaces the LayerNorms of a model."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from torch import nn

from .._core.errors import message
from .power_norm import PowerNorm

log = logging.getLogger("probkernels")

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def convert_layernorm(model: nn.Module, **settings: Any) -> nn.Module:
    """Replaces every ``nn.LayerNorm`` of ``model`` by a :class:`PowerNorm` with its eps, weight, bias and hooks.

    Other norms stay, and a warning names them: RMSNorms, and LayerNorms with their own ``forward``, in a subclass such
    as ConvNeXt's LayerNorm2d, whose features are not the last dimension, or set on the layer. The logger "probkernels"
    (``PK_LOG=info``) lists the replaced layers.

    Args:
        model: the model, changed in place. A layer used in several places stays shared.
        settings: arguments of PowerNorm, for example ``num_groups=8, warmup_iters=4000, batch_first=True``.

    Returns:
        ``model``, or the new norm when ``model`` is itself a LayerNorm.

    Raises:
        ValueError: a LayerNorm normalizes over several dimensions, or its weight is computed (adapted, parametrized or
            pruned); the model is then unchanged.

    Warns:
        UserWarning: some norms were left as they are, or there was nothing to replace.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
        >>> pk.nn.convert_layernorm(model, num_groups=2)[1]
        PowerNorm(8, eps=1e-05, num_groups=2, affine=True, warmup_iters=0, backward_scale='running')
    """
    norms: dict[nn.Module, PowerNorm] = {}
    kept = []
    for path, module in model.named_modules():
        if _is_layer_norm(module):
            norms[module] = _convert_one(module, path, settings)
            log.info("convert_layernorm: replaced '%s'", path)
        elif _looks_like_one(module):
            kept.append(f"'{path}' ({type(module).__name__})")
    if kept or not norms:
        _warn(len(norms), kept)

    def convert(module: nn.Module) -> nn.Module:
        if module in norms:
            return norms[module]
        for name, child in module._modules.items():  # named_children() would show a layer with two names once
            if child is not None:
                setattr(module, name, convert(child))
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # torch's fused inference path computes LayerNorms, whatever the norm
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only torch's fused inference path takes them
        return module

    return convert(model)


def _is_layer_norm(module: nn.Module) -> bool:
    """Whether a module computes the same as nn.LayerNorm; a subclass may normalize another dimension."""
    own = "forward" in vars(module)  # set on the instance, as accelerate does to move weights
    return isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward and not own


def _looks_like_one(module: nn.Module) -> bool:
    """Whether a user may expect this module to be replaced: many libraries define their own LayerNorms and RMSNorms."""
    name = type(module).__name__.lower()
    named = any(part in name for part in ("layernorm", "layer_norm", "rmsnorm", "rms_norm"))
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or (named and not any(module.children()))


def _warn(replaced: int, kept: list[str]) -> None:
    few = ", ".join(kept[:8]) + (f" and {len(kept) - 8} more" if len(kept) > 8 else "")
    left = f"left {len(kept)} other norms as they are: {few}. Hint: replace by hand those over the last dimension"
    text = left if kept else "found no nn.LayerNorm"
    warnings.warn(f"convert_layernorm: replaced {replaced} LayerNorms and {text}", UserWarning, stacklevel=3)


def _convert_one(layer: nn.LayerNorm, path: str, settings: dict[str, Any]) -> PowerNorm:
    if len(layer.normalized_shape) != 1:
        got = f"'{path}' over {tuple(layer.normalized_shape)}"
        raise ValueError(message("convert_layernorm", "model", "LayerNorms over the last dimension only", got))
    affine = layer.elementwise_affine
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype} if affine else {}
    for name in ("weight", "bias"):
        if getattr(layer, name) is not layer._parameters.get(name):
            expected, got = "LayerNorms that hold their parameters", f"'{path}' with a computed {name}"
            hint = "convert first, then adapt, parametrize or prune"
            raise ValueError(message("convert_layernorm", "model", expected, got, hint))
    norm = PowerNorm(layer.normalized_shape[0], **{"eps": layer.eps, "affine": affine, **where, **settings})
    if affine and norm.weight is not None:
        norm.weight = layer.weight
        if layer.bias is None:
            norm.register_parameter("bias", None)
        else:
            norm.bias = layer.bias
    for name in HOOKS:  # the same dictionaries, so that handles still remove their hooks
        setattr(norm, name, getattr(layer, name))
    return norm.train(layer.training)
