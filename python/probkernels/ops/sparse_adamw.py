"""AdamW on selected entries: ops, their kernel calls, the coding of 8-bit moments, and the function
``sparse_adamw_``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE, accumulation_dtype
from .._core.registry import Op
from ..reference import sparse_adamw as reference
from .selection import Selection

__all__ = ["dequantize_blocks", "quantize_blocks", "sparse_adamw_"]

KINDS, BLOCK = ("cpu", "cuda"), reference.BLOCK
Lists = list[Tensor]

# --- kernels ---
KEY_BITS, LOWEST = 7, -22  # csrc/cpu/sparse_adamw.cpp


@functools.cache
def _code_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Codebooks with their midpoints, (2, 2, 256) float32, signed before unsigned. Also where the CPU kernel starts its
    search: for each codebook, sign and key (2, 2, S) uint8, the code of the smallest value with that sign and key.

    A key is a value's exponent and the first bits of its mantissa. No key has two midpoints.
    """
    books, tables = [], []
    keys = torch.arange(-LOWEST * 2**KEY_BITS + 1)
    low = (1 + keys % 2**KEY_BITS / 2**KEY_BITS) * 2.0 ** (keys // 2**KEY_BITS + LOWEST)
    low[0] = 0
    high = torch.cat([low[1:], low.new_tensor([2.0])])
    for signed in (True, False):
        middle = reference.midpoints(signed)
        books += [reference.codebook(signed), torch.cat([middle, middle.new_tensor([torch.inf])])]
        tables += [torch.bucketize(low, middle), torch.bucketize(-high, middle, right=True)]
    return torch.stack(books).to(device), torch.stack(tables).to(device, torch.uint8)


def _launch(run: Backend, changed: list[Lists], grads: Lists, selection: list[Lists], rest: Sequence[Any]) -> None:
    """``changed``: weights, values, m, v, m_scale, v_scale. The last two are empty for full-precision moments."""
    dense = [[t.contiguous() for t in tensors] for tensors in changed]
    weights, values, m, v, m_scale, v_scale = dense
    grads = [g.contiguous() for g in grads]
    counts = [t.numel() for t in m]
    run.launch(
        "sparse_adamw",
        [DTYPE_CODE[w.dtype] for w in weights],
        weights,
        values,
        [DTYPE_CODE[g.dtype] for g in grads],
        [int(g.numel() != c) for g, c in zip(grads, counts, strict=True)],
        grads,
        m,
        v,
        m_scale,
        v_scale,
        *([t.contiguous() for t in tensors] for tensors in selection),
        [w.numel() for w in weights],
        counts,
        rest[0],
        *(_code_tables(weights[0].device) if m_scale else (None, None)),
        *rest[1:],
    )
    for tensors, packed in zip(changed, dense, strict=True):
        for tensor, copy in zip(tensors, packed, strict=True):
            if copy is not tensor:
                tensor.copy_(copy)


def _kernel(
    run: Backend, weights: Lists, values: Lists, grads: Lists, m: Lists, v: Lists, *selection_and_rest: Any
) -> None:
    _launch(run, [weights, values, m, v, [], []], grads, list(selection_and_rest[:3]), selection_and_rest[3:])


def _kernel8(
    run: Backend,
    weights: Lists,
    values: Lists,
    grads: Lists,
    m: Lists,
    v: Lists,
    m_scale: Lists,
    v_scale: Lists,
    *selection_and_rest: Any,
) -> None:
    changed = [weights, values, m, v, m_scale, v_scale]
    _launch(run, changed, grads, list(selection_and_rest[:3]), selection_and_rest[3:])


# --- the ops ---


def _examples(bits: int) -> Callable[[torch.device, torch.dtype], list[tuple[Any, ...]]]:
    """Example arguments: weights with both encodings, both forms of gradients and a master copy, and one weight without
    a copy."""

    def make(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
        generator = torch.Generator().manual_seed(0)
        wide = torch.float64 if dtype is torch.float64 else torch.float32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, wide)

        def example(shapes: list[tuple[int, ...]], masters: bool) -> tuple[Any, ...]:
            weights = [normal(*shape).to(dtype) for shape in shapes]
            masks = [w.abs() < (1 / 64 if k == 0 else 0.5) for k, w in enumerate(weights)]
            selections = [Selection.from_mask(mask) for mask in masks]
            counts = [s.count for s in selections]
            grads = [normal(*s.shape).to(dtype) if k == 1 else normal(s.count) for k, s in enumerate(selections)]
            values = [w[mask].to(wide) for w, mask in zip(weights, masks, strict=True)] if masters else []
            state = [[normal(c) for c in counts], [normal(c).square() for c in counts]]
            if bits == 8:
                pairs = [[reference.quantize_blocks(t, k == 0) for t in state[k]] for k in range(2)]
                state = [[pair[part] for pair in pairs[k]] for part in range(2) for k in range(2)]
            lists = [weights, values, grads, *state, *_encodings(selections)]
            return (*lists, [3] * len(shapes), 1e-2, 0.9, 0.999, 1e-8, 1e-2)

        return [example([(20, 30), (6, 7, 3), (300,)], True), example([(31, 33)], False)]

    return make


def _encodings(selections: Sequence[Selection]) -> list[Lists]:
    """Lists of index, words and ranks. A selection has an empty tensor for what it does not use."""
    absent = torch.empty(0, device=selections[0].device)
    return [
        [absent if t is None else t for t in column] for column in zip(*(s.tensors for s in selections), strict=True)
    ]


_SELECTION = "Tensor[] index, Tensor[] words, Tensor[] ranks, int[] steps"
_RULE = "float lr, float beta1, float beta2, float eps, float weight_decay"
_STATE = "Tensor(a!)[] weights, Tensor(b!)[] values, Tensor[] grads, Tensor(c!)[] m, Tensor(d!)[] v"
BAKED = "steps and the learning rate"

STEP = Op(
    "sparse_adamw_",
    f"({_STATE}, {_SELECTION}, {_RULE}) -> ()",
    family="sparse_adamw",
    reference=reference.sparse_adamw_,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda *args: None,
    examples=_examples(32),
    baked=BAKED,
)

STEP8 = Op(
    "sparse_adamw8_",
    f"({_STATE}, Tensor(e!)[] m_scale, Tensor(f!)[] v_scale, {_SELECTION}, {_RULE}) -> ()",
    family="sparse_adamw",
    reference=reference.sparse_adamw8_,
    kernels=dict.fromkeys(KINDS, _kernel8),
    fake=lambda *args: None,
    examples=_examples(8),
    baked=BAKED,
)

# --- public functions ---
NAME, READ = "sparse_adamw_", ("selections", "grads")


def _fits(
    w: Tensor, s: Selection, g: Tensor, moments: Sequence[Tensor], scales: Sequence[Tensor], value: Tensor | None
) -> bool:
    """Whether the arguments of one weight are valid. Every step asks this for every weight, so it must be quick."""
    dtype, count, device = w.dtype, s.count, w.device
    chosen = s.index if s.words is None else s.words
    if dtype not in DTYPE_CODE or s.shape != w.shape or chosen is None or chosen.device != device:
        return False
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    size = (count,)
    if g.dtype not in (wide, dtype) or g.device != device or (g.shape != size and g.shape != w.shape):
        return False
    kept = torch.uint8 if scales else wide
    for t in moments:
        if t.dtype is not kept or t.shape != size or t.device != device:
            return False
    for t in scales:
        if t.dtype is not wide or t.shape != (-(-count // BLOCK),) or t.device != device:
            return False
    return value is None or (value.dtype is wide and value.shape == size and value.device == device)


def _explain(k: int, named: dict[str, Any]) -> None:
    """Raises the error for weight number ``k``."""
    w, s = named["weights"], named["selections"]
    checks.float_tensor(NAME, f"weights[{k}]", w)
    if not isinstance(s, Selection):
        raise TypeError(message(NAME, f"selections[{k}]", "a Selection", checks.describe(s)))
    if s.shape != w.shape:
        got = f"one of shape {tuple(s.shape)}"
        raise ValueError(message(NAME, f"selections[{k}]", f"a selection of shape {tuple(w.shape)}", got))
    wide, count, blocks = accumulation_dtype(w), (s.count,), (-(-s.count // BLOCK),)
    kept = torch.uint8 if "m_scale" in named else wide
    allowed = {"grads": {wide, w.dtype}, "m": {kept}, "v": {kept}}
    for name, t in named.items():
        if name in ("weights", "selections") or t is None:
            continue
        if not isinstance(t, Tensor) or t.dtype not in allowed.get(name, {wide}):
            expected = "a tensor of " + " or ".join(sorted(map(str, allowed.get(name, {wide}))))
            raise TypeError(message(NAME, f"{name}[{k}]", expected, checks.describe(t)))
        if name != "grads" or t.shape != w.shape:
            like = "(the selected entries" + (", or the weight's own shape)" if name == "grads" else ")")
            size, like = (blocks, "(blocks of 256 entries)") if name.endswith("_scale") else (count, like)
            checks.shape(NAME, f"{name}[{k}]", t, size, like)
        checks.same_device(NAME, f"{name}[{k}]", t, w, f"weights[{k}]")
    if s.device != w.device:
        raise ValueError(message(NAME, f"selections[{k}]", f"one on {w.device}, as the weight", f"one on {s.device}"))


def _check_rule(steps: Sequence[int], lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    for name, number in (("lr", lr), ("weight_decay", weight_decay)):
        checks.non_negative(NAME, name, number)
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise TypeError(message(NAME, "betas", "two numbers", checks.describe(betas)))
    for k, beta in enumerate(betas):
        checks.fraction(NAME, f"betas[{k}]", beta)
    checks.positive(NAME, "eps", eps)
    for k, step in enumerate(steps):
        checks.integer(NAME, f"steps[{k}]", step, wanted="a positive int, 1 at the first step")


def sparse_adamw_(
    weights: Sequence[Tensor],
    selections: Sequence[Selection],
    grads: Sequence[Tensor],
    m: Sequence[Tensor],
    v: Sequence[Tensor],
    steps: int | Sequence[int],
    *,
    values: Sequence[Tensor | None] | None = None,
    m_scale: Sequence[Tensor] | None = None,
    v_scale: Sequence[Tensor] | None = None,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> None:
    """One step of AdamW on selected entries of many weights, in place and in one kernel launch.

    Every list has one item for each weight. The ``count`` selected entries x of a weight, in ascending order of
    position, decay by ``1 - lr weight_decay``; m and v move towards the gradient and its square; then ``x -= lr m_hat /
    (sqrt(v_hat) + eps)``. All other entries keep their bits. Arithmetic is in float32 (float64 for float64 weights).

    Args:
        weights: tensors of any shapes, in float32, float64, float16 or bfloat16, also mixed. Contiguous tensors are
            fastest.
        selections: a :class:`~probkernels.ops.Selection` for each weight, in its shape. Positions are not checked.
        grads: gradients in shape (count), or in the weight's shape, from which the selected entries are read. In
            float32 (float64 for float64) or the weight's dtype.
        m: (count) first moments in float32 (float64 for float64), zeros before the first step. With scales, uint8
            codes.
        v: (count) second moments, in the form of ``m``.
        steps: number of this step, counted from 1; or one number for each weight.
        values: (count) master copies in float32 (float64 for float64). A step reads the master copy instead of the
            weight and writes both. None, for all weights or for one, reads the weight itself; in half precision this
            loses small steps.
        m_scale: (ceil(count / 256)) scales in the dtype of the master copies, zeros before the first step. Moments are
            then 8-bit codes: each is the nearest value of a codebook, times the absolute maximum of its block of 256.
            None keeps moments in full precision.
        v_scale: scales of ``v``, in the form of ``m_scale``. The codes of v stand for its square root.
        lr: learning rate.
        betas: decay rates of m and v.
        eps: added to the root in the denominator.
        weight_decay: decay of the selected entries, as in :class:`torch.optim.AdamW`.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a length, shape, device or range is wrong, or two tensors to change share memory.
        NotImplementedError: a tensor to change requires grad outside ``torch.no_grad()``.
        RuntimeError: a CUDA graph is captured: its replays would repeat the steps and the learning rate.

    Backends: C++ (CPU), CUDA (GPU), plain torch. Deterministic: the same bits for every number of threads.

    Reference: Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank
    Adaptation", ICLR 2025; 8-bit codes: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> w = torch.tensor([1.0, 0.1, 2.0, -0.1])
        >>> chosen = pk.ops.Selection.from_mask(w.abs() < 0.5)
        >>> m, v = torch.zeros(2), torch.zeros(2)
        >>> pk.ops.sparse_adamw_([w], [chosen], [torch.tensor([1.0, -3.0])], [m], [v], 1, lr=0.01, weight_decay=0)
        >>> w
        tensor([ 1.0000,  0.0900,  2.0000, -0.0900])
    """
    steps = list(steps) if isinstance(steps, Sequence) else [steps] * len(weights)
    lists: dict[str, Any] = {"weights": weights, "selections": selections, "grads": grads, "m": m, "v": v}
    if m_scale is not None or v_scale is not None:
        lists |= {"m_scale": m_scale or [], "v_scale": v_scale or []}
    lists["values"] = [None] * len(weights) if values is None else values
    for name, items in (*lists.items(), ("steps", steps)):
        if len(items) != len(weights):
            raise ValueError(message(NAME, name, f"{len(weights)} items, one a weight", str(len(items))))
    _check_rule(steps, lr, betas, eps, weight_decay)
    rows = list(zip(*lists.values(), steps, strict=True))
    for k, (w, s, g, *state, value, _) in enumerate(rows):
        try:
            good = _fits(w, s, g, state[:2], state[2:], value)
        except AttributeError:  # not even a tensor
            good = False
        if not good:
            _explain(k, {name: items[k] for name, items in lists.items()})
    changed = {name: [t for t in items if t is not None] for name, items in lists.items() if name not in READ}
    twice = checks.sharing([t for items in changed.values() for t in items])
    if twice is not None:
        name = next(name for name, items in changed.items() if any(t is twice for t in items))
        raise ValueError(message(NAME, name, "every tensor to change once", "one that shares memory with another"))
    rows = [row for row in rows if row[1].count]
    if rows:
        _call(rows, lr, *betas, eps, weight_decay)


def _call(rows: list[tuple[Any, ...]], *rule: float) -> None:
    """Runs the op on (weight, selection, grad, m, v, two scales or none, value or None, step) for every weight."""
    weights, selections, grads, m, v, *scales, values, steps = (list(column) for column in zip(*rows, strict=True))
    if all(value is None for value in values):
        values = []
    else:
        values = [w.new_empty(0) if value is None else value for w, value in zip(weights, values, strict=True)]
    op = STEP8 if scales else STEP
    op.call(weights, values, grads, m, v, *scales, *_encodings(selections), steps, *map(float, rule))


def quantize_blocks(x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Quantizes x to 8-bit codes in blocks of 256. ``sparse_adamw_`` keeps m (signed) and sqrt(v) (unsigned) in this
    form.

    A value is divided by the largest magnitude (absmax) of its block and becomes the nearest of 256 codebook values,
    which span seven decades. In decade i (0 .. 6) the error is at most 0.45 / 2^i of 10^i 1e-6 absmax, and half of that
    if unsigned.

    Args:
        x: (count) float32 or float64.
        signed: whether x has values of both signs. If False, all values must be >= 0, and the codes are twice as fine.

    Returns:
        codes (count) uint8, and the absmax of each block, (ceil(count / 256)) in x's dtype.

    Raises:
        TypeError: x is not float32 or float64.
        ValueError: x is not 1-D.

    Reference: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> codes, scale = pk.ops.quantize_blocks(torch.tensor([0.0, -4.0, 1.0]), signed=True)
        >>> codes.dtype, scale
        (torch.uint8, tensor([4.]))
        >>> pk.ops.dequantize_blocks(codes, scale, signed=True)
        tensor([ 0.0000, -3.9719,  0.9906])
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(message("quantize_blocks", "x", "a float32 or float64 tensor", checks.describe(x)))
    if x.dim() != 1:
        raise ValueError(message("quantize_blocks", "x", "shape (count)", f"shape {tuple(x.shape)}"))
    return reference.quantize_blocks(x, signed)


def dequantize_blocks(codes: Tensor, scale: Tensor, *, signed: bool) -> Tensor:
    """Converts 8-bit codes back to values: the inverse of :func:`quantize_blocks`, up to rounding.

    Args:
        codes: (count) uint8 codes.
        scale: (ceil(count / 256)) float32 or float64, the absmax of each block.
        signed: the ``signed`` given to :func:`quantize_blocks`.

    Returns:
        (count) in scale's dtype.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.

    Example:
        >>> import torch, probkernels as pk
        >>> codes, scale = pk.ops.quantize_blocks(torch.tensor([0.0, 0.5, 2.0]), signed=False)
        >>> pk.ops.dequantize_blocks(codes, scale, signed=False)
        tensor([0.0000, 0.5023, 2.0000])
    """
    name = "dequantize_blocks"
    if not isinstance(codes, Tensor) or codes.dtype is not torch.uint8:
        raise TypeError(message(name, "codes", "a uint8 tensor", checks.describe(codes)))
    if not isinstance(scale, Tensor) or scale.dtype not in (torch.float32, torch.float64):
        raise TypeError(message(name, "scale", "a float32 or float64 tensor", checks.describe(scale)))
    checks.shape(name, "codes", codes, (codes.numel(),), "(count)")
    checks.shape(name, "scale", scale, (-(-codes.numel() // BLOCK),), "(blocks of 256 codes)")
    return reference.dequantize_blocks(codes, scale, signed)
