"""Prior-fitted networks with ``fit`` and ``predict`` as in scikit-learn: to fit is to store the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution

from .._core import checks, digests
from .._core.errors import message
from .._core.estimators import Estimator, accuracy, as_classes, as_float, as_inputs, labels_like, like, r_squared
from .pfn import PFN
from .set_attention import ContextCache

PREDICTED_AT_ONCE = 2048


class _PFNEstimator(Estimator):
    """What the regressor and the classifier share. Arguments and errors are in their docstrings."""

    model: PFN

    def _store(self, x: Tensor, y: Tensor, discrete: bool) -> None:
        """Keeps a context x (N, F), y (N,) and its cache."""
        like_model = self.model.of_x.bias
        self._origin: Tensor | None = None
        if x.dtype is torch.float64 and self.model.normalize_x == "context":  # before a narrower dtype rounds
            self._origin = x.mean(0)
            noise = 10 * torch.finfo(x.dtype).eps * self._origin.abs()
            x = torch.where(x.std(0, correction=0) > noise, x - self._origin, 0)
        self._x = x[None].to(like_model)
        self._y = y[None].to(like_model.device) if discrete else y[None].to(like_model)
        self._cache: ContextCache | None = None
        self._state = ""
        for _ in self._parts(x[:0]):  # refuses bad contexts
            pass

    def _check_model(self, discrete: bool) -> int:
        """The number of features of a model whose targets are classes, or are not."""
        op = type(self).__name__
        if not isinstance(self.model, PFN):
            raise TypeError(message(op, "model", "a PFN", checks.describe(self.model), "PFN.load(path)"))
        if self.model.head.discrete is not discrete:
            wanted = "a PFN with a head of " + ("classes" if discrete else "numbers")
            other = "PFNRegressor" if discrete else "PFNClassifier"
            raise ValueError(message(op, "model", wanted, type(self.model.head).__name__, f"{other} is for this model"))
        return self.model.n_features

    def _cached(self) -> ContextCache:
        """The cache of the context, made again if the model has changed since."""
        state = digests.of_data(*self.model.parameters(), *self.model.buffers())
        if self._cache is None or state != self._state:
            self._cache, self._state = self.model.condition(self._x, self._y), state
        return self._cache

    def _parts(self, X: object) -> Iterator[Distribution]:
        """Predictive distributions (1, m) of parts of X."""
        self._fitted("predict", "_x")
        x = as_inputs(type(self).__name__, X, self.model.n_features).to(self._x.device)
        if self._origin is not None:
            x = x - self._origin.to(x.device)
        was = self.model.training
        self.model.eval()
        try:
            cache = self._cached()
            for part in x.to(self._x).split(PREDICTED_AT_ONCE):
                yield self.model.query(cache, part[None])
        finally:
            self.model.train(was)


class PFNRegressor(_PFNEstimator):
    """Regression with a trained :class:`PFN`, in the style of scikit-learn. Nothing is trained in ``fit``.

    Arrays of integers become floats. Results are arrays if X is one, else tensors, in the wider dtype of y and the
    model.

    Args:
        model: a PFN with a head of numbers, such as :class:`BarHead`.
        scale_y: whether the model sees standardized targets, for priors of mean 0 and standard deviation 1.

    Raises:
        TypeError, ValueError: from ``fit`` and ``predict``, where the model has another head, or X or y has another
            shape, NaN or infinity.
        RuntimeError: from ``predict`` before ``fit``.

    Example:
        >>> import torch
        >>> from probkernels.amortized import PFN, GaussianHead, PFNRegressor
        >>> model = PFN(2, GaussianHead(), d=16, layers=1)
        >>> fitted = PFNRegressor(model).fit(torch.rand(20, 2), torch.rand(20))
        >>> mean, std = fitted.predict(torch.rand(5, 2), return_std=True)
        >>> fitted.predict_quantiles(torch.rand(5, 2), [0.1, 0.9]).shape
        torch.Size([5, 2])
    """

    def __init__(self, model: PFN, *, scale_y: bool = False) -> None:
        self.model, self.scale_y = model, scale_y

    @torch.no_grad()
    def fit(self, X: Any, y: Any) -> PFNRegressor:
        """Stores the context: X (N, F) and y (N,), N >= 1."""
        x = as_inputs("PFNRegressor", X, self._check_model(discrete=False))
        targets = as_float("PFNRegressor", "y", y)
        checks.shape("PFNRegressor", "y", targets, x.shape[:1], "for the rows of X")
        if not len(x):
            raise ValueError(message("PFNRegressor", "X", "at least one row", "none"))
        checks.finite("PFNRegressor", "y", targets, "leave out rows without a target")
        self._shift, self._spread, self._dtype = 0.0, 1.0, targets.dtype
        if self.scale_y:
            self._shift, spread = targets.mean().item(), targets.std(correction=0).item()
            noise = 10 * torch.finfo(targets.dtype).eps * abs(self._shift)
            self._spread = spread if spread > noise else 1.0
        self._store(x, (targets - self._shift) / self._spread, discrete=False)
        return self

    @torch.no_grad()
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Means of the targets at X (M, F): (M,); with ``return_std`` also their standard deviations."""
        found = [(part.mean[0], part.variance[0].sqrt()) for part in self._parts(X)]
        mean = self._wide([mean for mean, _ in found]) * self._spread + self._shift
        std = self._wide([std for _, std in found]) * self._spread
        return (like(X, mean), like(X, std)) if return_std else like(X, mean)

    @torch.no_grad()
    def predict_quantiles(self, X: Any, q: float | Sequence[float] = (0.025, 0.5, 0.975)) -> Any:
        """Quantiles of the targets at X (M, F), one column for each level in ``q``: (M, len(q))."""
        levels = [checks.number("PFNRegressor", "q", level) for level in (q if isinstance(q, Sequence) else [q])]
        for level in levels:
            if not 0 < level < 1:
                raise ValueError(message("PFNRegressor", "q", "levels between 0 and 1", repr(level)))
        parts = [
            torch.stack([part.icdf(part.mean.new_full(part.batch_shape, u))[0] for u in levels], -1)
            for part in self._parts(X)
        ]
        return like(X, self._wide(parts) * self._spread + self._shift)

    def _wide(self, parts: list[Tensor]) -> Tensor:
        """Results in the dtype of y if it is the wider one: its mean may be large beside its spread."""
        found = torch.cat(parts)
        return found.to(torch.promote_types(found.dtype, self._dtype))

    def score(self, X: Any, y: Any) -> float:
        """The coefficient of determination R^2 of the predicted means; constant y give NaN."""
        return r_squared(self.predict(X), as_float("PFNRegressor", "y", y))


