"""KL divergences between the softmaxes of two tensors of logits: the ops, and ``kl_rows``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import kl_rows as reference
from .bar_log_prob import wide_dtype

__all__ = ["kl_rows"]

KINDS = ("cpu", "triton")

# --- kernels: logits_p, logits_q (N, V) ---


def _kernel(run: Backend, logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits_p.contiguous(), logits_q.contiguous()
    found = _empty(*logits)
    if run.kind == "triton":
        from ..triton_kernels import kl_rows as kernels  # imports triton, which a CPU machine may not have

        kernels.kl_rows(*logits, *found)
    else:
        run.launch("kl_rows", DTYPE_CODE[logits_p.dtype], *logits, *found, *logits_p.shape)
    return found


def _bwd_kernel(run: Backend, logits_p: Tensor, logits_q: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
    logits, rows = (logits_p.contiguous(), logits_q.contiguous()), tuple(t.contiguous() for t in rows)
    grads = torch.empty_like(logits[0]), torch.empty_like(logits[1])
    if run.kind == "triton":
        from ..triton_kernels import kl_rows as kernels

        kernels.kl_rows_bwd(*logits, *rows, *grads)
    else:
        run.launch("kl_rows_bwd", DTYPE_CODE[logits_p.dtype], *logits, *rows, *grads, *logits_p.shape)
    return grads


# --- the ops ---


def _empty(logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for divergences, and for log-sums in float64: exp(logit - log_sum) of large logits needs their digits."""
    kl = logits_p.new_empty(logits_p.shape[:1], dtype=wide_dtype(logits_p))
    log_sums = (logits_p.new_empty(logits_p.shape[:1], dtype=torch.float64) for _ in range(2))
    return kl, *log_sums  # type: ignore[return-value]


def _forward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Rows that are shorter than a register, and rows that are longer."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3, 5), (2, 1, 19))  # logits of both tensors
    return [tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype)) for s in sizes]


def _backward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    found = []
    for logits in _forward_examples(device, dtype):
        rows = reference.kl_rows(*logits)
        grad = torch.linspace(-1, 1, len(rows[0]), dtype=torch.float64, device=device)
        found.append((*logits, *rows, grad.to(rows[0].dtype), grad.flip(0), grad + 1))
    return found


BWD = Op(
    "kl_rows_bwd",
    "(Tensor logits_p, Tensor logits_q, Tensor kl, Tensor log_sums_p, Tensor log_sums_q, Tensor grad_kl,"
    " Tensor grad_log_sums_p, Tensor grad_log_sums_q) -> (Tensor, Tensor)",
    family="kl_rows",
    reference=reference.kl_rows_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=lambda logits_p, logits_q, *_: (logits_p.new_empty(logits_p.shape), logits_q.new_empty(logits_q.shape)),
    examples=_backward_examples,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
    return BWD.call(*ctx.saved_tensors, *grads)


FWD = Op(
    "kl_rows",
    "(Tensor logits_p, Tensor logits_q) -> (Tensor, Tensor, Tensor)",
    reference=reference.kl_rows,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=_empty,
    setup=_setup,
    backward=_backward,
    examples=_forward_examples,
)


def kl_rows(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL divergence KL(softmax(logits_p) || softmax(logits_q)) of each row, without storing a softmax.

    The forward reads both tensors once, the backward reads them once and writes both gradients. A value of
    probability 0, of logit -inf, under the first adds nothing. One that is possible under the first and impossible
    under the second makes the divergence infinite.

    Args:
        logits_p: (..., V) in any floating-point dtype; half precision is computed in float32.
        logits_q: of the same shape; another dtype is promoted.

    Returns:
        (...) divergences in nats, in the dtype of both arguments together, at least float32. Those of rows without a
        finite logit are NaN. Differentiable in both arguments, any number of times and in forward mode; the first
        argument of an infinite divergence has no gradient, and gets NaN or infinities in that row.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape or device is wrong, or V is 0.

    Backends: C++ (CPU), Triton (GPU), plain torch. Deterministic for any number of threads.

    Reference: Lee et al., "Taming generative video models for zero-shot optical flow extraction", 2025.

    Example:
        >>> import torch, probkernels as pk
        >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).log()
        >>> q = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]]).log()
        >>> pk.ops.kl_rows(p, q)
        tensor([0.6931,    inf])
    """
    op = "kl_rows"
    for name, logits in (("logits_p", logits_p), ("logits_q", logits_q)):
        checks.float_tensor(op, name, logits)
        if logits.dim() == 0 or logits.shape[-1] == 0:
            wanted = "shape (..., V) with at least one value"
            raise ValueError(message(op, name, wanted, f"shape {tuple(logits.shape)}"))
    checks.shape(op, "logits_q", logits_q, logits_p.shape, "of 'logits_p'")
    checks.same_device(op, "logits_q", logits_q, logits_p, "logits_p")
    dtype = torch.promote_types(logits_p.dtype, logits_q.dtype)
    p, q = (t.to(dtype).reshape(-1, t.shape[-1]) for t in (logits_p, logits_q))
    return FWD.call(p, q)[0].view(logits_p.shape[:-1])
