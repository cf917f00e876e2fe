"""LRAS: logits and rollouts equal the full forward pass, losses, growth, sampling in any order; bad input."""

from __future__ import annotations

import pytest
import torch
from probkernels.sequence import LRAS, CallablePsi, PatchWorld, PointerVocab, rollout
from torch import Tensor

from .test_exact_psi import seeded

WORLD = PatchWorld(4, "b")
SCENES = WORLD.sample(3, seeded())
QUERY = ("rgb1", torch.randperm(16, generator=seeded(1))[:9])


def model(**options: object) -> LRAS:
    """A model with parameters large enough to matter."""
    torch.manual_seed(0)
    found = LRAS(WORLD.vocab, 32, 2, 2, **options)  # type: ignore[arg-type]
    for p in found.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return found


def known() -> dict:
    order = torch.stack([torch.randperm(16, generator=seeded(b)) for b in range(3)])
    pokes = torch.tensor([[5], [6], [9]])
    return {
        "rgb0": (order, SCENES.values["rgb0"].gather(1, order)),
        "flow": (pokes, SCENES.values["flow"].gather(1, pokes)),
    }


def test_logits_are_those_of_the_training_pass() -> None:
    """The value of a last pair in a sequence and the value asked have one distribution, whatever else is asked."""
    net = model()
    logits = net.logits(known(), QUERY).log_softmax(-1)
    values = SCENES.values["rgb1"]
    for column, pointer in enumerate(QUERY[1].tolist()):
        sequence = {**known(), "rgb1": (torch.full((3, 1), pointer), values[:, [pointer]])}
        expected = -net.nll(sequence)[:, -1]
        found = logits[:, column].gather(1, values[:, [pointer]])[:, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 9))
    nothing = -net.nll({"flow": (torch.tensor([3]), torch.tensor([8]))})[0, 0]
    torch.testing.assert_close(net.logits({}, ("flow", torch.tensor([3]))).log_softmax(-1)[0, 0, 8], nothing)


def test_rollouts_keep_keys_and_values() -> None:
    net = model()
    anew = CallablePsi(net.logits, net.vocab)
    for options in ({}, {"parallel_after": 4}, {"order": "given"}, {"order": torch.arange(9).flip(0)}):
        kept = net.sample(known(), QUERY, generator=seeded(), **options)  # type: ignore[arg-type]
        assert torch.equal(kept, rollout(anew, known(), QUERY, generator=seeded(), **options))  # type: ignore[arg-type]
    state, given = net.begin(known(), 3), known()
    given["rgb1"] = (torch.zeros(3, 0, dtype=torch.long),) * 2
    for pointer in QUERY[1][:, None].split(1):
        at, value = pointer.expand(3, 1), SCENES.values["rgb1"][:, pointer[0]]
        torch.testing.assert_close(state.logits("rgb1", at), net.logits(given, ("rgb1", at)), rtol=0, atol=1e-5)
        state.append("rgb1", at, value)
        given["rgb1"] = tuple(torch.cat([a, b], 1) for a, b in zip(given["rgb1"], (at, value), strict=True))  # type: ignore[assignment]


def test_one_scene_for_many_questions() -> None:
    net, one = model(), {name: (at[:1], value[:1]) for name, (at, value) in known().items()}
    many = torch.stack([torch.randperm(16, generator=seeded(s))[:5] for s in range(4)])
    found = net.logits(one, ("rgb1", many))
    for row, pointers in enumerate(many):
        torch.testing.assert_close(found[row], net.logits(one, ("rgb1", pointers))[0], rtol=0, atol=1e-5)


