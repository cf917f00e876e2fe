"""Replace the LayerNorms of a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._core.errors import message
from .power_norm import PowerNorm


def convert_layernorm(model: nn.Module, **settings: Any) -> nn.Module:
    """Replaces every ``nn.LayerNorm`` of ``model`` by a :class:`PowerNorm` with its eps, weight and bias.

    Args:
        model: changed in place. A layer used in several places stays shared.
        settings: passed to PowerNorm, for example ``num_groups=8, warmup_iters=4000, batch_first=True``.

    Returns:
        ``model``, or the new norm when ``model`` is itself a LayerNorm.

    Raises:
        ValueError: a LayerNorm normalises over several dimensions.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
        >>> pk.nn.convert_layernorm(model, num_groups=2)[1]
        PowerNorm(8, eps=1e-05, num_groups=2, affine=True, warmup_iters=0, backward_scale='running')
    """
    norms: dict[nn.Module, PowerNorm] = {}

    def convert(module: nn.Module, path: str) -> nn.Module:
        if isinstance(module, nn.LayerNorm):
            if module not in norms:
                norms[module] = _convert_one(module, path, settings)
            return norms[module]
        for name, child in module.named_children():
            setattr(module, name, convert(child, f"{path}.{name}" if path else name))
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # torch's fused inference path computes LayerNorms, whatever the norm
        return module

    return convert(model, "")


def _convert_one(layer: nn.LayerNorm, path: str, settings: dict[str, Any]) -> PowerNorm:
    if len(layer.normalized_shape) != 1:
        got = f"'{path}' over {tuple(layer.normalized_shape)}"
        raise ValueError(message("convert_layernorm", "model", "LayerNorms over the last dimension only", got))
    affine = layer.elementwise_affine
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype} if affine else {}
    norm = PowerNorm(layer.normalized_shape[0], **{"eps": layer.eps, "affine": affine, **where, **settings})
    if affine and norm.weight is not None:
        norm.weight = layer.weight
        if layer.bias is None:
            norm.register_parameter("bias", None)
        else:
            norm.bias = layer.bias
    return norm.train(layer.training)
