"""PV-RNN: a variational recurrent network without inputs, whose posterior is learned for each sequence and step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..ops.pvrnn_scan import PVRNNScan, pvrnn_scan
from .pvrnn_outputs import GaussianOutput, SoftmaxCode

NAME = "PVRNN"


class PVLayer(NamedTuple):
    """A layer of a :class:`PVRNN`: sizes, time constant and the weight of its KL.

    Example:
        >>> from probkernels.sequence import PVLayer
        >>> PVLayer(d=10, z=1, tau=2.0, w=0.1)
        PVLayer(d=10, z=1, tau=2.0, w=0.1)
    """

    d: int
    z: int
    tau: float = 2.0
    w: float = 0.01


class PVRun(NamedTuple):
    """``raw`` (S, T, features): linear outputs. ``scan``: states and latents of ``ops.pvrnn_scan``."""

    raw: Tensor
    scan: PVRNNScan


class PVLoss(NamedTuple):
    """``total`` (): the loss. ``rec`` (S,) and ``kl`` (S, layers): its terms, sums over steps, the KL unweighted."""

    total: Tensor
    rec: Tensor
    kl: Tensor


class PVGenerated(NamedTuple):
    """``values`` (S, T, O), ``code``: what they are decoded from, ``last`` (S, D): potentials after the last step."""

    values: Tensor
    code: Tensor
    last: Tensor


class PVRNN(nn.Module):
    """A predictive-coding-inspired variational RNN (PV-RNN) of layers with their own time constants.

    The network has no input. Vectors A, an entry for each sequence and step (see :class:`PosteriorBank`), set the
    posterior of the latents, and all they know of the data comes from prediction errors. Layer 1 is the lowest: it puts
    out the data. Layers read their neighbors' states of the step before.

    The loss of S sequences is ``mean over s of sum over t (rec[s, t] + sum over layers w KL[s, t])``: sums over
    outputs, latents and steps, no other normalizer. A weight w of code that divides the KL by the number of latents Z
    and rec by the number of outputs O is ``w * O / Z`` here.

    Args:
        layers: one :class:`PVLayer` for each layer, the lowest first. Large w makes the prior deterministic, small w
            random.
        output: :class:`SoftmaxCode` or :class:`GaussianOutput`.
        posterior: ``"state"`` for a posterior of the state and A, ``"free"`` for one of A alone.
        log_sigma: bounds of all log sigmas. Outside them A gets no gradient.

    The parameters ``weight`` (D + 4 Z, D), ``bias`` and ``z_weight`` (D, Z) hold all layers; entries between units that
    are not connected are zero and stay so.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a size, time constant, weight or bound is out of range.

    Reference: Ahmadi and Tani, "A Novel Predictive-Coding-Inspired Variational RNN Model for Online Prediction and
    Recognition", Neural Computation 31(11), 2019.

    Example:
        >>> import torch
        >>> from probkernels.sequence import PVLayer, PVRNN, SoftmaxCode
        >>> model = PVRNN([PVLayer(20, 2, tau=4, w=0.01), PVLayer(10, 1, tau=8, w=0.005)], SoftmaxCode(3))
        >>> model(torch.zeros(5, 12, 2 * model.latents)).raw.shape  # five sequences of twelve steps
        torch.Size([5, 12, 30])
        >>> model.generate(4, sequences=2).values.shape
        torch.Size([2, 4, 3])
    """

    leak: Tensor
    weights: Tensor
    weight_mask: Tensor
    bias_mask: Tensor
    z_mask: Tensor

    def __init__(
        self,
        layers: Sequence[PVLayer],
        output: SoftmaxCode | GaussianOutput,
        *,
        posterior: str = "state",
        log_sigma: tuple[float, float] = (-20.0, 5.0),
    ) -> None:
        super().__init__()
        self.layers = [_checked_layer(i, layer) for i, layer in enumerate(layers)]
        if not self.layers:
            raise ValueError(message(NAME, "layers", "at least one layer", "none"))
        if not isinstance(output, (SoftmaxCode, GaussianOutput)):
            raise TypeError(message(NAME, "output", "a SoftmaxCode or GaussianOutput", checks.describe(output)))
        checks.one_of(NAME, "posterior", posterior, ("state", "free"))
        self.posterior, self.log_sigma, self.output = posterior, log_sigma, output
        self.units = sum(layer.d for layer in self.layers)
        self.latents = sum(layer.z for layer in self.layers)
        self._add_constants()
        rows = self.units + 4 * self.latents
        self.weight = nn.Parameter(_uniform(self.weight_mask))
        self.bias = nn.Parameter(torch.zeros(rows))
        self.z_weight = nn.Parameter(_uniform(self.z_mask))
        self.readout = nn.Linear(self.layers[0].d, output.features)

    def _add_constants(self) -> None:
        of_d = torch.tensor([i for i, layer in enumerate(self.layers) for _ in range(layer.d)])
        of_z = torch.tensor([i for i, layer in enumerate(self.layers) for _ in range(layer.z)], dtype=torch.long)
        near = (of_d[:, None] - of_d).abs() <= 1
        head = of_z[:, None] == of_d
        learned = head & (self.posterior == "state")
        heads = [head, head, learned, learned]
        bias = torch.cat([torch.ones(self.units), *(h.any(1) for h in heads)])
        taus, weights = ([layer[k] for layer in self.layers] for k in (2, 3))
        for name, value in {
            "leak": 1 / torch.tensor(taus, dtype=torch.float64)[of_d],
            "weights": torch.tensor(weights, dtype=torch.float64)[of_z],
            "weight_mask": torch.cat([near, *heads]).float(),
            "bias_mask": bias.float(),
            "z_mask": head.t().float(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def extra_repr(self) -> str:
        """Layers, kind of posterior and clamp, for ``print``."""
        return f"{self.layers}, posterior={self.posterior!r}, log_sigma={self.log_sigma}"

    def noise(self, sequences: int, steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal numbers (S, T, Z) in the dtype and on the device of the weights."""
        like = self.weight
        return torch.randn(sequences, steps, self.latents, generator=generator, dtype=like.dtype, device=like.device)

    def forward(
        self,
        adapt: Tensor | None,
        noise: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PVRun:
        """Runs the network along ``adapt`` (S, T, 2 Z), or along more steps of ``noise``, which take the prior.

        Args:
            adapt: vectors A, see :class:`PosteriorBank`; None for the prior alone.
            noise: (S, T, Z); None draws as many steps as ``adapt`` has.
            lengths: (S,) integers, see :func:`~probkernels.ops.pvrnn_scan`.
            h0: (S, D) potentials to continue from; None starts anew, with N(0, I) as the prior of the first step.
            generator: of the noise.
        """
        if noise is None:
            if adapt is None:
                raise TypeError(message(NAME, "noise", "a tensor where 'adapt' is None", "None"))
            self._check_adapt(adapt)
            noise = self.noise(adapt.shape[0], adapt.shape[1], generator)
        begin = noise.new_zeros(noise.shape[0], self.units) if h0 is None else h0
        weights = (self.weight * self.weight_mask, self.bias * self.bias_mask, self.z_weight * self.z_mask, self.leak)
        scan = pvrnn_scan(
            begin, noise, *weights, adapt, lengths=lengths, start=h0 is None, log_sigma=self.log_sigma
        )  # fmt: skip
        return PVRun(self.readout(scan.d[..., : self.layers[0].d]), scan)

    def _check_adapt(self, adapt: Tensor) -> None:
        if not isinstance(adapt, Tensor):
            raise TypeError(message(NAME, "adapt", "a tensor", checks.describe(adapt)))
        if adapt.dim() != 3 or adapt.shape[1] == 0 or adapt.shape[2] != 2 * self.latents:
            wanted = f"shape (sequences, steps, {2 * self.latents}) with at least one step"
            raise ValueError(message(NAME, "adapt", wanted, f"shape {tuple(adapt.shape)}"))

    def kl_per_layer(self, kl: Tensor) -> Tensor:
        """The scan's ``kl`` (S, T, Z), summed over the latents of each layer: (S, T, layers)."""
        return torch.stack([part.sum(-1) for part in kl.split([layer.z for layer in self.layers], -1)], -1)

    def targets(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the outputs are compared with, from values (S, T, O), or codes (S, T, O, bins) of a SoftmaxCode. What
        lies beyond a length is not read."""
        checks.float_tensor(NAME, "x", x)
        if lengths is not None and x.dim() > 2:
            alive = _alive(lengths, x)
            x = x.masked_fill(~alive.view(*alive.shape, *[1] * (x.dim() - 2)), 0)
        checks.finite(NAME, "x", x, "set 'lengths' where sequences end early")
        return self.output.targets(NAME, x)

    def log_prob(self, raw: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Log probabilities (S, T) of :meth:`targets`; zero beyond the lengths."""
        checks.shape(NAME, "x", target, (*raw.shape[:2], *target.shape[2:]), "(the sequences and steps of 'adapt')")
        found = self.output.log_prob(raw, target.to(raw.dtype))
        if lengths is None:
            return found
        return torch.where(_alive(lengths, raw), found, 0)

    def loss(
        self,
        adapt: Tensor,
        x: Tensor,
        noise: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PVLoss:
        """The negative weighted evidence bound of sequences x under the posterior of ``adapt``.

        Args:
            adapt: (S, T, 2 Z) vectors A.
            x: (S, T, O) values, or (S, T, O, bins) codes.
            noise: as in :meth:`forward`.
            lengths: as in :meth:`forward`.
            h0: as in :meth:`forward`.
            generator: as in :meth:`forward`.
        """
        target = self.targets(x, lengths)
        run = self(adapt, noise, lengths=lengths, h0=h0, generator=generator)
        rec = -self.log_prob(run.raw, target, lengths).sum(1)
        weighted = (run.scan.kl * self.weights.to(run.scan.kl)).sum((1, 2))
        return PVLoss((rec + weighted).mean(), rec, self.kl_per_layer(run.scan.kl).sum(1))

    def log_likelihood(
        self,
        adapt: Tensor,
        x: Tensor,
        samples: int = 100,
        *,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The importance-weighted bound on log p(x), (S,): the posterior proposes, and w plays no part.

        Args:
            adapt: (S, T, 2 Z) vectors A.
            x: (S, T, O) values, or (S, T, O, bins) one-hot codes.
            samples: proposals of a sequence. The bound rises with their number to log p(x).
            lengths: as in :meth:`forward`.
            generator: as in :meth:`forward`.
        """
        checks.integer(NAME, "samples", samples)
        self._check_adapt(adapt)
        target = self.targets(x, lengths).repeat_interleave(samples, 0)
        many = None if lengths is None else lengths.repeat_interleave(samples, 0)
        noise = self.noise(len(target), target.shape[1], generator)
        run = self(adapt.repeat_interleave(samples, 0), noise, lengths=many)
        prior_mean, prior_log, _, log_sigma = run.scan.stats.unbind(2)
        far = (run.scan.z - prior_mean) / prior_log.exp()
        ratio = (log_sigma - prior_log + (noise.square() - far.square()) / 2).sum(2)
        if many is not None:
            ratio = torch.where(_alive(many, noise), ratio, 0)
        logs = self.log_prob(run.raw, target, many).sum(1) + ratio.sum(1)
        return logs.unflatten(0, (-1, samples)).logsumexp(1) - math.log(samples)

    @torch.no_grad()
    def generate(
        self,
        steps: int,
        *,
        sequences: int = 1,
        adapt: Tensor | None = None,
        h0: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PVGenerated:
        """Runs freely: latents come from the prior.

        Args:
            steps: number of steps T.
            sequences: number of runs S; that of ``adapt`` or ``h0`` where these are given.
            adapt: (S, K, 2 Z): the first K steps take the posterior, which sets the intention.
            h0: (S, D) potentials to continue from.
            noise: (S, T, Z).
            generator: of the noise.
        """
        checks.integer(NAME, "steps", steps)
        given = next((len(t) for t in (adapt, h0, noise) if t is not None), None)
        rows = checks.integer(NAME, "sequences", sequences) if given is None else given
        run = self(adapt, self.noise(rows, steps, generator) if noise is None else noise, h0=h0)
        code = self.output.mean(run.raw)
        return PVGenerated(self.output.decode(code), code, run.scan.last)


def _alive(lengths: Tensor, like: Tensor) -> Tensor:
    """(S, T): whether a step of ``like`` (S, T, ...) is within its sequence's length."""
    checks.integer_tensor(NAME, "lengths", lengths)
    checks.shape(NAME, "lengths", lengths, like.shape[:1], "(one length for each sequence)")
    return torch.arange(like.shape[1], device=like.device) < lengths[:, None]


def _uniform(mask: Tensor) -> Tensor:
    """Uniform numbers within 1 / sqrt(inputs of a row), as nn.Linear has them, where the mask is one."""
    return mask * (torch.rand_like(mask) * 2 - 1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()


def _checked_layer(i: int, layer: PVLayer) -> PVLayer:
    if not isinstance(layer, tuple) or len(layer) != 4:
        raise TypeError(message(NAME, f"layers[{i}]", "a PVLayer", checks.describe(layer)))
    layer = PVLayer(*layer)
    checks.integer(NAME, f"layers[{i}].d", layer.d)
    checks.integer(NAME, f"layers[{i}].z", layer.z, 0)
    if checks.number(NAME, f"layers[{i}].tau", layer.tau) < 1:
        raise ValueError(message(NAME, f"layers[{i}].tau", "a number >= 1", repr(layer.tau)))
    checks.non_negative(NAME, f"layers[{i}].w", layer.w)
    return PVLayer(layer.d, layer.z, float(layer.tau), float(layer.w))
