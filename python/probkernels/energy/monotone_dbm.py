"""Boltzmann machines whose mean field has one fixed point, for any clamped groups."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..ops import prox_softmax
from .couplings import Coupling, Product
from .fixed_point import SOLVERS, fixed_point
from .losses import focal_loss


class Inference(NamedTuple):
    """The mean field, and how it was found.

    Attributes:
        marginals: (B, d) probabilities of the states of all groups; one-hot for observed ones.
        logits: (B, d) Phi q + b: their softmax gives the marginals of free groups.
        iterations: (B,) of the fixed point.
        residual: (B,) relative.
        converged: whether all residuals are small enough.

    Example:
        >>> import torch
        >>> from probkernels.energy import MonotoneCoupling, MonotoneDBM
        >>> machine = MonotoneDBM(MonotoneCoupling([3, 3]))
        >>> found = machine.infer(torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
        >>> found.marginals.shape, found.converged
        (torch.Size([1, 6]), True)
    """

    marginals: Tensor
    logits: Tensor
    iterations: Tensor
    residual: Tensor
    converged: bool


class MonotoneDBM(nn.Module):
    """A Boltzmann machine over groups of states, ``p(x) ~ exp(x^T Phi x / 2 + b^T x)``, with a monotone coupling.

    The mean field ``q = softmax(Phi q + b)`` has one solution, whatever groups are observed. The damped iteration
    ``q <- prox((1 - alpha) q + alpha (Phi q + b))`` finds it for alpha < 2 / L, with L the norm of I - Phi. Gradients
    are those of the solution.

    Args:
        coupling: a :class:`MonotoneCoupling` or :class:`MonotoneConvCoupling`.
        alpha: in (0, 1], or ``"auto"``: 1, the plain mean field, where a bound of L is below 2, else 1 over that bound,
            see :meth:`Coupling.norm_bound`; found anew for each query, so that a number is faster.
        tol: relative change of q at which the iteration ends.
        max_iterations: of the iteration; a warning is given where it ends without convergence.
        solver: ``"damped"`` or ``"anderson"``.
        scale: start of tau of all groups: the losses multiply logits by tau^2, which is trained.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Reference: Feng, Winston, Kolter, "Monotone deep Boltzmann machines", TMLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.energy import MonotoneCoupling, MonotoneDBM
        >>> machine = MonotoneDBM(MonotoneCoupling([2, 2, 3]))
        >>> states, observed = torch.zeros(5, 3, dtype=torch.long), torch.tensor([True, False, False])
        >>> found = machine.infer(states, observed)
        >>> found.marginals.shape, found.converged, machine.predict_proba(states, observed, 2).shape
        (torch.Size([5, 7]), True, torch.Size([5, 3]))
    """

    def __init__(
        self,
        coupling: Coupling,
        *,
        alpha: float | str = "auto",
        tol: float = 1e-4,
        max_iterations: int = 500,
        solver: str = "damped",
        scale: float = 1.0,
    ) -> None:
        op = "MonotoneDBM"
        super().__init__()
        if not isinstance(coupling, Coupling):
            raise TypeError(message(op, "coupling", "a MonotoneCoupling", checks.describe(coupling)))
        if isinstance(alpha, str):
            checks.one_of(op, "alpha", alpha, ("auto",))
        else:
            checks.positive_fraction(op, "alpha", alpha)
        checks.positive(op, "tol", tol)
        checks.integer(op, "max_iterations", max_iterations)
        checks.one_of(op, "solver", solver, SOLVERS)
        checks.positive(op, "scale", scale)
        self.coupling, self.alpha, self.tol = coupling, alpha, tol
        self.max_iterations, self.solver = max_iterations, solver
        self.bias = nn.Parameter(torch.zeros(coupling.groups.states))
        self.tau = nn.Parameter(torch.full((len(coupling.sizes),), float(scale)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of states of each group."""
        return self.coupling.sizes

    def min_eig(self) -> float:
        """The smallest eigenvalue of I - Phi. Above 0 it certifies that each query has one mean field."""
        return self.coupling.min_eig()

    def step_size(self) -> float:
        """alpha, as it is used with the weights as they are now."""
        if not isinstance(self.alpha, str):
            return float(self.alpha)
        bound = self.coupling.norm_bound()
        return 1.0 if bound < 2 else 1 / bound

    def _observed(self, op: str, states: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Checked states (B, G), with 0 for free groups, and observed (B, G)."""
        count = len(self.sizes)
        checks.integer_tensor(op, "states", states)
        if states.dim() != 2 or states.shape[1] != count:
            raise ValueError(message(op, "states", f"shape (batch, {count})", f"shape {tuple(states.shape)}"))
        checks.bool_tensor(op, "observed", observed)
        if tuple(observed.shape) not in ((count,), tuple(states.shape)):
            expected = f"shape ({count},) or {tuple(states.shape)}"
            raise ValueError(message(op, "observed", expected, f"shape {tuple(observed.shape)}"))
        observed = observed.expand(states.shape)
        states = torch.where(observed, states.long(), 0)
        wrong = (states < 0) | (states >= torch.tensor(self.sizes, device=states.device))
        if checks.readable(wrong) and bool(wrong.any()):
            expected = "states below the size of their group, where they are observed"
            raise ValueError(message(op, "states", expected, checks.offender(states, wrong)))
        return states, observed

    def infer(self, states: Tensor, observed: Tensor, *, start: Tensor | None = None) -> Inference:
        """The mean field given some groups.

        Args:
            states: (B, groups) integers; those of free groups are ignored.
            observed: (groups) or (B, groups) bool. All, some or no groups may be observed.
            start: (B, d) probabilities to start from. None: uniform.

        Returns:
            Marginals, logits, and the iterations and residual of each sample; differentiable in the parameters.

        Raises:
            TypeError, ValueError: a dtype, shape or state is wrong, or a parameter is not finite.
        """
        with self.coupling.exactly():
            return self._infer("MonotoneDBM.infer", states, observed, start)

    def _infer(self, op: str, states: Tensor, observed: Tensor, start: Tensor | None) -> Inference:
        states, seen = self._observed(op, states, observed)
        checks.finite(op, "bias", self.bias.detach(), "training diverged")
        groups, alpha = self.coupling.groups, self.step_size()
        product = self.coupling.product()
        hidden = ~groups.repeat(seen)
        clamped = groups.one_hot(states, self.bias) * ~hidden
        if start is None:
            start = 1 / torch.tensor(self.sizes, dtype=self.bias.dtype, device=self.bias.device)
            start = groups.repeat(start).expand(len(states), -1)
        elif tuple(start.shape) != (len(states), groups.states):
            raise ValueError(message(op, "start", f"shape {(len(states), groups.states)}", str(tuple(start.shape))))

        def step(q: Tensor) -> Tensor:
            q = torch.where(hidden, q, clamped)
            y = (1 - alpha) * q + alpha * (product(q) + self.bias)
            return torch.where(hidden, groups.map(lambda part: prox_softmax(part, alpha), y), clamped)

        found = fixed_point(
            step,
            torch.where(hidden, start.detach(), clamped),
            tol=self.tol,
            max_iterations=self.max_iterations,
            solver=self.solver,
        )
        q = found.value
        return Inference(q, product(q) + self.bias, found.iterations, found.residual, found.converged)

    def forward(self, states: Tensor, observed: Tensor) -> Tensor:
        """The marginals, see :meth:`infer`."""
        return self.infer(states, observed).marginals

    def log_marginals(self, found: Inference) -> Tensor:
        """The logarithms of the marginals that the logits give, (B, d), of observed groups too."""
        return self.coupling.groups.map(lambda part: part.log_softmax(-1), found.logits)

    def free_energy(self, q: Tensor) -> Tensor:
        """``F(q) = -q^T Phi q / 2 - b^T q - H(q)``, (B,), which the mean field minimizes; -F is at most log Z."""
        with self.coupling.exactly():
            return free_energy(self.coupling.product(), self.bias, q)

    @torch.no_grad()
    def complete(self, states: Tensor, observed: Tensor) -> Tensor:
        """The states (B, groups) with each free group at its most probable state."""
        found = self.infer(states, observed)
        best = self.coupling.groups.reduce(lambda part: part.argmax(-1), found.marginals)
        return torch.where(observed.expand(states.shape), states.long(), best)

    def predict_proba(self, states: Tensor, observed: Tensor, group: int) -> Tensor:
        """The marginal (B, states) of one group, which must be free."""
        op, count = "MonotoneDBM.predict_proba", len(self.sizes)
        checks.integer(op, "group", group, 0, count - 1)
        marginals = self.infer(states, observed).marginals
        if bool(observed[..., group].any()):
            raise ValueError(message(op, "group", "a group that is not observed", str(group)))
        first = self.coupling.groups.start(group)
        return marginals[:, first : first + self.sizes[group]]

    def classify(self, states: Tensor, observed: Tensor, group: int) -> Tensor:
        """The most probable state (B,) of one group, which must be free."""
        return self.predict_proba(states, observed, group).argmax(1)

    def loss(
        self,
        states: Tensor,
        observed: Tensor,
        target: Tensor,
        *,
        label: int | None = None,
        gamma: float = 2.0,
        balanced: bool = True,
    ) -> Tensor:
        """Half the focal loss of the targets that are not observed, and half the cross-entropy of the label.

        Args:
            states: (B, groups) the query, as in :meth:`infer`.
            observed: what of it is known, as in :meth:`infer`.
            target: (B, groups) the right states; below 0 where there is none: hidden groups, unknown labels.
            label: the group of the label, which must be free. None: the focal loss alone, of all groups.
            gamma: as in :func:`focal_loss`; 0 without balance is the cross-entropy.
            balanced: as in :func:`focal_loss`.
        """
        op = "MonotoneDBM.loss"
        checks.integer_tensor(op, "target", target)
        checks.shape(op, "target", target, states.shape, "(that of 'states')")
        if label is not None:
            checks.integer(op, "label", label, 0, len(self.sizes) - 1)
            if bool(observed[..., label].any()):  # other groups would tell it
                raise ValueError(message(op, "label", "a group that is not observed", str(label)))
        logits = self.infer(states, observed).logits
        logits = logits * self.coupling.groups.repeat(self.tau.square())
        wanted = (target >= 0) & ~observed.expand(states.shape)
        found: list[Tensor] = []
        amount = 0
        for run in self.coupling.groups.runs:
            groups = range(run.group, run.group + run.many)
            part = logits[:, run.places].unflatten(1, (run.many, run.size))
            keep = wanted[:, run.group : run.group + run.many].clone()
            if label is not None and label in groups:
                keep[:, label - run.group] = False
            number = int(keep.sum())
            if number:
                right = target[:, run.group : run.group + run.many][keep]
                found.append(number * focal_loss(part[keep], right, gamma=gamma, balanced=balanced))
                amount += number
        pixels = torch.stack(found).sum() / amount if found else logits.sum() * 0
        if label is None:
            return pixels
        first = self.coupling.groups.start(label)
        of_label, right = logits[:, first : first + self.sizes[label]], target[:, label].long()
        known = right >= 0
        if not bool(known.any()):
            return 0.5 * pixels
        return 0.5 * pixels + 0.5 * nnf.cross_entropy(of_label[known], right[known])


def free_energy(product: Product, bias: Tensor, q: Tensor) -> Tensor:
    """-q^T Phi q / 2 - b^T q - H(q), with 0 log 0 = 0."""
    return -(q * product(q)).sum(-1) / 2 - q @ bias + torch.xlogy(q, q).sum(-1)
