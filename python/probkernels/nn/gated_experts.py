"""Many linear experts, of which a gater with stochastic units switches on a few; those that are off cost nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._noise import check_rate, wide
from .reinforce import Reinforce
from .sparsity import AdaptiveL1, BetaNoise, beta_noise, check_noise, sparsity_kl, threshold_at_rate
from .stochastic import NoisyRectifier, StochasticTimesSmooth, StraightThrough, _Unit

PENALTIES = {  # weights of the penalty that keeps the rate
    "noisy_rectifier": 1e-5, "rectifier": 1e-5, "stochastic_times_smooth": 0.01, "straight_through": 0.1,
    "straight_through_sigmoid": 0.1, "reinforce": 1.0,
}  # fmt: skip
RECTIFIERS = ("noisy_rectifier", "rectifier")
SPARSE_INPUTS = 15  # of each rectified gate unit at the start


class _Rectifier(NoisyRectifier):
    """Without noise in training too: the deterministic baseline."""

    def forward(self, a: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.where(a <= self.threshold, 0, a.relu())


def _unit(name: str, gates: int) -> _Unit:
    if name == "reinforce":
        return Reinforce(gates)
    if name.startswith("straight_through"):
        return StraightThrough("sigmoid" if name.endswith("sigmoid") else "identity")
    return {
        "noisy_rectifier": NoisyRectifier, "rectifier": _Rectifier, "stochastic_times_smooth": StochasticTimesSmooth
    }[name]()  # fmt: skip


class GatedExperts(nn.Module):
    """A layer of linear experts behind stochastic gates, with a linear read-out: V (h * (W x + c)) + d.

    The gater maps x to pre-activations, the unit draws gates h from them. Experts whose gate is 0 are skipped, forward
    and backward. This is exact where the gradient of such a gate is 0 or comes from the loss alone: rectifiers,
    stochastic times smooth, REINFORCE. Straight-through asks for dL/dh of gates that are off, so it computes all
    experts while gradients are recorded, and skips otherwise. ``torch.compile`` computes all experts.

    In a training step, add :meth:`penalty` and :meth:`surrogate` to the loss. After training, :meth:`fit_threshold`
    sets the gates' threshold for evaluation mode, in which gates are deterministic.

    Args:
        in_features: size of x.
        experts: number of experts.
        out_features: size of the output.
        unit: ``"noisy_rectifier"``, ``"rectifier"`` (without noise), ``"stochastic_times_smooth"``,
            ``"straight_through"``, ``"straight_through_sigmoid"`` or ``"reinforce"``.
        gater: a module from (..., in_features) to (..., gates), or the size of a tanh layer before the gates.
        rate: target share of gates that are on.
        block: experts that share a gate; gates = experts / block. The rows of an open gate are gathered, so that work
            is saved for each example.
        shared: whether the batch shares the gates, by the mean of its pre-activations. Rows of the weights are then
            gathered once, the fastest form. With block = 1 and gates for each example, only experts that no example of
            the batch uses are skipped.
        noise: of the pre-activations, in training; its mean in evaluation mode. Meant for stochastic times smooth.
        penalty_weight: weight of :meth:`penalty`; for rectifiers, the first weight of :class:`AdaptiveL1`. None: 1e-5
            for rectifiers, 0.01 for stochastic times smooth, 0.1 for straight-through, 1 for REINFORCE.
        skip: whether to skip; False computes all experts, for comparison.

    Shape: (..., in_features) -> (..., out_features).

    Raises:
        TypeError: x is not floating point.
        ValueError: a setting is unknown or out of range; ``block`` does not divide ``experts``; shapes do not match.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 6.

    Example:
        >>> import torch, probkernels as pk
        >>> layer = pk.nn.GatedExperts(8, 20, 3, unit="reinforce", gater=6)
        >>> x, labels = torch.randn(16, 8), torch.randint(3, (16,))
        >>> loss = torch.nn.functional.cross_entropy(layer(x), labels, reduction="none")
        >>> (loss.mean() + layer.penalty() + layer.surrogate(loss)).backward()
        >>> layer.fit_threshold(x)
        >>> y = layer.eval()(x)
        >>> round(layer.active_fraction, 2)
        0.1
    """

    def __init__(
        self, in_features: int, experts: int, out_features: int, *, unit: str = "noisy_rectifier",
        gater: nn.Module | int = 400, rate: float = 0.1, block: int = 1, shared: bool = False,
        noise: BetaNoise | None = None, penalty_weight: float | None = None, skip: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        op = "GatedExperts"
        for name, size in (
            ("in_features", in_features), ("experts", experts), ("out_features", out_features), ("block", block)
        ):  # fmt: skip
            checks.integer(op, name, size)
        checks.one_of(op, "unit", unit, tuple(PENALTIES))
        check_rate(op, "rate", rate)
        if experts % block:
            raise ValueError(message(op, "block", f"a divisor of experts = {experts}", repr(block)))
        if noise is not None:
            check_noise(op, noise)
        if penalty_weight is None:
            penalty_weight = PENALTIES[unit]
        checks.non_negative(op, "penalty_weight", penalty_weight)
        self.in_features, self.gates, self.block = in_features, experts // block, block
        self.rate, self.shared, self.noise, self.skip = rate, shared, noise, skip
        self.unit_name, self.penalty_weight = unit, penalty_weight
        self._made = not isinstance(gater, nn.Module)
        self.gater = gater if isinstance(gater, nn.Module) else self._made_gater(gater)
        self.unit = _unit(unit, self.gates)
        self.l1 = AdaptiveL1(rate, penalty_weight) if unit in RECTIFIERS and penalty_weight else None
        self.weight = nn.Parameter(_glorot(torch.empty(experts, in_features)))
        self.bias = nn.Parameter(torch.zeros(experts))
        self.read_weight = nn.Parameter(_glorot(torch.empty(experts, out_features)))
        self.read_bias = nn.Parameter(torch.zeros(out_features))
        self._last: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave out the last forward pass."""
        return {**self.__dict__, "_last": None}

    def _made_gater(self, hidden: int) -> nn.Module:
        checks.integer("GatedExperts", "gater", hidden, wanted="a module or the size of a layer")
        first, last = nn.Linear(self.in_features, hidden), nn.Linear(hidden, self.gates)
        _glorot(first.weight)
        if self.unit_name in RECTIFIERS:
            _sparse(last.weight)
        else:
            _glorot(last.weight, 4)
        nn.init.zeros_(first.bias)
        nn.init.zeros_(last.bias)
        return nn.Sequential(first, nn.Tanh(), last)

    # --- forward ---

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The output for x (..., in_features)."""
        rows = self._rows("GatedExperts", x)
        a = self._pre_activations(rows)
        if self.noise is not None:
            a = a + (beta_noise(a, self.noise, generator=generator) if self.training else self.noise.mean)
        h = self.unit(a, generator=generator)
        self._last = a, h
        return self._mixed(rows, h).view(*x.shape[:-1], self.read_weight.shape[1])

    def _rows(self, op: str, x: Tensor) -> Tensor:
        checks.float_tensor(op, "x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            wanted = f"shape (..., {self.in_features})"
            raise ValueError(message(op, "x", wanted, f"shape {tuple(x.shape)}"))
        rows = x.reshape(-1, self.in_features)
        if self.shared and not len(rows):
            hint = "the batch shares its gates, so it must have a row"
            raise ValueError(message(op, "x", "at least one row", f"shape {tuple(x.shape)}", hint))
        return rows

    def _pre_activations(self, rows: Tensor) -> Tensor:
        if self.shared and self._made:  # the last layer is linear: the mean may be taken before it
            hidden, last = self.gater[:-1], self.gater[-1]  # type: ignore[index]
            return last(hidden(rows).mean(0, keepdim=True))
        a: Tensor = self.gater(rows)
        checks.shape("GatedExperts", "gater", a, (len(rows), self.gates), "(rows, gates) of its output")
        return a.mean(0, keepdim=True) if self.shared else a

    @property
    def _exact_if_skipped(self) -> bool:
        """Whether the gradients do not need experts that are off."""
        recorded = torch.is_grad_enabled() and self._last is not None and self._last[0].requires_grad
        return not (recorded and isinstance(self.unit, StraightThrough))

    def _mixed(self, x: Tensor, h: Tensor) -> Tensor:
        if not self.skip or torch.compiler.is_compiling() or not self._exact_if_skipped:
            gates = h.repeat_interleave(self.block, 1) if self.block > 1 else h
            return _experts(x, gates, self.weight, self.bias, self.read_weight) + self.read_bias
        if self.block > 1 and not self.shared:
            return self._by_blocks(x, h) + self.read_bias
        used = (h != 0).any(0).nonzero()[:, 0]
        gates = h.index_select(1, used)
        if self.block > 1:
            gates = gates.repeat_interleave(self.block, 1)
            used = (used[:, None] * self.block + torch.arange(self.block, device=used.device)).flatten()
        parts = (part.index_select(0, used) for part in (self.weight, self.bias, self.read_weight))
        return _experts(x, gates, *parts) + self.read_bias

    def _by_blocks(self, x: Tensor, h: Tensor) -> Tensor:
        """Each block of experts sees the rows whose gate is open."""
        gate, row = (h != 0).t().nonzero(as_tuple=True)
        counts = torch.bincount(gate, minlength=self.gates).tolist()
        inputs, gates = x.index_select(0, row).split(counts), h.t()[gate, row].split(counts)
        weights = (p.unflatten(0, (self.gates, self.block)) for p in (self.weight, self.bias, self.read_weight))
        found = [
            _experts(*part)
            for part in zip(inputs, (g[:, None] for g in gates), *(w.unbind() for w in weights), strict=True)
            if len(part[0])
        ]
        y = self.read_bias.new_zeros(len(x), len(self.read_bias))
        return y.index_add(0, row, torch.cat(found).to(y.dtype)) if found else y

    # --- training ---

    def _waiting(self, method: str) -> tuple[Tensor, Tensor]:
        if self._last is None:
            raise RuntimeError(message(f"GatedExperts.{method}", "self", "a forward pass before it", "none"))
        return self._last

    def penalty(self) -> Tensor:
        """The weighted penalty that keeps the rate, of the last forward pass: :class:`AdaptiveL1` for rectifiers, else
        :func:`sparsity_kl` of the probabilities that gates are on.

        Raises:
            RuntimeError: there was no forward pass.
        """
        a, h = self._waiting("penalty")
        if self.unit_name in RECTIFIERS:
            return self.l1(h) if self.l1 is not None else h.new_zeros(())
        a = a.to(wide(a))
        smooth = self.unit_name == "stochastic_times_smooth"
        p = (nn.functional.logsigmoid(a) / 2).exp() if smooth else self.unit.value(a)
        return self.penalty_weight * sparsity_kl(p, self.rate)

    def surrogate(self, loss_per_example: Tensor) -> Tensor:
        """REINFORCE's surrogate of the last forward pass, which is 0 with a gradient; see :class:`Reinforce`. For other
        units, 0 without one, so that a training loop need not ask.

        Args:
            loss_per_example: of the shape of x without its last dimension. Shared gates are judged by its mean.

        Raises:
            RuntimeError: there was no forward pass.
            ValueError: the shape is wrong.
        """
        a, _ = self._waiting("surrogate")
        if not isinstance(self.unit, Reinforce):
            return a.new_zeros(())
        checks.float_tensor("GatedExperts.surrogate", "loss_per_example", loss_per_example)
        loss = loss_per_example.flatten()
        return self.unit.surrogate(loss.mean(0, keepdim=True) if self.shared else loss)

    @torch.no_grad()
    def fit_threshold(self, x: Tensor, rate: float | None = None) -> None:
        """Sets the threshold for evaluation mode so that a share ``rate`` of gates is on for x.

        Args:
            x: (..., in_features), for example the training data.
            rate: None: the target rate.
        """
        a = self._pre_activations(self._rows("GatedExperts.fit_threshold", x))
        a = a if self.noise is None else a + self.noise.mean
        found = threshold_at_rate(self.unit.value(a), self.rate if rate is None else rate)
        self.unit.threshold.copy_(found.clamp_min(0))

    @property
    def active_fraction(self) -> float:
        """Share of gates that were on in the last forward pass."""
        _, h = self._waiting("active_fraction")
        return float((h.detach() != 0).float().mean())

    def extra_repr(self) -> str:
        """The settings shown by print(module)."""
        size = f"{self.in_features}, {len(self.weight)}, {len(self.read_bias)}"
        return f"{size}, unit={self.unit_name!r}, rate={self.rate}, block={self.block}, shared={self.shared}"


def _experts(x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor, read_weight: Tensor) -> Tensor:
    return (nn.functional.linear(x, weight, bias) * gates) @ read_weight


@torch.no_grad()
def _glorot(weight: Tensor, factor: float = 1.0) -> Tensor:
    bound = factor * math.sqrt(6 / sum(weight.shape))
    return weight.uniform_(-bound, bound)


@torch.no_grad()
def _sparse(weight: Tensor) -> None:
    """A few normal weights for each unit, the others 0."""
    keep = min(SPARSE_INPUTS, weight.shape[1])
    places = torch.rand_like(weight).argsort(1)[:, :keep]
    weight.zero_().scatter_(1, places, torch.randn(len(weight), keep).to(weight))
