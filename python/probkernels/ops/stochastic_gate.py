"""Gates that are drawn and applied in one pass: the ops, kernels' glue, and the public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import stochastic_gate as reference
from ..reference.stochastic_gate import RECTIFIERS, STRAIGHT
from .philox import LARGEST, check_counter

__all__ = ["stochastic_gate"]

KINDS = ("cpu", "cuda")
MODES = (*STRAIGHT, "times_smooth", *RECTIFIERS)  # Gate of csrc/include/pk/stochastic_gate.h
RULE = "Tensor? seeds, int seed, int row, int step, str mode, bool sampled, float slope"


# --- kernels ---


def _rule(
    a: Tensor, seeds: Tensor | None, seed: int, row: int, step: int, mode: str, sampled: bool, slope: float
) -> Any:
    """The arguments of a launcher after its tensors."""
    rows = a.shape[0] if a.dim() else 1
    shared = seeds is not None and seeds.dim() == 0
    return rows, a.numel() // rows, MODES.index(mode), sampled, slope, shared, seed, row, step


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _kernel(run: Backend, a: Tensor, v: Tensor | None, seeds: Tensor | None, *rule: Any) -> Tensor:
    y = a.new_empty(a.shape)
    sizes = _rule(a, seeds, *rule)
    run.launch("stochastic_gate", DTYPE_CODE[a.dtype], a.contiguous(), _dense(v), _dense(seeds), y, *sizes)
    return y


def _bwd_kernel(
    run: Backend, grad: Tensor, a: Tensor, v: Tensor | None, seeds: Tensor | None, *rule: Any
) -> tuple[Tensor, Tensor]:
    into_a, into_v = _bwd_fake(grad, a, v)
    grads = [into_a] if v is None else [into_a, into_v]
    run.launch(
        "stochastic_gate_bwd", DTYPE_CODE[a.dtype], grad.contiguous(), a.contiguous(), _dense(v), _dense(seeds), grads,
        *_rule(a, seeds, *rule),
    )  # fmt: skip
    return into_a, into_v


def _bwd_fake(grad: Tensor, a: Tensor, v: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), a.new_empty(0 if v is None else a.shape)


# --- derivatives: the backward pass draws the same noise; its own derivatives are those of its reference ---


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    a, v, seeds, *ctx.rule = inputs
    ctx.passes = v is None and ctx.rule[3] == STRAIGHT[0]  # the gradient as it is
    ctx.save_for_backward(*((None, None, None) if ctx.passes else (a, v, seeds)))


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rest = (None,) * (1 + len(ctx.rule))
    if ctx.passes:
        return (grad, None, *rest)
    a, v, seeds = ctx.saved_tensors
    into_a, into_v = BACKWARD.call(grad, a, v, seeds, *ctx.rule)
    return (into_a, None if v is None else into_v, *rest)


def _no_forward_mode(*_: Any) -> Any:
    raise NotImplementedError("stochastic_gate has no forward-mode derivative. Hint: use reverse mode")


# --- the ops ---


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Gates whose slopes are exact for the noise that is drawn: one with values; seeds of rows; one seed for all."""
    generator = torch.Generator().manual_seed(0)
    a, v = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64).to(device, dtype).unbind(0)
    seeds = torch.tensor([5, 2**40, 5], device=device)
    return [
        (a, v, None, 2**40 + 5, 2, 3, "times_smooth", True, 1.5),
        (a, None, seeds, 0, 0, 2**33, "rectifier_logistic", True, 1.0),
        (a, v, seeds[1], 0, 3, 0, "rectifier_gauss", True, 1.0),
    ]


def _bwd_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    grads = torch.linspace(-1, 2, 21, device=device, dtype=dtype).view(3, 7)
    return [(grads, *example) for example in _examples(device, dtype)[:2]]


OP = Op(
    "stochastic_gate",
    f"(Tensor a, Tensor? v, {RULE}) -> Tensor",
    reference=reference.stochastic_gate,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda a, *_: a.new_empty(a.shape),
    setup=_setup,
    backward=_backward,
    forward_mode=_no_forward_mode,
    examples=_examples,
)

BACKWARD = Op(
    "stochastic_gate_bwd",
    f"(Tensor grad, Tensor a, Tensor? v, {RULE}) -> (Tensor, Tensor)",
    family="stochastic_gate",
    reference=reference.stochastic_gate_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=_bwd_fake,
    forward_mode=_no_forward_mode,
    examples=_bwd_examples,
)

# --- the public function ---

NAME = "stochastic_gate"


def _check_tensors(a: Tensor, v: Tensor | None) -> None:
    checks.float_tensor(NAME, "a", a)
    if v is None:
        return
    checks.float_tensor(NAME, "v", v)
    checks.shape(NAME, "v", v, a.shape, "(that of 'a')", "expand values or gates that are shared")
    checks.same_device(NAME, "v", v, a, "a")
    if v.dtype is not a.dtype:
        raise TypeError(message(NAME, "v", f"the dtype of 'a' ({a.dtype})", str(v.dtype)))


