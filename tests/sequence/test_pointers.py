"""Ids of values and pointers, packing, growth; the worlds' truth; bad input."""

from __future__ import annotations

import pytest
import torch
from probkernels.sequence import ExactPsi, ParallaxWorld, PatchWorld, PixelWorld, PointerVocab

VOCAB = PointerVocab({"rgb0": (5, (2, 3)), "flow": (9, (2, 3)), "camera": (3, (1, 1))})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ranges_are_disjoint_and_stay_when_a_modality_is_added() -> None:
    vocab = PointerVocab({"rgb0": (5, (2, 3)), "flow": (9, (2, 3))})
    before = dict(vocab.modalities)
    vocab.grow("depth", 4, (1, 2))
    assert {name: vocab[name] for name in before} == before
    taken = [0]
    for of in vocab.modalities.values():
        taken += range(of.first_value, of.first_value + of.num_values)
        taken += range(of.first_pointer, of.first_pointer + of.num_pointers)
    assert taken == list(range(vocab.size))


def test_pack_is_undone_by_unpack() -> None:
    known = {
        "flow": (torch.tensor([[5, 0], [1, 2]]), torch.tensor([[8, 0], [3, 4]])),
        "rgb0": (torch.tensor([[3], [4]]), torch.tensor([[0], [4]])),
    }
    sequence = VOCAB.pack(known)
    assert sequence.target.shape == (2, 3)
    assert torch.equal(sequence.content[:, 1:], sequence.target[:, :-1])
    assert torch.equal(sequence.pointer[:, 1:], sequence.next_pointer[:, :-1])
    assert not sequence.content[:, 0].any() and not sequence.pointer[:, 0].any()
    found = VOCAB.unpack(sequence)
    assert set(found) == set(known)
    assert all(torch.equal(a, b) for name in known for a, b in zip(known[name], found[name], strict=True))
    with pytest.raises(ValueError, match="values of one modality"):
        VOCAB.unpack(sequence._replace(target=sequence.target.flip(1)))


@pytest.mark.parametrize(
    ("known", "query", "match"),
    [
        ({}, ("rbg0", torch.tensor([0])), r"'query': expected a modality .*did you mean 'rgb0'"),
        ({"depth": (torch.tensor([0]), torch.tensor([0]))}, ("flow", torch.tensor([0])), "'known': expected a modal"),
        ({}, ("flow", torch.tensor([1, 4, 1])), r"'query': expected each pointer once, got again 1 at \[0, 2\]"),
        ({"flow": (torch.tensor([1, 1]), torch.tensor([0, 2]))}, ("rgb0", torch.tensor([0])), "each pointer once"),
        ({"flow": (torch.tensor([1]), torch.tensor([0]))}, ("flow", torch.tensor([1])), "that are not known, got poi"),
        ({}, ("flow", torch.zeros(0, dtype=torch.long)), "at least one pointer"),
        ({}, ("flow", torch.tensor([6])), "pointers from 0 to 5, got 6"),
        ({"flow": (torch.tensor([1]), torch.tensor([9]))}, ("rgb0", torch.tensor([0])), "values from 0 to 8, got 9"),
        ({"flow": (torch.tensor([1]), torch.tensor([1, 2]))}, ("rgb0", torch.tensor([0])), r"shape \(1,\)"),
        (
            {"flow": (torch.tensor([[1], [2]]), torch.tensor([1])), "camera": (torch.zeros(3, 1).long(),) * 2},
            ("rgb0", torch.tensor([0])),
            "equal numbers of rows",
        ),
        ({"flow": (torch.tensor([[1], [2]]), torch.tensor([1]))}, ("rgb0", torch.zeros(3, 1).long()), "for 2 rows"),
    ],
)
def test_bad_questions_are_refused(known: dict, query: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VOCAB.asked("psi", query, VOCAB.blocks("psi", known))


def test_wrong_types_are_refused() -> None:
    for known in ([], {"flow": torch.tensor([1])}, {"flow": (torch.tensor([1.0]), torch.tensor([1]))}):
        with pytest.raises(TypeError, match="known"):
            VOCAB.blocks("psi", known)  # type: ignore[arg-type]
    for query in ("flow", ("flow", [1])):
        with pytest.raises(TypeError, match="query"):
            VOCAB.asked("psi", query, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a new modality, got 'flow'"):
        VOCAB.grow("flow", 2, (1, 1))
    with pytest.raises(ValueError, match="positive numbers"):
        PointerVocab({"flow": (2, (0, 1))})


@pytest.mark.parametrize("variant", ["a", "b", "c"])
def test_frame_1_is_frame_0_moved(variant: str) -> None:
    scenes = PatchWorld(6, variant).sample(50, seeded())
    frame0, frame1 = (scenes.values[name].view(-1, 6, 6) for name in ("rgb0", "rgb1"))
    for b in range(50):
        shift = tuple(scenes.motion[b, 0].tolist())
        assert torch.equal(frame0[b].roll(shift, (0, 1)), frame1[b])
        assert int((frame0[b] > 0).sum()) == 4
    assert torch.equal(scenes.owner0 == 0, frame0.flatten(1) > 0)


def test_later_objects_hide_earlier_ones() -> None:
    world = PatchWorld(6, "a", objects=2)
    scenes = world.sample(300, seeded())
    hidden = (scenes.owner0 == 0).sum(1) < 4
    assert 0 < int(hidden.sum()) < 300
    assert bool(((scenes.owner0 == 1).sum(1) == 4).all())
    moved = torch.where(scenes.owner0 == 1, scenes.values["flow"], -1).amax(1)
    assert torch.equal(world.vectors[moved].long(), scenes.motion[:, 1])
    assert torch.equal(scenes.values["rgb0"], world.sample(300, seeded()).values["rgb0"])


def test_parallax_flow_is_translation_over_depth() -> None:
    world = ParallaxWorld(8, "c")
    scenes = world.sample(40, seeded())
    c = world.translations[scenes.values["camera"]]
    assert torch.equal(world.vectors[scenes.values["flow"]][..., 1], c / world.depth(scenes))


def test_visible_pixels_keep_their_color() -> None:
    scenes = PixelWorld(6, 4, objects=2).sample(20, seeded())
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    for b in range(20):
        to = rows + scenes.flow[b, 0], columns + scenes.flow[b, 1]
        same = (scenes.frame1[b][:, to[0], to[1]] == scenes.frame0[b]).all(0)
        assert torch.equal(same, scenes.visible[b])
    assert bool((scenes.flow % 4 != 0).any()) and not bool(scenes.visible.all())


def test_bad_worlds_are_refused() -> None:
    for wrong in ({"grid": 3}, {"variant": "d"}, {"objects": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PatchWorld(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name the layouts"):
        ExactPsi(PatchWorld(6, objects=3))
    with pytest.raises(ValueError, match=r"positions of the world, got \[0, 1\]"):
        ExactPsi(PatchWorld(), [[(0, 1)]])
    with pytest.raises(ValueError, match="eps"):
        ExactPsi(PatchWorld(), eps=-1.0)
