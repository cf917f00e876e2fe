"""A step of SGHMC on many tensors: the op, the kernels' glue, and the public function ``sghmc_step_``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import sghmc_step as reference
from .philox import LARGEST, MOST_ELEMENTS, MOST_ROWS

__all__ = ["sghmc_step_"]

NAME = "sghmc_step_"
DTYPES = (torch.float32, torch.float64)
Lists = list[Tensor]

# --- kernels: one launch for each dtype ---


def _kernel(run: Backend, *args: Any) -> None:
    changed, grads, rows, rule = args[:5], args[5], args[6], args[7:]
    for dtype in {w.dtype for w in changed[0]}:
        chosen = [k for k, w in enumerate(changed[0]) if w.dtype is dtype]
        tensors = [[column[k] for k in chosen] for column in changed]
        dense = [[t.contiguous() for t in column] for column in tensors]
        flat = [grads[k].contiguous() for k in chosen]
        sizes = [g.numel() for g in flat]
        run.launch("sghmc_step", DTYPE_CODE[dtype], *dense, flat, sizes, [rows[k] for k in chosen], *rule)
        for column, packed in zip(tensors, dense, strict=True):
            for tensor, copy in zip(column, packed, strict=True):
                if copy is not tensor:
                    tensor.copy_(copy)


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """A step of the burn-in and one after it: sizes that are no multiple of four, a tensor that is not contiguous."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    found = []
    for burn_in in (True, False):
        shapes = [(7,), (3, 5), (300,)]
        lists = [[normal(*shape) for shape in shapes] for _ in range(2)]  # weights, momentum
        lists += [[1 + normal(*shape).abs() for shape in shapes], [normal(*shape) for shape in shapes]]  # tau, g
        lists += [[g.square() + normal(*g.shape).abs() for g in lists[3]], [normal(*shape) for shape in shapes]]
        lists[0][1] = normal(5, 3).T
        found.append((*lists, [4, 0, 2**31], burn_in, 0.05, 0.1, 3.0, 1e-10, 2**40 + 5, 2**33 + 1))
    return found


OP = Op(
    NAME,
    "(Tensor(a!)[] weights, Tensor(b!)[] momentum, Tensor(c!)[] tau, Tensor(d!)[] g, Tensor(e!)[] v, Tensor[] grads, "
    "int[] rows, bool burn_in, float lr, float mdecay, float scale_grad, float eps, int seed, int step) -> ()",
    family="sghmc_step",
    reference=reference.sghmc_step_,
    kernels=dict.fromkeys(("cpu", "cuda"), _kernel),
    fake=lambda *args: None,
    examples=_examples,
    dtypes=DTYPES,
    baked="step, whose noise is a function of it, and the step size",
)

# --- the public function ---


def _fits(w: Any, tensors: Sequence[Any]) -> bool:
    """Whether the tensors of one weight are valid. Every step asks this for every weight, so it must be quick."""
    if not isinstance(w, Tensor) or w.dtype not in DTYPES or w.numel() > MOST_ELEMENTS:
        return False
    dtype, shape, device = w.dtype, w.shape, w.device
    for t in tensors:
        if not isinstance(t, Tensor) or t.dtype is not dtype or t.shape != shape or t.device != device:
            return False
    return True


def _check_tensors(lists: dict[str, Sequence[Tensor]]) -> None:
    weights = lists["weights"]
    for name, items in lists.items():
        if isinstance(items, Tensor) or not isinstance(items, Sequence):
            raise TypeError(message(NAME, name, "a list of tensors", checks.describe(items)))
        if len(items) != len(weights):
            raise ValueError(message(NAME, name, f"{len(weights)} items, one a weight", str(len(items))))
    for k, w in enumerate(weights):
        if _fits(w, [items[k] for items in lists.values()]):
            continue
        checks.wide_float_tensor(NAME, f"weights[{k}]", w, "half precision loses the small steps of a sampler")
        for name, items in lists.items():
            t = items[k]
            if not isinstance(t, Tensor) or t.dtype is not w.dtype:
                raise TypeError(message(NAME, f"{name}[{k}]", f"a {w.dtype} tensor", checks.describe(t)))
            if t.shape != w.shape:
                checks.shape(NAME, f"{name}[{k}]", t, w.shape, f"(that of 'weights[{k}]')")
            if t.device != w.device:
                checks.same_device(NAME, f"{name}[{k}]", t, w, f"weights[{k}]")
        if w.numel() > MOST_ELEMENTS:
            raise ValueError(message(NAME, f"weights[{k}]", f"at most {MOST_ELEMENTS} elements", str(w.numel())))


