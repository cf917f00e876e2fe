"""What is read off the exact predictor: the printed digits, objects, depth, occlusion; bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.sequence import (
    CallablePsi,
    ExactPsi,
    ParallaxWorld,
    PatchWorld,
    PointerVocab,
    counterfactual,
    depth_from_translation,
    kl_trace,
    motion_affordance,
    occlusion,
    otsu_threshold,
    poke_segment,
    replaced,
    segment_all,
)
from torch import Tensor

from .test_exact_psi import scene_at, seeded

F64 = torch.float64
TWO = PatchWorld(6, objects=2)
APART = [[(1, 1), (3, 3)]]


def one(*values: int) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("variant", ["a", "b"])
def test_kl_trace_of_the_sheet(variant: str) -> None:
    world = PatchWorld(6, variant)
    scene = scene_at(world, [(2, 2)], [(1, 0)])
    psi, known, frame = ExactPsi(world, [[(2, 2)]], eps=1e-6), scene.known("rgb0"), scene.values["rgb1"]
    code = scene.values["rgb0"][:, [14]]  # 1, or 1 or 5: the world of "a" cannot show another one
    changed = replaced(known, "rgb0", one(14), one(3) if variant == "a" else (code + 3) % 8 + 1)
    trace = kl_trace(psi, known, changed, "rgb1", frame=frame, masks=one(26, 0)[None])
    assert trace.pointer.item() == 20 and trace.peak.item() == pytest.approx(13.815, abs=1e-3)
    assert trace.kl[0].sort().values[-2] < 1e-5
    if variant == "a":
        return
    nothing = kl_trace(psi, known, changed, "rgb1")
    near = [6 * r + c for r in (1, 2, 3) for c in (1, 2, 3)]
    assert nothing.kl[0, near].tolist() == pytest.approx([1.2909] * 9, abs=1e-4)
    assert nothing.kl[0].sum() - nothing.kl[0, near].sum() < 1e-4
    assert occlusion(trace, 1.0).tolist() == [False] and occlusion(nothing, 2.0).tolist() == [True]


def test_masks_of_a_batch_are_their_mean_where_they_hide() -> None:
    world = PatchWorld(6, "b")
    scenes = world.sample(4, seeded())
    psi, known, frame = ExactPsi(world, eps=1e-6), scenes.known("rgb0"), scenes.values["rgb1"]
    tracer = (scenes.owner0 == 0).float().argmax(1)[:, None]
    flipped = (scenes.values["rgb0"].gather(1, tracer) + 3) % 8 + 1
    changed = replaced(known, "rgb0", tracer, flipped)
    masks = torch.stack([torch.randperm(36, generator=seeded(s))[:12] for s in range(3)])
    together = kl_trace(psi, known, changed, "rgb1", frame=frame, masks=masks)
    hidden = torch.ones(3, 36).scatter_(1, masks, 0.0)
    alone = torch.stack([
        kl_trace(psi, *({**of, "rgb1": (mask, frame[:, mask])} for of in (known, changed)), "rgb1").kl for mask in masks
    ])  # fmt: skip
    torch.testing.assert_close(together.kl, alone.sum(0) / hidden.sum(0).clamp(min=1))
    assert not (hidden.sum(0)[together.pointer] == 0).any()
    moved = tracer[:, 0] + (scenes.motion[:, 0] * one(6, 1)).sum(1)
    assert (together.pointer == moved).sum() >= 3


def test_a_covered_patch_is_occluded() -> None:
    scene = scene_at(TWO, APART[0], [(1, 1), (-1, -1)])  # A moves under B
    psi, known, frame = ExactPsi(TWO, APART, eps=1e-6), scene.known("rgb0"), scene.values["rgb1"]
    masks = one(*(i for i in range(36) if i not in (14, 20, 21)))[None]  # the rest of B, which covers all of A
    peaks = [
        occlusion(kl_trace(psi, known, replaced(known, "rgb0", one(at), one(3)), "rgb1", frame=frame, masks=masks), 0.5)
        for at in (7, 28)
    ]
    assert [peak.item() for peak in peaks] == [True, False]


def test_segments_of_the_sheet() -> None:
    scene = scene_at(TWO, APART[0], [(0, 0), (0, 1)])
    psi, known = ExactPsi(TWO, APART), scene.known("rgb0")
    owner = scene.owner0[0]
    segment = poke_segment(psi, known, 8, TWO.vectors)
    assert segment.dot[0].tolist() == pytest.approx([1.5 if owner[i] == 0 else 0.0 for i in range(36)], abs=1e-12)
    assert torch.equal(segment.mask[0], owner == 0)
    both = poke_segment(psi, known, one(8, 22), TWO.vectors)
    assert torch.equal(both.mask, torch.stack([owner == 0, owner == 1]))
    sequential = poke_segment(psi, known, 8, TWO.vectors, pokes=one(0, 8), rollouts=2, generator=seeded())
    assert sequential.dot[0, owner == 0].tolist() == [2.0] * 4
    movable = motion_affordance(psi, known, TWO.vectors)[0]
    assert movable.tolist() == pytest.approx([8 / 9 if owner[i] >= 0 else 0.0 for i in range(36)], abs=1e-12)
    assert torch.equal(segment_all(psi, known, TWO.vectors)[0], owner)
    anchored = {**known, "flow": (one(8), one(TWO.token((0, 0))))}
    assert motion_affordance(psi, anchored, TWO.vectors)[0, owner == 0].sum() < 1e-12
    assert torch.equal(segment_all(psi, anchored, TWO.vectors)[0] == 0, owner == 1)
    assert segment_all(psi, known, TWO.vectors, most=1).amax() == 0


def test_depth_is_exact() -> None:
    world = ParallaxWorld(8, "b")
    scenes = world.sample(5, seeded())
    for token, c in ((0, -2.0), (2, 2.0)):
        depth = depth_from_translation(ExactPsi(world), scenes.known("rgb0"), token, world.vectors, c)
        torch.testing.assert_close(depth, world.depth(scenes).double(), rtol=1e-12, atol=0)
    assert depth_from_translation(ExactPsi(world), scenes.known("rgb0"), 1, world.vectors, 1.0).amin() > 1e12


def test_moved_objects() -> None:
    scene = scene_at(TWO, APART[0], [(0, 0), (0, 1)])
    psi, known = ExactPsi(TWO, APART), scene.known("rgb0")
    tokens = one(TWO.token((-1, 0)), TWO.token((1, 1)))
    frame = counterfactual(psi, known, one(7, 21), tokens, "rgb1", generator=seeded())
    assert frame.view(6, 6).nonzero().tolist() == [[r, c] for r, c in
        ((0, 1), (0, 2), (1, 1), (1, 2), (4, 4), (4, 5), (5, 4), (5, 5))]  # fmt: skip


def test_otsu_is_the_best_split() -> None:
    found = otsu_threshold(torch.tensor([[0.0] * 32 + [1.5] * 4, [2.0] * 36]))
    assert 0 < found[0] < 1.5 and found[1] == 2
    values = torch.rand(20, generator=seeded(), dtype=F64).round(decimals=1)
    best = max(values.unique()[1:].tolist(), key=lambda t: _between(values, t))
    assert _between(values, otsu_threshold(values).item()) == pytest.approx(_between(values, best))
    assert otsu_threshold(torch.tensor([3.0])) == 3


def _between(values: Tensor, threshold: float) -> float:
    low, high = values[values < threshold], values[values >= threshold]
    return len(low) * len(high) * (low.mean() - high.mean()).item() ** 2


def test_one_batched_call_for_all_pokes() -> None:
    calls = []
    exact = ExactPsi(TWO, APART)

    def counted(known: Any, query: Any) -> Tensor:
        calls.append(len(query[1]))
        return exact.logits(known, query)

    psi = CallablePsi(counted, TWO.vocab)
    scene = scene_at(TWO, APART[0], [(0, 0), (0, 1)])
    poke_segment(psi, scene.known("rgb0"), one(8, 22), TWO.vectors)
    assert calls == [16]
    segment_all(psi, scene.known("rgb0"), TWO.vectors)
    assert calls == [16, 1, 64]


BAD: list[tuple[Any, str]] = [
    (lambda psi, known: motion_affordance(psi, known, torch.zeros(9, 2), flow="flo"), "'flow'.*did you mean 'flow'"),
    (lambda psi, known: motion_affordance(psi, known, torch.zeros(9, 3)), "vectors"),
    (lambda psi, known: poke_segment(psi, known, 36, TWO.vectors), "pointers from 0 to 35, got 36"),
    (lambda psi, known: poke_segment(psi, {**known, "flow": (one(3), one(0))}, 3, TWO.vectors), "each pointer once"),
    (lambda psi, known: poke_segment(psi, known, 3, TWO.vectors, pokes=one()), "at least one token|integer"),
    (lambda psi, known: poke_segment(psi, known, 3, TWO.vectors, pokes=one(9)), "tokens from 0 to 8"),
    (lambda psi, known: kl_trace(psi, known, known, "rgb2"), "'target'"),
    (lambda psi, known: kl_trace(psi, known, known, "rgb0"), "at least one pointer"),
    (lambda psi, known: kl_trace(psi, known, known, "rgb1", masks=one(1)[None]), "together"),
    (
        lambda psi, known: kl_trace(psi, known, known, "rgb1", frame=torch.arange(36) % 4, masks=one(1, 1)[None]),
        "each pointer once",
    ),
    (
        lambda psi, known: kl_trace(psi, known, known, "rgb1", frame=torch.arange(36), masks=one(1)[None][:, :0]),
        "at least one pointer",
    ),
    (lambda psi, known: replaced(known, "flow", one(1), one(1)), "a modality that is known"),
    (lambda psi, known: replaced({"rgb0": (one(2), one(1))}, "rgb0", one(1), one(1)), "known pointers of 'rgb0'"),
    (lambda psi, known: counterfactual(psi, known, one(1, 1), one(1, 2), "rgb1"), "each pointer once"),
    (lambda psi, known: depth_from_translation(psi, known, 0, TWO.vectors, 1.0), "'camera'"),
    (lambda psi, known: occlusion(kl_trace(psi, known, known, "rgb1"), -1.0), "threshold"),
    (lambda psi, known: otsu_threshold(torch.tensor([math.nan])), "finite"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_refused(case: int) -> None:
    call, match = BAD[case]
    with pytest.raises((ValueError, TypeError), match=match):
        call(ExactPsi(TWO, APART), {"rgb0": (torch.arange(36), torch.zeros(36, dtype=torch.long))})


def test_a_predictor_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(TypeError, match="CallablePsi"):
        motion_affordance(lambda known, query: known, {}, TWO.vectors)  # type: ignore[arg-type]
    assert isinstance(TWO.vocab, PointerVocab)
