"""Measures the extractors on the exact predictor, and trains networks that take its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...sequence import (
    ExactPsi,
    ParallaxWorld,
    PatchWorld,
    depth_from_translation,
    kl_trace,
    motion_affordance,
    poke_segment,
    replaced,
)
from ...sequence.rollout import Psi
from ...sequence.worlds import Scenes
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model
from .records import (
    BACKGROUND,
    BLIND,
    CHAIN,
    DOT,
    ENTROPY,
    EXACT_SOURCE,
    FAR,
    FIXED,
    FREE,
    IOU,
    MOVES,
    NEAR,
    ORDERS,
    PARALLEL,
    PEAK,
    POKED,
    SECOND,
    SMALL,
    STEPS,
    STILL,
    TRAINED_SOURCE,
    TWO,
    TWO_POKED,
    Exact,
    Scene,
    Trained,
)  # fmt: skip

EXACT = "exact"
JUDGED, SEGMENTED, TRACED, MASKS, REVEALED = 256, 30, 40, 4, 6
APART = [[(1, 1), (3, 3)]]  # a layout of two objects

Record = Exact | Trained | Scene


def jobs(quick: bool) -> list[tuple[str]]:
    """The exact predictor, and the worlds to learn, the longest first."""
    return [(SMALL,), (EXACT,)] if quick else [(FREE,), (FIXED,), (SMALL,), (EXACT,)]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel. There are no data: worlds are drawn."""
    todo = jobs(quick)
    total = sum(STEPS.get(name, 1) for (name,) in todo)
    found = run_jobs(work, todo, progress.bar("training", total))
    return [record for records in found for record in records]


def work(name: str, advance: Callable[[float], None]) -> list[Record]:
    """The records of one job."""
    if name == EXACT:
        found: list[Record] = [Exact(key, value) for key, value in exact_figures().items()]
        advance(1)
        return [*found, scene_of(EXACT_SOURCE, ExactPsi(model.RECIPES[FREE].world, eps=1e-6))]
    net = model.train(name, advance)
    judged = [judge(net, name)]
    return [*judged, scene_of(TRAINED_SOURCE, net)] if name == FREE else [*judged]


def judge(net: Psi, name: str) -> Trained:
    """A trained network on new scenes."""
    world, generator = model.RECIPES[name].world, torch.Generator().manual_seed(2)
    likelihoods = model.likelihoods(net, world.sample(JUDGED, generator), generator)  # type: ignore[arg-type]
    scenes = world.sample(SEGMENTED, generator)
    known, own = {"rgb0": model.shuffled(scenes.values["rgb0"], generator)}, scenes.owner0 >= 0
    with torch.no_grad():
        p = motion_affordance(net, known, world.vectors)
        at = torch.multinomial(own.float(), 1, generator=generator)[:, 0]
        iou = overlap(poke_segment(net, known, at, world.vectors).mask, own)
        hit, error = traced(net, world, generator) if name == FREE else (None, None)
    figures = (float(iou.mean()), float(p[own].mean()), float(p[~own].mean()))
    return Trained(name, STEPS[name], *likelihoods, *figures, hit, error)


