"""The circuit as a model: parameters in log space, exact log-likelihood, flows, and the M-step they feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import AS_TENSOR, describe
from .._core.errors import message
from ..ops import em_update_, latent_tree, latent_tree_flows, sum_layer
from . import _layers
from ._layers import Plan
from ._tree import LatentTree, Offsets, find_trees
from .graph import Graph, Input, Sum
from .inputs import CategoricalInputs, Evidence, Inputs, make_inputs, random_simplex
from .query_methods import Queries

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


@dataclass
class Probabilities:
    """A circuit's parameters outside log space, which EM works on: of every sum layer (G, O, I), and of every input
    layer its table of probabilities (V, C, K), or None where it is no plain table.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorised
        >>> factorised(torch.tensor([[0, 1], [1, 1]]), pseudocount=0.0).probabilities().inputs[0][0, :, 0]
        tensor([0.5000, 0.5000])
    """

    sums: list[Tensor]
    inputs: list[Tensor | None]


@dataclass
class Flows:
    """Circuit flows summed over a batch: how much of each observation's probability passes through each edge.

    log_prob (B,); sums: per sum layer (G, O, I); inputs: per input layer what its M-step needs, for tables the flow by
    category (V, C, K); unseen: per input layer the flow of missing observations (V, K).

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorised
        >>> x = torch.tensor([[0, 1], [1, 1], [1, 0]])
        >>> factorised(x).flows(x).inputs[0][0, :, 0]  # how often variable 0 was 0, and 1
        tensor([1., 2.])
    """

    log_prob: Tensor
    sums: list[Tensor]
    inputs: list[Tensor]
    unseen: list[Tensor]

    def tensors(self) -> list[Tensor]:
        """All that is summed over observations."""
        return [*self.sums, *self.inputs, *self.unseen]

    def __iadd__(self, other: Flows) -> Flows:
        for mine, its in zip(self.tensors(), other.tensors(), strict=True):
            mine += its
        self.log_prob = torch.cat([self.log_prob, other.log_prob])
        return self


class _Counter:
    """Where each node's numbers begin when those of all layers are laid out one after the other."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self.end = 0

    def add(self, nodes: list[int], size: int) -> None:
        for node in nodes:
            self.at[node] = self.end
            self.end += size