def test_only_scored_values_get_a_loss_and_positions_follow_the_place() -> None:
    net = model()
    nll = net.nll(known())
    assert nll.shape == (3, 17)
    torch.testing.assert_close(net(known(), scored=["flow"]), nll[:, 16:].mean())
    torch.testing.assert_close(net(known()), nll.mean())
    net(known(), scored=["flow"]).backward()
    assert net.heads_of["of_rgb0"].weight.grad is None
    swapped = {name: (at.flip(1), value.flip(1)) for name, (at, value) in known().items()}
    assert not torch.allclose(net.logits(swapped, QUERY), net.logits(known(), QUERY))  # causal: order matters
    first = {"rgb0": (torch.tensor([3, 7]), torch.tensor([1, 2]))}
    moved = {"rgb0": (torch.tensor([4, 7]), torch.tensor([1, 2]))}
    assert not torch.allclose(net.logits(first, QUERY), net.logits(moved, QUERY))


def test_gradients_of_logits_are_those_of_the_training_pass() -> None:
    net = model().double()
    sequence = {**known(), "rgb1": (torch.full((3, 1), 2), torch.ones(3, 1, dtype=torch.long))}
    parameters = [p for name, p in net.named_parameters() if name.startswith("layers")]
    whole = torch.autograd.grad(net(sequence, scored=["rgb1"]), parameters)
    asked = net.logits(known(), ("rgb1", torch.tensor([2]))).log_softmax(-1)[:, 0, 1].mean()
    for a, b in zip(whole, torch.autograd.grad(-asked, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_integrate_keeps_the_old_logits_and_the_optimizer() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    net(known()).backward()
    optimizer.step()
    before = net.logits(known(), QUERY)
    new = net.integrate("depth", 3, (5, 6))
    assert torch.equal(net.logits(known(), QUERY), before)
    assert "depth" not in WORLD.vocab and net.vocab["depth"].first_value == WORLD.vocab.size
    assert {id(p) for p in optimizer.param_groups[0]["params"]} | {id(p) for p in new} == set(map(id, net.parameters()))
    optimizer.add_param_group({"params": new})
    depth = {"depth": (torch.arange(30), torch.arange(30) % 3)}
    net({**known(), **depth}, scored=["depth"]).backward()
    assert all(p.grad is not None for p in new if p.shape != net.own.rows[1].shape) and len(net.own.rows) == 2
    optimizer.step()
    assert net.logits({**known(), **depth}, QUERY).shape == (3, 9, 9)


def test_a_world_is_learned() -> None:
    """Where flow is known, the motion of background is learned at once: it is 4."""
    torch.manual_seed(0)
    net = LRAS(WORLD.vocab, 32, 1, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    scenes, background = WORLD.sample(16, seeded()), torch.tensor([0, 3, 12])
    batch = {**scenes.known("rgb0"), "flow": (background, scenes.values["flow"][:, background])}
    for _ in range(15):
        optimizer.zero_grad()
        loss = net(batch, scored=["flow"])
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    drawn = net.sample(scenes.known("rgb0"), ("flow", background), parallel_after=0, generator=seeded())
    assert (drawn == 4).float().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "match"),
    [({"d": 20}, "multiple of 4 x 4"), ({"layers": 0}, "layers"), ({"frequencies": (1.0,)}, "4 numbers")],
)
def test_bad_sizes_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LRAS(WORLD.vocab, **options)


def test_bad_input_is_refused() -> None:
    net = LRAS(PointerVocab({"rgb": (3, (2, 2)), "keys": (2, (1, 1))}))
    pair: tuple[Tensor, Tensor] = (torch.tensor([0]), torch.tensor([1]))
    for call, match in (
        (lambda: net.logits({"rgb": pair}, ("rgb", torch.tensor([0]))), "LRAS.logits.*that are not known"),
        (lambda: net.logits({}, ("rgb", torch.tensor([1, 1]))), "each pointer once"),
        (lambda: net.logits({}, ("rgb", torch.tensor([1])[:0])), "at least one pointer"),
        (lambda: net({"rbg": pair}), "did you mean 'rgb'"),
        (lambda: net({"rgb": pair}, scored=["keys"]), "at least one value to predict"),
        (lambda: net({}), "at least one value to predict"),
        (lambda: net.integrate("rgb", 2, (1, 1)), "a new modality"),
        (lambda: net.sample({}, ("rgb", torch.tensor([1])), temperature=0.0), "temperature"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
