"""Adapts the structure to the data: removes edges and states that are hardly used, and doubles the most used ones."""

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
    """Removes the edges with the least flow (see :meth:`Circuit.flows`), and then the units that nothing uses any more.

    Removing a set E of edges lowers the mean log-likelihood by at most the mean of -log(1 - flow through E), so edges
    with little flow cost little. Every sum unit keeps its strongest edge.

    Args:
        circuit: circuit to start from; it is not changed.
        x: (N, D) observations to measure the flows with, see :meth:`Circuit.log_prob`.
        missing: (N, D) or (D,) bool, True where the value is not known.
        keep: fraction of all edges to keep, in (0, 1].

    Returns:
        A new circuit with fewer parameters. Its sums are dense with an :attr:`Sum.edge_mask`, so a removed edge saves
        no time. :func:`prune_states` also makes evaluation cheaper.

    Raises:
        TypeError, ValueError: as :meth:`Circuit.log_prob`; or ``keep`` is out of range.

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
    """Removes the states of latent variables with the least flow. Units that products tie together count as one state.

    Sums stay dense and lose units, so the circuit gets cheaper, and each latent variable gets its own number of states.
    Every latent keeps at least one state. ``keep`` is the fraction of all states to keep, in (0, 1]. See :func:`prune`
    for the other arguments and the reference. Raises TypeError or ValueError for the same causes.

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
    """Splits each state of every latent variable into two similar states, which training then tells apart.

    Each weight between two split states is copied to four edges and multiplied by normal noise around 1. Without noise
    the likelihood does not change.

    Args:
        circuit: circuit to start from; it is not changed.
        x: (N, D) observations that decide which states to split. Needed if ``fraction`` is below 1.
        missing: (N, D) or (D,) bool, True where the value is not known.
        fraction: fraction of all states to split. States with the highest cost go first: flow times the entropy of the
            state's distributions over the variables and states below it. The latents then differ in their number of
            states.
        noise: standard deviation of the noise.
        seed: seed of the noise.

    Raises:
        TypeError, ValueError: as :meth:`Circuit.log_prob`; or a setting is out of range, or ``fraction`` is below 1 and
            x is None.

    Reference:
        Dang, Liu and Van den Broeck, NeurIPS 2022 (see :func:`prune`), who split every state.

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
    """The smallest of the largest values. ``fraction`` says how many of them count, at least one."""
    count = max(1, round(fraction * len(values)))
    return values.topk(count).values[-1]


def _state_flows(circuit: Circuit, alignment: Alignment, x: Tensor, missing: Tensor | None) -> dict[int, Tensor]:
    """The flow into each unit, by set of units (see :class:`Alignment`), for every set below a sum or an outer
    product."""
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
    """For each set of units, flow times the entropy of its sums and inputs: what splitting a unit could save."""
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
    """For each set, the units that the root still reaches through the kept edges."""
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
    for mask in needed.values():
        mask[0] |= ~mask.any()  # nodes stay, so a component that nothing uses keeps a unit without an edge to it
    return {name: mask.nonzero()[:, 0] for name, mask in needed.items()}