class Circuit(Queries, nn.Module):
    """A probabilistic circuit: a density whose every marginal and conditional is exact.

    Args:
        graph: the structure.
        data: (N, D) observations that continuous inputs are placed among; without, they start as standard normals.
        missing: (N, D) or (D,) bool, which of them are not observed.
        seed: of the initial parameters.

    Attributes:
        graph: as given.
        sums: logits (G, O, I) of every sum layer, normalised over I.
        inputs: the layers of inputs.

    Raises:
        TypeError, ValueError: as :meth:`log_prob`, for the data.

    Reference:
        Choi, Vergari and Van den Broeck, Probabilistic Circuits: A Unifying Framework for Tractable Probabilistic
        Models, 2020.

    Example:
        >>> import torch
        >>> from probkernels.circuits import Categorical, Circuit, Graph, Input, Product, Sum
        >>> coins = [Input(v, 2, Categorical(2)) for v in range(3)]
        >>> circuit = Circuit(Graph([*coins, Product((0, 1, 2)), Sum((3,), units=1)]))
        >>> x = torch.cartesian_prod(*[torch.arange(2)] * 3)  # all eight values
        >>> round(circuit.log_prob(x).exp().sum().item(), 4)
        1.0
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
        return make_inputs([node.variable for node in members if isinstance(node, Input)], first.units, first.family)

    def _add_sum(self, layer: _layers.Layer) -> None:
        first = self.graph.nodes[layer.nodes[0]]
        assert isinstance(first, Sum)
        width = sum(self.graph.units[child] for child in first.children)
        self.sums.append(nn.Parameter(torch.empty(len(layer.nodes), first.units, width)))
        self.masks.append(_layers.edge_mask(self.graph, layer))

    def _find_trees(self) -> list[LatentTree]:
        """The circuit as one fused op takes it, if its root mixes latent trees."""
        sums, inputs = iter(self.sums), iter(self.inputs)
        weights, leaves, units = _Counter(), _Counter(), _Counter()
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            if kind is Sum:
                weights.add(layer.nodes, next(sums)[0].numel())
            elif kind is Input:
                found = next(inputs)
                leaves.add(layer.nodes, found.family.categories * found.units)
                units.add(layer.nodes, found.units)
        return find_trees(self.graph, Offsets(weights.at, leaves.at, units.at))

    def reset(self, *, data: Tensor | None = None, missing: Tensor | None = None, seed: int = 0) -> None:
        """Draws all parameters anew; arguments as of the class."""
        generator = torch.Generator().manual_seed(seed)
        evidence = None if data is None else self.evidence(data, missing)
        for logits, mask in zip(self.sums, self.masks, strict=True):
            p = random_simplex(tuple(logits.shape), 2, generator)
            logits.data.copy_((p if mask is None else p * mask).log())
        for layer in self.inputs:
            layer.reset(generator, evidence)

    @property
    def num_variables(self) -> int:
        """How many variables there are, D."""
        return self.graph.num_variables

    def extra_repr(self) -> str:
        """What print shows beside the layers."""
        return repr(self.graph)

    # --- evidence ---

    def evidence(self, x: Tensor, missing: Tensor | None = None) -> Evidence:
        """Checks observations and turns them so that the batch is the last axis. Arguments as of :meth:`log_prob`."""
        self._check(x, missing)
        if missing is not None:
            missing = missing.expand(x.shape)
        turned = None if missing is None else missing.t().contiguous()
        device = self.categories.device
        if turned is not None:
            turned = turned.to(device)
        codes = x.t().to(device, torch.int32, copy=True, memory_format=torch.contiguous_format)
        values = None
        if not all(self.is_discrete):
            values = x.t().to(device).contiguous()
            whole = torch.tensor(self.is_discrete, device=device)[:, None]
            self._check_values(values, codes, whole, turned)
            codes.masked_fill_(~whole, -1)
        self._check_range(x, codes, turned)
        if turned is not None:
            codes.masked_fill_(turned, -1)
        return Evidence(codes, values, turned)

    def _check(self, x: Tensor, missing: Tensor | None) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(message("Circuit", "x", "a tensor", describe(x), AS_TENSOR))
        if all(self.is_discrete):
            if x.dtype not in INTEGERS:
                hint = "categories are counted from 0; x.long() if your values are whole numbers"
                raise TypeError(message("Circuit", "x", "an integer dtype for discrete variables", str(x.dtype), hint))
        elif not x.is_floating_point():
            raise TypeError(message("Circuit", "x", "a float dtype for continuous variables", str(x.dtype)))
        if x.ndim != 2 or x.shape[1] != self.num_variables:
            raise ValueError(message("Circuit", "x", f"shape (B, {self.num_variables})", f"shape {tuple(x.shape)}"))
        if missing is None:
            return
        if not isinstance(missing, Tensor) or missing.dtype is not torch.bool:
            raise TypeError(message("Circuit", "missing", "a bool tensor", describe(missing)))
        if tuple(missing.shape) not in (tuple(x.shape), (self.num_variables,)):
            wanted = f"the shape of x {tuple(x.shape)} or ({self.num_variables},)"
            raise ValueError(message("Circuit", "missing", wanted, f"shape {tuple(missing.shape)}"))

    def _check_values(self, values: Tensor, codes: Tensor, whole: Tensor, missing: Tensor | None) -> None:
        """values (D, B): finite where observed, and whole numbers where the variable is discrete."""
        wrong = ~values.isfinite() | (whole & (values != codes))
        if missing is not None:
            wrong &= ~missing
        if wrong.any():
            variable, item = wrong.nonzero()[0].tolist()
            hint = "missing=x.isnan() marginalises what is not known"
            wanted = "whole numbers" if self.is_discrete[variable] else "finite numbers"
            got = f"{values[variable, item].item()} at item {item}, variable {variable}"
            raise ValueError(message("Circuit", "x", wanted, got, hint))

    def _check_range(self, x: Tensor, codes: Tensor, missing: Tensor | None) -> None:
        """codes (D, B), made from x (B, D), lie in their variable's alphabet where they are observed."""
        limit = self.categories[:, None]
        wrong = ((codes < 0) | (codes >= limit)) & (limit > 0)
        if x.dtype is torch.int64:
            wrong |= x.t().to(codes.device) != codes  # beyond 32 bits: it may have wrapped into the alphabet
        if missing is not None:
            wrong &= ~missing
        if wrong.any():
            variable, item = wrong.nonzero()[0].tolist()
            wanted = f"values 0 .. {int(limit[variable]) - 1} of variable {variable}"
            got = f"{int(x[item, variable])} at item {item}"
            raise ValueError(message("Circuit", "x", wanted, got, "mark what is not known in missing="))

    # --- evaluation ---

    def log_prob(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """Exact log-likelihood of each observation, missing values summed or integrated out.

        Args:
            x: (B, D); an integer dtype with values 0 .. categories - 1 if all variables are discrete, else float.
            missing: (B, D), or (D,) for all alike; bool, True where the value is not known. What x holds there is
                ignored. Nothing is missing if None.

        Returns:
            (B,), in nats; -inf where the evidence has probability zero, 0 where everything is missing.

        Raises:
            TypeError: dtype of x or missing.
            ValueError: shapes, values outside the alphabet, observed NaN or infinity; item and variable are named.
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
        """Normalised weights (G, O, I) of every sum layer."""
        return [logits.softmax(2) for logits in self.sums]

    def upward(self, leaves: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """Log values (G, K, B) of every layer, from those of the input layers; the last is the root's."""
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
        """The parameters outside log space, for :meth:`flows` and :meth:`em_update_`; copies."""
        tables = [layer.log_table().exp() if isinstance(layer, CategoricalInputs) else None for layer in self.inputs]
        return Probabilities([w.clone() for w in self.weights()], tables)

    @torch.no_grad()
    def load_probabilities_(self, at: Probabilities) -> None:
        """Sets the parameters from what :meth:`probabilities` gave and EM changed."""
        for logits, p in zip(self.sums, at.sums, strict=True):
            logits.copy_(p.log())
        for layer, table in zip(self.inputs, at.inputs, strict=True):
            if table is not None:
                layer.logits.copy_(table.log())

    def flows(self, x: Tensor, missing: Tensor | None = None, at: Probabilities | None = None) -> Flows:
        """Circuit flows of a batch, which is the E-step; ``at`` stands in for the circuit's own parameters.

        Flows are theta times the gradient of the log-likelihood with respect to theta. Observations of probability
        zero have none. Arguments and errors as of :meth:`log_prob`.
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
        """Of several trees: each observation counts in each by its share of the probability."""
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
        """The M-step on ``at``, in place: each distribution moves ``step`` of the way to what its flows ask for.

        Inputs that are no plain tables are changed in the circuit itself. Edges of weight zero stay so.
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
    """A line of numbers as tensors of the given shapes."""
    return [part.view(t.shape) for part, t in zip(flat.split([t.numel() for t in like]), like, strict=True)]


def _flat(tensors: list[Tensor]) -> Tensor:
    """All in one line; a view of a single one."""
    return tensors[0].flatten() if len(tensors) == 1 else torch.cat([t.flatten() for t in tensors])
