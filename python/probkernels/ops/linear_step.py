"""A step of a sampler in one pass: the ops, kernels' glue, and the public function ``linear_step``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import linear_step as reference
from .philox import KINDS, SERVED, check_counter

__all__ = ["linear_step"]

MOST = 8  # inputs, and outputs: kMostTensors of csrc/include/pk/linear_step.h
CHUNK_QUADS = 4096  # a partial sum of dots is of that many groups of four elements, or of four times as many elements
INPUTS = "Tensor x0" + "".join(f", Tensor? x{i}" for i in range(1, MOST))
COUNTER = "Tensor? seeds, int seed, int row, int step"


def padded(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    return [*tensors, *[None] * (MOST - len(tensors))]


def _given(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


# --- kernels: x (rows, ...) is seen as rows of n elements; groups of rows share coefficients ---


def _step_kernel(run: Backend, *args: Any) -> Tensor:
    *inputs, coefficients, noise, seeds, seed, row, step = args
    x = [t.contiguous() for t in _given(inputs)]
    rows, outputs = x[0].shape[0], coefficients.shape[-2]
    y = x[0].new_empty(outputs, *x[0].shape)
    sizes = (1 if coefficients.dim() == 2 else rows, rows, x[0].numel() // rows, outputs)
    run.launch(
        "linear_step", DTYPE_CODE[y.dtype], x, coefficients.contiguous(), _dense(noise), _dense(seeds), y, *sizes,
        seed, row, step,
    )  # fmt: skip
    return y


def _dots_kernel(run: Backend, y: Tensor, *args: Any) -> Tensor:
    *inputs, noisy, by_row, seeds, seed, row, step = args
    x = [t.contiguous() for t in _given(inputs)]
    rows, n = x[0].shape[0], x[0].numel() // x[0].shape[0]
    groups, width = rows if by_row else 1, (y.shape[0], len(x) + noisy)
    sums = torch.empty((groups, *width), dtype=torch.float64, device=y.device)
    chunks = -(-(rows // groups * -(-n // 4)) // CHUNK_QUADS)
    scratch = torch.empty((groups, chunks, *width), dtype=torch.float64, device=y.device)
    run.launch(
        "linear_step_dots", DTYPE_CODE[y.dtype], x, y.contiguous(), _dense(seeds), sums, scratch, groups, rows, n,
        y.shape[0], noisy, seed, row, step,
    )  # fmt: skip
    return sums if by_row else sums[0]


# --- derivatives: the same step with transposed coefficients, and dots; those of dots are steps again ---


def _transposed(y: Tensor, coefficients: Tensor) -> list[Tensor]:
    """Cotangents of the inputs from those of the outputs."""
    steps = OP.call(*padded(y.unbind(0)), coefficients.transpose(-1, -2), None, None, 0, 0, 0)
    return list(steps.unbind(0))


def _columns(dots: Tensor, count: int, noisy: bool) -> tuple[Tensor, Tensor | None]:
    """Those of the inputs, and that of noise. An index would make an alias, which the vmap of batched grads lacks."""
    return dots.narrow(-1, 0, count), dots.select(-1, count) if noisy else None


def _step_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *x, coefficients, noise, seeds, ctx.seed, ctx.row, ctx.step = inputs
    ctx.noisy, ctx.count = noise is not None, len(_given(x))
    wants_dots = any(ctx.needs_input_grad[MOST : MOST + 2])
    ctx.save_for_backward(*(x if wants_dots else [None] * MOST), coefficients, seeds)


def _step_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *x, coefficients, seeds = ctx.saved_tensors
    into_x: list[Tensor] = []
    into_c = into_d = None
    if any(ctx.needs_input_grad[:MOST]):
        into_x = _transposed(grad, coefficients)
    if any(ctx.needs_input_grad[MOST : MOST + 2]):
        noisy = ctx.noisy and ctx.needs_input_grad[MOST + 1]
        dots = DOTS.call(grad, *x, noisy, coefficients.dim() == 3, seeds, ctx.seed, ctx.row, ctx.step)
        into_c, into_d = _columns(dots, ctx.count, noisy)
    return (*padded(into_x), into_c, into_d, None, None, None, None)


def _dots_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    y, *x, ctx.noisy, _, seeds, ctx.seed, ctx.row, ctx.step = inputs
    ctx.save_for_backward(y, *x, seeds)


def _dots_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    y, *x, seeds = ctx.saved_tensors
    count = len(_given(x))
    of_x, of_z = _columns(grad, count, ctx.noisy)
    into_x: list[Tensor] = []
    into_y = None
    if ctx.needs_input_grad[0]:
        into_y = OP.call(*x, of_x, of_z, seeds if ctx.noisy else None, ctx.seed, ctx.row, ctx.step)
    if any(ctx.needs_input_grad[1 : 1 + MOST]):
        into_x = _transposed(y, of_x)
    return (into_y, *padded(into_x), None, None, None, None, None, None)


# --- the ops ---


def _normal(device: torch.device, dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def _step_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Two outputs of three inputs with noise; and coefficients and seeds of each row."""
    normal, exact = _normal(device, dtype), _normal(device, torch.float64)
    shared = (*padded([normal(3, 7) for _ in range(3)]), exact(2, 3), exact(2), None, 7, 1, 2)
    seeds = torch.tensor([5, 2**40, 5], device=device)
    by_row = (*padded([normal(3, 2, 3) for _ in range(2)]), exact(3, 1, 2), exact(3, 1), seeds, 0, 0, 2**33)
    return [shared, by_row]


