"""The exact predictor: the printed digits, the chain rule in any order, brute force over scenes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.sequence import CallablePsi, ExactPsi, ParallaxWorld, PatchWorld, rollout
from torch import Tensor

LN9 = math.log(9)
ALL = torch.arange(36)
FAR = [[(1, 1), (3, 3)]]  # a layout of two objects


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_at(world: PatchWorld | ParallaxWorld, position: Any, motion: Any) -> Any:
    """The first drawn scene with these positions and motions."""
    for seed in range(20):
        scenes = world.sample(2000, seeded(seed))
        found = (scenes.position == torch.tensor(position)).all(-1).all(-1)
        found &= (scenes.motion == torch.tensor(motion)).all(-1).all(-1)
        if found.any():
            one = found.nonzero()[:1, 0]
            values = {name: value[one] for name, value in scenes.values.items()}
            return type(scenes)(values, *(t[one] for t in scenes[1:]))
    raise AssertionError("not drawn")


def nll(psi: ExactPsi, known: dict, name: str, frame: Tensor, order: Tensor) -> float:
    """Minus the log-probability of a frame by the chain rule."""
    total = 0.0
    for step, pointer in enumerate(order):
        before = {**known, name: (order[:step], frame[0, order[:step]])}
        total -= psi.logits(before, (name, pointer[None]))[0, 0, frame[0, pointer]].item()
    return total


@pytest.mark.parametrize("variant", ["a", "b", "c"])
def test_chain_rule_in_any_order(variant: str) -> None:
    world = PatchWorld(6, variant)
    scene = scene_at(world, [(2, 2)], [(1, 0)])
    psi = ExactPsi(world, [[(r, c)] for r in (1, 2) for c in (2, 3)])
    known, frame = scene.known("rgb0"), scene.values["rgb1"]
    totals = [nll(psi, known, "rgb1", frame, torch.randperm(36, generator=seeded(s))) for s in range(3)]
    assert totals == pytest.approx([2.1972246] * 3, abs=5e-8)
    assert max(totals) - min(totals) < 1e-13
    logits = psi.logits(known, ("rgb1", ALL))
    assert logits.exp().sum(-1).allclose(torch.ones((), dtype=torch.float64))
    assert -logits[0].gather(1, frame.T).sum().item() == pytest.approx(11.9434904, abs=5e-8)


def test_a_poke_removes_ln_9_for_each_object() -> None:
    world = PatchWorld()
    scene = scene_at(world, [(2, 2)], [(1, 0)])
    psi, known, frame = ExactPsi(world), scene.known("rgb0"), scene.values["rgb1"]
    flow = scene.values["flow"]
    entropy = -(psi.logits(known, ("flow", ALL))[0]).exp().mul(psi.logits(known, ("flow", ALL))[0]).sum(-1)
    assert entropy[flow[0] != 4].tolist() == pytest.approx([LN9] * 4)
    assert entropy[flow[0] == 4].abs().max() < 1e-12
    for pointer, expected in ((14, 0.0), (0, LN9)):
        poked = {**known, "flow": (torch.tensor([pointer]), flow[:, [pointer]])}
        assert nll(psi, poked, "rgb1", frame, ALL) == pytest.approx(expected, abs=1e-12)

    world = PatchWorld(objects=2)
    scene = scene_at(world, FAR[0], [(0, -1), (1, 1)])
    psi, known, frame, flow = ExactPsi(world, FAR), scene.known("rgb0"), scene.values["rgb1"], scene.values["flow"]
    for pokes, left in (([], 2), ([7], 1), ([28], 1), ([28, 8], 0)):
        poked = {**known, "flow": (torch.tensor(pokes, dtype=torch.long), flow[0, pokes])}
        assert nll(psi, poked, "rgb1", frame, ALL) == pytest.approx(left * LN9, abs=1e-12)


def test_equals_counting_scenes() -> None:
    """Partial knowledge of three modalities, with occlusion: frequencies among all scenes that agree with it."""
    world = PatchWorld(5, "b", objects=2)
    layouts = [[(1, 1), (2, 2)], [(1, 2), (1, 1)]]
    bits = torch.cartesian_prod(*[torch.tensor([0, 4])] * 8) + torch.tensor([1, 2, 3, 4] * 2)
    cells = world.hypotheses(layouts).cells
    table = {
        name: torch.where(of[:, None] < 0, bits[:, (-1 - of).clamp(min=0)].transpose(0, 1), of[:, None]).flatten(0, 1)
        for name, of in cells.items()
    }
    for seed in range(6):
        pick = torch.randint(len(table["rgb0"]), (), generator=seeded(seed))
        at = {name: torch.randperm(25, generator=seeded(seed + 9 * n))[:6] for n, name in enumerate(table)}
        known = {name: (places[:-2], table[name][pick, places[:-2]]) for name, places in at.items()}
        agree = torch.stack([(table[n][:, p] == v).all(1) for n, (p, v) in known.items()]).all(0)
        for name, places in at.items():
            found = ExactPsi(world, layouts).logits(known, (name, places[-2:]))[0].exp()
            width = world.vocab[name].num_values
            counts = [torch.bincount(table[name][agree, p], minlength=width) for p in places[-2:]]
            torch.testing.assert_close(found, torch.stack(counts) / agree.sum().double())


def test_order_of_context_and_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PatchWorld(6, "b")
    scenes = world.sample(3, seeded())
    psi, known = ExactPsi(world), scenes.known("rgb0")
    order = torch.randperm(36, generator=seeded())
    shuffled = {"rgb0": (order, scenes.values["rgb0"][:, order])}
    together = psi.logits(known, ("rgb1", ALL))
    torch.testing.assert_close(psi.logits(shuffled, ("rgb1", ALL)), together, rtol=0, atol=1e-13)
    monkeypatch.setattr("probkernels.sequence.exact_psi.ENTRIES", 1)
    torch.testing.assert_close(psi.logits(known, ("rgb1", ALL)), together, rtol=0, atol=1e-13)


def test_rollouts_are_draws_of_whole_frames() -> None:
    world = PatchWorld(6, "b")
    scene = world.sample(1, seeded())
    psi, query = ExactPsi(world, scene.position.tolist()), ("rgb1", ALL.expand(200, -1))
    frames = rollout(psi, scene.known("rgb0"), query, generator=seeded())
    assert torch.equal(frames.sort(1).values, scene.values["rgb0"].sort(1).values.expand(200, -1))
    assert len(frames.unique(dim=0)) == 9
    assert torch.equal(frames, rollout(psi, scene.known("rgb0"), query, generator=seeded()))
    mixed = rollout(psi, scene.known("rgb0"), query, parallel_after=0, generator=seeded())
    assert len(mixed.unique(dim=0)) > 100  # marginals, not whole objects
    first = torch.argsort((scene.values["rgb0"][0] == 0).long(), stable=True)
    given = rollout(psi, scene.known("rgb0"), query, order=first, parallel_after=20, generator=seeded())
    assert int(((given > 0).sum(1) == 4).sum()) > 100
    with pytest.raises(ValueError, match="a permutation"):
        rollout(psi, scene.known("rgb0"), query, order=torch.zeros(36, dtype=torch.long))
    with pytest.raises(TypeError, match="CallablePsi"):
        rollout(lambda known, query: None, {}, query)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="vocab"):
        CallablePsi(psi.logits, {})  # type: ignore[arg-type]
