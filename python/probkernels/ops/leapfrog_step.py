"""Asynchronous leapfrog in fixed point, one pass a step: the ops, kernels' glue, and the public functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import leapfrog_step as reference
from ..reference.leapfrog_step import SHIFT
from .philox import KINDS, SERVED

__all__ = ["leapfrog_adjoint_", "leapfrog_step_"]

ONE = 2.0**36  # what stands for 1
KEEP_ALL = 2**SHIFT


def _in_place(launch: Callable[..., None], tensors: list[Tensor | None], *rest: Any) -> None:
    """Launches with dense tensors, and copies back those that were not."""
    dense = [None if t is None else t.contiguous() for t in tensors]
    launch(*dense, *rest)
    for t, d in zip(tensors, dense, strict=True):
        if t is not None and d is not None and d is not t:
            t.copy_(d)


def _step_kernel(run: Backend, x: Tensor, *args: Any) -> None:
    y, p, rest, e, seen, bad, *numbers = args
    given = None if e is None else e.contiguous()

    def launch(y: Tensor, p: Tensor, rest: Tensor | None, x: Tensor, seen: Tensor | None, bad: Tensor) -> None:
        run.launch("leapfrog_step", DTYPE_CODE[x.dtype], y, p, rest, given, x, seen, bad, y.numel(), *numbers)

    _in_place(launch, [y, p, rest, x, seen, bad])


def _adjoint_kernel(run: Backend, to_y: Tensor, to_p: Tensor, along: Tensor, out: Tensor, *numbers: float) -> None:
    given = along.contiguous()

    def launch(to_y: Tensor, to_p: Tensor, out: Tensor) -> None:
        run.launch("leapfrog_adjoint", DTYPE_CODE[out.dtype], to_y, to_p, given, out, out.numel(), *numbers)

    _in_place(launch, [to_y, to_p, out])


def _normal(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 7, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(4)]


def _step_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """A step with all there is, and the inverse of one without damping, before any evaluation."""
    y, p, e, x = _normal(device, dtype)
    states = [(t.double() * ONE).long() for t in (y, p)]
    bad = torch.zeros(1, dtype=torch.int32, device=device)
    numbers = 1.5 * ONE, 0.05, 0.07, 0.9 / ONE, 0.8 / ONE
    damped = (x, *states, torch.full_like(states[0], 77), e, y, bad, *numbers, 512, False)
    return [damped, (x.clone(), *(t.clone() for t in states), None, None, None, bad.clone(), *numbers, 1024, True)]


def _adjoint_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    return [(*_normal(device, dtype), 0.9, -0.05, -0.07, 0.5, 1.5)]


OP = Op(
    "leapfrog_step_",
    "(Tensor(a!) x, Tensor(b!) y, Tensor(c!) p, Tensor(d!)? rest, Tensor? e, Tensor(e!)? seen, Tensor(f!) bad, "
    "float scale, float first, float second, float alpha, float last, int keep, bool undo) -> ()",
    family="leapfrog_step",
    reference=reference.leapfrog_step_,
    kernels=dict.fromkeys(KINDS, _step_kernel),
    fake=lambda *_: None,
    examples=_step_examples,
)

ADJOINT = Op(
    "leapfrog_adjoint_",
    "(Tensor(a!) to_y, Tensor(b!) to_p, Tensor along, Tensor(c!) out, float alpha, float before, float after, "
    "float keep, float scale) -> ()",
    family="leapfrog_step",
    reference=reference.leapfrog_adjoint_,
    kernels=dict.fromkeys(KINDS, _adjoint_kernel),
    fake=lambda *_: None,
    examples=_adjoint_examples,
)

# --- for callers inside the package, whose arguments are known to fit; and the public functions ---


def step(*args: Any) -> None:
    """The op, unchecked; its reference where no op is registered."""
    (OP.call if args[0].device.type in SERVED else reference.leapfrog_step_)(*args)


def adjoint(*args: Any) -> None:
    """The adjoint's op, unchecked; its reference where no op is registered."""
    (ADJOINT.call if args[0].device.type in SERVED else reference.leapfrog_adjoint_)(*args)


def _check_like(op: str, name: str, value: Tensor, like: Tensor, of: str, dtype: torch.dtype) -> None:
    if not isinstance(value, Tensor) or value.dtype is not dtype:
        raise TypeError(message(op, name, f"a tensor of {dtype}", checks.describe(value)))
    checks.shape(op, name, value, like.shape, f"(that of '{of}')")
    checks.same_device(op, name, value, like, of)


