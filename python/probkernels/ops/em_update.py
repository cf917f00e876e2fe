"""The M-step of expectation maximization, in place: the op, its kernel calls and the function ``em_update_``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import em_update as reference

__all__ = ["em_update_"]


def _kernel(run: Backend, params: Tensor, flows: Tensor, kept: Tensor | None, step: float, pseudocount: float) -> None:
    dense, kept = params.contiguous(), kept if kept is None else kept.contiguous()
    run.launch("em_update", DTYPE_CODE[params.dtype], dense, flows.contiguous(), kept, *params.shape, step, pseudocount)
    if dense is not params:
        params.copy_(dense)


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: distributions with missing edges and kept flow; and distributions over a contiguous axis, one
    without flow."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    params = uniform(3, 5, 4)
    params *= params > 0.2
    flat, flows = uniform(4, 7, 1), uniform(4, 7, 1)
    flows[1] = 0
    first = (params / params.sum(1, keepdim=True), uniform(3, 5, 4), uniform(3, 4))
    second = (flat / flat.sum(1, keepdim=True), flows)
    moved = [[t.to(device, dtype) for t in tensors] for tensors in (first, second)]
    return [(*moved[0], 0.3, 0.1), (*moved[1], None, 1.0, 0.0)]


OP = Op(
    "em_update_",
    "(Tensor(a!) params, Tensor flows, Tensor? kept, float step, float pseudocount) -> ()",
    family="em_update",
    reference=reference.em_update_,
    kernels=dict.fromkeys(("cpu", "cuda"), _kernel),
    fake=lambda *_: None,
    examples=_examples,
    baked="step size",
    dtypes=(torch.float32, torch.float64),
)


def em_update_(params: Tensor, flows: Tensor, step: float, pseudocount: float, kept: Tensor | None = None) -> None:
    """The M-step of expectation maximization, in place: moves distributions towards their normalized flows.

    ``params <- (1 - step) params + step new``, where ``new = (flows + pseudocount / K' + kept params) / (sum of flows +
    pseudocount + kept)`` and K' is the number of nonzero entries of a distribution. An entry of exactly 0 is no edge:
    it stays 0, and its flow is ignored. A distribution whose divisor is 0 does not change.

    Args:
        params: (N, K, M) float32 or float64: N times M distributions over axis 1; any strides. Changed in place.
        flows: (N, K, M) of the same dtype: expected counts, summed over a batch. Must be >= 0 (not checked).
        step: step size in [0, 1]. 1 sets ``params`` to ``new``.
        pseudocount: virtual observations >= 0, spread evenly over the edges of each distribution.
        kept: (N, M) flow of missing observations, or None. It counts as observations distributed like ``params``.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or range is wrong.
        NotImplementedError: ``params`` requires grad and grad mode is on.
        RuntimeError: a CUDA graph is captured: its replays would repeat the step size.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic. A NaN in a flow makes its distribution NaN.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> params = torch.tensor([[[0.5], [0.5], [0.0]]])
        >>> pk.ops.em_update_(params, torch.tensor([[[3.0], [1.0], [9.0]]]), step=1.0, pseudocount=0.0)
        >>> params.flatten()
        tensor([0.7500, 0.2500, 0.0000])
    """
    checks.wide_float_tensor("em_update_", "params", params)
    if params.dim() != 3:
        expected = "shape (N, K, M), distributions over axis 1"
        raise ValueError(message("em_update_", "params", expected, f"shape {tuple(params.shape)}"))
    named: list[tuple[str, Tensor, tuple[int, ...], str]] = [
        ("flows", flows, tuple(params.shape), "(that of 'params')")
    ]
    if kept is not None:
        named.append(("kept", kept, (params.shape[0], params.shape[2]), "(the distributions of 'params')"))
    for name, value, shape, like in named:
        checks.wide_float_tensor("em_update_", name, value)
        checks.shape("em_update_", name, value, shape, like)
        checks.same_device("em_update_", name, value, params, "params")
        if value.dtype is not params.dtype:
            raise TypeError(message("em_update_", name, f"the dtype of 'params' ({params.dtype})", str(value.dtype)))
    checks.unit_interval("em_update_", "step", step)
    checks.non_negative("em_update_", "pseudocount", pseudocount)
    OP.call(params, flows, kept, float(step), float(pseudocount))
