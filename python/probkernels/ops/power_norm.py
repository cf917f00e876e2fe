"""PowerNorm: ops, their kernel calls, derivatives, and the functions ``power_norm`` and ``power_norm_v``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE, accumulating, accumulation_dtype
from .._core.registry import Op, refuse_recomputation
from ..reference import power_norm as reference
from ._power_norm_examples import examples as _examples
from ._power_norm_examples import fwd_examples as _fwd_examples

__all__ = ["power_norm", "power_norm_v"]

KINDS = ("cpu", "triton", "cuda")  # Triton first on a GPU: one pass over dense tiles is what it does best

# --- kernels: x (..., C) is seen as N rows of C features; per-feature tensors are of the accumulation dtype ---


def _launch(run: Backend, name: str, tensors: Sequence[Tensor | None], groups: int, eps: float) -> None:
    """Runs kernel ``name``, native or Triton, on x and the other tensors, inputs before outputs."""
    dense = [None if t is None else t.contiguous() for t in tensors]
    x = dense[0]
    assert x is not None
    if run.kind == "triton":
        from ..triton_kernels import power_norm as kernels  # imports triton, which a CPU machine may not have

        getattr(kernels, name)(*dense, groups, eps)
    else:
        c = x.shape[-1]
        run.launch(f"power_norm_{name}", DTYPE_CODE[x.dtype], *dense, x.numel() // c, c, groups, eps)


def _features(x: Tensor) -> Tensor:
    """An uninitialized per-feature output (C)."""
    return x.new_empty(x.shape[-1], dtype=accumulation_dtype(x))


def _rows_like(x: Tensor) -> Tensor:
    """An uninitialized output (..., C)."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _stats_kernel(run: Backend, x: Tensor, pad_mask: Tensor | None, groups: int, eps: float) -> Tensor:
    mean_sq = _features(x)
    _launch(run, "stats", [x, pad_mask, mean_sq], groups, eps)
    return mean_sq


NONE = {dtype: torch.empty(0, dtype=dtype, device="cpu") for dtype in checks.FLOATS}  # what stands for no nu