def leapfrog_step_(
    y: Tensor,
    p: Tensor,
    x: Tensor,
    bad: Tensor,
    *,
    alpha: float,
    e: Tensor | None = None,
    scale: float = 2.0,
    first: float = 0.0,
    second: float = 0.0,
    rest: Tensor | None = None,
    keep: int = KEEP_ALL,
    undo: bool = False,
    seen: Tensor | None = None,
    last: float = 1.0,
) -> None:
    """A step of asynchronous leapfrog in fixed point, in place and in one pass; it can be undone to the bit.

    ``p`` becomes ``scale e - keep/1024 p``, if e is given; then ``y += first p``, ``seen = last y``, ``y += second p``
    and ``x = alpha y``. ``first`` ends one step of the solver and ``second`` begins the next, so that a call reads and
    writes every tensor once. y, p are integers with 36 fractional bits; increments are rounded to nearest even.

    Args:
        y: (...) int64, the state; 2^36 stands for 1.
        p: (...) int64, the average of evaluations.
        x: (...) float32, float64, float16 or bfloat16: becomes the next input of the network.
        bad: (1,) int32: becomes 1 if a number was NaN or beyond 2^60, otherwise it stays.
        alpha: factor of x.
        e: (...), of x's dtype: the network's evaluation; None to only move y.
        scale: factor of e, 1 + keep / 1024 in the solver.
        first: first move of y, half a step.
        second: second move of y, half a step.
        rest: (...) int64: the bits of p that damping would lose; zeros at the start. None if ``keep`` is 1024.
        keep: 1 to 1024: how many 1024ths of p stay.
        undo: whether p is that after the evaluation, and becomes that before it.
        seen: (...), of x's dtype: becomes ``last y`` between both moves.
        last: factor of ``seen``.

    Raises:
        TypeError: a dtype is wrong, or ``rest`` is missing.
        ValueError: a shape, device or number is wrong.

    Backends: C++ (CPU), CUDA, plain torch: the same bits.

    Reference: Zhuang et al., MALI, ICLR 2021; Maclaurin et al., ICML 2015.

    Example:
        >>> import torch, probkernels as pk
        >>> y, p, x = torch.tensor([2**36]), torch.tensor([2**35]), torch.empty(1)
        >>> bad = torch.zeros(1, dtype=torch.int32)
        >>> pk.ops.leapfrog_step_(y, p, x, bad, alpha=1.0, e=torch.tensor([0.75]), second=0.25)
        >>> x, (p / 2**36)  # p = 2 * 0.75 - 0.5
        (tensor([1.2500]), tensor([1.]))
    """
    op = "leapfrog_step_"
    checks.float_tensor(op, "x", x)
    checks.integer(op, "keep", keep, 1, KEEP_ALL)
    for name, number in (("alpha", alpha), ("scale", scale), ("first", first), ("second", second), ("last", last)):
        checks.number(op, name, number)
    for name, value in (("y", y), ("p", p), ("rest", rest)):
        if value is not None:
            _check_like(op, name, value, x, "x", torch.int64)
    for name, value in (("e", e), ("seen", seen)):
        if value is not None:
            _check_like(op, name, value, x, "x", x.dtype)
    _check_like(op, "bad", bad, x.new_empty(1), "x", torch.int32)
    if (rest is None) != (keep == KEEP_ALL):
        expected = f"a tensor if and only if 'keep' is below {KEEP_ALL}"
        raise TypeError(message(op, "rest", expected, checks.describe(rest)))
    OP.call(x, y, p, rest, e, seen, bad, scale * ONE, first, second, alpha / ONE, last / ONE, keep, undo)


def leapfrog_adjoint_(
    to_y: Tensor,
    to_p: Tensor,
    along: Tensor,
    out: Tensor,
    *,
    alpha: float,
    first: float = 0.0,
    second: float = 0.0,
    keep: float = 1.0,
) -> None:
    """Cotangents through a step of :func:`leapfrog_step_` backwards, in place and in one pass.

    ``to_y += alpha along``; ``to_p`` becomes ``second to_y - keep to_p + first to_y``; ``out = (1 + keep) to_p``, which
    is the cotangent of the evaluation before.

    Args:
        to_y: (...) float: cotangent of y.
        to_p: (...): cotangent of p.
        along: (...): cotangent of the network's input x.
        out: (...): becomes the cotangent of the evaluation.
        alpha: as in the step.
        first: the first move of the step: that which ends the solver's step before.
        second: the second move of the step: that which begins the solver's step of ``along``.
        keep: the share of p that stays.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or number is wrong.

    Backends: C++ (CPU), CUDA, plain torch: the same bits.

    Reference: Zhuang et al., MALI, ICLR 2021.

    Example:
        >>> import torch, probkernels as pk
        >>> to_y, to_p, along, out = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([2.0]), torch.empty(1)
        >>> pk.ops.leapfrog_adjoint_(to_y, to_p, along, out, alpha=1.0, first=0.25, second=0.25)
        >>> to_y, to_p, out
        (tensor([3.]), tensor([1.]), tensor([2.]))
    """
    op = "leapfrog_adjoint_"
    checks.float_tensor(op, "to_y", to_y)
    for name, number in (("alpha", alpha), ("first", first), ("second", second), ("keep", keep)):
        checks.number(op, name, number)
    for name, value in (("to_p", to_p), ("along", along), ("out", out)):
        _check_like(op, name, value, to_y, "to_y", to_y.dtype)
    ADJOINT.call(to_y, to_p, along, out, alpha, second, first, keep, 1 + keep)
