"""Deep kernel machines with ``fit`` and ``predict`` as in scikit-learn, on arrays or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.estimators import Estimator, accuracy, as_classes, as_float, as_inputs, labels_like, like, r_squared
from ..training import minimize
from .deep_kernel_machine import DeepKernelMachine
from .gram_kernels import GramKernel
from .sparse_dkm import CategoricalLikelihood, GaussianLikelihood, SparseDKM, inner_products

SCALES = ("features", "global", None)
LATE, LATE_FACTOR = 0.7, 0.1  # after this share of the training the learning rate is lowered by this factor
PREDICTED_AT_ONCE = 2048


class _Estimator(Estimator):
    """What the regressor and the classifier share. Arguments and errors are in their docstrings."""

    model_: Any  # a SparseDKM or a DeepKernelMachine

    def __init__(
        self,
        n_inducing: int | None = 100,
        *,
        depth: int = 2,
        nu: float | Sequence[float] = 1.0,
        kernel: str | GramKernel = "relu",
        kl: str = "exact",
        batch_norm: str | None = None,
        stochastic: bool = False,
        temper: bool = False,
        scale: str | None = "features",
        epochs: int = 100,
        batch_size: int = 256,
        lr: float = 1e-2,
        samples: int = 100,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.n_inducing, self.depth, self.nu, self.kernel, self.kl = n_inducing, depth, nu, kernel, kl
        self.batch_norm, self.stochastic, self.temper, self.scale = batch_norm, stochastic, temper, scale
        self.epochs, self.batch_size, self.lr, self.samples = epochs, batch_size, lr, samples
        self.seed, self.progress = seed, progress

    def _inputs(self, X: object, *, fitted: bool) -> Tensor:
        """Checked inputs (N, D); scaled, if there is a scale yet."""
        x = as_inputs(type(self).__name__, X, len(self._shift) if fitted else None)
        if fitted:
            return (x.to(self._shift) - self._shift) / self._spread
        return x

    def _rescaled(self, x: Tensor) -> Tensor:
        checks.one_of(type(self).__name__, "scale", self.scale, SCALES)
        shift, spread = x.mean(0), x.std(0, correction=0)
        if self.scale == "global":
            spread = (x - shift).square().mean().sqrt().expand_as(shift)
        elif self.scale is None:
            shift, spread = torch.zeros_like(shift), torch.ones_like(spread)
        # A feature that is constant, up to rounding, has no scale: it becomes 0.
        noise = 10 * torch.finfo(x.dtype).eps * shift.abs()
        self._shift, self._spread = shift, torch.where(spread > noise, spread, 1.0)
        return (x - self._shift) / self._spread

    def _fit_sparse(self, x: Tensor, y: Tensor, targets: Tensor, likelihood: torch.nn.Module) -> None:
        """Trains a sparse machine; ``targets`` (N, C) start the output at the inducing points."""
        op, count = type(self).__name__, len(x)
        for name in ("epochs", "batch_size"):
            checks.integer(op, name, getattr(self, name))
        checks.positive(op, "lr", self.lr)
        if self.n_inducing is not None:
            checks.integer(op, "n_inducing", self.n_inducing, 1, count, f"1 to {count}, the number of points, or None")
        draw = torch.Generator().manual_seed(checks.integer(op, "seed", self.seed, least=0))
        noise = torch.Generator(x.device).manual_seed(self.seed)
        chosen = torch.randperm(count, generator=draw)[: self.n_inducing].to(x.device)
        self.model_ = SparseDKM(
            x[chosen], targets.shape[1], depth=self.depth, nu=self.nu, kernel=self.kernel, likelihood=likelihood,
            kl=self.kl, batch_norm=self.batch_norm, stochastic=self.stochastic, temper=self.temper,
            learn_inducing=self.n_inducing is not None,
        )  # fmt: skip
        self.model_.start_from(targets[chosen])
        size = min(self.batch_size, count)
        batches = -(-count // size)
        order: list[Tensor] = []

        def loss(step: int) -> Tensor:
            if step % batches == 0:
                order[:] = torch.randperm(count, generator=draw).to(x.device).split(size)
            rows = order[step % batches]
            return -self.model_.elbo(x[rows], y[rows], count, noise)

        trained = [p for p in self.model_.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.lr)
        steps = self.epochs * batches
        self.losses_ = minimize(loss, optimizer, steps, lr_schedule=_late, progress=self.progress, name=f"{op}.fit")
        self.model_.eval()

    @torch.no_grad()
    def _posterior(self, X: object) -> tuple[Tensor, Tensor]:
        """Means (N, C) and variances (N,) of function values."""
        parts = [self._of_part(x) for x in self._inputs(X, fitted=True).split(PREDICTED_AT_ONCE)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([variance for _, variance in parts])

    def _of_part(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model_(x)
        return found.mean, found.variance


class DKMRegressor(_Estimator):
    """Regression with a deep kernel machine, in the style of scikit-learn.

    Inputs and targets are standardized; a constant feature becomes 0, and constant targets are predicted as they
    are, by the full machine without training.
    Arrays of integers become float64. Results are arrays if X is one, else tensors.

    Args:
        n_inducing: number of inducing points, chosen among the N training points and learned; None for the full
            machine of all points (:class:`DeepKernelMachine`, L-BFGS, O(N^3)), which uses neither ``batch_norm``,
            ``stochastic``, ``temper``, ``batch_size`` nor ``lr``.
        depth: number of Gram layers.
        nu: relative width, a positive number for all layers or one for each. May be infinite.
        kernel: a name or a :class:`GramKernel`, as in :class:`DeepKernelMachine`.
        kl: "exact" or "taylor".
        batch_norm: None, "global" or "local".
        stochastic: whether training draws Gram matrices.
        temper: whether the divergence of the output is divided by the number of outputs.
        scale: "features" standardizes every feature, "global" divides all by one number, None leaves X as it is.
        epochs: passes over the data; steps of L-BFGS for the full machine.
        batch_size: points in a batch.
        lr: learning rate of Adam; a tenth of it in the last 30 % of the training.
        samples: not used in regression.
        seed: of inducing points, batches and samples.
        progress: whether to show a progress bar.

    Attributes:
        model_: the :class:`SparseDKM` or :class:`DeepKernelMachine`.
        losses_: the loss of every step.

    Raises:
        TypeError, ValueError: from ``fit``, where an argument is out of range, or X or y has another shape, NaN or
            infinity.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import DKMRegressor
        >>> x = torch.linspace(-3, 3, 60, dtype=torch.float64)[:, None]
        >>> model = DKMRegressor(n_inducing=None, depth=1, kernel="squared_exponential", epochs=30)
        >>> model = model.fit(x, x[:, 0].sin())
        >>> mean, std = model.predict(x, return_std=True)
        >>> bool((mean - x[:, 0].sin()).abs().max() < 0.05)
        True
    """

    def fit(self, X: Any, y: Any) -> DKMRegressor:
        """Fits to inputs X (N, D) and targets y (N,) or (N, C)."""
        x = self._inputs(X, fitted=False)
        targets = as_float("DKMRegressor", "y", y).to(x)
        if targets.ndim not in (1, 2) or len(targets) != len(x) or not targets.numel():
            got = f"shape {tuple(targets.shape)}"
            raise ValueError(message("DKMRegressor", "y", f"shape ({len(x)},) or ({len(x)}, C)", got))
        checks.finite("DKMRegressor", "y", targets)
        self._single = targets.ndim == 1
        targets = targets[:, None] if self._single else targets
        self._y_shift, spread = targets.mean(0), targets.std(0, correction=0)
        noise = 10 * torch.finfo(x.dtype).eps * self._y_shift.abs()
        self._y_spread = torch.where(spread > noise, spread, 1.0)
        scaled = (targets - self._y_shift) / self._y_spread
        x = self._rescaled(x)
        if self.n_inducing is None:
            self._fit_full(x, scaled)
        else:
            self._fit_sparse(x, scaled, scaled, GaussianLikelihood())
        return self

    def _fit_full(self, x: Tensor, targets: Tensor) -> None:
        for name in ("batch_norm", "stochastic", "temper"):
            if getattr(self, name):
                wanted = "nothing of it without inducing points"
                hint = "set n_inducing to a number of points"
                raise ValueError(message("DKMRegressor", name, wanted, repr(getattr(self, name)), hint))
        checks.integer("DKMRegressor", "epochs", self.epochs)
        self._x, self._targets = x.double(), targets.double()
        self.model_ = DeepKernelMachine(len(x), depth=self.depth, nu=self.nu, kernel=self.kernel, kl=self.kl).to(
            x.device
        )
        first = inner_products(self._x, self._x).ii
        self.losses_ = []
        if bool(self._targets.any()):  # the evidence of targets that are all 0 has no maximum: noise 0, kernel 0
            self.losses_ = self.model_.fit(first, self._targets, steps=self.epochs, progress=self.progress)

    def _of_part(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.model_, DeepKernelMachine):
            return super()._of_part(x)
        return self.model_.predict(inner_products(self._x, x.double()), self._targets)

    @property
    def noise_(self) -> Tensor:
        """(): the variance of the noise, of standardized targets."""
        self._fitted("noise_")
        full = isinstance(self.model_, DeepKernelMachine)
        return (self.model_.noise if full else self.model_.likelihood.noise).detach()

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Means of the targets at X (M, D): (M,) or (M, C); with ``return_std`` also their standard deviations, which
        include the noise."""
        self._fitted("predict")
        mean, variance = self._posterior(X)
        mean = self._y_shift + self._y_spread * mean.to(self._y_shift)
        std = (variance + self.noise_).sqrt().to(mean)[:, None] * self._y_spread
        mean, std = (mean[:, 0], std[:, 0]) if self._single else (mean, std)
        return (like(X, mean), like(X, std)) if return_std else like(X, mean)

    def score(self, X: Any, y: Any) -> float:
        """The coefficient of determination R^2 of the predicted means; constant y give NaN."""
        return r_squared(self.predict(X), as_float("DKMRegressor", "y", y))


