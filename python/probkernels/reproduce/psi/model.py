"""Training on a world: the sequences, the schedule, and what a trained network knows of new scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...sequence import LRAS, PatchWorld
from ...sequence.worlds import Scenes
from .records import FIXED, FREE, SMALL, STEPS

Known = dict[str, tuple[Tensor, Tensor]]
BATCH, MOST_POKES, WARM_UP, STABLE = 64, 3, 100, 0.7


@dataclass(frozen=True)
class Recipe:
    """How a network learns a world."""

    world: PatchWorld
    lr: float
    rotary: bool = True

    def network(self) -> LRAS:
        """A new network; without rotations it sees places in its embeddings alone."""
        return LRAS(self.world.vocab, frequencies=None if self.rotary else (0.0,) * 4)


RECIPES = {
    SMALL: Recipe(PatchWorld(4), 3e-3, rotary=False),
    FIXED: Recipe(PatchWorld(6), 3e-3),
    FREE: Recipe(PatchWorld(6, "b"), 3e-3),
}


def shuffled(value: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pointers (B, P) in an order of their own in each row, and their values."""
    order = torch.rand(value.shape, generator=generator).argsort(1)
    return order, value.gather(1, order)


def some_flow(scenes: Scenes, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A few flow tokens; in half of the rows all of them lie on an object."""
    score = torch.rand(scenes.owner0.shape, generator=generator)
    on_object = torch.rand(len(score), 1, generator=generator) < 0.5
    at = (score + ((scenes.owner0 >= 0) & on_object)).topk(number).indices
    at = at.gather(1, torch.rand(at.shape, generator=generator).argsort(1))
    return at, scenes.values["flow"].gather(1, at)


def sequence(scenes: Scenes, pokes: int, generator: torch.Generator) -> Known:
    """First frame, flow tokens, second frame, each in random order."""
    first = {"rgb0": shuffled(scenes.values["rgb0"], generator)}
    flow = {"flow": some_flow(scenes, pokes, generator)} if pokes else {}
    return {**first, **flow, "rgb1": shuffled(scenes.values["rgb1"], generator)}


def pace(step: int, steps: int) -> float:
    """Warm-up, a plateau, and a linear decay to 0: the share of the peak learning rate."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return min(warm, (steps - step) / ((1 - STABLE) * steps))


def train(name: str, advance: Callable[[float], None]) -> LRAS:
    """Trains a network on a world."""
    recipe, steps = RECIPES[name], STEPS[name]
    torch.manual_seed(0)
    net, generator = recipe.network(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), recipe.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, steps))
    for _ in range(steps):
        scenes = recipe.world.sample(BATCH, generator)
        pokes = int(torch.randint(MOST_POKES + 1, (), generator=generator))
        loss = net(sequence(scenes, pokes, generator), scored=["flow", "rgb1"] if pokes else ["rgb1"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(1)
    return net.eval()


@torch.no_grad()
def likelihoods(net: LRAS, scenes: Scenes, generator: torch.Generator) -> tuple[float, float, float]:
    """Minus the mean log-probabilities of the second frame, of the same after a poke, and of that flow token."""
    first, second = (shuffled(scenes.values[name], generator) for name in ("rgb0", "rgb1"))
    places = first[0].shape[1]
    at = torch.multinomial((scenes.owner0 >= 0).float(), 1, generator=generator)
    poke = at, scenes.values["flow"].gather(1, at)
    plain = net.nll({"rgb0": first, "rgb1": second})[:, places:].sum(1).mean()
    given = net.nll({"rgb0": first, "flow": poke, "rgb1": second})[:, places:]
    return float(plain), float(given[:, 1:].sum(1).mean()), float(given[:, 0].mean())
