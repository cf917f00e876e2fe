"""Small worlds of moving objects, with their true motions, segments and depths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .pointers import PointerVocab

VARIANTS = ("a", "b", "c")
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # patches of an object of 2 x 2
MOST_HYPOTHESES = 2**17


class Scenes(NamedTuple):
    """Scenes of a patch world: values of its modalities (B, P) and the truth behind them.

    ``owner0`` and ``owner1`` (B, P) name the object that is seen at a patch of a frame, -1 for background.
    ``position`` and ``motion`` (B, K, 2) are rows and columns of the K objects; the last one is painted over others.
    """

    values: dict[str, Tensor]
    owner0: Tensor
    owner1: Tensor
    position: Tensor
    motion: Tensor

    def known(self, *names: str) -> dict[str, tuple[Tensor, Tensor]]:
        """All pairs of these modalities, in order of their pointers."""
        return {name: (torch.arange(self.values[name].shape[1]).expand_as(v), v) for name in names
                for v in [self.values[name]]}  # fmt: skip


class Hypotheses(NamedTuple):
    """All layouts and motions that a world allows, apart from the codes of patches.

    ``cells[name]`` (H, P) holds what is at each place of a modality: a value, or -1 - u for variable u, a code of its
    own with probabilities ``code_prior[u]``. Under a hypothesis the variables are independent.
    """

    cells: dict[str, Tensor]
    code_prior: Tensor


def _code_prior(variant: str, objects: int) -> Tensor:
    """(4 K, V) probabilities of the codes of all patches of all objects."""
    if variant == "c":
        row = torch.full((9,), 1 / 8, dtype=torch.float64)
        row[0] = 0
        return row.expand(4 * objects, 9)
    corner = torch.arange(4)
    prior = torch.zeros(4, 5 if variant == "a" else 9, dtype=torch.float64)
    prior[corner, corner + 1] = 1 if variant == "a" else 0.5
    if variant == "b":
        prior[corner, corner + 5] = 0.5
    return prior.repeat(objects, 1)


def _paint(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """(H, P) number of the object's patch that is seen at each place, 4 k + corner; -1 for background."""
    seen = torch.full((len(position), grid[0] * grid[1]), -1)
    for k, (corner, (row, column)) in itertools.product(range(position.shape[1]), enumerate(CORNERS)):
        place = (position[:, k, 0] + row) * grid[1] + position[:, k, 1] + column
        seen.scatter_(1, place[:, None], 4 * k + corner)
    return seen


def _owner(seen: Tensor) -> Tensor:
    """The object whose patch is seen, -1 for background."""
    return torch.where(seen >= 0, seen.div(4, rounding_mode="floor"), -1)