def sghmc_step_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum: Sequence[Tensor],
    tau: Sequence[Tensor],
    g: Sequence[Tensor],
    v: Sequence[Tensor],
    *,
    seed: int,
    step: int,
    rows: Sequence[int] | None = None,
    burn_in: bool = True,
    lr: float = 0.01,
    mdecay: float = 0.05,
    scale_grad: float = 1.0,
    eps: float = 1e-10,
) -> None:
    """One step of scale-adapted SGHMC on many tensors, in place and in one kernel launch.

    With G = ``scale_grad`` times the gradient and M = 1 / (sqrt(v) + eps)::

        burn-in: r = 1 / (tau + 1);  tau += 1 - tau g^2 / (v + eps);  g += r (G - g);  v += r (G^2 - v)
        m += -lr^2 M G - mdecay m + N(0, max(2 lr^2 mdecay M - lr^4, 1e-16));  weight += m

    Args:
        weights: tensors of any shapes, float32 or float64. Contiguous tensors are fastest.
        grads: gradients of the negative log posterior, or of a part that ``scale_grad`` completes.
        momentum: m, zeros before the first step.
        tau: window of the averages, ones before the first step.
        g: average gradient, ones before the first step.
        v: average square of the gradient, ones before the first step.
        seed: of the noise, 0 to 2^63 - 1. The noise of entry i of a tensor is a function of seed, step, its row and i:
            that of :func:`philox_normal`.
        step: number of this step, 0 to 2^63 - 1; a repeated number repeats the noise.
        rows: number of each tensor, for its noise; 0, 1, 2, ... by default.
        burn_in: whether tau, g and v move; afterwards they must stay, or the stationary distribution changes.
        lr: step size.
        mdecay: friction, the share of momentum that a step loses, in (0, 1).
        scale_grad: factor on gradients, for a loss that is a mean over observations.
        eps: keeps M finite.

    Raises:
        TypeError: a dtype is wrong (half precision is refused).
        ValueError: a length, shape, device or range is wrong, or two tensors to change share memory.
        RuntimeError: a CUDA graph is captured: its replays would repeat the step and its noise.
        NotImplementedError: a tensor to change requires grad outside ``torch.no_grad()``.

    Backends: C++ (CPU), CUDA, plain torch: the same bits, for every number of threads.

    Reference: Springenberg et al., "Bayesian Optimization with Robust Bayesian Neural Networks", NIPS 2016; Chen et
    al., "Stochastic Gradient Hamiltonian Monte Carlo", ICML 2014.

    Example:
        >>> import torch, probkernels as pk
        >>> w, m = torch.zeros(1000), torch.zeros(1000)
        >>> tau, g, v = (torch.ones(1000) for _ in range(3))
        >>> for step in range(2000):  # samples a standard normal distribution: the gradient of -log p is w itself
        ...     pk.ops.sghmc_step_([w], [w.clone()], [m], [tau], [g], [v], seed=0, step=step, burn_in=False, lr=0.03)
        >>> bool(0.9 < w.std() < 1.1)
        True
    """
    changed: dict[str, Sequence[Tensor]] = {"weights": weights, "momentum": momentum, "tau": tau, "g": g, "v": v}
    _check_tensors({**changed, "grads": grads})
    for name, value in (("lr", lr), ("scale_grad", scale_grad), ("eps", eps)):
        checks.positive(NAME, name, value)
    checks.positive_fraction(NAME, "mdecay", mdecay)
    for name, number in (("seed", seed), ("step", step)):
        checks.integer(NAME, name, number, 0, LARGEST)
    numbers = list(range(len(weights))) if rows is None else list(rows)
    if len(numbers) != len(weights):
        raise ValueError(message(NAME, "rows", f"{len(weights)} items, one a weight", str(len(numbers))))
    for k, row in enumerate(numbers):
        checks.integer(NAME, f"rows[{k}]", row, 0, MOST_ROWS - 1)
    twice = checks.sharing([t for items in changed.values() for t in items])
    if twice is not None:
        name = next(name for name, items in changed.items() if any(t is twice for t in items))
        raise ValueError(message(NAME, name, "every tensor to change once", "one that shares memory with another"))
    kept = [k for k, w in enumerate(weights) if w.numel()]
    if kept:
        lists = [[items[k] for k in kept] for items in (*changed.values(), grads)]
        rule = (float(lr), float(mdecay), float(scale_grad), float(eps), seed, step)
        OP.call(*lists, [numbers[k] for k in kept], bool(burn_in), *rule)
