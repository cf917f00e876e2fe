"""Structure that follows the data: edges and states that are hardly used go, those that much depends on multiply."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._training import total_flows
from .circuit import Circuit
from .graph import Input, Product, Sum
from .nodes import Alignment, by_input, by_sum, rebuild


def prune(circuit: Circuit, x: Tensor, missing: Tensor | None = None, *, keep: float = 0.25) -> Circuit:
    """Keeps the edges that most of the data flows through, and drops units that nothing needs any more.

    Without the edges E the mean log-likelihood falls by no more than the mean of -log(1 - flow through E), so that the
    edges of least flow cost least. Every sum unit keeps its strongest edge.

    Args:
        circuit: is not changed.
        x: (N, D), as :meth:`Circuit.log_prob` takes it, to measure the flows with.
        missing: (N, D) or (D,) bool, True where the value is not known.
        keep: the fraction of all edges to keep, in (0, 1].

    Returns:
        A new circuit with :attr:`Sum.edge_mask` where edges are missing: evaluated as before, with fewer parameters. To
        make it cheaper too, :func:`prune_states`.

    Raises:
        TypeError, ValueError: ``keep`` out of range; as :meth:`Circuit.log_prob`.

    Reference:
        Dang, Liu and Van den Broeck, Sparse Probabilistic Circuits via Pruning and Growing, NeurIPS 2022.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt, prune
        >>> x = torch.randint(0, 4, (100, 6), generator=torch.Generator().manual_seed(0))
        >>> circuit = hclt(x, latents=4)
        >>> prune(circuit, x, keep=0.5).graph.num_edges < circuit.graph.num_edges
        True
    """
    checks.positive_fraction("prune", "keep", keep)
    flows = by_sum(circuit, total_flows(circuit, x, missing).sums)
    weights = by_sum(circuit, circuit.weights())
    if not flows:
        return rebuild(circuit, {})  # no sums: nothing to leave out
    used = torch.cat([flow[weights[place] > 0] for place, flow in flows.items()])
    least = _limit(used, keep)
    edges = {}
    for place, flow in flows.items():
        best = flow.argmax(1, keepdim=True)
        edges[place] = ((flow >= least) & (weights[place] > 0)).scatter(1, best, True)
    return rebuild(circuit, _needed(circuit, edges), edges=edges)


def prune_states(circuit: Circuit, x: Tensor, missing: Tensor | None = None, *, keep: float = 0.5) -> Circuit:
    """Keeps the states that most of the data is in: units that products tie together count as one state.

    Sums stay dense with fewer units, so that the circuit gets cheaper, and every latent variable its own size. At
    least one state of each stays. Arguments, errors and reference as of :func:`prune`; ``keep`` is the fraction of all
    states.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt, prune_states
        >>> x = torch.randint(0, 4, (100, 6), generator=torch.Generator().manual_seed(0))
        >>> circuit = hclt(x, latents=8)
        >>> prune_states(circuit, x, keep=0.5).graph.num_edges < circuit.graph.num_edges
        True
    """
    checks.positive_fraction("prune_states", "keep", keep)
    alignment = Alignment(circuit.graph)
    flows = _state_flows(circuit, alignment, x, missing)
    free = [name for name in alignment.free() if name in flows]
    if not free:
        return rebuild(circuit, {})
    least = _limit(torch.cat([flows[name] for name in free]), keep)
    stay = {name: (flows[name] >= least).index_fill(0, flows[name].argmax(), True) for name in free}
    return rebuild(circuit, {name: mask.nonzero()[:, 0] for name, mask in stay.items()})


def grow(
    circuit: Circuit,
    x: Tensor | None = None,
    missing: Tensor | None = None,
    *,
    fraction: float = 1.0,
    noise: float = 0.3,
    seed: int = 0,
) -> Circuit:
    """Doubles every latent's states: each becomes two, nearly alike, which training then tells apart.

    A weight is copied to four edges, times normal numbers around 1. Without noise the likelihood stays what it is.

    Args:
        circuit: is not changed.
        x: (N, D) observations by which to choose what to double; needed where ``fraction`` is below 1.
        missing: (N, D) or (D,) bool, True where the value is not known.
        fraction: of all states, how many to double: those in which most bits are spent, measured by flow times the
            entropy of what the state says about variables and states below. Latents then get sizes of their own.
        noise: the standard deviation of those numbers.
        seed: of the noise.

    Raises:
        TypeError, ValueError: settings out of range; ``fraction`` below 1 without x; as :meth:`Circuit.log_prob`.

    Reference:
        As :func:`prune`, which doubles everything.

    Example:
        >>> import torch
        >>> from probkernels.circuits import grow, hclt
        >>> x = torch.randint(0, 4, (100, 6), generator=torch.Generator().manual_seed(0))
        >>> circuit = hclt(x, latents=4)
        >>> bigger = grow(circuit, noise=0.0)
        >>> bool(torch.allclose(bigger.log_prob(x), circuit.log_prob(x), atol=1e-4))
        True
    """
    checks.positive_fraction("grow", "fraction", fraction)
    checks.non_negative("grow", "noise", noise)
    alignment = Alignment(circuit.graph)
    free = alignment.free()
    if fraction == 1:
        origins = {name: torch.arange(alignment.units(name)).repeat_interleave(2) for name in free}
        return rebuild(circuit, origins, noise=noise, seed=seed)
    if x is None:
        raise ValueError(message("grow", "x", "observations to choose states by, since fraction is below 1", "None"))
    spent = _bits_spent(circuit, alignment, _state_flows(circuit, alignment, x, missing))
    least = _limit(torch.cat([spent[name] for name in free]), fraction) if free else 0.0
    times = {name: 1 + ((spent[name] >= least) & (spent[name] > 0)).long() for name in free}
    origins = {name: torch.arange(len(t)).repeat_interleave(t.cpu()) for name, t in times.items()}
    return rebuild(circuit, origins, noise=noise, seed=seed)


# --- what is used ---


def _limit(values: Tensor, fraction: float) -> Tensor:
    """The smallest of the ``fraction`` largest values, of at least one."""
    count = max(1, round(fraction * len(values)))
    return values.topk(count).values[-1]


def _state_flows(circuit: Circuit, alignment: Alignment, x: Tensor, missing: Tensor | None) -> dict[int, Tensor]:
    """How many observations are in each unit of every set that sums or outer products lie above."""
    graph = circuit.graph
    by_place = by_sum(circuit, total_flows(circuit, x, missing).sums)
    flows: dict[int, Tensor] = {}
    for place in reversed(range(len(graph.nodes))):
        node = graph.nodes[place]
        if isinstance(node, Sum):
            through = by_place[place].sum(0)
            for child, part in zip(node.children, through.split([graph.units[c] for c in node.children]), strict=True):
                name = alignment.of[child]
                flows[name] = flows[name] + part if name in flows else part
        elif isinstance(node, Product) and node.outer:
            left, right = node.children
            both = flows[alignment.of[place]].view(graph.units[left], graph.units[right])
            for child, part in ((left, both.sum(1)), (right, both.sum(0))):
                name = alignment.of[child]
                flows[name] = flows[name] + part if name in flows else part
    return flows


def _bits_spent(circuit: Circuit, alignment: Alignment, flows: dict[int, Tensor]) -> dict[int, Tensor]:
    """Of every set of units, flow times the entropy of all that its sums and inputs say: what a split could save."""
    weights = by_sum(circuit, circuit.weights())
    inputs = by_input(circuit)
    spent: dict[int, Tensor] = {}
    for name in alignment.free():
        entropy = torch.zeros_like(flows[name])
        for place in alignment.members[name]:
            node = circuit.graph.nodes[place]
            if isinstance(node, Sum):
                entropy += torch.special.entr(weights[place].detach()).sum(1)
            elif isinstance(node, Input):
                layer, row = inputs[place]
                if node.family.discrete:
                    entropy += node.family.entropy(layer.log_table()[row : row + 1].detach())[0]
                else:
                    entropy += 1.0  # a density has no number of bits; as much as a state of its own
        spent[name] = flows[name] * entropy
    return spent


def _needed(circuit: Circuit, edges: dict[int, Tensor]) -> dict[int, Tensor]:
    """The units that the root still reaches by the edges kept, by set."""
    graph, alignment = circuit.graph, Alignment(circuit.graph)
    needed = {name: torch.zeros(alignment.units(name), dtype=torch.bool) for name in alignment.members}
    for name in alignment.fixed:
        needed[name][:] = True
    before = -1
    while (
        now := sum(int(mask.sum()) for mask in needed.values())
    ) != before:  # products of pairs may need another round
        before = now
        for place in reversed(range(len(graph.nodes))):
            node = graph.nodes[place]
            mine = needed[alignment.of[place]]
            if isinstance(node, Sum):
                through = edges[place].cpu()[mine].any(0)
                for child, part in zip(
                    node.children, through.split([graph.units[c] for c in node.children]), strict=True
                ):
                    needed[alignment.of[child]] |= part
            elif isinstance(node, Product) and node.outer:
                left, right = node.children
                both = mine.view(graph.units[left], graph.units[right])
                needed[alignment.of[left]] |= both.any(1)
                needed[alignment.of[right]] |= both.any(0)
                # what is left of a product of pairs is all pairs of what is left of its children
                mine |= (needed[alignment.of[left]][:, None] & needed[alignment.of[right]]).flatten()
    return {name: mask.nonzero()[:, 0] for name, mask in needed.items()}
