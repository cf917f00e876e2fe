"""Region graphs of images: quad-trees, and all rectangles of a grid (Poon and Domingos).

Variables are the entries of an image (channels, height, width), flattened in torch's order. The channels of a pixel
stay together in one leaf region.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .._core.errors import message
from .circuit import Circuit
from .families import Family
from .graph import Graph
from .regions import families_for, from_regions

Box = tuple[int, int, int, int]  # top, bottom, left, right; bottom and right are outside


class _Image:
    """The variables in each box of an image."""

    def __init__(self, op: str, height: int, width: int, channels: int) -> None:
        for name, value in (("height", height), ("width", width), ("channels", channels)):
            if value < 1:
                raise ValueError(message(op, name, "a number >= 1", repr(value)))
        self.op, self.height, self.width, self.channels = op, height, width, channels

    @property
    def whole(self) -> Box:
        return 0, self.height, 0, self.width

    def region(self, box: Box) -> list[int]:
        top, bottom, left, right = box
        return [
            (channel * self.height + row) * self.width + column
            for channel in range(self.channels)
            for row in range(top, bottom)
            for column in range(left, right)
        ]

    def families(self, given: Family | Sequence[Family]) -> list[Family]:
        count = self.channels * self.height * self.width
        found = [given] * count if isinstance(given, Family) else list(given)
        if len(found) != count:
            wanted = f"one, or {self.channels} * {self.height} * {self.width}"
            raise ValueError(message(self.op, "families", wanted, f"{len(found)}"))
        return found

    def families_of(self, x: Tensor, categories: int | None) -> list[Family]:
        return self.families(families_for(self.op, x, categories))


def quad_tree_graph(
    height: int,
    width: int,
    units: int,
    families: Family | Sequence[Family],
    *,
    channels: int = 1,
    parts: int = 4,
    inputs: int | None = None,
    outer: bool = False,
) -> Graph:
    """A quad-tree: splits an image into quadrants and each quadrant again, down to single pixels.

    Args:
        height, width: size of the image. Odd sides are split one pixel off the middle.
        units: number of sum units of each region.
        families: family of each variable's inputs, or one for all variables.
        channels: number of channels of the image. A pixel's channels form one leaf region.
        parts: 4 splits into quadrants with one product. 2 halves the longer side, with sums between the splits.
        inputs: number of input units of each variable. None means ``units``.
        outer: True for Kronecker products (every pair of units; needs ``parts=2``), False for Hadamard products (unit
            by unit).

    Raises:
        ValueError: a number is below one, ``parts`` is not 2 or 4, the number of families is wrong, or ``outer`` comes
            with four parts.

    Reference:
        Mari, Vessio and Vergari, Unifying and Understanding Overparameterized Circuit Representations via Low-Rank
        Tensor Decompositions, TPM 2023.

    Example:
        >>> from probkernels.circuits import Categorical, quad_tree_graph
        >>> quad_tree_graph(4, 4, units=8, families=Categorical(256))
        Graph(26 nodes, 16 variables, 264 edges)
    """
    image = _Image("quad_tree", height, width, channels)
    if parts not in (2, 4):
        raise ValueError(message("quad_tree", "parts", "2 or 4", repr(parts)))
    if outer and parts != 2:
        raise ValueError(message("quad_tree", "outer", "parts=2, for outer products", f"parts={parts}"))
    partitions, boxes = [], [image.whole]
    for box in boxes:  # grows
        split = _quadrants(box) if parts == 4 else _longer_halves(box)
        if len(split) > 1:
            partitions.append([image.region(part) for part in split])
            boxes += split
    return from_regions(partitions, image.families(families), units, inputs=inputs, outer=outer)


def _spans(low: int, high: int) -> list[tuple[int, int]]:
    middle = (low + high) // 2
    return [(low, middle), (middle, high)] if high - low > 1 else [(low, high)]


def _quadrants(box: Box) -> list[Box]:
    return [(*rows, *columns) for rows in _spans(*box[:2]) for columns in _spans(*box[2:])]


def _longer_halves(box: Box) -> list[Box]:
    top, bottom, left, right = box
    if bottom - top >= right - left:
        return [(*rows, left, right) for rows in _spans(top, bottom)]
    return [(top, bottom, *columns) for columns in _spans(left, right)]


def quad_tree(
    x: Tensor,
    height: int,
    width: int,
    units: int,
    *,
    channels: int = 1,
    parts: int = 4,
    inputs: int | None = None,
    outer: bool = False,
    categories: int | None = None,
    seed: int = 0,
) -> Circuit:
    """A circuit over :func:`quad_tree_graph` for images like x, with random parameters. Train it with :class:`EM`.

    Args:
        x: (N, channels * height * width) images. Integers get categorical inputs, floats Gaussian inputs that start
            spread like the data.
        height, width, units, channels, parts, inputs, outer: see :func:`quad_tree_graph`.
        categories: number of categories of each variable. The default is the largest value of x plus one.
        seed: seed of the parameters.

    Raises:
        TypeError, ValueError: as :func:`quad_tree_graph`, or as :meth:`Circuit.log_prob` for x.

    Example:
        >>> import torch
        >>> from probkernels.circuits import quad_tree
        >>> x = torch.randint(0, 4, (10, 3 * 2 * 2), generator=torch.Generator().manual_seed(0))
        >>> quad_tree(x, 2, 2, units=4, channels=3).log_prob(x).shape
        torch.Size([10])
    """
    families = _Image("quad_tree", height, width, channels).families_of(x, categories)
    graph = quad_tree_graph(height, width, units, families, channels=channels, parts=parts, inputs=inputs, outer=outer)
    return Circuit(graph, data=x, seed=seed)


def poon_domingos_graph(
    height: int,
    width: int,
    delta: int,
    units: int,
    families: Family | Sequence[Family],
    *,
    channels: int = 1,
    inputs: int | None = None,
    outer: bool = False,
) -> Graph:
    """All rectangles of a grid with step ``delta``, each split in every way along either axis.

    Splits share the rectangles, so a region can have many parents. The cells of the grid are the leaf regions. There
    are about (height width / delta²)² / 4 rectangles; choose ``delta`` accordingly.

    Args:
        height, width: size of the image.
        delta: pixels between the lines of the grid, counted from the top left corner. The last cells may be smaller.
        units: number of sum units of each rectangle.
        families: family of each variable's inputs, or one for all variables.
        channels: number of channels of the image.
        inputs: number of input units of each variable. None means ``units``.
        outer: True for Kronecker products (every pair of units), False for Hadamard products (unit by unit).

    Raises:
        ValueError: a number is below one, or the number of families is wrong.

    Reference:
        Poon and Domingos, Sum-Product Networks: A New Deep Architecture, UAI 2011.

    Example:
        >>> from probkernels.circuits import Bernoulli, poon_domingos_graph
        >>> graph = poon_domingos_graph(2, 3, delta=1, units=2, families=Bernoulli())
        >>> graph, graph.is_structured_decomposable
        (Graph(36 nodes, 6 variables, 66 edges), False)
    """
    image = _Image("poon_domingos", height, width, channels)
    if delta < 1:
        raise ValueError(message("poon_domingos", "delta", "a number >= 1", repr(delta)))
    partitions = []
    rows, columns = [*range(0, height, delta), height], [*range(0, width, delta), width]
    for top, bottom in _pairs(rows):
        for left, right in _pairs(columns):
            for cut in (row for row in rows if top < row < bottom):
                partitions.append([image.region((top, cut, left, right)), image.region((cut, bottom, left, right))])
            for cut in (column for column in columns if left < column < right):
                partitions.append([image.region((top, bottom, left, cut)), image.region((top, bottom, cut, right))])
    return from_regions(partitions, image.families(families), units, inputs=inputs, outer=outer)


def _pairs(lines: Sequence[int]) -> list[tuple[int, int]]:
    return [(low, high) for i, low in enumerate(lines) for high in lines[i + 1 :]]


def poon_domingos(
    x: Tensor,
    height: int,
    width: int,
    delta: int,
    units: int,
    *,
    channels: int = 1,
    inputs: int | None = None,
    outer: bool = False,
    categories: int | None = None,
    seed: int = 0,
) -> Circuit:
    """A circuit over :func:`poon_domingos_graph` for images like x, with random parameters. Train it with :class:`EM`.

    See :func:`poon_domingos_graph` for delta, and :func:`quad_tree` for the other arguments and the images x. Raises
    TypeError or ValueError if x is not valid for the circuit or a number is below one.

    Example:
        >>> import torch
        >>> from probkernels.circuits import poon_domingos
        >>> x = torch.randint(0, 4, (10, 16), generator=torch.Generator().manual_seed(0))
        >>> poon_domingos(x, 4, 4, delta=2, units=3).log_prob(x).shape
        torch.Size([10])
    """
    families = _Image("poon_domingos", height, width, channels).families_of(x, categories)
    graph = poon_domingos_graph(height, width, delta, units, families, channels=channels, inputs=inputs, outer=outer)
    return Circuit(graph, data=x, seed=seed)