def _check_rule(mode: str, slope: float, hard: str) -> None:
    checks.one_of(NAME, "mode", mode, MODES)
    checks.positive(NAME, "slope", slope)
    checks.one_of(NAME, "hard", hard, ("sample", "threshold"))
    if mode in RECTIFIERS and slope != 1:
        hint = "a rectifier has no sigmoid; scale 'a' itself"
        raise ValueError(message(NAME, "slope", f"1 with mode '{mode}'", checks.shown(slope), hint))
    if mode not in STRAIGHT and hard == "threshold":
        means = "torch.relu(a)" if mode in RECTIFIERS else "torch.sigmoid(slope * a), its mean,"
        hint = f"{means} is this gate without noise"
        raise ValueError(message(NAME, "hard", f"'sample' with mode '{mode}'", "'threshold'", hint))


def _seed(
    a: Tensor, seeds: int | Tensor | None, step: int, first_row: int, generator: torch.Generator | None
) -> tuple[Tensor | None, int]:
    """Checks what the noise is a function of; returns it as the op's ``seeds`` and ``seed``."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(message(NAME, "generator", "a torch.Generator or None", checks.describe(generator)))
    if generator is not None and seeds is not None:
        hint = "a generator draws a seed"
        raise ValueError(message(NAME, "generator", "None beside 'seeds'", checks.describe(generator), hint))
    rows = a.shape[0] if a.dim() else 1
    one = seeds is None or (isinstance(seeds, Tensor) and seeds.dim() == 0 and seeds.dtype is torch.int64)
    check_counter(NAME, 0 if one else seeds, step, first_row, rows, a.numel() // rows if rows else 0)  # type: ignore[arg-type]
    if isinstance(seeds, Tensor):
        checks.same_device(NAME, "seeds", seeds, a, "a")
        return seeds, 0
    return None, 0 if seeds is None else seeds


def _drawn(a: Tensor, generator: torch.Generator | None) -> Tensor:
    """A seed, which stays on the device."""
    if generator is not None and generator.device.type != a.device.type and a.device.type != "meta":
        wanted = f"one of the device of 'a' ({a.device})"
        raise ValueError(message(NAME, "generator", wanted, f"one of {generator.device}"))
    return torch.randint(LARGEST, (), dtype=torch.int64, device=a.device, generator=generator)


def stochastic_gate(
    a: Tensor,
    v: Tensor | None = None,
    *,
    mode: str = "straight_through",
    slope: float = 1.0,
    hard: str = "sample",
    seeds: int | Tensor | None = None,
    step: int = 0,
    first_row: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws gates h of pre-activations and applies them, in one pass: ``h(a)``, or ``h(a) v``. No mask is stored: the
    backward pass draws the same noise again.

    =============================  =====================================  ====================================
    mode                           h, with p = sigmoid(slope a)           dh/da
    =============================  =====================================  ====================================
    ``straight_through``           1 with probability p, else 0           1, whatever the slope
    ``straight_through_sigmoid``   the same                               slope p (1 - p)
    ``times_smooth``               sqrt(p) with probability sqrt(p)       slope (1 - p) sqrt(p) / 2 where h > 0
    ``rectifier_gauss``            max(0, a + z), z normal                1 where h > 0
    ``rectifier_logistic``         max(0, a + z), z logistic              1 where h > 0
    =============================  =====================================  ====================================

    Args:
        a: pre-activations (rows, ...) or (): float32, float64, float16 or bfloat16; any strides. NaN gives NaN.
        v: values, of the shape and dtype of ``a``; None for the gates themselves.
        mode: one of the above. All but the rectifiers' gradients are biased estimates of that of the mean.
        slope: positive; raise it during training to sharpen gates (annealing). 1 for rectifiers.
        hard: ``"sample"``, or ``"threshold"`` for h = 1 where a > 0, straight-through alone, at test.
        seeds: of the noise, as for :func:`philox_normal`: an int, or (rows,) int64, a seed for each row; or () int64,
            which counts as that int and stays on its device. None draws a seed.
        step: of the noise.
        first_row: of the noise, under a single seed: a batch may be drawn in parts.
        generator: draws the seed; torch's own if None. Of the device of ``a``.

    Returns:
        h or h v, of the shape and dtype of ``a``. Differentiable in ``a`` and ``v`` in reverse mode.

    Raises:
        TypeError: a dtype or kind of argument is wrong.
        ValueError: a shape, device or name is wrong, a number out of range, or arguments do not go together.
        NotImplementedError: forward-mode differentiation, as by ``torch.func.jvp``, which is refused.

    Backends: C++ (CPU), CUDA, plain torch: the same bits. Computes in float32 for half precision and rounds once.

    Reference: Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation", arXiv 1308.3432, 2013; slope annealing: Chung, Ahn and Bengio, ICLR 2017.

    Example:
        >>> import torch, probkernels as pk
        >>> a = torch.tensor([[-9.0, 0.0, 9.0]], requires_grad=True)
        >>> h = pk.ops.stochastic_gate(a, mode="straight_through_sigmoid", seeds=1)
        >>> h.sum().backward()
        >>> h[0, 0].item(), h[0, 2].item(), round(a.grad[0, 1].item(), 3)
        (0.0, 1.0, 0.25)
    """
    _check_tensors(a, v)
    _check_rule(mode, slope, hard)
    sampled = hard == "sample"
    each, seed = _seed(a, seeds, step, first_row, generator)
    if sampled and seeds is None:
        each = _drawn(a, generator)
    return OP.call(a, v, each, seed, first_row, step, mode, sampled, float(slope))