class PFNClassifier(_PFNEstimator):
    """Classification with a trained :class:`PFN`, in the style of scikit-learn. Nothing is trained in ``fit``.

    The sorted classes of y are the model's classes 0, 1, ...; the probabilities of classes that y lacks are left out
    and the rest is normalized. Results are arrays if X is one, else tensors.

    Args:
        model: a PFN with a :class:`ClassHead` or a :class:`BernoulliHead`.

    Attributes:
        classes_: the classes, sorted.

    Raises:
        TypeError, ValueError: from ``fit`` and ``predict``, where the model has another head or fewer classes than y,
            or X or y has another shape, NaN or infinity.
        RuntimeError: from ``predict`` before ``fit``.

    Example:
        >>> import torch
        >>> from probkernels.amortized import PFN, ClassHead, PFNClassifier
        >>> model = PFN(2, ClassHead(3), d=16, layers=1)
        >>> fitted = PFNClassifier(model).fit(torch.rand(20, 2).numpy(), ["cat", "dog"] * 10)
        >>> fitted.predict_proba(torch.rand(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, model: PFN) -> None:
        self.model = model

    @torch.no_grad()
    def fit(self, X: Any, y: Any) -> PFNClassifier:
        """Stores the context: X (N, F) and classes y (N,), integers, bools or strings, N >= 1."""
        op = "PFNClassifier"
        x = as_inputs(op, X, self._check_model(discrete=True))
        self.classes_, places = as_classes(op, y, len(x))
        most = max(self.model.head.n_out, 2)
        if not 0 < len(self.classes_) <= most:
            raise ValueError(message(op, "y", f"1 to {most} classes, those of the model", str(len(self.classes_))))
        self._store(x, torch.from_numpy(places), discrete=True)
        return self

    @torch.no_grad()
    def predict_proba(self, X: Any) -> Any:
        """Probabilities (M, C) of the classes in ``classes_``."""
        return like(X, self._probs(X))

    def predict(self, X: Any) -> Any:
        """The most probable class of each row of X (M, F): (M,)."""
        return labels_like(X, self.classes_[self._probs(X).argmax(1).cpu().numpy()])

    def score(self, X: Any, y: Any) -> float:
        """The share of rows whose most probable class is y."""
        return accuracy(self.predict(X), y)

    @torch.no_grad()
    def _probs(self, X: object) -> Tensor:
        logits = []
        for part in self._parts(X):
            assert isinstance(part, Bernoulli | Categorical)
            found = part.logits[0]
            logits.append(torch.stack([-found, found], -1) / 2 if isinstance(part, Bernoulli) else found)
        return torch.cat(logits)[:, : len(self.classes_)].softmax(1)
