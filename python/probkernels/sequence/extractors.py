"""Structure read off a predictor by asking what would be: motion, segments, depth, and moved objects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .pointers import Block, Known, repeated, unknown_pointers, with_pairs
from .rollout import Psi, check_psi, rollout


def otsu_threshold(values: Tensor) -> Tensor:
    """Threshold (...) that splits each row (..., N) in two with the largest variance between the parts, exactly.

    It lies in the middle between two values; where all are equal it is that value, so that none is above.

    Raises:
        TypeError, ValueError: values are no finite floating-point tensor, or there are none.

    Example:
        >>> import torch
        >>> from probkernels.sequence import otsu_threshold
        >>> otsu_threshold(torch.tensor([0.0, 0.1, 0.0, 1.4, 1.5]))
        tensor(0.7500)
    """
    checks.float_tensor("otsu_threshold", "values", values, checks.AS_TENSOR)
    if not values.ndim or not values.shape[-1]:
        expected = "shape (..., N), N >= 1"
        raise ValueError(message("otsu_threshold", "values", expected, f"shape {tuple(values.shape)}"))
    checks.finite("otsu_threshold", "values", values)
    ordered = values.double().sort(-1).values
    n = ordered.shape[-1]
    if n == 1:
        return values[..., 0]
    below = torch.arange(1, n, device=values.device, dtype=torch.float64)
    sums = ordered.cumsum(-1)
    gap = (sums[..., -1:] - sums[..., :-1]) / (n - below) - sums[..., :-1] / below
    between = below * (n - below) * gap.square()
    low, high = ordered[..., :-1], ordered[..., 1:]
    best = between.masked_fill(low == high, -1.0).argmax(-1, keepdim=True)
    middle = ((low + high) / 2).gather(-1, best)[..., 0]
    return torch.where(ordered[..., 0] == ordered[..., -1], ordered[..., -1], middle).to(values.dtype)


class _Flow:
    """Questions about one flow modality: checks, and expected motions of all its pointers."""

    def __init__(self, op: str, psi: Psi, flow: str, vectors: Tensor) -> None:
        self.psi, self.name, self.op = check_psi(op, psi), flow, op
        self.of = psi.vocab.modality(op, "flow", flow)
        checks.float_tensor(op, "vectors", vectors, checks.AS_TENSOR)
        checks.shape(op, "vectors", vectors, (self.of.num_values, 2), f"(rows and columns of '{flow}' tokens)")
        checks.finite(op, "vectors", vectors)
        self.vectors = vectors

    def probs(self, known: Known) -> Tensor:
        """(B, P, V) probabilities of the tokens of all pointers; those that are known are certain."""
        blocks = self.psi.vocab.blocks(self.op, known)
        asked = unknown_pointers(blocks, self.name, self.of.num_pointers)
        p = self.psi.logits(known, (self.name, asked)).softmax(-1)
        found = p.new_zeros(len(p), self.of.num_pointers, p.shape[-1])
        found.scatter_(1, asked.expand(len(p), -1)[..., None].expand_as(p), p)
        for block in blocks:
            if block.name == self.name:
                rows = torch.arange(len(block.pointers), device=p.device)[:, None]
                found[rows, block.pointers, block.values] = 1.0
        return found

    def motion(self, known: Known, rollouts: int, generator: torch.Generator | None) -> Tensor:
        """(B, P, 2) expected motion: of marginals, or the mean over sequential rollouts."""
        if not rollouts:
            p = self.probs(known)
            return p @ self.vectors.to(p)
        blocks = self.psi.vocab.blocks(self.op, known)
        asked = unknown_pointers(blocks, self.name, self.of.num_pointers)
        rows = asked.repeat_interleave(rollouts, 0)
        drawn = rollout(self.psi, repeated(blocks, rollouts), (self.name, rows), generator=generator)
        tokens = torch.zeros(len(rows), self.of.num_pointers, dtype=torch.long, device=drawn.device)
        tokens.scatter_(1, rows, drawn)
        for block in blocks:
            if block.name == self.name:
                again = repeated([block], rollouts)[self.name]
                tokens.scatter_(1, *again)
        return self.vectors[tokens].unflatten(0, (-1, rollouts)).mean(1)

    def poked(
        self, known: Known, at: Tensor, pokes: Tensor, rollouts: int, generator: torch.Generator | None
    ) -> Tensor:
        """(B, R, P, 2) motions if the pointer at (B,) moves by each of R pokes: all in one batch."""
        blocks = self.psi.vocab.blocks(self.op, known)
        rows = max([len(at), *(len(block.pointers) for block in blocks)])
        wide = [Block(name, p.expand(rows, -1), v.expand(rows, -1)) for name, p, v in blocks]
        where = at.expand(rows).repeat_interleave(len(pokes))[:, None]
        given = with_pairs(repeated(wide, len(pokes)), self.name, where, pokes.repeat(rows)[:, None])
        return self.motion(given, rollouts, generator).unflatten(0, (rows, len(pokes)))

    def pokes(self, pokes: Tensor | None) -> Tensor:
        """Tokens (R,) of pokes, checked; by default all that move."""
        if pokes is None:
            pokes = (self.vectors.norm(dim=1) > 0).nonzero()[:, 0]
        checks.integer_tensor(self.op, "pokes", pokes)
        pokes = pokes.long()
        wrong = (pokes < 0) | (pokes >= self.of.num_values)
        if pokes.ndim != 1 or not len(pokes):
            raise ValueError(message(self.op, "pokes", "shape (R,), at least one token", f"shape {tuple(pokes.shape)}"))
        if bool(wrong.any()):
            expected = f"tokens from 0 to {self.of.num_values - 1}"
            raise ValueError(message(self.op, "pokes", expected, checks.offender(pokes, wrong)))
        return pokes


def motion_affordance(psi: Psi, known: Known, vectors: Tensor, *, flow: str = "flow", tau: float = 0.5) -> Tensor:
    """Probability (B, P) that what is at each place moves farther than ``tau``.

    Args:
        psi: predictor with ``logits`` and ``vocab``, see :class:`CallablePsi`.
        known: known pairs, such as a frame and a camera that stands still.
        vectors: (V, 2) rows and columns that each flow token stands for, floating-point.
        flow: the modality of flow.
        tau: shortest motion that does not count.

    Raises:
        TypeError, ValueError: an unknown modality, or an argument of another shape, dtype or range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld, motion_affordance
        >>> world = PatchWorld(4)
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> motion_affordance(ExactPsi(world), scene.known("rgb0"), world.vectors).float().round(decimals=4)[0, :8]
        tensor([0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.8889, 0.8889, 0.0000])
    """
    checks.non_negative("motion_affordance", "tau", tau)
    p = _Flow("motion_affordance", psi, flow, vectors).probs(known)
    return p[..., vectors.norm(dim=1).to(p.device) > tau].sum(-1)


class Segment(NamedTuple):
    """What moves with a place: mean products of motion and poke (B, P), their threshold (B,), and what lies above it
    (B, P)."""

    dot: Tensor
    threshold: Tensor
    mask: Tensor


def poke_segment(
    psi: Psi,
    known: Known,
    pointer: int | Tensor,
    vectors: Tensor,
    *,
    pokes: Tensor | None = None,
    flow: str = "flow",
    rollouts: int = 0,
    generator: torch.Generator | None = None,
) -> Segment:
    """What belongs to a place: all that is expected to move with it when it is poked in several directions.

    All pokes are one batch. Otsu's threshold divides the mean products of poke and expected motion in two. From
    Venkatesh et al., *Discovering and using Spelke segments*, 2025, https://arxiv.org/abs/2507.16038. ``psi``,
    ``known``, ``vectors`` and ``flow`` are those of :func:`motion_affordance`; anchors that stand still may be known.

    Args:
        pointer: the place, or (B,) one for each row.
        pokes: (R,) flow tokens that are given to it; None for all that move.
        rollouts: number of sequential draws of the flow of which the mean is taken; 0 for expectations of all places
            at once.
        generator: of rollouts.

    Raises:
        TypeError, ValueError: an unknown modality, a pointer that is known to move already, no pokes, or an argument of
            another shape, dtype or range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld, poke_segment
        >>> world = PatchWorld(4)
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> poke_segment(ExactPsi(world), scene.known("rgb0"), 5, world.vectors).mask.nonzero()[:, 1]
        tensor([ 5,  6,  9, 10])
    """
    asked = _Flow("poke_segment", psi, flow, vectors)
    checks.integer("poke_segment", "rollouts", rollouts, least=0)
    at = torch.as_tensor(pointer)
    checks.integer_tensor("poke_segment", "pointer", at)
    if at.ndim > 1:
        raise ValueError(message("poke_segment", "pointer", "a number or shape (B,)", f"shape {tuple(at.shape)}"))
    tokens = asked.pokes(pokes)
    moved = asked.poked(known, at.reshape(-1).long(), tokens, rollouts, generator)
    dot = (moved * vectors[tokens].to(moved)[:, None]).sum(-1).mean(1)
    threshold = otsu_threshold(dot)
    return Segment(dot, threshold, dot > threshold[:, None])


def segment_all(
    psi: Psi,
    known: Known,
    vectors: Tensor,
    *,
    pokes: Tensor | None = None,
    flow: str = "flow",
    movable: float = 0.5,
    tau: float = 0.5,
    most: int | None = None,
    rollouts: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """All objects: places that move alike whatever is poked. Labels (B, P) from 0, -1 for what belongs to none.

    Every place that can move is poked, all of a scene in one batch. Each place is described by its motions in all of
    these; the affinity of two places is their product. Segments are taken one after the other: the row of the place of
    highest mean affinity is split by Otsu's threshold, the rows of those above it are averaged and split again. Other
    arguments are those of :func:`poke_segment`.

    Args:
        movable: places with a smaller probability of motion are not poked and belong to no object.
        tau: shortest motion that does not count, see :func:`motion_affordance`.
        most: largest number of objects; None for any.

    Raises:
        TypeError, ValueError: as :func:`poke_segment`.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld, segment_all
        >>> world, layout = PatchWorld(6, objects=2), [[(1, 1), (3, 3)]]
        >>> known = ExactPsi(world, layout).logits({}, ("rgb0", torch.arange(36))).argmax(-1)
        >>> segment_all(ExactPsi(world, layout), {"rgb0": (torch.arange(36), known)}, world.vectors).view(6, 6)
        tensor([[-1, -1, -1, -1, -1, -1],
                [-1,  0,  0, -1, -1, -1],
                [-1,  0,  0, -1, -1, -1],
                [-1, -1, -1,  1,  1, -1],
                [-1, -1, -1,  1,  1, -1],
                [-1, -1, -1, -1, -1, -1]])
    """
    op = "segment_all"
    asked = _Flow(op, psi, flow, vectors)
    checks.unit_interval(op, "movable", movable)
    checks.integer(op, "rollouts", rollouts, least=0)
    most = checks.integer(op, "most", asked.of.num_pointers if most is None else most)
    tokens = asked.pokes(pokes)
    blocks = psi.vocab.blocks(op, known)
    can_move = motion_affordance(psi, known, vectors, flow=flow, tau=tau) > movable
    fixed = torch.zeros_like(can_move)
    for block in blocks:
        if block.name == flow:
            fixed.scatter_(1, block.pointers.expand(len(fixed), -1), True)
    labels = torch.full(can_move.shape, -1, device=can_move.device)
    for row, candidates in enumerate(can_move & ~fixed):
        places = candidates.nonzero()[:, 0]
        if len(places):
            scene = repeated([Block(name, p[[row % len(p)]], v[[row % len(v)]]) for name, p, v in blocks])
            moved = asked.poked(scene, places, tokens, rollouts, generator)  # (N, R, P, 2)
            described = moved.permute(2, 0, 1, 3).flatten(1)
            labels[row] = _split(described @ described.mT, candidates, most)
    return labels


def _split(affinity: Tensor, candidates: Tensor, most: int) -> Tensor:
    """Labels (P,) of groups with affinity to each other."""
    labels = torch.full_like(candidates, -1, dtype=torch.long)
    left = torch.ones_like(candidates)  # the background stays, for contrast
    for label in range(most):
        open_ = candidates & left
        if not bool(open_.any()):
            break
        start = affinity[:, open_].mean(1).masked_fill(~open_, -torch.inf).argmax()
        inside = torch.zeros_like(left)
        inside[left] = affinity[start][left] > otsu_threshold(affinity[start][left])
        inside[start] = True
        mean = affinity[inside].mean(0)
        group = torch.zeros_like(left)
        group[left] = mean[left] > otsu_threshold(mean[left])
        group[start] = True
        labels[group & candidates] = label
        left &= ~group
    return labels


def depth_from_translation(
    psi: Psi,
    known: Known,
    token: int,
    vectors: Tensor,
    translation: float,
    *,
    camera: str = "camera",
    flow: str = "flow",
) -> Tensor:
    """Depth (B, P) of all places: the length of a sideways movement of the camera, divided by that of the flow.

    ``psi``, ``known``, ``vectors`` and ``flow`` are those of :func:`motion_affordance`.

    Args:
        token: the camera token of the movement.
        translation: its length, in the unit in which depth is wanted times that of ``vectors``.
        camera: the modality of the camera, with one pointer.

    Returns:
        Depths; infinite where nothing flows.

    Raises:
        TypeError, ValueError: an unknown modality, a camera that is known already, no translation, or an argument of
            another shape, dtype or range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, ParallaxWorld, depth_from_translation
        >>> world = ParallaxWorld()
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> depth = depth_from_translation(ExactPsi(world), scene.known("rgb0"), 2, world.vectors, 2.0)
        >>> torch.allclose(depth.float(), world.depth(scene))
        True
    """
    op = "depth_from_translation"
    asked = _Flow(op, psi, flow, vectors)
    size = abs(checks.number(op, "translation", translation))
    if not size:
        raise ValueError(message(op, "translation", "a movement", "0"))
    of = psi.vocab.modality(op, "camera", camera)
    checks.integer(op, "token", token, least=0, most=of.num_values - 1)
    blocks = psi.vocab.blocks(op, known)
    _, at = psi.vocab.asked(op, (camera, torch.zeros(1, dtype=torch.long, device=vectors.device)), blocks)
    given = with_pairs(repeated(blocks), camera, at, torch.full_like(at, token))
    return size / asked.motion(given, 0, None).norm(dim=-1)


def counterfactual(
    psi: Psi,
    known: Known,
    pointers: Tensor,
    tokens: Tensor,
    target: str,
    *,
    flow: str = "flow",
    parallel_after: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws the frame (B, P) that would follow if some places moved as told.

    ``psi``, ``known`` and ``flow`` are those of :func:`motion_affordance`, other options those of :func:`rollout`.

    Args:
        pointers: (k,) or (B, k) places that get a motion.
        tokens: (k,) or (B, k) flow tokens of their motions.
        target: the modality of the frame.

    Raises:
        TypeError, ValueError: an unknown modality, a place twice or with known flow, or another shape or dtype.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld, counterfactual
        >>> world = PatchWorld(4)
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> up = torch.tensor([world.token((-1, 0))])
        >>> counterfactual(ExactPsi(world), scene.known("rgb0"), torch.tensor([5]), up, "rgb1").view(4, 4)
        tensor([[0, 1, 2, 0],
                [0, 3, 4, 0],
                [0, 0, 0, 0],
                [0, 0, 0, 0]])
    """
    op = "counterfactual"
    vocab = check_psi(op, psi).vocab
    blocks = vocab.blocks(op, known)
    [poke] = vocab.blocks(op, {flow: (pointers, tokens)})
    vocab.asked(op, (flow, poke.pointers), blocks)  # none of them may be known
    of = vocab.modality(op, "target", target)
    rows = max([len(poke.pointers), *(len(block.pointers) for block in blocks)])
    wide = [Block(name, p.expand(rows, -1), v.expand(rows, -1)) for name, p, v in blocks]
    given = with_pairs(repeated(wide), flow, poke.pointers.expand(rows, -1), poke.values.expand(rows, -1))
    asked = unknown_pointers(vocab.blocks(op, given), target, of.num_pointers)
    drawn = rollout(psi, given, (target, asked), parallel_after=parallel_after, generator=generator)
    frame = torch.zeros(len(asked), of.num_pointers, dtype=torch.long, device=drawn.device).scatter_(1, asked, drawn)
    return frame if target not in given else frame.scatter_(1, *given[target])
