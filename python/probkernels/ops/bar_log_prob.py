"""Log-density of a histogram: bars, half-normal tails, the op for the bars' softmax, and ``bar_log_prob``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op, numbers_known
from ..reference import bar_log_prob as reference

__all__ = ["bar_log_prob"]

KINDS = ("cpu", "triton")
TAILS = ("half_normal", "bounded")
SCALE = 1 / 0.6744897501960817  # of a half-normal that has half of its mass within one width
PEAK = 0.5 * math.log(2 / math.pi) - math.log(SCALE)  # log-density of the half-normal at its border, times the width

# --- the geometry of bars: bar k is (borders[k], borders[k + 1]], and the first border belongs to the first bar ---


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of results: that of all tensors together, at least float32."""
    found = torch.float32
    for tensor in tensors:
        found = torch.promote_types(found, tensor.dtype)
    return found


def bars_of(y: Tensor, borders: Tensor) -> Tensor:
    """The bar of each y, of the shape of y. What lies outside belongs to the first or to the last bar."""
    found = torch.searchsorted(borders.detach(), y.detach().to(borders.dtype).contiguous()) - 1
    return found.clamp_(0, len(borders) - 2)


def tail_distance(y: Tensor, index: Tensor, borders: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each y lies in one of the outer bars, and how far from that bar's inner border; 0 in other bars."""
    left, right = index == 0, index == len(borders) - 2
    outward = torch.where(left, borders[1] - y, y - borders[-2])
    return left | right, torch.where(left | right, outward, 0)


def log_density_in_bar(y: Tensor, index: Tensor, borders: Tensor, tails: str) -> Tensor:
    """Log-density of y, given its bar."""
    width = borders.diff()[index]
    if tails == "bounded":
        inside = (y >= borders[0]) & (y <= borders[-1])
        density = torch.where(inside, -width.log(), -math.inf)
        return torch.where(y.isnan(), y, density)
    tail, distance = tail_distance(y, index, borders)
    return torch.where(tail, PEAK - (distance / (SCALE * width)).square() / 2, 0) - width.log()


# --- kernels: logits (N, K), index (N) ---


def _kernel(run: Backend, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    logits, index = logits.contiguous(), index.contiguous()
    log_prob = logits.new_empty(index.shape, dtype=wide_dtype(logits))
    log_sums = logits.new_empty(index.shape, dtype=torch.float64)
    if run.kind == "triton":
        from ..triton_kernels import bar_log_prob as kernels  # imports triton, which a CPU machine may not have

        kernels.bar_log_prob(logits, index, log_prob, log_sums)
    else:
        run.launch("bar_log_prob", DTYPE_CODE[logits.dtype], logits, index, log_prob, log_sums, *logits.shape)
    return log_prob, log_sums


def _bwd_kernel(run: Backend, logits: Tensor, *rows: Tensor) -> Tensor:
    logits, rows = logits.contiguous(), tuple(t.contiguous() for t in rows)
    grad = torch.empty_like(logits)
    if run.kind == "triton":
        from ..triton_kernels import bar_log_prob as kernels

        kernels.bar_log_prob_bwd(logits, *rows, grad)
    else:
        run.launch("bar_log_prob_bwd", DTYPE_CODE[logits.dtype], logits, *rows, grad, *logits.shape)
    return grad


# --- the ops ---


def _forward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """A row that is shorter than a register, and one that is longer."""
    generator = torch.Generator().manual_seed(0)
    short, long = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((3, 5), (2, 19)))
    indices = torch.tensor([4, 0, 0], device=device), torch.tensor([18, 7], device=device)
    return [(short.to(device, dtype), indices[0]), (long.to(device, dtype), indices[1])]


def _backward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    found = []
    for logits, index in _forward_examples(device, dtype):
        log_sums = logits.double().logsumexp(1)
        grads = torch.linspace(-1, 1, len(index), dtype=torch.float64, device=device)
        found.append((logits, index, log_sums, grads.to(wide_dtype(logits)), grads.flip(0)))
    return found


BWD = Op(
    "bar_log_prob_bwd",
    "(Tensor logits, Tensor index, Tensor log_sums, Tensor grad_log_prob, Tensor grad_log_sums) -> Tensor",
    family="bar_log_prob",
    reference=reference.bar_log_prob_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=lambda logits, *_: logits.new_empty(logits.shape),
    examples=_backward_examples,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, grad_log_prob: Tensor, grad_log_sums: Tensor) -> tuple[Tensor | None, ...]:
    return BWD.call(*ctx.saved_tensors, grad_log_prob, grad_log_sums), None


FWD = Op(
    "bar_log_prob",
    "(Tensor logits, Tensor index) -> (Tensor, Tensor)",
    reference=reference.bar_log_prob,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda logits, index: (
        logits.new_empty(index.shape, dtype=wide_dtype(logits)),
        logits.new_empty(index.shape, dtype=torch.float64),  # exp(logit - log_sum) of large logits needs its digits
    ),
    setup=_setup,
    backward=_backward,
    examples=_forward_examples,
)

# --- for callers inside the package, whose arguments are known to fit; and the public function ---


def apply(logits: Tensor, y: Tensor, borders: Tensor, tails: str) -> Tensor:
    """:func:`bar_log_prob` unchecked: -inf outside of bounded support, NaN for NaN."""
    dtype = wide_dtype(logits, y, borders)
    y, borders = y.to(dtype), borders.to(dtype)
    index = bars_of(y, borders)
    picked, _ = FWD.call(logits.reshape(-1, logits.shape[-1]), index.reshape(-1))
    return picked.view(y.shape) + log_density_in_bar(y, index, borders, tails)


def check_borders(op: str, borders: Tensor, logits: Tensor, tails: str, name: str = "logits") -> None:
    """Checks that borders fit ``logits`` (..., K), are finite, rise, and are enough for the tails."""
    checks.one_of(op, "tails", tails, TAILS)
    checks.float_tensor(op, "borders", borders)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        wanted = "shape (..., bars) with at least one bar"
        raise ValueError(message(op, name, wanted, f"shape {tuple(logits.shape)}"))
    bars = logits.shape[-1]
    checks.shape(op, "borders", borders, (bars + 1,), f"(one more than the {bars} bars of '{name}')")
    checks.same_device(op, "borders", borders, logits, name)
    if tails == "half_normal" and bars < 2:
        hint = "tails='bounded' allows one bar"
        raise ValueError(message(op, name, "at least two bars, one for each half-normal tail", "one bar", hint))
    if numbers_known(borders):
        checks.finite(op, "borders", borders)
        wrong = torch.cat([borders.new_zeros(1, dtype=torch.bool), borders.diff() <= 0])
        if bool(wrong.any()):
            hint = "probkernels.amortized.quantile_borders drops duplicates"
            raise ValueError(message(op, "borders", "rising numbers", checks.offender(borders, wrong), hint))


def check_targets(op: str, name: str, y: Tensor, borders: Tensor, tails: str) -> None:
    """Checks that targets are numbers, and lie inside of bounded support."""
    if not numbers_known(y, borders):
        return
    if bool((wrong := y.isnan()).any()):
        hint = "leave out what is missing: y[~y.isnan()]"
        raise ValueError(message(op, name, "numbers", checks.offender(y, wrong), hint))
    if tails == "bounded":
        wrong = (y < borders[0]) | (y > borders[-1])
        if bool(wrong.any()):
            wanted = f"numbers in the bounded support [{borders[0].item():g}, {borders[-1].item():g}]"
            hint = "tails='half_normal' has full support"
            raise ValueError(message(op, name, wanted, checks.offender(y, wrong), hint))


def bar_log_prob(logits: Tensor, y: Tensor, borders: Tensor, tails: str = "half_normal") -> Tensor:
    """Log-density of a histogram, the bar distribution of prior-fitted networks, without storing a softmax.

    Bar k is ``(borders[k], borders[k + 1]]`` and has the probability ``softmax(logits)[k]``, spread evenly. With
    half-normal tails the first and last bar are half-normals that point outwards from ``borders[1]`` and
    ``borders[-2]``, with half of their mass within the bar. The forward reads the logits once; the backward reads and
    writes them once: the gradient of logits is ``(one-hot - softmax) * grad``.

    Args:
        logits: (..., K) in any floating-point dtype; half precision is computed in float32.
        y: (...) targets, floating-point.
        borders: (K + 1) rising numbers.
        tails: "half_normal", for which K >= 2, or "bounded": the support is then [borders[0], borders[-1]].

    Returns:
        (...) log-densities in the dtype of all arguments together, at least float32. Differentiable in logits, y and
        borders, any number of times and in forward mode.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape or device is wrong, borders do not rise, y is NaN or outside of bounded support. Compilers
            and transforms of functions see no numbers: there NaN gives NaN, and -inf is the value outside.

    Backends: C++ (CPU), Triton (GPU), plain torch. Deterministic for any number of threads.

    Reference: Muller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log().expand(3, 4)
        >>> borders = torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0])
        >>> pk.ops.bar_log_prob(logits, torch.tensor([-4.0, 0.0, 6.0]), borders)
        tensor([-4.9694, -1.3218, -4.3439])
    """
    op = "bar_log_prob"
    checks.float_tensor(op, "logits", logits)
    check_borders(op, borders, logits, tails)
    checks.float_tensor(op, "y", y)
    checks.shape(op, "y", y, logits.shape[:-1], "(one target for each row of 'logits')")
    checks.same_device(op, "y", y, logits, "logits")
    check_targets(op, "y", y, borders, tails)
    return apply(logits, y, borders, tails)