class DKMClassifier(_Estimator):
    """Classification with a sparse deep kernel machine, in the style of scikit-learn.

    Arguments are those of :class:`DKMRegressor`, except: with ``n_inducing=None`` all training points are inducing
    points, and stay where they are; ``samples`` is the number of samples of function values behind each expectation.

    Attributes:
        classes_: the classes, sorted.
        model_: the :class:`SparseDKM`.
        losses_: the loss of every step.

    Raises:
        TypeError, ValueError: from ``fit``, where an argument is out of range, X or y has another shape, NaN or
            infinity, or y has one class only.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import DKMClassifier
        >>> x = torch.linspace(-3, 3, 90, dtype=torch.float64)[:, None]
        >>> y = (x[:, 0].abs() < 1.5).long()
        >>> model = DKMClassifier(n_inducing=15, depth=1, epochs=60, samples=20).fit(x, y)
        >>> model.score(x, y) > 0.95
        True
    """

    def fit(self, X: Any, y: Any) -> DKMClassifier:
        """Fits to inputs X (N, D) and classes y (N,), integers, bools or strings."""
        x = self._inputs(X, fitted=False)
        self.classes_, places = as_classes("DKMClassifier", y, len(x))
        if len(self.classes_) < 2:
            raise ValueError(message("DKMClassifier", "y", "at least two classes", f"one, {self.classes_[0]!r}"))
        index = torch.from_numpy(places).to(x.device)
        likelihood = CategoricalLikelihood(self.samples)
        targets = 2 * torch.nn.functional.one_hot(index, len(self.classes_)).to(x) - 0.2
        self._fit_sparse(self._rescaled(x), index, targets, likelihood)
        return self

    @torch.no_grad()
    def _probs(self, X: Any) -> Tensor:
        mean, variance = self._posterior(X)
        generator = torch.Generator(mean.device).manual_seed(self.seed)
        parts = zip(mean.split(PREDICTED_AT_ONCE), variance.split(PREDICTED_AT_ONCE), strict=True)
        return torch.cat([self.model_.likelihood.log_probs(*part, generator).exp().mean(0) for part in parts])

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (M, C) of the classes in ``classes_``: means of softmaxes over samples, drawn with ``seed``."""
        self._fitted("predict_proba")
        return like(X, self._probs(X))

    def predict(self, X: Any) -> Any:
        """The most probable class of each row of X (M, D): (M,)."""
        self._fitted("predict")
        found = self.classes_[self._probs(X).argmax(1).cpu().numpy()]
        return labels_like(X, found)

    def score(self, X: Any, y: Any) -> float:
        """The share of rows whose most probable class is y."""
        return accuracy(self.predict(X), y)


def _late(fraction: float) -> float:
    return 1.0 if fraction < LATE else LATE_FACTOR
