"""A step of asynchronous leapfrog in fixed point (36 fractional bits), and its adjoint: in plain torch, to the bit what
the kernels compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 2.0**60  # of increments and states, so that no sum overflows
SHIFT = 10  # damping keeps a multiple of 2^-10 of p


def kicked(e: Tensor, p: Tensor, rest: Tensor | None, keep: int) -> tuple[Tensor, Tensor | None]:
    """p after the evaluation e, all int64: e - keep p. ``rest`` takes the bits of p that damping would lose."""
    if rest is None:
        return e - p, None
    rest = (rest << SHIFT) + (p & (2**SHIFT - 1))
    p = (p >> SHIFT) * keep + rest % keep
    return e - p, torch.div(rest, keep, rounding_mode="floor")


def unkicked(e: Tensor, p: Tensor, rest: Tensor | None, keep: int) -> tuple[Tensor, Tensor | None]:
    """The inverse of :func:`kicked`."""
    p = e - p
    if rest is None:
        return p, None
    rest = rest * keep + p % keep
    p = (torch.div(p, keep, rounding_mode="floor") << SHIFT) + (rest & (2**SHIFT - 1))
    return p, rest >> SHIFT


def leapfrog_step_(
    x: Tensor,
    y: Tensor,
    p: Tensor,
    rest: Tensor | None,
    e: Tensor | None,
    seen: Tensor | None,
    bad: Tensor,
    scale: float,
    first: float,
    second: float,
    alpha: float,
    last: float,
    keep: int,
    undo: bool,
) -> None:
    """In place: p is kicked by scale e, then y += first p; seen = last y; y += second p; x = alpha y.

    y, p, rest are int64; e, x, seen floating-point; all (...). ``bad`` (1) int32 becomes 1 if a number did not fit.
    """
    fits: list[Tensor] = []

    def rounded(value: Tensor) -> Tensor:
        fits.append((value.abs() < LARGEST).all())
        return value.round().long()

    def moved(y: Tensor, by: float) -> Tensor:
        y = y + rounded(new.double() * by)
        fits.append((y.double().abs() < LARGEST).all())
        return y

    new = p
    if e is not None:
        new, left = (unkicked if undo else kicked)(rounded(e.double() * scale), p, rest, keep)
        if rest is not None and left is not None:
            rest.copy_(left)
    between = moved(y, first)
    after = moved(between, second)
    if seen is not None:
        seen.copy_(between.double() * last)
    x.copy_(after.double() * alpha)
    y.copy_(after)
    p.copy_(new)
    bad.bitwise_or_((~torch.stack(fits).all()).int())


def leapfrog_adjoint_(
    to_y: Tensor,
    to_p: Tensor,
    along: Tensor,
    out: Tensor,
    alpha: float,
    before: float,
    after: float,
    keep: float,
    scale: float,
) -> None:
    """In place, all (...): cotangents of y and p before a step, from those after it and ``along``, that of x.

    ``out`` becomes the cotangent of the evaluation before.
    """
    wide = torch.promote_types(to_y.dtype, torch.float32)
    y = to_y.to(wide) + alpha * along.to(wide)
    p = (before * y - keep * to_p.to(wide)) + after * y
    to_y.copy_(y)
    to_p.copy_(p)
    out.copy_(scale * p)
