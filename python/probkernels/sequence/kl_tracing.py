"""KL tracing: where a place goes, read off the change of predictions when it is changed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..ops.kl_rows import kl_rows
from .pointers import Block, Known, repeated, unknown_pointers, with_pairs
from .rollout import Psi, check_psi


class KLTrace(NamedTuple):
    """KL divergences (B, P) of a frame's pointers, 0 where the value was known; their argmax (B,) and maximum (B,)."""

    kl: Tensor
    pointer: Tensor
    peak: Tensor


def kl_trace(
    psi: Psi, known: Known, perturbed: Known, target: str, *, frame: Tensor | None = None, masks: Tensor | None = None
) -> KLTrace:
    """Finds where a perturbed place moves to: where the perturbation changes the predicted frame most.

    The change is KL(clean || perturbed), of the predictions without and with the perturbation, at all pointers of the
    target whose values are not known. Some known pointers of the target tell the motion. With ``masks`` the target is
    revealed in several ways, all in one call of the predictor; a pointer gets the mean over those that do not reveal
    it. From Lee et al., *Taming generative video models for zero-shot optical flow extraction*, 2025,
    https://arxiv.org/abs/2507.09082.

    Args:
        psi: predictor with ``logits`` and ``vocab``, see :class:`CallablePsi`.
        known: known pairs, without or with some of the target.
        perturbed: the same with other values at the tracers, see :func:`replaced`.
        target: modality of the frame in which to look.
        frame: (P,) or (B, P) values of the target, for ``masks``.
        masks: (M, k) or (B, M, k) pointers that each of M masks reveals.

    Returns:
        KL divergences, their argmax and maximum, see :func:`occlusion`.

    Raises:
        TypeError, ValueError: an unknown modality, a pointer twice, nothing left to ask, ``frame`` without ``masks``.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld, kl_trace, replaced
        >>> world = PatchWorld(6, "b")
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> known = scene.known("rgb0")
        >>> tracer = scene.owner0[0].argmax()[None]
        >>> codes = scene.values["rgb0"]
        >>> flipped = (codes[:, tracer] + 3) % 8 + 1  # the other code of this patch
        >>> masks = torch.randperm(36, generator=torch.Generator().manual_seed(0))[:24].view(1, 24)
        >>> trace = kl_trace(ExactPsi(world, eps=1e-6), known, replaced(known, "rgb0", tracer, flipped), "rgb1",
        ...                  frame=scene.values["rgb1"], masks=masks)
        >>> row, column = scene.motion[0, 0].tolist()
        >>> (trace.pointer - tracer == 6 * row + column).item(), round(trace.peak.item(), 3)
        (True, 13.815)
    """
    op, vocab = "kl_trace", check_psi("kl_trace", psi).vocab
    of = vocab.modality(op, "target", target)
    both = [vocab.blocks(op, known), vocab.blocks(op, perturbed)]
    rows = max([len(block.pointers) for blocks in both for block in blocks] or [1])
    if (frame is None) != (masks is None):
        raise ValueError(message(op, "frame", "'frame' and 'masks' together, or neither", "one of them"))
    number, shown = 1, {}
    if frame is not None and masks is not None:
        at, value, number = _revealed(frame, masks, of.num_pointers)
        rows = max(rows, len(at) // number)
        shown = {target: (_repeat_to(at, rows * number), _repeat_to(value, rows * number))}
    given = []
    for blocks in both:
        wide = [Block(name, p.expand(rows, -1), v.expand(rows, -1)) for name, p, v in blocks]
        more = repeated(wide, number)
        for name, pair in shown.items():
            more = with_pairs(more, name, *pair)
        given.append(more)
    asked = unknown_pointers(vocab.blocks(op, given[0]), target, of.num_pointers).expand(rows * number, -1)
    found = kl_rows(psi.logits(given[0], (target, asked)), psi.logits(given[1], (target, asked)))
    total = found.new_zeros(rows * number, of.num_pointers).scatter_(1, asked, found)
    count = torch.zeros_like(total).scatter_(1, asked, 1.0)
    total, count = (x.view(rows, number, -1).sum(1) for x in (total, count))
    kl = total / count.clamp(min=1)
    peak, pointer = kl.masked_fill(count == 0, -1.0).max(1)
    return KLTrace(kl, pointer, peak)


def _repeat_to(value: Tensor, rows: int) -> Tensor:
    return value.repeat(rows // len(value), 1)


def _revealed(frame: Tensor, masks: Tensor, number: int) -> tuple[Tensor, Tensor, int]:
    """Pointers and values (B M, k) that masks reveal, and M."""
    checks.integer_tensor("kl_trace", "frame", frame)
    checks.integer_tensor("kl_trace", "masks", masks)
    if frame.ndim not in (1, 2) or frame.shape[-1] != number:
        raise ValueError(message("kl_trace", "frame", f"shape ({number},) or (B, {number})", str(tuple(frame.shape))))
    if masks.ndim not in (2, 3) or 0 in masks.shape:
        expected = "shape (M, k) or (B, M, k), at least one pointer"
        raise ValueError(message("kl_trace", "masks", expected, f"shape {tuple(masks.shape)}"))
    masks = masks.long()
    wrong = (masks < 0) | (masks >= number)
    if bool(wrong.any()):
        expected = f"pointers from 0 to {number - 1}"
        raise ValueError(message("kl_trace", "masks", expected, checks.offender(masks, wrong)))
    at = masks.reshape(-1, *masks.shape[-2:])
    value = frame.long().reshape(-1, 1, number).expand(-1, at.shape[1], -1)
    rows = max(len(at), len(value))
    at, value = at.expand(rows, -1, -1), value.expand(rows, -1, -1)
    return at.flatten(0, 1), value.gather(2, at).flatten(0, 1), at.shape[1]


def occlusion(trace: KLTrace, threshold: float) -> Tensor:
    """Whether a traced place is hidden (B,): no KL divergence of its trace reaches the threshold.

    Args:
        trace: what :func:`kl_trace` returned.
        threshold: in nats.

    Raises:
        TypeError, ValueError: the threshold is no number >= 0.

    Example:
        >>> import torch
        >>> from probkernels.sequence import occlusion
        >>> from probkernels.sequence.kl_tracing import KLTrace
        >>> kl = torch.tensor([[0.0, 2.0], [0.1, 0.0]])
        >>> occlusion(KLTrace(kl, kl.argmax(1), kl.amax(1)), 0.5)
        tensor([False,  True])
    """
    checks.non_negative("occlusion", "threshold", threshold)
    return trace.peak < threshold
