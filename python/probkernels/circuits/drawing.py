"""Draws the structure of a circuit and describes it in words."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .._core.errors import message
from .circuit import Circuit
from .graph import Graph, Input, Product, Sum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NODES = 300  # nodes that a picture still shows
MAX_LABELED_NODES = 60  # nodes up to which scopes are written out
GAP = 1.0  # between neighbors of a level
RISE = 1.25  # between levels
SWEEPS = 12

COLORS: dict[type, str] = {Input: "#0072b2", Product: "#d55e00", Sum: "#009e73"}  # of Okabe and Ito
FILLS: dict[type, str] = {Input: "#e3f0f8", Product: "#fbe7db", Sum: "#dcf2ea"}
INK, FAINT = "#444444", "#9aa3ab"


def draw(circuit: Graph | Circuit, ax: Axes | None = None) -> Axes:
    """Draws a small circuit, root on top: + for sums, × for products, the variable for inputs.

    The number beside a node is its number of units, if above one. Small print lists its scope. For a :class:`Circuit`,
    an edge below a sum is drawn wider if its child has more weight.

    Args:
        circuit: a circuit or a graph with at most 300 nodes.
        ax: matplotlib axes to draw on. None makes a new figure.

    Returns:
        The axes. To save the figure: ``draw(circuit).figure.savefig("circuit.png")``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the graph has more than 300 nodes.

    Example:
        >>> from probkernels.circuits import Bernoulli, draw, hclt_graph
        >>> axes = draw(hclt_graph([1, -1, 1], [Bernoulli()] * 3, latents=2))
        >>> sorted(text.get_text() for text in axes.texts if "x" in text.get_text())
        ['$x_{0}$', '$x_{1}$', '$x_{2}$']
    """
    graph = circuit.graph if isinstance(circuit, Circuit) else circuit
    if len(graph.nodes) > MAX_NODES:
        hint = "describe() summarizes circuits of any size"
        raise ValueError(message("draw", "circuit", f"up to {MAX_NODES} nodes", f"{len(graph.nodes)}", hint))
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("draw: needs matplotlib, which is not installed. Hint: pip install probkernels[report]")
    places = layout(graph)
    if ax is None:
        from matplotlib.figure import Figure  # not pyplot: it would keep the figure and look for a display

        ax = Figure(figsize=_inches(places), layout="constrained", dpi=150).subplots()
    shares = _shares(circuit) if isinstance(circuit, Circuit) else {}
    for place, node in enumerate(graph.nodes):
        for child in _children(node):
            _edge(ax, places[place], places[child], type(node), shares.get((place, child)))
    for place in range(len(graph.nodes)):
        _node(ax, graph, place, places[place])
    _frame(ax, graph, places)
    return ax


def _children(node: Input | Product | Sum) -> Sequence[int]:
    return () if isinstance(node, Input) else node.children


def layout(graph: Graph) -> list[tuple[float, float]]:
    """The position (x, y) of each node. The level is the longest path to an input; inputs sit right below their lowest
    parent.

    Within a level, nodes move to the mean of their neighbors and are then spread apart.
    """
    level = _depths(graph)
    near: list[list[int]] = [[] for _ in graph.nodes]
    for place, node in enumerate(graph.nodes):
        for child in _children(node):
            near[place].append(child)
            near[child].append(place)
    for place, node in enumerate(graph.nodes):
        if isinstance(node, Input) and near[place]:
            level[place] = min(level[parent] for parent in near[place]) - 1
    x = _first_places(graph)
    for sweep in range(SWEEPS):
        for at in sorted(set(level), reverse=sweep % 2 == 1):
            members = [place for place in range(len(x)) if level[place] == at]
            wanted = [sum(x[other] for other in near[p]) / len(near[p]) if near[p] else x[p] for p in members]
            for place, found in zip(members, _apart(wanted), strict=True):
                x[place] = found
    return [(x[place], level[place] * RISE) for place in range(len(x))]


def _depths(graph: Graph) -> list[int]:
    depths: list[int] = []
    for node in graph.nodes:
        depths.append(1 + max((depths[child] for child in _children(node)), default=-1))
    return depths


def _first_places(graph: Graph) -> list[float]:
    """First positions: inputs from left to right in the order of a walk from the root, each other node amid its
    children."""
    x = [0.0] * len(graph.nodes)
    seen, stack, count = set(), [len(graph.nodes) - 1], 0
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        if isinstance(graph.nodes[place], Input):
            x[place] = count * GAP
            count += 1
        stack += reversed(_children(graph.nodes[place]))
    for place, node in enumerate(graph.nodes):
        if children := _children(node):
            x[place] = sum(x[child] for child in children) / len(children)
    return x


def _apart(wanted: Sequence[float]) -> list[float]:
    """Moves places as little as possible (least squares, order kept) until they are GAP apart, by isotonic
    regression."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # mean, count
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * GAP, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            total = blocks[-1][1] + count
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * count) / total, total]
    found = [0.0] * len(wanted)
    flat = (mean for mean, count in blocks for _ in range(int(count)))
    for rank, (i, mean) in enumerate(zip(order, flat, strict=True)):
        found[i] = mean + rank * GAP
    return found


