"""Classification with scale mixtures of Gaussian processes: a sparse variational Student-t process."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from .._core import checks
from .._core.errors import message
from ..training import Loop
from ._cholesky import factorize
from .kernel import Kernel, as_kernel
from .scale_priors import InverseGamma

AT_ONCE = 2**24  # scores of classes that a prediction holds


class ScaleMixtureClassifier(nn.Module):
    """A sparse variational Student-t process with a softmax: f_c | sigma^2 ~ GP(0, sigma^2 K), sigma^2 ~ prior.

    The posterior of the values u_c at inducing inputs is N(mean_c, sigma^2 diag(std_c^2)); that of sigma^2, which all
    classes share, is inverse gamma. Both are trained on a bound on the evidence, as are kernel and inducing inputs. An
    average of the softmax over draws predicts. Computations run in float64.

    Args:
        kernel: a :class:`Kernel`, a callable k(x, z) or a gpytorch kernel.
        inducing: (I, D) inputs, trainable: training points, the same number of each class.
        classes: number of classes C, >= 2.
        prior: :class:`InverseGamma`; it is not trained. Default: InverseGamma(2, 2).

    Attributes:
        inducing (I, D); mean, log_std (C, I); scale, an :class:`InverseGamma`: the parameters, float64.

    Raises:
        TypeError, ValueError: an argument has a wrong kind or is out of range.

    Lee, Yun, Yang, Lee: "Scale Mixtures of Neural Network Gaussian Processes", ICLR 2022, arXiv:2107.01408.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF, ScaleMixtureClassifier
        >>> X = torch.linspace(-2, 2, 40)[:, None]
        >>> y = (X[:, 0] > 0).long()
        >>> _ = torch.manual_seed(0)
        >>> model = ScaleMixtureClassifier(RBF(), X[::8], classes=2)
        >>> _ = model.fit(X, y, epochs=60, batch=40, lr=0.1)
        >>> model.predict(torch.tensor([[-1.5], [1.5]]))
        tensor([0, 1])
    """

    def __init__(self, kernel: object, inducing: Tensor, classes: int, prior: InverseGamma | None = None) -> None:
        super().__init__()
        self.op = type(self).__name__
        self.kernel: Kernel = as_kernel(kernel)
        self.classes = checks.integer(self.op, "classes", classes, 2)
        self._check_points("inducing", inducing)
        if len(inducing) == 0:
            raise ValueError(message(self.op, "inducing", "at least one point", "none"))
        if prior is not None and not isinstance(prior, InverseGamma):
            raise TypeError(message(self.op, "prior", "an InverseGamma", checks.describe(prior)))
        given = InverseGamma(2.0, 2.0) if prior is None else prior
        self.prior_a, self.prior_b = float(given.a.detach()), float(given.b.detach())
        self.inducing = nn.Parameter(inducing.detach().to(torch.float64, copy=True))
        self.mean = nn.Parameter(self.inducing.new_zeros(classes, len(inducing)))
        self.log_std = nn.Parameter(torch.zeros_like(self.mean))
        self.scale = InverseGamma(self.prior_a, self.prior_b).to(inducing.device)

    def marginals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, for sigma^2 = 1, of f_c at each point of x (B, D): (B, C), (B, C)."""
        return self._marginals(x, self._factor())

    def divergence(self) -> Tensor:
        """KL of the posterior of (u, sigma^2) from its prior, ()."""
        return self._divergence(self._factor())

    def bound(self, x: Tensor, y: Tensor, total: int, samples: int = 100) -> Tensor:
        """The bound on the log evidence per point, (): mean log likelihood of a batch minus KL / ``total``.

        Args:
            x: (B, D) points.
            y: (B,) classes, int64.
            total: number of points of the training set.
            samples: number of draws, from torch's global generator. Each has one sigma^2 for all points and classes.
        """
        self._check(x, y)
        factor = self._factor()
        mean, variance = self._marginals(x, factor)
        scores = self._draws(mean, variance, checks.integer(self.op, "samples", samples))
        likelihood = log_softmax(scores, -1)[:, torch.arange(len(y), device=y.device), y].mean()
        return likelihood - self._divergence(factor) / checks.integer(self.op, "total", total)

    def fit(
        self,
        X: Tensor,
        y: Tensor,
        *,
        epochs: int = 300,
        batch: int = 100,
        lr: float = 0.01,
        samples: int = 100,
        progress: bool = False,
    ) -> ScaleMixtureClassifier:
        """Trains all parameters with Adam on the bound; X (N, D), y (N,) of int64. Returns the model itself."""
        self._check(X, y)
        checks.positive(self.op, "lr", lr)
        if len(X) == 0:
            raise ValueError(message(self.op, "X", "at least one point", "none"))
        size = checks.integer(self.op, "batch", batch)
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=lr)
        with Loop(checks.integer(self.op, "epochs", epochs), progress=progress, unit="epoch") as loop:
            for n in loop:
                for rows in torch.randperm(len(X)).to(X.device).split(size):
                    loss = -self.bound(X[rows], y[rows], len(X), samples)
                    checks.finite_loss(self.op, n, loss.item())
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                loop.show(loss=loss.item())
        return self

    @torch.no_grad()
    def predict_proba(self, x: Tensor, samples: int = 1000) -> Tensor:
        """Probabilities (M, C) at x (M, D): the softmax, averaged over draws from torch's global generator."""
        self._check_points("x", x)
        checks.integer(self.op, "samples", samples)
        factor = self._factor()
        parts = [
            self._draws(*self._marginals(rows, factor), samples).softmax(-1).mean(0)
            for rows in x.split(max(1, AT_ONCE // (samples * self.classes)))
        ]
        return torch.cat(parts).to(x)

    def predict(self, x: Tensor, samples: int = 1000) -> Tensor:
        """The most probable class of each point x (M, D): (M,), int64."""
        return self.predict_proba(x, samples).argmax(-1)

    def _factor(self) -> Tensor:
        factor, _, failed = factorize(self.kernel(self.inducing))
        if bool(failed.any()):
            hint = "leave out equal points, or lower the learning rate"
            got = "one that is not"
            raise ValueError(message(self.op, "inducing", "a positive definite kernel matrix", got, hint))
        return factor

    def _marginals(self, x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double()
        half = torch.linalg.solve_triangular(factor, self.kernel(self.inducing, x), upper=False)  # (I, B)
        weights = torch.linalg.solve_triangular(factor.mT, half, upper=True).mT  # (B, I): K_bI K_II^-1
        left = (self.kernel.diagonal(x) - half.square().sum(0)).clamp(min=0)
        spread = weights.square() @ (2 * self.log_std).exp().mT
        return weights @ self.mean.mT, left[:, None] + spread

    def _draws(self, mean: Tensor, variance: Tensor, samples: int) -> Tensor:
        """(S, B, C) draws of f; each of the S shares one sigma^2."""
        gamma = torch.distributions.Gamma(self.scale.a, torch.ones_like(self.scale.a)).rsample((samples, 1, 1))
        scale = (self.scale.b / gamma.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
        root = variance.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        return mean + scale * root * torch.randn(samples, *mean.shape, dtype=torch.float64, device=mean.device)

    def _divergence(self, factor: Tensor) -> Tensor:
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        inverse_diagonal = torch.linalg.solve_triangular(factor, eye, upper=False).square().sum(0)
        half = torch.linalg.solve_triangular(factor, self.mean.mT, upper=False)
        a, b = self.scale.a, self.scale.b
        gaussian = (
            self.classes * 2 * factor.diagonal().log().sum()
            - 2 * self.log_std.sum()
            - self.mean.numel()
            + ((2 * self.log_std).exp() @ inverse_diagonal).sum()
            + a / b * half.square().sum()
        )
        return gaussian / 2 + inverse_gamma_divergence(a, b, self.prior_a, self.prior_b)

    def _check_points(self, name: str, x: Any) -> None:
        checks.wide_float_tensor(self.op, name, x, checks.AS_TENSOR)
        checks.finite(self.op, name, x.detach(), "leave out or fill in missing values")
        width = x.shape[-1] if name == "inducing" else self.inducing.shape[1]
        if x.ndim != 2 or x.shape[1] != width or width == 0:
            wanted = "shape (I, D)" if name == "inducing" else f"shape (N, {width}) as 'inducing'"
            raise ValueError(message(self.op, name, wanted, f"shape {tuple(x.shape)}"))

    def _check(self, x: Tensor, y: Tensor) -> None:
        self._check_points("x", x)
        checks.integer_tensor(self.op, "y", y)
        checks.shape(self.op, "y", y, (len(x),), "as 'x' has points")
        wrong = (y < 0) | (y >= self.classes)
        if bool(wrong.any()):
            raise ValueError(message(self.op, "y", f"classes 0 to {self.classes - 1}", checks.offender(y, wrong)))


def inverse_gamma_divergence(a: Tensor, b: Tensor, prior_a: float, prior_b: float) -> Tensor:
    """KL(IG(a, b) || IG(prior_a, prior_b)), ()."""
    gammas = math.lgamma(prior_a) - torch.lgamma(a)
    return (a - prior_a) * torch.digamma(a) + gammas + prior_a * (b / prior_b).log() + a * (prior_b - b) / b