def _dots_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    normal = _normal(device, dtype)
    shared = (normal(2, 3, 7), *padded([normal(3, 7) for _ in range(3)]), True, False, None, 7, 1, 2)
    by_row = (normal(1, 3, 2, 3), *padded([normal(3, 2, 3) for _ in range(2)]), False, True, None, 0, 0, 0)
    return [shared, by_row]


def _dots_fake(y: Tensor, *args: Any) -> Tensor:
    *x, noisy, by_row, _, _, _, _ = args
    shape = (y.shape[0], len(_given(x)) + noisy)
    return y.new_empty((x[0].shape[0], *shape) if by_row else shape, dtype=torch.float64)


OP = Op(
    "linear_step",
    f"({INPUTS}, Tensor coefficients, Tensor? noise, {COUNTER}) -> Tensor",
    reference=reference.linear_step,
    kernels=dict.fromkeys(KINDS, _step_kernel),
    fake=lambda *args: args[0].new_empty(args[MOST].shape[-2], *args[0].shape),
    setup=_step_setup,
    backward=_step_backward,
    examples=_step_examples,
)

DOTS = Op(
    "linear_step_dots",
    f"(Tensor y, {INPUTS}, bool noisy, bool by_row, {COUNTER}) -> Tensor",
    family="linear_step",
    reference=reference.linear_step_dots,
    kernels=dict.fromkeys(KINDS, _dots_kernel),
    fake=_dots_fake,
    setup=_dots_setup,
    backward=_dots_backward,
    examples=_dots_examples,
)

# --- for callers inside the package, whose arguments are known to fit; and the public function ---


def apply(
    inputs: Sequence[Tensor],
    coefficients: Tensor,
    noise: Tensor | None = None,
    seeds: Tensor | None = None,
    seed: int = 0,
    step: int = 0,
) -> Tensor:
    """The step (outputs, rows, ...) of :func:`linear_step`, unchecked; ``seed`` counts where ``seeds`` is None."""
    call: Callable[..., Tensor] = OP.call if inputs[0].device.type in SERVED else reference.linear_step
    return call(*padded(inputs), coefficients, noise, seeds, seed, 0, step)


def dots(cotangents: Tensor, inputs: Sequence[Tensor], by_row: bool) -> Tensor:
    """Gradient of the step's coefficients, float64, from cotangents (outputs, rows, ...) of its outputs."""
    call: Callable[..., Tensor] = DOTS.call if inputs[0].device.type in SERVED else reference.linear_step_dots
    return call(cotangents, *padded(inputs), False, by_row, None, 0, 0, 0)


def _check_inputs(inputs: Sequence[Tensor]) -> None:
    op = "linear_step"
    if isinstance(inputs, Tensor) or not isinstance(inputs, Sequence):
        raise TypeError(message(op, "inputs", "a sequence of tensors", checks.describe(inputs)))
    if not 1 <= len(inputs) <= MOST:
        raise ValueError(message(op, "inputs", f"1 to {MOST} tensors", str(len(inputs))))
    for i, x in enumerate(inputs):
        name = f"inputs[{i}]"
        checks.float_tensor(op, name, x)
        if x.dim() == 0:
            raise ValueError(message(op, name, "shape (rows, ...)", "shape ()"))
        checks.shape(op, name, x, inputs[0].shape, "(that of 'inputs[0]')")
        checks.same_device(op, name, x, inputs[0], "inputs[0]")
        if x.dtype is not inputs[0].dtype:
            raise TypeError(message(op, name, f"the dtype of 'inputs[0]' ({inputs[0].dtype})", str(x.dtype)))


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(map(_holds_tensors, value)))