def _fwd_kernel(
    run: Backend,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    psi2: Tensor,
    nu: Tensor | None,
    pad_mask: Tensor | None,
    groups: int,
    eps: float,
    *_: bool,
    copies: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, vectors = x.contiguous(), accumulating(x, weight, bias, psi2)
    y, mean_sq = torch.empty_like(x), torch.empty_like(vectors[-1])
    _launch(run, "fwd", [x, *vectors, pad_mask, y, mean_sq], groups, eps)
    if not copies:
        if nu is None:
            nu = NONE[psi2.dtype] if psi2.is_cpu else psi2.new_empty(0)
        return y, mean_sq, psi2, nu
    return y, mean_sq, psi2.clone(), psi2.new_empty(0) if nu is None else nu.clone()


def _bwd_kernel(
    run: Backend, x: Tensor, grad_y: Tensor, weight: Tensor | None, psi2: Tensor, scale2: Tensor, nu: Tensor | None,
    pad_mask: Tensor | None, groups: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outputs = _rows_like(x), _features(x), _features(x), _features(x)
    vectors = accumulating(x, weight, psi2, scale2, nu)
    _launch(run, "bwd", [x, grad_y.to(x.dtype), *vectors, pad_mask, *outputs], groups, eps)
    return outputs


def _v_fwd_kernel(
    run: Backend, x: Tensor, weight: Tensor | None, bias: Tensor | None, pad_mask: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor]:
    mean_sq = _stats_kernel(run, x, pad_mask, *settings)
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch(run, "fwd", [x, *accumulating(x, weight, bias, mean_sq), pad_mask, y, torch.empty_like(mean_sq)], *settings)
    return y, mean_sq


def _v_bwd_kernel(
    run: Backend,
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    psi2: Tensor,
    pad_mask: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _rows_like(x), _features(x), _features(x)
    vectors = accumulating(x, weight, psi2)
    _launch(run, "v_bwd", [x, grad_y.to(x.dtype), *vectors, pad_mask, *outputs], groups, eps)
    return outputs


STATS = Op(
    "power_norm_stats",
    "(Tensor x, Tensor? pad_mask, int groups, float eps) -> Tensor",
    family="power_norm",
    reference=reference.power_norm_stats,
    kernels=dict.fromkeys(KINDS, _stats_kernel),
    fake=lambda x, *rest: _features(x),
    examples=_examples("x", "pad_mask"),
)

# --- power_norm_bwd: a function of its arguments like any other, so it has exact derivatives of its own ---


def _bwd_fake(x: Tensor, grad_y: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _rows_like(x), _features(x), _features(x), _features(x)


BWD = Op(
    "power_norm_bwd",
    "(Tensor x, Tensor grad_y, Tensor? weight, Tensor psi2, Tensor scale2, Tensor? nu, Tensor? pad_mask, int groups,"
    " float eps) -> (Tensor, Tensor, Tensor, Tensor)",
    family="power_norm",
    reference=reference.power_norm_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=_bwd_fake,
    examples=_examples("x", "grad_y", "weight", "psi2", "scale2", "nu", "pad_mask"),
)


def _like(argument: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """A gradient in the dtype of its argument. None if either is absent."""
    return None if argument is None or grad is None else grad.to(argument.dtype)


# --- power_norm_fwd: its backward is PN's estimate, exact when nu is None ---
# It also returns the psi2 and nu it used, and its backward reads those. The caller moves its state in place after the
# forward. Inductor drops a clone made before that, and the backward would read the moved state; what an opaque op
# returns it keeps.


def _fwd_fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, psi2: Tensor, nu: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _rows_like(x), _features(x), _rows_like(psi2), psi2.new_empty(0) if nu is None else _rows_like(nu)


def _fwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, nu, pad_mask, groups, eps, batch_scale, pads_learn = inputs
    refuse_recomputation("power_norm")
    _, mean_sq, psi2, nu_used = output
    constants = (mean_sq, psi2, nu_used) if nu is None else (mean_sq, psi2)  # nu has second derivatives
    ctx.mark_non_differentiable(*constants)
    scale2 = mean_sq if batch_scale else psi2
    nu = None if nu is None else nu_used
    ctx.save_for_backward(x, weight, bias, psi2, scale2, nu, None if pads_learn else pad_mask)
    ctx.settings = groups, eps
    ctx.set_materialize_grads(False)


def _fwd_backward(ctx: Any, grad_y: Tensor | None, _: Any, __: Any, grad_nu_used: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, psi2, scale2, nu, pad_mask = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    grad_nu = grad_nu_used
    if grad_y is not None:
        grad_x, grad_weight, grad_bias, grad_nu = BWD.call(x, grad_y, weight, psi2, scale2, nu, pad_mask, *ctx.settings)
        if grad_nu_used is not None:
            grad_nu = grad_nu + grad_nu_used
    return (grad_x, _like(weight, grad_weight), _like(bias, grad_bias), None, _like(nu, grad_nu), *(None,) * 5)


def _fwd_forward_mode(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if args[4] is not None:
        raise NotImplementedError(
            "power_norm_fwd has no forward-mode derivative with nu: PowerNorm's backward is an estimate, the transpose"
            " of no linear map. Without nu (eval mode) and in power_norm_v it exists"
        )
    y, *rest = reference.power_norm_fwd(*args)
    return (y, *(t.detach() for t in rest))  # type: ignore[return-value]


FWD = Op(
    "power_norm_fwd",
    "(Tensor x, Tensor? weight, Tensor? bias, Tensor psi2, Tensor? nu, Tensor? pad_mask, int groups, float eps,"
    " bool batch_scale, bool pads_learn) -> (Tensor, Tensor, Tensor, Tensor)",
    family="power_norm",
    reference=reference.power_norm_fwd,
    kernels=dict.fromkeys(KINDS, _fwd_kernel),
    fake=_fwd_fake,
    setup=_fwd_setup,
    backward=_fwd_backward,
    forward_mode=_fwd_forward_mode,
    constant={"psi2": "PowerNorm treats the running mean square as a constant; power_norm_v differentiates it"},
    examples=_fwd_examples,
    direct={"copies": False},
)

V_BWD = Op(
    "power_norm_v_bwd",
    "(Tensor x, Tensor grad_y, Tensor? weight, Tensor psi2, Tensor? pad_mask, int groups, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    family="power_norm",
    reference=reference.power_norm_v_bwd,
    kernels=dict.fromkeys(KINDS, _v_bwd_kernel),
    fake=lambda x, *rest: _bwd_fake(x, *rest)[:3],
    examples=_examples("x", "grad_y", "weight", "psi2", "pad_mask"),
)


def _v_fwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, pad_mask, groups, eps = inputs
    ctx.save_for_backward(x, weight, bias, output[1], pad_mask)
    ctx.settings = groups, eps
    ctx.set_materialize_grads(False)


def _v_fwd_backward(ctx: Any, grad_y: Tensor | None, grad_mean_sq: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, mean_sq, pad_mask = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if grad_y is not None:
        grad_x, grad_weight, grad_bias = V_BWD.call(x, grad_y, weight, mean_sq, pad_mask, *ctx.settings)
    if grad_mean_sq is not None:  # second derivatives, or a loss on the statistic itself
        direct = reference.power_norm_stats_bwd(x, grad_mean_sq, pad_mask, *ctx.settings)
        grad_x = direct if grad_x is None else grad_x + direct
    return grad_x, _like(weight, grad_weight), _like(bias, grad_bias), None, None, None


V_FWD = Op(
    "power_norm_v_fwd",
    "(Tensor x, Tensor? weight, Tensor? bias, Tensor? pad_mask, int groups, float eps) -> (Tensor, Tensor)",
    family="power_norm",
    reference=reference.power_norm_v_fwd,
    kernels=dict.fromkeys(KINDS, _v_fwd_kernel),
    fake=lambda x, *rest: (_rows_like(x), _features(x)),
    setup=_v_fwd_setup,
    backward=_v_fwd_backward,
    examples=_examples("x", "weight", "bias", "pad_mask"),
)

# --- public functions ---


def _check(op: str, x: Tensor, vectors: dict[str, Tensor | None], pad_mask: Tensor | None, eps: float) -> None:
    checks.float_tensor(op, "x", x, "cast it, for example with x.float()")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(message(op, "x", "shape (..., C) with C >= 1", f"shape {tuple(x.shape)}"))
    for name, vector_ in vectors.items():
        if vector_ is not None:
            checks.float_tensor(op, name, vector_)
            checks.shape(op, name, vector_, x.shape[-1:], "(the features of 'x')")
            checks.same_device(op, name, vector_, x, "x")
    if pad_mask is not None:
        checks.bool_tensor(op, "pad_mask", pad_mask, "True marks padding")
        checks.shape(op, "pad_mask", pad_mask, x.shape[:-1], "(x without its features)")
        checks.same_device(op, "pad_mask", pad_mask, x, "x")
    checks.positive(op, "eps", eps)


def check_groups(op: str, features: int, num_groups: int | None) -> int:
    """The ``groups`` argument of the kernels: 0 for None, else a divisor of ``features``."""
    if num_groups is None:
        return 0
    expected = f"a divisor of the {features} features"
    checks.integer(op, "num_groups", num_groups, wanted=f"{expected}, or None")
    if features % num_groups:
        raise ValueError(message(op, "num_groups", expected, repr(num_groups), "None turns group scaling off"))
    return num_groups


def power_norm(
    x: Tensor,
    psi2: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    nu: Tensor | None = None,
    *,
    pad_mask: Tensor | None = None,
    num_groups: int | None = None,
    eps: float = 1e-5,
    backward_scale: str = "running",
) -> tuple[Tensor, Tensor]:
    """PowerNorm: normalizes each feature by a running mean square that was known before this batch.

    ``y = weight z / sqrt(psi2 + eps) + bias``, where z is x, or with ``num_groups`` x divided by the root mean square
    of its group of features. The caller keeps the running state, as :class:`probkernels.nn.PowerNorm` does: ``psi2``
    moves towards the returned ``mean_sq``, and ``nu`` moves against its own gradient, which is defined as ``-mean(a
    x_hat)`` with ``x_hat = z / sqrt(psi2 + eps)`` and ``a = g - nu x_hat``, g as below.

    Args:
        x: (..., C) float32, float64, float16 or bfloat16; any strides.
        psi2: (C) running mean square, float32 (float64 for a float64 ``x``). The backward treats it as a constant.
        weight: (C), or None for 1.
        bias: (C), or None for 0.
        nu: (C) running estimate of mean(g x_hat), where g is the gradient of y times weight. None for 0; the gradient
            is then exact for a constant psi2.
        pad_mask: (...) bool, True marks padding. Padding is normalized, but has no gradient and enters no statistic.
        num_groups: number of groups of features, a divisor of C. None for no group scaling.
        eps: added to mean squares under the root.
        backward_scale: ``"running"`` divides grad_x by sqrt(psi2 + eps), as the paper does. ``"batch"`` divides it by
            the root of this batch's mean square, as the official code does.

    Returns:
        ``y`` (..., C) in x's dtype, and ``mean_sq`` (C), the mean of z^2 over valid rows in float32 (float64 for
        float64). ``mean_sq`` is not differentiable, and NaN if no row is valid. NaN in x reaches y and mean_sq.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or range is wrong.
        NotImplementedError: a gradient for ``psi2`` is needed, or forward mode is used with ``nu``.

    Backends: C++ (CPU), Triton and CUDA (GPU), plain torch. Deterministic; sums in float32 then float64 on the CPU.

    Reference: Shen et al., "PowerNorm: Rethinking Batch Normalization in Transformers", ICML 2020, Algorithm 2.

    Example:
        >>> import torch, probkernels as pk
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> y, mean_sq = pk.ops.power_norm(x, psi2=torch.tensor([1.0, 4.0]))
        >>> y
        tensor([[1.0000, 1.0000],
                [3.0000, 2.0000]])
        >>> mean_sq
        tensor([ 5., 10.])
    """
    _check("power_norm", x, {"psi2": psi2, "weight": weight, "bias": bias, "nu": nu}, pad_mask, eps)
    checks.one_of("power_norm", "backward_scale", backward_scale, ("running", "batch"))
    groups = check_groups("power_norm", x.shape[-1], num_groups)
    return FWD.call(x, weight, bias, psi2, nu, pad_mask, groups, eps, backward_scale == "batch", False)[:2]


def power_norm_v(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    pad_mask: Tensor | None = None,
    num_groups: int | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """PN-V: normalizes each feature by this batch's root mean square, with the exact gradient.

    Args:
        x: (..., C) float32, float64, float16 or bfloat16; any strides.
        weight: (C), or None for 1.
        bias: (C), or None for 0.
        pad_mask: (...) bool, True marks padding. Padding is normalized, but has no gradient and does not enter the mean
            square.
        num_groups: number of groups of features, a divisor of C. None for no group scaling.
        eps: added to mean squares under the root.

    Returns:
        ``y`` (..., C) in x's dtype, and ``mean_sq`` (C), float32 (float64 for float64). Both are differentiable any
        number of times and in forward mode.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or range is wrong.

    Reference: Shen et al., ICML 2020, section 4.1.

    Example:
        >>> import torch, probkernels as pk
        >>> y, mean_sq = pk.ops.power_norm_v(torch.tensor([[3.0], [4.0]]), eps=1e-12)
        >>> y.square().mean().round(decimals=4), mean_sq
        (tensor(1.), tensor([12.5000]))
    """
    _check("power_norm_v", x, {"weight": weight, "bias": bias}, pad_mask, eps)
    return V_FWD.call(x, weight, bias, pad_mask, check_groups("power_norm_v", x.shape[-1], num_groups), eps)
