"""Marginals, conditionals and moments. The methods of :class:`Circuit` document arguments and results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import describe
from .._core.errors import message
from ..ops import sum_layer
from ._passes import add_exp_, batches, linear_upward, log_grads, nothing_known
from .evaluator import Evaluator
from .evidence import Evidence
from .inputs import CELLS


class Moments(NamedTuple):
    """Mean and variance of each variable: (B, D), or (D,) without observations.

    Example:
        >>> import torch
        >>> from probkernels.circuits import Moments
        >>> Moments(torch.tensor([0.5]), torch.tensor([0.25])).variance
        tensor([0.2500])
    """

    mean: Tensor
    variance: Tensor


# --- arguments ---


def variable_list(circuit: Evaluator, op: str, name: str, wanted: object) -> list[int]:
    """Checks a choice of variables and returns their indices in the given order. Takes indices or a bool mask (D,)."""
    count = circuit.num_variables
    if isinstance(wanted, Tensor) and wanted.dtype is torch.bool:
        if tuple(wanted.shape) != (count,):
            raise ValueError(message(op, name, f"shape ({count},)", f"shape {tuple(wanted.shape)}"))
        return wanted.nonzero()[:, 0].tolist()
    found = wanted.tolist() if isinstance(wanted, Tensor) and wanted.ndim == 1 else wanted
    if not isinstance(found, Sequence) or any(isinstance(v, bool) or not isinstance(v, int) for v in found):
        raise TypeError(message(op, name, "a list of variables or a bool mask", describe(wanted)))
    if any(not 0 <= v < count for v in found):
        wrong = next(v for v in found if not 0 <= v < count)
        raise ValueError(message(op, name, f"variables 0 .. {count - 1}", str(wrong)))
    if len(set(found)) < len(found):
        raise ValueError(message(op, name, "each variable once", str(list(found))))
    return list(found)


def variable_mask(circuit: Evaluator, op: str, name: str, wanted: object, x: Tensor) -> Tensor:
    """Checks a choice of variables and returns a bool mask (B, D). Takes indices or a bool mask, (D,) or (B, D)."""
    if isinstance(wanted, Tensor) and wanted.dtype is torch.bool and wanted.shape == x.shape and x.ndim == 2:
        return wanted.to(x.device)
    mask = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    mask[..., variable_list(circuit, op, name, wanted)] = True
    return mask


def require_possible(op: str, log_prob: Tensor, what: str = "evidence", first: int = 0) -> None:
    """Checks that log_prob (B,) is above -inf everywhere. ``first`` is the index of its first item."""
    impossible = log_prob == -math.inf
    if impossible.any():
        item = first + int(impossible.nonzero()[0])
        hint = "nothing is distributed given what cannot happen; a pseudocount in EM avoids probabilities of zero"
        raise ValueError(message(op, "x", f"{what} of positive probability", f"probability zero at item {item}", hint))


# --- queries ---


def marginal(circuit: Evaluator, x: Tensor, variables: object) -> Tensor:
    """See :meth:`Circuit.marginal`."""
    circuit.evidence(x[:0] if isinstance(x, Tensor) else x)  # dtype and shape, before the mask takes its shape from x
    return circuit.log_prob(x, ~variable_mask(circuit, "Circuit.marginal", "variables", variables, x))


def conditional(circuit: Evaluator, x: Tensor, missing: Tensor | None, targets: object) -> Tensor:
    """See :meth:`Circuit.conditional`."""
    op = "Circuit.conditional"
    circuit.evidence(x, missing)
    wanted = variable_mask(circuit, op, "targets", targets, x)
    unknown = torch.zeros_like(wanted) if missing is None else missing.to(x.device).expand_as(wanted)
    both = wanted & unknown
    if both.any():
        item, variable = both.nonzero()[0].tolist()
        got = f"variable {variable} of item {item} in both"
        raise ValueError(message(op, "targets", "variables that are not missing", got, "x holds the targets' values"))
    joint, given = circuit.log_prob(torch.cat([x, x]), torch.cat([unknown, unknown | wanted])).view(2, len(x))
    require_possible(op, given)
    return joint - given


@torch.no_grad()
def marginals(circuit: Evaluator, x: Tensor, missing: Tensor | None, targets: object) -> Tensor:
    """See :meth:`Circuit.marginals`."""
    op = "Circuit.marginals"
    wanted = variable_list(circuit, op, "targets", list(range(circuit.num_variables)) if targets is None else targets)
    for v in wanted:
        if not circuit.is_discrete[v]:
            raise ValueError(message(op, "targets", "discrete variables", f"variable {v}", "moments() describes it"))
    evidence = circuit.evidence(x, missing)
    place = torch.full((circuit.num_variables,), -1, device=circuit.categories.device)
    place[wanted] = torch.arange(len(wanted), device=place.device)
    width = max((int(circuit.categories[v]) for v in wanted), default=0)
    if not wanted:
        return torch.zeros(len(x), 0, 0)
    found: list[Tensor] = []
    for part in batches(circuit, evidence):
        log_p = _log_marginals(circuit, part, place, (len(wanted), width))
        require_possible(op, log_p.amax(1).amin(0), "evidence about the other variables", sum(map(len, found)))
        found.append(log_p.softmax(1).permute(2, 0, 1))
    return torch.cat(found)


def _log_marginals(circuit: Evaluator, evidence: Evidence, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """(T, C, B): joint log-probability of each value of each target and the evidence about all other variables.
    ``place`` (D,) is the index of a variable among the targets, or -1. ``shape`` is (T, C)."""
    tables, slopes = _slopes(circuit, evidence)
    log_p = slopes[0].new_full((*shape, evidence.codes.shape[1]), -math.inf)
    for layer, table, slope in zip(circuit.inputs, tables, slopes, strict=True):
        rows = (place[layer.variables] >= 0).nonzero()[:, 0]
        if len(rows):
            found = sum_layer(slope[rows], table[rows].exp())  # log sum_k f_k(c) slope_k, for all c at once
            add_exp_(log_p[:, : table.shape[1]], place[layer.variables[rows]], found)
    return log_p


def _slopes(circuit: Evaluator, evidence: Evidence) -> tuple[list[Tensor], list[Tensor]]:
    """For each input layer, its table of log-probabilities and the log derivatives by its units."""
    tables, weights = [layer.log_table() for layer in circuit.inputs], circuit.weights()
    leaves = [layer(evidence, table) for layer, table in zip(circuit.inputs, tables, strict=True)]
    return tables, log_grads(circuit, circuit.upward(leaves, weights), weights)


@torch.no_grad()
def moments(circuit: Evaluator, x: Tensor | None, missing: Tensor | None) -> Moments:
    """See :meth:`Circuit.moments`."""
    if x is None:
        if missing is not None:
            raise ValueError(message("Circuit.moments", "missing", "None where x is None", describe(missing)))
        mean, variance = _moments(circuit, nothing_known(circuit), 0)
        return Moments(mean[:, 0], variance[:, 0])
    found: list[Moments] = []
    for part in batches(circuit, circuit.evidence(x, missing)):
        found.append(_moments(circuit, part, sum(m.mean.shape[1] for m in found)))
    mean, variance = (torch.cat(parts, 1).t() for parts in zip(*found, strict=True))
    return Moments(mean, variance)


def _moments(circuit: Evaluator, evidence: Evidence, first: int) -> Moments:
    """Mean and variance, (D, B) each. ``first`` is the index of the first item, for the error message."""
    _, slopes = _slopes(circuit, evidence)
    shape = circuit.num_variables, evidence.codes.shape[1]
    shares = _shares(circuit, slopes, shape, first)
    mean, variance = slopes[0].new_zeros(shape), slopes[0].new_zeros(shape)
    for layer, share in zip(circuit.inputs, shares, strict=True):
        mean.index_add_(0, layer.variables, (share * layer.mean().unsqueeze(2)).sum(1))
    for layer, share in zip(circuit.inputs, shares, strict=True):
        apart = layer.mean().unsqueeze(2) - mean[layer.variables].unsqueeze(1)
        spread = share * (layer.variance().unsqueeze(2) + apart.square())
        variance.index_add_(0, layer.variables, spread.sum(1))
    return Moments(mean, variance)


def _shares(circuit: Evaluator, slopes: list[Tensor], shape: tuple[int, int], first: int) -> list[Tensor]:
    """For each input layer (V, K, B): the probability that the unit generates its variable. It sums to one over all
    units of a variable. ``shape`` is (D, B)."""
    total = slopes[0].new_full(shape, -math.inf)
    for layer, slope in zip(circuit.inputs, slopes, strict=True):
        add_exp_(total, layer.variables, slope.logsumexp(1))
    require_possible("Circuit.moments", total.amin(0), "evidence about the other variables", first)
    shares, norm = [], torch.zeros_like(total)
    for layer, slope in zip(circuit.inputs, slopes, strict=True):
        shares.append((slope - total[layer.variables].unsqueeze(1)).exp())
        norm.index_add_(0, layer.variables, shares[-1].sum(1))  # one, but for the rounding of large logarithms
    return [share / norm[layer.variables].unsqueeze(1) for layer, share in zip(circuit.inputs, shares, strict=True)]


@torch.no_grad()
def covariance(circuit: Evaluator) -> Tensor:
    """See :meth:`Circuit.covariance`."""
    mean, variance = moments(circuit, None, None)
    weights = circuit.weights()
    apart = [layer.mean() - mean[layer.variables].unsqueeze(1) for layer in circuit.inputs]  # (V, K)
    found = torch.diag(variance)
    size = max(CELLS // sum(circuit.graph.units), 1)
    for some in torch.arange(circuit.num_variables, device=mean.device).split(size):
        # Batch item i has the expectation of variable i's deviation in place of its inputs, and 1 (nothing known)
        # elsewhere: the derivative with respect to the inputs of j weighs j's deviation.
        leaves = [
            torch.where(layer.variables[:, None, None] == some, a.unsqueeze(2), 1.0).requires_grad_()
            for layer, a in zip(circuit.inputs, apart, strict=True)
        ]
        with torch.enable_grad(), torch.autocast(mean.device.type, enabled=False):  # it would round the products
            slopes = torch.autograd.grad(linear_upward(circuit, leaves, weights).sum(), leaves)
        products = mean.new_zeros(circuit.num_variables, len(some))
        for layer, a, slope in zip(circuit.inputs, apart, slopes, strict=True):
            products.index_add_(0, layer.variables, (slope * a.unsqueeze(2)).sum(1))
        found[:, some] = products
    found = (found + found.t()) / 2
    found.diagonal().copy_(variance)
    return found