def _numbers(name: str, value: Any, x: Tensor) -> Tensor:
    """``value`` as a float64 tensor beside x."""
    if not isinstance(value, Tensor):
        if _holds_tensors(value):
            hint = "torch.stack keeps the gradients of tensors in a list"
            raise TypeError(message("linear_step", name, "a tensor or nested numbers", "nested tensors", hint))
        try:
            return torch.tensor(value, dtype=torch.float64, device=x.device)
        except (TypeError, ValueError) as error:
            raise TypeError(
                message("linear_step", name, "a tensor or nested numbers", checks.describe(value))
            ) from error
    checks.wide_float_tensor("linear_step", name, value)
    checks.same_device("linear_step", name, value, x, "inputs[0]")
    return value.double()


def _check_coefficients(c: Tensor, d: Tensor | None, inputs: Sequence[Tensor]) -> None:
    rows, count = inputs[0].shape[0], len(inputs)
    fits = c.dim() in (2, 3) and c.shape[-1] == count and 1 <= c.shape[-2] <= MOST and c.shape[:-2] in ((), (rows,))
    if not fits:
        wanted = f"shape (outputs, {count}) or ({rows}, outputs, {count}) with 1 to {MOST} outputs"
        raise ValueError(message("linear_step", "coefficients", wanted, f"shape {tuple(c.shape)}"))
    if d is not None and tuple(d.shape) not in ((c.shape[-2],), (rows, c.shape[-2])):
        wanted = f"shape ({c.shape[-2]},) or ({rows}, {c.shape[-2]}), of the outputs"
        raise ValueError(message("linear_step", "noise", wanted, f"shape {tuple(d.shape)}"))


def linear_step(
    inputs: Sequence[Tensor],
    coefficients: Tensor | Sequence[Any],
    *,
    noise: Tensor | Sequence[Any] | None = None,
    seeds: int | Tensor | None = None,
    step: int = 0,
    first_row: int = 0,
) -> tuple[Tensor, ...]:
    """Linear combinations of tensors and of normal noise, all in one pass: ``y[o] = sum_i c[o][i] x[i] + d[o] z``.

    The step of every diffusion sampler is one of these, and so are guidance and a change of the prediction's kind.

    Args:
        inputs: one to eight tensors x (rows, ...) of one shape and dtype: float32, float64, float16 or bfloat16; any
            strides.
        coefficients: c (outputs, inputs), one to eight outputs; or (rows, outputs, inputs), each row's own. float32 or
            float64, or nested numbers.
        noise: d (outputs,) or (rows, outputs); None for no noise. All outputs share z.
        seeds: of z, as for :func:`philox_normal`: an int, or (rows,) int64, a seed for each row.
        step: of z.
        first_row: of z, under a single seed.

    Returns:
        The outputs, of the shape and dtype of the inputs; they share memory. Differentiable in inputs, coefficients
        and noise, any number of times; the gradients of coefficients are dots in float64.

    Raises:
        TypeError: a dtype is wrong, or noise has no seeds.
        ValueError: a shape, device or number of tensors is wrong, or a number out of range.

    Backends: C++ (CPU), CUDA, plain torch: the same bits. Computes in float32 for half precision and rounds once.

    Reference: Zhang and Chen, DEIS, ICLR 2023; Lu et al., DPM-Solver++, 2022; Salmon et al., Philox, SC 2011.

    Example:
        >>> import torch, probkernels as pk
        >>> x, eps = torch.ones(1, 2), torch.tensor([[0.5, -0.5]])
        >>> pk.ops.linear_step([x, eps], [[0.5, 1.0], [1.0, -2.0]])
        (tensor([[1., 0.]]), tensor([[0., 2.]]))
    """
    _check_inputs(inputs)
    x = inputs[0]
    c = _numbers("coefficients", coefficients, x)
    d = None if noise is None else _numbers("noise", noise, x)
    _check_coefficients(c, d, inputs)
    each = None
    if d is not None:
        if seeds is None:
            hint = "noise is a function of them: there is no generator"
            raise TypeError(message("linear_step", "seeds", "an int or an int64 tensor beside 'noise'", "None", hint))
        rows = x.shape[0]
        check_counter("linear_step", seeds, step, first_row, rows, x.numel() // rows if rows else 0)
        if isinstance(seeds, Tensor):
            checks.same_device("linear_step", "seeds", seeds, x, "inputs[0]")
            each = seeds
        if (c.dim() == 3) != (d.dim() == 2):
            c, d = c.expand(rows, -1, -1), d.expand(rows, -1)
    elif seeds is not None:
        raise ValueError(message("linear_step", "seeds", "None without 'noise'", checks.describe(seeds)))
    else:
        check_counter("linear_step", 0, step, first_row, 0, 0)
    seed = seeds if isinstance(seeds, int) and d is not None else 0
    y = OP.call(*padded(inputs), c, d, each, seed, first_row, step)
    return (y.squeeze(0),) if y.shape[0] == 1 else y.unbind(0)