def overlap(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union (B,)."""
    return (mask & truth).sum(1) / (mask | truth).sum(1)


def flipped(scenes: Scenes, at: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The first frame with the other code, k + 4 for k or back, at one patch of the object of each row."""
    codes = scenes.values["rgb0"].gather(1, at)
    return replaced(scenes.known("rgb0"), "rgb0", at, (codes + 3) % 8 + 1)


def traced(psi: Psi, world: PatchWorld, generator: torch.Generator) -> tuple[float, float]:
    """The share of KL traces that end where the patch went, and their mean distance in patches."""
    scenes = world.sample(TRACED, generator)
    places = scenes.owner0.shape[1]
    at = torch.multinomial((scenes.owner0 >= 0).float(), 1, generator=generator)
    masks = torch.rand(TRACED, MASKS, places, generator=generator).argsort(2)[..., :REVEALED]
    known, frame = scenes.known("rgb0"), scenes.values["rgb1"]
    found = kl_trace(psi, known, flipped(scenes, at), "rgb1", frame=frame, masks=masks).pointer
    columns = world.grid[1]
    end = torch.stack([found // columns, found % columns], 1)
    truth = torch.cat([at // columns, at % columns], 1) + scenes.motion[:, 0]
    distance = (end - truth).double().norm(dim=1)
    return float((distance == 0).double().mean()), float(distance.mean())


# --- the exact predictor ---


def scene_at(world: PatchWorld, position: list[tuple[int, int]], motion: list[tuple[int, int]]) -> Scenes:
    """The scene with these positions and motions among many that are drawn."""
    scenes = world.sample(20_000, torch.Generator().manual_seed(0))
    same = (scenes.position == torch.tensor(position)).all(-1).all(-1)
    row = (same & (scenes.motion == torch.tensor(motion)).all(-1).all(-1)).nonzero()[:1, 0]
    return Scenes({name: value[row] for name, value in scenes.values.items()}, *(t[row] for t in scenes[1:]))


def one_by_one(psi: ExactPsi, known: dict[str, tuple[Tensor, Tensor]], frame: Tensor, order: Tensor) -> float:
    """Minus the log-probability of the second frame (1, P) by the chain rule."""
    rows = [dict(known, rgb1=(order[:step], frame[0, order[:step]])) for step in range(len(order))]
    asked = ((psi.logits(row, ("rgb1", at[None])), at) for row, at in zip(rows, order, strict=True))
    return -sum(float(logits[0, 0, frame[0, at]]) for logits, at in asked)


def exact_figures() -> dict[str, float]:
    """All figures of the exact predictor by name."""
    return {**_of_one_object(), **_of_two_objects(), **_of_traces(), **_of_depth()}


def _of_one_object() -> dict[str, float]:
    world, everywhere = PatchWorld(6), torch.arange(36)
    psi, scene = ExactPsi(world), scene_at(world, [(2, 2)], [(1, 0)])
    known, frame, flow = scene.known("rgb0"), scene.values["rgb1"], scene.values["flow"]
    orders = [torch.randperm(36, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    totals = [one_by_one(psi, known, frame, order) for order in orders]
    at, away = torch.tensor([14]), torch.tensor([0])
    p = psi.logits(known, ("flow", at)).exp()
    return {
        CHAIN: totals[0],
        ORDERS: max(totals) - min(totals),
        PARALLEL: -float(psi.logits(known, ("rgb1", everywhere))[0].gather(1, frame.T).sum()),
        POKED: one_by_one(psi, {**known, "flow": (at, flow[0, at])}, frame, orders[0]),
        BACKGROUND: one_by_one(psi, {**known, "flow": (away, flow[0, away])}, frame, orders[0]),
        ENTROPY: float(-torch.special.xlogy(p, p).sum()),
    }


def _of_two_objects() -> dict[str, float]:
    world = PatchWorld(6, objects=2)
    psi, scene = ExactPsi(world, APART), scene_at(world, APART[0], [(0, 0), (0, 1)])
    known, frame, own = scene.known("rgb0"), scene.values["rgb1"], scene.owner0[0]
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([7])
    p = motion_affordance(psi, known, world.vectors)[0]
    segments = [poke_segment(psi, known, int(at), world.vectors) for at in (7, 21)]
    truths = [own[None] == label for label in (0, 1)]
    return {
        TWO: one_by_one(psi, known, frame, order),
        TWO_POKED: one_by_one(psi, {**known, "flow": (at, scene.values["flow"][0, at])}, frame, order),
        DOT: float(segments[0].dot[0, own == 0].mean()),
        IOU: min(float(overlap(s.mask, truth)) for s, truth in zip(segments, truths, strict=True)),
        MOVES: float(p[own >= 0].mean()),
        STILL: float(p[own < 0].amax()),
    }


def _of_traces() -> dict[str, float]:
    world = PatchWorld(6, "b")
    psi, scene = ExactPsi(world, eps=1e-6), scene_at(world, [(2, 2)], [(1, 0)])
    known, changed = scene.known("rgb0"), flipped(scene, torch.tensor([[14]]))
    frame, shown = scene.values["rgb1"], torch.tensor([[4 * 6 + 2, 0]])  # the patch below tells the motion
    trace = kl_trace(psi, known, changed, "rgb1", frame=frame, masks=shown)
    blind = kl_trace(psi, known, changed, "rgb1").kl[0]
    elsewhere = trace.kl[0].clone()
    elsewhere[20] = 0
    return {PEAK: float(trace.kl[0, 20]), SECOND: float(elsewhere.amax()), BLIND: float(blind[blind > 0.1].mean())}


def _of_depth() -> dict[str, float]:
    world = ParallaxWorld()
    scenes = world.sample(8, torch.Generator().manual_seed(0))
    depth = depth_from_translation(ExactPsi(world), scenes.known("rgb0"), 2, world.vectors, 2.0)
    return {NEAR: float(depth[scenes.owner0 >= 0].mean()), FAR: float(depth[scenes.owner0 < 0].mean())}


# --- for the figure ---


def scene_of(source: str, psi: Psi) -> Scene:
    """Maps of KL, dot product and probability of motion in one scene."""
    world = model.RECIPES[FREE].world
    scene = scene_at(world, [(2, 2)], [(1, 0)])
    at, known = torch.tensor([[15]]), scene.known("rgb0")
    masks = torch.tensor([[[26, 0, 35, 5, 30, 9]]])
    with torch.no_grad():
        kl = kl_trace(psi, known, flipped(scene, at), "rgb1", frame=scene.values["rgb1"], masks=masks).kl
        dot = poke_segment(psi, known, 15, world.vectors).dot
        motion = motion_affordance(psi, known, world.vectors)
    frames = (scene.values[name] for name in ("rgb0", "rgb1"))
    frame0, frame1, *maps = (map_.view(6, 6).double().tolist() for map_ in (*frames, kl, dot, motion))
    return Scene(source, frame0, frame1, maps[0], maps[1], maps[2], (2, 3), (3, 3))
