"""Any module with many values of its parameters at once: chains of a sampler, functions of a prior, ensembles.

Stacked parameters are a dict from a parameter's name to a tensor (n, *shape). All entries of one of the n copies, in
the order of the dict, form a row of the flat tensor (n, P).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

Shapes = Mapping[str, torch.Size]
Params = dict[str, Tensor]


def parameter_shapes(op: str, module: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the trainable parameters, by name. Frozen parameters keep their values and are left out."""
    if not isinstance(module, nn.Module):
        raise TypeError(message(op, "module", "an nn.Module", checks.describe(module)))
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not found:
        hint = "a module without trainable parameters has no prior and no posterior"
        raise ValueError(message(op, "module", "a module with trainable parameters", "one without", hint))
    for name, p in found.items():
        if isinstance(p, nn.parameter.UninitializedParameter):
            hint = "run the module once on an input"
            raise ValueError(message(op, "module", "initialized parameters", f"uninitialized '{name}'", hint))
        checks.wide_float_tensor(op, f"module.{name}", p, "convert the module: module.float()")
    if len({p.dtype for p in found.values()}) > 1:
        got = ", ".join(sorted({str(p.dtype) for p in found.values()}))
        raise TypeError(message(op, "module", "parameters of one dtype", got, "convert the module: module.float()"))
    return {name: p.shape for name, p in found.items()}


def first_parameter(module: nn.Module) -> Tensor:
    """A trainable parameter: its dtype and device are those of all."""
    return next(p for p in module.parameters() if p.requires_grad)


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """(n, P) of stacked parameters."""
    return torch.cat([p.reshape(len(p), -1) for p in params.values()], 1)


def unflatten(flat: Tensor, shapes: Shapes) -> Params:
    """Stacked parameters, views of ``flat`` (n, P)."""
    parts = flat.split([math.prod(shape) for shape in shapes.values()], 1)
    return {
        name: part.unflatten(1, shape) if shape else part[:, 0]
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def stack(module: nn.Module, n: int) -> Params:
    """``n`` copies of the module's own trainable parameters."""
    return {k: p.detach().expand(n, *p.shape).clone() for k, p in module.named_parameters() if p.requires_grad}


def check_params(op: str, name: str, params: Mapping[str, Tensor], shapes: Shapes) -> int:
    """Checks that ``params`` are stacked parameters of ``shapes`` and returns their number."""
    if not isinstance(params, Mapping):
        hint = "{name: tensor (n, *shape)}, as from prior.sample(n)"
        raise TypeError(message(op, name, "a dict of stacked parameters", checks.describe(params), hint))
    if params.keys() != shapes.keys():
        wrong = next(iter(sorted(map(str, params.keys() ^ shapes.keys()))))
        got = f"one without '{wrong}'" if wrong in shapes else f"one with '{wrong}'"
        raise ValueError(message(op, name, "the parameters of the module", got))
    count = None
    for key, shape in shapes.items():
        checks.wide_float_tensor(op, f"{name}['{key}']", params[key])
        count = params[key].shape[:1] if count is None else count
        checks.shape(op, f"{name}['{key}']", params[key], (*(count or (1,)), *shape), "(n, *shape)")
    assert count is not None
    return count[0]


def functional_call(module: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs (n, ...) of the module for each of the n stacked parameters on the same inputs ``x`` (N, ...).

    Args:
        module: any module whose forward takes one tensor; in eval mode if it has dropout or batch normalization.
        params: stacked trainable parameters {name: (n, *shape)}. Buffers and frozen parameters are the module's own.
        x: inputs (N, ...), shared by all n copies.

    Returns:
        (n, N, ...) outputs, differentiable in ``params`` and ``x``.

    Raises:
        TypeError, ValueError: names or shapes are not those of the module's trainable parameters.

    Example:
        >>> import torch
        >>> from probkernels.bnn import functional_call
        >>> net = torch.nn.Linear(1, 1)
        >>> params = {"weight": torch.tensor([[[1.0]], [[2.0]]]), "bias": torch.zeros(2, 1)}
        >>> functional_call(net, params, torch.tensor([[3.0]])).flatten()
        tensor([3., 6.])
    """
    check_params("functional_call", "params", params, parameter_shapes("functional_call", module))
    return call(module, params, x)


def call(module: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """:func:`functional_call` without the checks, which a sampler makes once."""
    return torch.func.vmap(lambda p: torch.func.functional_call(module, p, (x,)))(dict(params))
