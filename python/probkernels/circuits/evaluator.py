"""Parameters in log space and the passes over a circuit: exact log-likelihood, flows (E-step) and parameter updates
(M-step)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .._core import digests
from .._core.errors import message
from ..ops import em_update_, latent_tree, latent_tree_flows, sum_layer
from . import _determinism, _layers
from ._layers import Plan
from ._tree import LatentTree, Offsets, find_trees
from .evidence import Evidence, observe
from .families import Family
from .flows import Flows, Probabilities
from .graph import Graph, Input, Sum
from .inputs import Inputs, random_simplex


class _Counter:
    """The offset of each node's numbers when the numbers of all layers are concatenated."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self.end = 0

    def add(self, nodes: list[int], size: int) -> None:
        for node in nodes:
            self.at[node] = self.end
            self.end += size


class Evaluator(nn.Module):
    """Parameters and passes of a circuit. The base class of :class:`Circuit`, which adds the queries.

    Args:
        graph: structure of the circuit.
        data: (N, D) observations. Continuous inputs start at locations spread like the data, or as standard normals
            without data.
        missing: (N, D) or (D,) bool, True where a value of ``data`` is not observed.
        seed: seed of the initial parameters.
    """

    # Module lists, but type checkers know no element types of those.
    layers: list[_layers.Layer]
    inputs: list[Any]  # layers of inputs
    sums: list[nn.Parameter]
    categories: Tensor  # (D,), 0 of continuous variables

    def __init__(
        self, graph: Graph, *, data: Tensor | None = None, missing: Tensor | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.graph = graph
        planned: Plan = _layers.plan(graph)
        self.kinds, self.places = planned.kinds, planned.places
        self.layers = nn.ModuleList(planned.layers)  # type: ignore[assignment]
        self.inputs = nn.ModuleList()  # type: ignore[assignment]
        self.sums = nn.ParameterList()  # type: ignore[assignment]
        self.families: list[Family] = []  # of the layers of inputs
        self.masks: list[Tensor | None] = []
        for layer, kind in zip(planned.layers, planned.kinds, strict=True):
            if kind is Input:
                self.inputs.append(self._make_inputs(layer.nodes))
            elif kind is Sum:
                self._add_sum(layer)
        categories = [graph.families[v][0].categories for v in range(graph.num_variables)]
        self.register_buffer("categories", torch.tensor(categories), persistent=False)
        self.is_discrete = [c > 0 for c in categories]
        self.trees = self._find_trees()
        self.reset(data=data, missing=missing, seed=seed)

    def _make_inputs(self, nodes: list[int]) -> Inputs:
        members = [self.graph.nodes[place] for place in nodes]
        first = members[0]
        assert isinstance(first, Input)
        self.families.append(first.family)
        variables = [node.variable for node in members if isinstance(node, Input)]
        return first.family.make_layer(variables, first.units)

    def _add_sum(self, layer: _layers.Layer) -> None:
        first = self.graph.nodes[layer.nodes[0]]
        assert isinstance(first, Sum)
        width = sum(self.graph.units[child] for child in first.children)
        self.sums.append(nn.Parameter(torch.empty(len(layer.nodes), first.units, width)))
        self.masks.append(_layers.edge_mask(self.graph, layer))

    def _find_trees(self) -> list[LatentTree]:
        """The circuit in the form that the fused op takes, if its root mixes latent trees; else empty."""
        sums, inputs = iter(self.sums), iter(self.inputs)
        weights, leaves, units = _Counter(), _Counter(), _Counter()
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            if kind is Sum:
                weights.add(layer.nodes, next(sums)[0].numel())
            elif kind is Input:
                found = next(inputs)
                leaves.add(layer.nodes, found.categories * found.units)
                units.add(layer.nodes, found.units)
        return find_trees(self.graph, Offsets(weights.at, leaves.at, units.at))

    def reset(self, *, data: Tensor | None = None, missing: Tensor | None = None, seed: int = 0) -> None:
        """Draws all parameters anew. See the class for the arguments."""
        generator = torch.Generator().manual_seed(seed)
        evidence = None if data is None else self.evidence(data, missing)
        for logits, mask in zip(self.sums, self.masks, strict=True):
            p = random_simplex(tuple(logits.shape), 2, generator)
            logits.data.copy_((p if mask is None else p * mask).log())
        for layer in self.inputs:
            layer.reset(generator, evidence)

    @property
    def num_variables(self) -> int:
        """Number of variables, D."""
        return self.graph.num_variables

    @cached_property
    def is_deterministic(self) -> bool:
        """Whether at most one edge of each sum is ever nonzero, because any two edges lead to units of disjoint
        supports.

        Only the structure counts (:class:`Indicator` inputs). Weights that were learned to be zero are ignored.
        """
        return _determinism.is_deterministic(self.graph)

    @cached_property
    def structure(self) -> str:
        """A digest of the graph."""
        return digests.of_bytes(self.graph.to_json().encode()).hex()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        own = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if own is not None:
            own["structure"] = self.structure

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        """Refuses parameters of another graph, whose shapes may fit by chance."""
        if local_metadata.get("structure", self.structure) != self.structure:
            wanted, got = "parameters of the same graph", "those of another graph"
            hint = "Circuit(other.graph) takes them, and probkernels.circuits.save stores the graph with them"
            rest[-1].append(message("Circuit.load_state_dict", "state_dict", wanted, got, hint))
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def extra_repr(self) -> str:
        """Text that ``print`` shows beside the layers."""
        return repr(self.graph)

    def evidence(self, x: Tensor, missing: Tensor | None = None) -> Evidence:
        """Checks observations and transposes them so that the batch is the last axis. See :meth:`log_prob` for the
        arguments."""
        return observe(x, missing, self.categories, self.is_discrete)

    # --- evaluation ---

    def log_prob(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """Exact log-likelihood of each observation. Missing values are summed or integrated out.

        Args:
            x: (B, D) observations. If all variables are discrete, an integer dtype with values 0 .. categories - 1,
                else a float dtype, which is converted to the circuit's.
            missing: (B, D) bool, or (D,) for all items alike, True where the value is not known. The entry of x is then
                ignored. None if nothing is missing.

        Returns:
            (B,), in nats. -inf where the evidence has probability zero, 0 where everything is missing.

        Raises:
            TypeError: wrong dtype of x or ``missing``.
            ValueError: wrong shape, a value outside the alphabet, or an observed NaN or infinity. The message names
                item and variable.
        """
        evidence = self.evidence(x, missing)
        if self.trees:
            tables = _flat([layer.log_table() for layer in self.inputs])
            weights = _flat(self.weights())
            parts = [latent_tree(evidence.codes, weights, tables[t.first : t.last], t.table) for t in self.trees]
            return parts[0] if len(parts) == 1 else torch.logsumexp(torch.stack(parts), 0)
        return self.upward([layer(evidence) for layer in self.inputs], self.weights())[-1][0, 0]

    forward = log_prob

    def weights(self) -> list[Tensor]:
        """Normalized weights of each sum layer, (G, O, I)."""
        return [logits.softmax(2) for logits in self.sums]

    def upward(self, leaves: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """Log values of each layer, (G, K, B), from those of the input layers. The last entry is the root's."""
        values: list[Tensor] = []
        leaf, weight = iter(leaves), iter(weights)
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            if kind is Input:
                values.append(next(leaf))
            elif kind is Sum:
                values.append(sum_layer(_layers.concatenate(layer, values), next(weight)))
            else:
                values.append(_layers.multiply(layer, values))
        return values

    # --- learning ---

    @torch.no_grad()
    def probabilities(self) -> Probabilities:
        """Copies of the parameters as probabilities, not logarithms, for :meth:`flows` and :meth:`em_update_`."""
        tables = [layer.probabilities() for layer in self.inputs]
        return Probabilities([w.clone() for w in self.weights()], tables)

    @torch.no_grad()
    def load_probabilities_(self, at: Probabilities) -> None:
        """Sets the parameters from the output of :meth:`probabilities` after EM has changed it."""
        for logits, p in zip(self.sums, at.sums, strict=True):
            logits.copy_(p.log())
        for layer, table in zip(self.inputs, at.inputs, strict=True):
            if table is not None:
                layer.load_probabilities_(table)

    def flows(self, x: Tensor, missing: Tensor | None = None, at: Probabilities | None = None) -> Flows:
        """Circuit flows of a batch, the E-step of EM. ``at`` replaces the circuit's own parameters.

        The flow of a parameter theta is theta times the gradient of the log-likelihood with respect to theta.
        Observations of probability zero have no flow. See :meth:`log_prob` for the other arguments and the errors.
        """
        evidence = self.evidence(x, missing)
        at = at or self.probabilities()
        if self.trees:
            return self._tree_flows(evidence, at)
        weights = [w.detach().requires_grad_() for w in at.sums]
        with torch.no_grad():
            tables = [None if t is None else t.log() for t in at.inputs]
            leaves = [layer(evidence, t) for layer, t in zip(self.inputs, tables, strict=True)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        with torch.enable_grad():
            log_prob = self.upward(leaves, weights)[-1][0, 0]
            grads = torch.autograd.grad(log_prob.sum(), [*weights, *leaves])
        sums = [w.detach() * g for w, g in zip(weights, grads, strict=False)]
        with torch.no_grad():
            found = [
                layer.statistics(evidence, flow) for layer, flow in zip(self.inputs, grads[len(weights) :], strict=True)
            ]
        return Flows(log_prob.detach(), sums, [seen for seen, _ in found], [unseen for _, unseen in found])

    @torch.no_grad()
    def _tree_flows(self, evidence: Evidence, at: Probabilities) -> Flows:
        tables = [
            layer.log_table().exp() if table is None else table
            for layer, table in zip(self.inputs, at.inputs, strict=True)
        ]
        weights, leaves = _flat(at.sums), _flat(tables)
        if len(self.trees) == 1:
            log_prob, slopes, seen, missing = latent_tree_flows(evidence.codes, weights, leaves, self.trees[0].table)
            unseen = torch.empty_like(missing)
            unseen[self.trees[0].unseen] = missing
        else:
            log_prob, slopes, seen, unseen = self._mixed_flows(evidence, weights, leaves)
        units = [table[:, 0] for table in tables]  # (V, K)
        return Flows(log_prob, _split(slopes * weights, at.sums), _split(seen, tables), _split(unseen, units))

    def _mixed_flows(self, evidence: Evidence, weights: Tensor, leaves: Tensor) -> tuple[Tensor, ...]:
        """Flows of a mixture of trees. An observation counts in each tree by the tree's share of its probability."""
        parts = [latent_tree(evidence.codes, weights, leaves[t.first : t.last].log(), t.table) for t in self.trees]
        log_prob = torch.logsumexp(torch.stack(parts), 0)
        slopes, seen = torch.zeros_like(weights), torch.zeros_like(leaves)
        unseen = weights.new_empty(sum(len(t.unseen) for t in self.trees))
        for tree, part in zip(self.trees, parts, strict=True):
            share = torch.exp(part - log_prob).nan_to_num(0.0)  # impossible observations have none
            _, slope, flow, missing = latent_tree_flows(
                evidence.codes, weights, leaves[tree.first : tree.last], tree.table, share
            )
            slopes += slope
            seen[tree.first : tree.last] += flow
            unseen[tree.unseen] = missing
        return log_prob, slopes, seen, unseen

    @torch.no_grad()
    def em_update_(self, flows: Flows, at: Probabilities, step: float = 1.0, pseudocount: float = 0.0) -> None:
        """The M-step of EM on ``at``, in place: moves each distribution ``step`` of the way to the frequencies of
        ``flows``.

        Inputs whose parameters are not a table of probabilities are changed in the circuit itself. Weights of zero stay
        zero.
        """
        for p, flow in zip(at.sums, flows.sums, strict=True):
            g, o, i = p.shape
            em_update_(p.view(g * o, i, 1), flow.reshape(g * o, i, 1), step, pseudocount)
        for layer, table, seen, unseen in zip(self.inputs, at.inputs, flows.inputs, flows.unseen, strict=True):
            if table is None:
                layer.em_update_(seen, step, pseudocount)
            else:
                em_update_(table, seen, step, pseudocount, unseen)


def _split(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Splits a flat tensor into tensors of the shapes of ``like``."""
    return [part.view(t.shape) for part, t in zip(flat.split([t.numel() for t in like]), like, strict=True)]


def _flat(tensors: list[Tensor]) -> Tensor:
    """Concatenates tensors into a flat one. A view if there is only one."""
    return tensors[0].flatten() if len(tensors) == 1 else torch.cat([t.flatten() for t in tensors])
