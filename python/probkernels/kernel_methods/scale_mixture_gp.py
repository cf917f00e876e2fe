"""Scale mixtures of Gaussian processes: regression when the variance of a network's last layer has a prior."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .._core import checks
from .._core.errors import message
from ..training import Loop
from ._conditioned import Conditioned, SparselyConditioned, log_det
from ._scale_mixing import Mixing, Nodes, mixing_of
from .kernel import Kernel, as_kernel
from .scale_priors import InverseGamma
from .sparse_gp import inducing_points

LEAST_RATE = 1e-4  # a fit ends when its learning rate falls below


class ScaleMixtureGP(nn.Module):
    """Gaussian-process regression with an unknown output scale: f | sigma^2 ~ GP(0, sigma^2 K), sigma^2 ~ prior.

    This is the limit of infinitely wide networks whose last layer has weights of variance sigma^2. The noise scales
    too, y | sigma^2 ~ N(0, sigma^2 (K + noise I)), and the same K + noise I stands in the evidence, in the posterior
    of sigma^2 and in predictions. An inverse gamma prior makes a Student-t process, in closed form. Other priors take
    a quadrature over log sigma^2, which finds its range by itself, or weighted draws from the prior.

    The process has mean zero: standardize targets by training statistics. Computations run in float64.

    Args:
        kernel: a :class:`Kernel`, a callable k(x, z) or a gpytorch kernel: that of a last layer of variance 1.
        prior: :class:`InverseGamma`, :class:`Burr12`, :class:`FixedScale`, a ``torch.distributions.Distribution`` over
            positive numbers, or a function of sigma^2 (G,) that returns its log density (G,), up to a constant.
            Default: InverseGamma(2, 2).
        noise: positive number; the variance of the noise is sigma^2 noise.
        nodes: number of nodes of the quadrature. A density that jumps needs more of them.
        draws: None for closed form or quadrature; a number for importance sampling with so many draws from the prior.
            It degenerates for many points: see :meth:`effective_draws`.
        inducing: None for the exact process; points (M, D), or M: that many of the training points, drawn with
            ``seed``. Time is then O(N M^2), and :meth:`log_evidence` a lower bound, as of
            :class:`SparseGPRegression`. These points stay where they are.
        seed: of draws.

    Attributes:
        log_noise: parameter; kernel and prior have their own.

    Raises:
        TypeError, ValueError: an argument has a wrong kind or is out of range.

    Lee, Yun, Yang, Lee: "Scale Mixtures of Neural Network Gaussian Processes", ICLR 2022, arXiv:2107.01408.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF, InverseGamma, ScaleMixtureGP
        >>> X, y = torch.tensor([[-1.0], [0.0], [2.0]]), torch.tensor([-0.5, 0.3, 1.0])
        >>> gp = ScaleMixtureGP(RBF(), InverseGamma(2.0, 2.0), noise=0.01).fit(X, y)
        >>> found = gp.predict(torch.tensor([[0.5]]))
        >>> found.df, found.loc, found.scale
        (tensor([7.]), tensor([0.6441]), tensor([0.3338]))
        >>> gp.log_evidence(), gp.scale()
        (tensor(-3.5534), tensor(1.1206))
    """

    def __init__(
        self,
        kernel: object,
        prior: Any = None,
        noise: float = 0.01,
        *,
        nodes: int = 401,
        draws: int | None = None,
        inducing: int | Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.op = type(self).__name__
        self.kernel: Kernel = as_kernel(kernel)
        self.draws = None if draws is None else checks.integer(self.op, "draws", draws)
        self.prior = InverseGamma() if prior is None else self._checked(prior)
        value = checks.number(self.op, "noise", noise)
        checks.positive(self.op, "noise", value)
        self.log_noise = nn.Parameter(torch.tensor(value, dtype=torch.float64).log())
        self.nodes = checks.integer(self.op, "nodes", nodes, 21)
        self.seed = checks.integer(self.op, "seed", seed, 0)
        self.inducing = inducing
        self._process: Conditioned | None = None
        self._before: Mixing | None = None
        self._after: Mixing | None = None

    @property
    def noise(self) -> Tensor:
        """()."""
        return self.log_noise.double().exp()

    @property
    def jitter(self) -> Tensor:
        """What ``fit`` added to the diagonal of K + noise I to factorize it, (); mostly 0."""
        return self._fitted()[0].jitter

    def fit(
        self,
        X: Tensor,
        y: Tensor,
        *,
        steps: int = 0,
        lr: float = 0.01,
        validation: tuple[Tensor, Tensor] | None = None,
        every: int = 500,
        progress: bool = False,
    ) -> ScaleMixtureGP:
        """Conditions on data; with ``steps`` > 0, first trains kernel, noise and prior on the evidence.

        Predictions use kernel, noise and prior as they were then: fit again after a change.

        Args:
            X: (N, D) points, float32 or float64. N = 0 leaves the prior.
            y: (N,) values of the same dtype.
            steps: number of Adam steps on -log p(y) / N, full batch.
            lr: learning rate. It halves when the validation loss has rested for 5 evaluations; below 1e-4 the training
                ends.
            validation: points and values to choose by: the parameters with the least :meth:`loss` on them stay. None:
                the last ones.
            every: steps between two evaluations.
            progress: whether to show a progress bar.

        Returns:
            The model itself.

        Raises:
            TypeError, ValueError: data have a wrong dtype or shape or are not finite; K + noise I has no Cholesky
                factor; or the posterior of sigma^2 is not proper.
        """
        self._check(X, y)
        if checks.integer(self.op, "steps", steps, 0) > 0:
            self._train(X, y, steps, lr, validation, every, progress)
        with torch.no_grad():
            kernel = copy.deepcopy(self.kernel).requires_grad_(False)
            self._process = self._conditioned(kernel, X, y)
            self.set_prior(self.prior)
        return self

    @torch.no_grad()
    def set_prior(self, prior: Any) -> ScaleMixtureGP:
        """Exchanges the prior of sigma^2. A fitted model stays fitted: the kernel matrix is not factorized again."""
        checked = self._checked(prior)
        del self.prior  # a module cannot be overwritten by a function
        self.prior = checked
        if self._process is not None:
            frozen = copy.deepcopy(self.prior)
            if isinstance(frozen, nn.Module):
                frozen.requires_grad_(False)
            self._before = mixing_of(self.op, frozen, self.nodes, self.draws, self.seed, self._process.X.device)
            self._after = self._before.posterior(self._process.quadratic, len(self._process.X))
        return self

    def log_evidence(self, X: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """log p(y), (), natural logarithm, in the dtype of X.

        Of the data of ``fit``; or of X (N, D) and y (N,), with gradients to them, to kernel, noise and prior.
        """
        if X is None or y is None:
            process, before, _ = self._fitted()
        else:
            self._check(X, y)
            process = self._conditioned(self.kernel, X, y)
            before = mixing_of(self.op, self.prior, self.nodes, self.draws, self.seed, X.device)
        return before.log_marginal(process.quadratic, process.log_det, len(process.X)).to(process.dtype)

    def scale(self) -> Tensor:
        """E[sigma^2 | y], (); infinite where it does not exist."""
        process, _, after = self._fitted()
        return after.mean().to(process.dtype)

    def effective_draws(self) -> Tensor:
        """1 / (sum of squared weights of sigma^2 | y), (): of ``draws`` draws, so many still count. Infinite in closed
        form."""
        after = self._fitted()[2]
        return after.effective() if isinstance(after, Nodes) else torch.tensor(torch.inf)

    def predict(self, x: Tensor, of: str = "y") -> Distribution:
        """The distribution of each value at x (M, D): a Student-t, a Normal, or a mixture of Normals.

        Args:
            x: (M, D) points of the dtype of X. Results carry gradients to it.
            of: "y" with noise, or "f", the function.

        Returns:
            A distribution of batch shape (M,). Values are not independent: see :meth:`sample` and :meth:`log_prob`.
        """
        checks.one_of(self.op, "of", of, ("y", "f"))
        process, _, after = self._fitted()
        mean, variance = process.moments(x, of == "y")
        return after.predictive(mean.to(x), variance)

    @torch.no_grad()
    def sample(self, x: Tensor, n: int = 1, of: str = "f") -> Tensor:
        """Joint draws (n, M) of the values at x (M, D). All values of a draw share one sigma^2.

        Args:
            x: (M, D) points of the dtype of X.
            n: number of draws, from torch's global generator.
            of: "f", the function, or "y" with noise.
        """
        checks.integer(self.op, "n", n)
        checks.one_of(self.op, "of", of, ("y", "f"))
        process, _, after = self._fitted()
        mean, covariance = process.joint(x, of == "y")
        root, _ = process.factorized(covariance, "x")
        normal = torch.randn(n, len(x), dtype=torch.float64, device=x.device)
        return (mean + after.sample(n).sqrt()[:, None] * (normal @ root.mT)).to(x)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | data), (): the joint density of noisy values y (M,) at x (M, D)."""
        process, _, after = self._fitted()
        self._check(x, y)
        mean, covariance = process.joint(x, True)
        factor, _ = process.factorized(covariance, "x")
        half = torch.linalg.solve_triangular(factor, (y.double() - mean)[:, None], upper=False)
        return after.log_marginal(half.square().sum(), log_det(factor), len(x)).to(x)

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor) -> float:
        """The mean of -log p(y_i | data) over points x (M, D) with noisy values y (M,), each alone."""
        self._check(x, y)
        return float(-self.predict(x).log_prob(y).mean())

    @torch.no_grad()
    def losses(self, x: Tensor, y: Tensor, priors: Sequence[Any]) -> list[float]:
        """:meth:`loss` under each of the priors; x is solved for once. The last prior stays."""
        self._check(x, y)
        mean, variance = self._fitted()[0].moments(x, True)
        found = []
        for prior in priors:
            after = self.set_prior(prior)._fitted()[2]
            found.append(float(-after.predictive(mean.to(x), variance).log_prob(y).mean()))
        return found

    def _conditioned(self, kernel: Kernel, X: Tensor, y: Tensor) -> Conditioned:
        if self.inducing is None:
            return Conditioned(self.op, kernel, self.noise, X, y)
        points = inducing_points(self.op, self.inducing, X, self.seed)
        return SparselyConditioned(self.op, kernel, self.noise, X, y, points)

    def _fitted(self) -> tuple[Conditioned, Mixing, Mixing]:
        """The process, and the distribution of sigma^2 before and after the data."""
        if self._process is None or self._before is None or self._after is None:
            raise RuntimeError(f"{self.op}: expected a fitted model, got one without data. Hint: call fit first")
        return self._process, self._before, self._after

    def _checked(self, prior: Any) -> Any:
        if not callable(prior) and not hasattr(prior, "log_prob") and not hasattr(prior, "sample"):
            wanted = "InverseGamma, Burr12, FixedScale, a torch distribution or a log density"
            raise TypeError(message(self.op, "prior", wanted, checks.describe(prior)))
        if self.draws is not None and not hasattr(prior, "sample"):
            hint = "without 'draws' a log density is enough"
            raise TypeError(message(self.op, "prior", "one that has sample(shape)", checks.describe(prior), hint))
        return prior

    def _check(self, X: Tensor, y: Tensor) -> None:
        for name, value in (("X", X), ("y", y)):
            checks.wide_float_tensor(self.op, name, value, checks.AS_TENSOR)
            checks.finite(self.op, name, value.detach(), "leave out or fill in missing values")
        if X.ndim != 2 or X.shape[1] == 0:
            raise ValueError(message(self.op, "X", "shape (N, D)", f"shape {tuple(X.shape)}"))
        if y.dtype != X.dtype:
            raise TypeError(message(self.op, "y", f"the dtype of 'X' ({X.dtype})", str(y.dtype)))
        hint = "y.squeeze(-1) makes (N,) of (N, 1)" if tuple(y.shape) == (len(X), 1) else ""
        checks.shape(self.op, "y", y, (len(X),), "as 'X' has points", hint)
        checks.same_device(self.op, "y", y, X, "X")

    def _train(self, X: Tensor, y: Tensor, steps: int, lr: float, validation: Any, every: int, progress: bool) -> None:
        checks.positive(self.op, "lr", lr)
        checks.integer(self.op, "every", every)
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
        best = (float("inf"), copy.deepcopy(self.state_dict()))
        with Loop(steps, progress=progress) as loop:
            for n in loop:
                loss = -self.log_evidence(X.double(), y.double()) / max(1, len(X))
                checks.finite_loss(self.op, n, loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loop.show(loss=loss.item())
                if validation is None or ((n + 1) % every and n + 1 < steps):
                    continue
                found = self.fit(X, y).loss(*validation)
                if found < best[0]:
                    best = (found, copy.deepcopy(self.state_dict()))
                plateau.step(found)
                if optimizer.param_groups[0]["lr"] < LEAST_RATE:
                    loop.stop()
        if validation is not None:
            self.load_state_dict(best[1])


def select_scale_mixture(
    models: Sequence[ScaleMixtureGP],
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    priors: Sequence[Any] | None = None,
) -> tuple[ScaleMixtureGP, float]:
    """Chooses model and prior by the least validation loss. A kernel matrix is factorized once for all priors.

    Args:
        models: models that differ in kernel or noise. They are fitted.
        train: X (N, D) and y (N,).
        validation: x (M, D) and y (M,).
        priors: priors to try in every model; None tries each model's own.

    Returns:
        The chosen model, with its prior and fitted to ``train``, and its :meth:`ScaleMixtureGP.loss` on ``validation``.

    Raises:
        ValueError: there is no model or no prior, or no loss is finite.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF, InverseGamma, ScaleMixtureGP, select_scale_mixture
        >>> X = torch.linspace(-2, 2, 12)[:, None]
        >>> y = X.sin()[:, 0]
        >>> models = [ScaleMixtureGP(RBF(scale), noise=1e-3) for scale in (0.1, 1.0)]
        >>> best, loss = select_scale_mixture(models, (X[::2], y[::2]), (X[1::2], y[1::2]), [InverseGamma(1.0, 1.0)])
        >>> best is models[1], loss < 0
        (True, True)
    """
    best: tuple[float, int, Any] = (float("inf"), -1, None)
    for place, model in enumerate(models):
        tried = [model.prior] if priors is None else priors
        losses = model.fit(*train).losses(*validation, tried)
        for loss, prior in zip(losses, tried, strict=True):
            best = (loss, place, prior) if loss < best[0] else best
    if best[1] < 0:
        got = f"{len(models)} models and {'their own' if priors is None else len(priors)} priors"
        raise ValueError(message("select_scale_mixture", "models", "at least one whose validation loss is finite", got))
    return models[best[1]].set_prior(best[2]), best[0]