def _inches(places: Sequence[tuple[float, float]]) -> tuple[float, float]:
    width, height = (max(axis) - min(axis) for axis in zip(*places, strict=True))
    return min(max(0.62 * (width + 1.6), 3.2), 24.0), min(max(0.62 * (height + 2.2), 2.4), 24.0)


def _shares(circuit: Circuit) -> dict[tuple[int, int], float]:
    """The mean weight that the units of a sum give to all units of a child, by (sum, child)."""
    weights = iter(circuit.weights())
    by_layer = {i: next(weights).detach() for i, kind in enumerate(circuit.kinds) if kind is Sum}
    shares = {}
    for place, node in enumerate(circuit.graph.nodes):
        if isinstance(node, Sum):
            layer, row = circuit.places[place]
            parts = by_layer[layer][row].split([circuit.graph.units[child] for child in node.children], 1)
            for child, part in zip(node.children, parts, strict=True):
                shares[place, child] = float(part.sum(1).mean())
    return shares


def _edge(ax: Axes, top: tuple[float, float], low: tuple[float, float], kind: type, share: float | None) -> None:
    """Draws a smooth curve that is vertical at both the parent and the child."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    bend = 0.5 * (top[1] - low[1])
    points = [top, (top[0], top[1] - bend), (low[0], low[1] + bend), low]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    width = 1.1 if share is None else 0.5 + 1.7 * share
    color = COLORS[kind] if kind is Sum else FAINT
    ax.add_patch(PathPatch(path, fill=False, edgecolor=color, linewidth=width, alpha=0.55, zorder=1))


def _node(ax: Axes, graph: Graph, place: int, at: tuple[float, float]) -> None:
    node, units = graph.nodes[place], graph.units[place]
    ax.plot(*at, "o", markersize=17, color=FILLS[type(node)], markeredgecolor=COLORS[type(node)], zorder=2)
    if isinstance(node, Input):
        symbol, size = f"$x_{{{node.variable}}}$", 9
    else:
        symbol, size = ("+", 13) if isinstance(node, Sum) else ("⊗" if node.outer else "×", 13)
    ax.text(*at, symbol, fontsize=size, color=COLORS[type(node)], ha="center", va="center_baseline", zorder=3)
    if units > 1:
        ax.annotate(f"{units}", at, (9, 7), textcoords="offset points", fontsize=6.5, color=INK, zorder=3)
    if not isinstance(node, Input) and len(graph.nodes) <= MAX_LABELED_NODES:
        ax.annotate(
            _short(graph.scope(place)), at, (-9, 8), textcoords="offset points", ha="right", fontsize=5, color=FAINT
        )


def _short(scope: Sequence[int]) -> str:
    """Variables with runs abbreviated: 0-3,7."""
    runs: list[list[int]] = []
    for variable in scope:
        if runs and runs[-1][1] == variable - 1:
            runs[-1][1] = variable
        else:
            runs.append([variable, variable])
    text = ",".join(f"{a}" if a == b else f"{a}–{b}" for a, b in runs)
    return text if len(text) <= 12 else text[:11] + "…"


def _frame(ax: Axes, graph: Graph, places: Sequence[tuple[float, float]]) -> None:
    from matplotlib.lines import Line2D

    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*places, strict=True))
    ax.set(xlim=(left - 0.8, right + 0.8), ylim=(low - 0.7, high + 0.7))
    ax.axis("off")
    names = {Input: "input: " + ", ".join(_families(graph)), Product: "product", Sum: "sum"}
    found = [kind for kind in names if any(isinstance(node, kind) for node in graph.nodes)]
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=8, color=FILLS[kind], markeredgecolor=COLORS[kind])
        for kind in found
    ]
    style: dict[str, Any] = {
        "frameon": False,
        "fontsize": 7,
        "labelcolor": INK,
        "handletextpad": 0.2,
        "columnspacing": 1.2,
    }
    ax.legend(handles, [names[kind] for kind in found], loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, **style)


def _families(graph: Graph) -> list[str]:
    """Names of the families in use, with the number of categories of discrete ones."""
    found = dict.fromkeys(node.family for node in graph.nodes if isinstance(node, Input))
    return [f"{type(f).__name__}({f.categories})" if f.categories > 0 else type(f).__name__ for f in found]


def describe(circuit: Graph | Circuit) -> str:
    """Describes the structure in words: what each layer holds, its size, and the structural properties.

    Only free parameters count: a sum unit has one fewer than its edges, a categorical unit one fewer than its
    categories.

    Example:
        >>> from probkernels.circuits import Categorical, describe, hclt_graph
        >>> print(describe(hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, latents=2)))
        8 nodes, 4 variables, depth 4
        depth  kind     nodes  units  edges  parameters
            0  Input        4      8                 16
            1  Product      1      2
            2  Sum          1      2      4           2
            3  Product      1      2
            4  Sum          1      1      2           1
        total               8     15      6          19
        inputs: Categorical(3)
        smooth, decomposable, structured-decomposable, a tree
    """
    graph = circuit.graph if isinstance(circuit, Circuit) else circuit
    counts: dict[tuple[int, str], Counter[str]] = {}
    total: Counter[str] = Counter()
    depths = _depths(graph)
    for place in range(len(graph.nodes)):
        found = Counter(dict(_counts(graph, place)))
        counts.setdefault((depths[place], type(graph.nodes[place]).__name__), Counter()).update(found)
        total.update(found)
    columns = ("nodes", "units", "edges", "parameters")
    table = [["depth", "kind", *columns]]
    table += [[str(depth), kind, *_cells(counts[depth, kind], columns)] for depth, kind in sorted(counts)]
    table.append(["total", "", *_cells(total, columns)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"{len(graph.nodes)} nodes, {graph.num_variables} variables, depth {depths[-1]}"]
    for row in table:
        cells = [c.ljust(w) if i == 1 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    properties = ["smooth", "decomposable"]
    properties += ["structured-decomposable"] if graph.is_structured_decomposable else []
    properties += ["a tree"] if graph.is_tree else []
    return "\n".join([*lines, "inputs: " + ", ".join(_families(graph)), ", ".join(properties)])


def _cells(row: Counter[str], columns: Sequence[str]) -> list[str]:
    return [f"{row[name]:,}" if name in row else "" for name in columns]


def _counts(graph: Graph, place: int) -> Iterator[tuple[str, int]]:
    node, units = graph.nodes[place], graph.units[place]
    yield "nodes", 1
    yield "units", units
    if isinstance(node, Input):
        yield "parameters", units * node.family.free_parameters()
    elif isinstance(node, Sum):
        width = sum(graph.units[child] for child in node.children)
        edges = units * width if node.edge_mask is None else sum(map(sum, node.edge_mask))
        yield "edges", edges
        yield "parameters", edges - units