class _World:
    """What worlds of patches share: objects of 2 x 2 patches with codes, of which each scene draws its own."""

    vocab: PointerVocab
    grid: tuple[int, int]
    objects: int
    code_prior: Tensor
    position_choices: Tensor  # (n, 2)
    motion_choices: Tensor  # (m, 2)
    vectors: Tensor  # (V, 2): rows and columns that each flow token stands for

    def _layout(self, position: Tensor, choice: Tensor) -> dict[str, Tensor]:
        """Cells of all modalities, of objects at ``position`` (H, K, 2) that make choices (H, K) of a motion."""
        raise NotImplementedError

    def _moved(self, position: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen in both frames."""
        return _paint(position, self.grid), _paint(position + self.motion_choices[choice], self.grid)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Scenes:
        """Draws n scenes.

        Args:
            n: number of scenes.
            generator: of all draws, on the CPU; None for torch's default generator.

        Raises:
            TypeError, ValueError: n is not positive.
        """
        checks.integer(type(self).__name__, "n", n)
        shape, prior = (n, self.objects), self.code_prior
        at = torch.randint(len(self.position_choices), shape, generator=generator)
        choice = self._drawn_motion(n, generator)
        codes = torch.multinomial(prior, n, replacement=True, generator=generator).T
        position = self.position_choices[at]
        seen0, seen1 = self._moved(position, choice)
        values = {name: self._filled(cells, codes) for name, cells in self._layout(position, choice).items()}
        return Scenes(values, _owner(seen0), _owner(seen1), position, self.motion_choices[choice])

    def _drawn_motion(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.randint(len(self.motion_choices), (n, self.objects), generator=generator)

    def _filled(self, cells: Tensor, codes: Tensor) -> Tensor:
        return torch.where(cells < 0, codes.gather(1, (-1 - cells).clamp(min=0)), cells)

    def _motion_sets(self) -> Tensor:
        """(M, K) joint choices of motion, all equally probable."""
        return torch.tensor(list(itertools.product(range(len(self.motion_choices)), repeat=self.objects)))

    def hypotheses(self, positions: Sequence[Sequence[Sequence[int]]] | None = None) -> Hypotheses:
        """All layouts and motions, equally probable.

        Args:
            positions: positions (K, 2) of all objects for each layout to consider; None for all layouts.

        Raises:
            ValueError: positions of another shape or outside the range, or more than 2**17 hypotheses.
        """
        number = len(self.motion_choices) ** self.objects
        number *= len(self.position_choices) ** self.objects if positions is None else len(positions)
        if number > MOST_HYPOTHESES:
            hint = "name the layouts to consider"
            raise ValueError(message("hypotheses", "positions", f"at most {MOST_HYPOTHESES}", str(number), hint))
        layouts, choices = self._layouts(positions), self._motion_sets()
        both = layouts.repeat_interleave(len(choices), 0), choices.repeat(len(layouts), 1)
        return Hypotheses(self._layout(*both), self.code_prior)

    def _layouts(self, positions: Sequence[Sequence[Sequence[int]]] | None) -> Tensor:
        if positions is None:
            sets = itertools.product(range(len(self.position_choices)), repeat=self.objects)
            return self.position_choices[torch.tensor(list(sets))]
        found = torch.as_tensor(positions)
        if found.ndim != 3 or found.shape[1:] != (self.objects, 2) or not len(found):
            expected = f"shape (layouts, {self.objects}, 2)"
            raise ValueError(message("hypotheses", "positions", expected, f"shape {tuple(found.shape)}"))
        inside = (found[:, :, None] == self.position_choices).all(-1).any(-1)
        if not bool(inside.all()):
            got = str(found[~inside][0].tolist())
            raise ValueError(message("hypotheses", "positions", "positions of the world", got))
        return found


class PatchWorld(_World):
    """A grid of patches with one or two objects of 2 x 2 patches, each of which moves by -1, 0 or 1 rows and columns.

    Modalities: ``rgb0`` and ``rgb1``, the codes of both frames, 0 for background, which is what an object uncovers; and
    ``flow``, the motion of what is seen at a patch of the first frame. Objects start at rows and columns 1 to
    ``grid`` - 3. Later objects are painted over earlier ones.

    Args:
        grid: rows and columns, at least 4.
        variant: codes of an object's patches k = 1, ..., 4: "a" for k, "b" for k or k + 4, "c" for any of 1 to 8. A
            model of "b" and "c" must copy codes.
        objects: number of objects.

    Attributes:
        vocab (PointerVocab): the modalities.
        vectors (Tensor): (9, 2) rows and columns that each flow token stands for.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import PatchWorld
        >>> world = PatchWorld(4)
        >>> scenes = world.sample(1, torch.Generator().manual_seed(0))
        >>> scenes.values["rgb0"].view(4, 4)
        tensor([[0, 0, 0, 0],
                [0, 1, 2, 0],
                [0, 3, 4, 0],
                [0, 0, 0, 0]])
        >>> flow = scenes.values["flow"]
        >>> world.vectors[flow[0, 5]].tolist() == scenes.motion[0, 0].tolist()
        True
    """

    def __init__(self, grid: int = 6, variant: str = "a", objects: int = 1) -> None:
        checks.integer("PatchWorld", "grid", grid, least=4)
        checks.one_of("PatchWorld", "variant", variant, VARIANTS)
        checks.integer("PatchWorld", "objects", objects)
        self.grid, self.variant, self.objects = (grid, grid), variant, objects
        self.code_prior = _code_prior(variant, objects)
        starts = range(1, grid - 2)
        self.position_choices = torch.tensor(list(itertools.product(starts, starts)))
        self.motion_choices = torch.tensor(list(itertools.product((-1, 0, 1), repeat=2)))
        self.vectors = self.motion_choices.double()
        codes = self.code_prior.shape[1]
        self.vocab = PointerVocab({"rgb0": (codes, self.grid), "flow": (9, self.grid), "rgb1": (codes, self.grid)})

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        return f"PatchWorld({self.grid[0]}, {self.variant!r}, {self.objects})"

    def token(self, motion: Sequence[int]) -> int:
        """The flow token of a motion in rows and columns."""
        return 3 * (motion[0] + 1) + motion[1] + 1

    def _layout(self, position: Tensor, choice: Tensor) -> dict[str, Tensor]:
        seen0, seen1 = self._moved(position, choice)
        flow = torch.where(seen0 >= 0, choice.gather(1, _owner(seen0).clamp(min=0)), self.token((0, 0)))
        codes = [torch.where(seen >= 0, -1 - seen, 0) for seen in (seen0, seen1)]
        return {"rgb0": codes[0], "flow": flow, "rgb1": codes[1]}


class ParallaxWorld(_World):
    """A still scene before a camera that moves sideways by c = -2, 0 or 2: patches flow by c / depth columns.

    The background has depth 2, the object of 2 x 2 patches depth 1. Modalities: ``rgb0``; ``camera``, one token of
    three values; ``flow``, of -2 to 2 columns; ``rgb1``, with background where the object was.

    Args:
        grid: columns, at least 6; there are ``grid`` - 1 rows.
        variant: codes of patches, see :class:`PatchWorld`.

    Attributes:
        vocab (PointerVocab): the modalities.
        vectors (Tensor): (5, 2) rows and columns that each flow token stands for.
        translations (Tensor): (3,) the movement c of each camera token.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ParallaxWorld
        >>> world = ParallaxWorld(6)
        >>> scenes = world.sample(4, torch.Generator().manual_seed(0))
        >>> world.depth(scenes)[0].view(5, 6)
        tensor([[2., 2., 2., 2., 2., 2.],
                [2., 2., 1., 1., 2., 2.],
                [2., 2., 1., 1., 2., 2.],
                [2., 2., 2., 2., 2., 2.],
                [2., 2., 2., 2., 2., 2.]])
    """

    def __init__(self, grid: int = 7, variant: str = "a") -> None:
        checks.integer("ParallaxWorld", "grid", grid, least=6)
        checks.one_of("ParallaxWorld", "variant", variant, VARIANTS)
        self.grid, self.variant, self.objects = (grid - 1, grid), variant, 1
        self.code_prior = _code_prior(variant, 1)
        self.position_choices = torch.tensor(list(itertools.product(range(1, grid - 3), range(2, grid - 3))))
        self.translations = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
        self.motion_choices = torch.tensor([[0, -2], [0, 0], [0, 2]])
        self.vectors = torch.tensor([[0, c] for c in range(-2, 3)], dtype=torch.float64)
        rgb = (self.code_prior.shape[1], self.grid)
        self.vocab = PointerVocab({"rgb0": rgb, "camera": (3, (1, 1)), "flow": (5, self.grid), "rgb1": rgb})

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        return f"ParallaxWorld({self.grid[1]}, {self.variant!r})"

    def depth(self, scenes: Scenes) -> Tensor:
        """(B, P) true depth of what is seen in the first frame."""
        return torch.where(scenes.owner0 >= 0, 1.0, 2.0)

    def _layout(self, position: Tensor, choice: Tensor) -> dict[str, Tensor]:
        seen0, seen1 = self._moved(position, choice)
        c = self.motion_choices[choice][:, :, 1]  # (H, 1)
        flow = 2 + torch.where(seen0 >= 0, c, c // 2)
        codes = [torch.where(seen >= 0, -1 - seen, 0) for seen in (seen0, seen1)]
        return {"rgb0": codes[0], "camera": choice, "flow": flow, "rgb1": codes[1]}
