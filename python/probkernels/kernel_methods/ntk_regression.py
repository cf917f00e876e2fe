"""Ensembles of infinitely wide networks after training: their mean and covariance in closed form."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._cholesky import factor_or_raise
from .gp_regression import check_data

TRAINED = ("all", "last")


class NTKRegressor:
    """Mean and covariance of infinitely wide networks, trained by gradient flow on squared errors until convergence.

    Networks start from random weights of zero mean, so that outputs are Gaussian over the ensemble. With Theta the NTK,
    K the NNGP kernel and w(x) = Theta(x, X) (Theta(X, X) + ridge I)^-1,

    - mean(x) = w(x) Y,
    - cov(x, z) = K(x, z) + w(x) K(X, X) w(z)^T - w(x) K(X, z) - K(x, X) w(z)^T.

    Outputs of one network are independent given the inputs and share this covariance. If only the last layer is
    trained, Theta is K, and with ridge 0 this is the posterior of a Gaussian process without noise. Everything is
    computed in float64 and returned in the dtype of X.

    Args:
        kernel: an object with ``nngp(x, z)`` and ``ntk(x, z)``, which give matrices (M, N), such as ``MLPKernel``.
        trained: ``"all"`` layers, or the ``"last"`` one.
        ridge: weight decay towards the outputs at the start, >= 0.

    Raises:
        TypeError, ValueError: the kernel lacks a method, ``trained`` is unknown, or ``ridge`` is out of range.

    Reference:
        Lee et al., "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent", NeurIPS 2019.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import MLPKernel, NTKRegressor
        >>> X, Y = torch.eye(3), torch.tensor([1.0, -1.0, 0.5])
        >>> ensemble = NTKRegressor(MLPKernel(depth=1)).fit(X, Y)
        >>> mean, cov = ensemble.predict(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), cov=True)
        >>> mean[0].item(), cov.shape
        (1.0, torch.Size([2, 2]))
    """

    def __init__(self, kernel: object, trained: str = "all", ridge: float = 0.0) -> None:
        for name in ("nngp", "ntk"):
            if not callable(getattr(kernel, name, None)):
                expected = "an object with the methods nngp(x, z) and ntk(x, z)"
                raise TypeError(message("NTKRegressor", "kernel", expected, checks.describe(kernel)))
        checks.one_of("NTKRegressor", "trained", trained, TRAINED)
        checks.non_negative("NTKRegressor", "ridge", ridge)
        self.kernel, self.trained, self.ridge = kernel, trained, ridge
        self.X: Tensor | None = None

    def fit(self, X: Tensor, Y: Tensor) -> NTKRegressor:
        """Trains on X (N, D) and targets Y (N,) or (N, C), and returns itself.

        Raises:
            TypeError, ValueError: a dtype or shape is wrong, a number is not finite, N = 0, or the kernel matrix has
                no Cholesky factor.
        """
        op = "NTKRegressor.fit"
        if isinstance(Y, Tensor) and Y.ndim == 2 and isinstance(X, Tensor) and len(Y) != len(X):
            raise ValueError(message(op, "Y", f"shape ({len(X)},) or ({len(X)}, C)", f"shape {tuple(Y.shape)}"))
        check_data(op, X, Y.mT if isinstance(Y, Tensor) and Y.ndim == 2 else Y, "Y")
        wide = X.double()
        eye = torch.eye(len(X), dtype=torch.float64, device=X.device)
        hint = "leave out equal points, or give a ridge"
        theta = self._theta(wide, wide) + self.ridge * eye
        self._factor = factor_or_raise(op, "X", theta, hint=hint)
        self._own = self._matrix("nngp", wide, wide)
        self._weights = torch.cholesky_solve((Y if Y.ndim == 2 else Y[:, None]).double(), self._factor)
        self.X, self._single = X, Y.ndim == 1
        return self

    @overload
    def predict(self, x: Tensor, cov: Literal[False] = False) -> Tensor: ...

    @overload
    def predict(self, x: Tensor, cov: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def predict(self, x: Tensor, cov: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The mean at x (M, D): (M,) or (M, C); with ``cov`` also the covariance (M, M) of each output.

        Raises:
            RuntimeError: :meth:`fit` was not called.
            TypeError, ValueError: the dtype or shape of x is wrong.
        """
        op, X = "NTKRegressor.predict", self.X
        if X is None:
            raise RuntimeError(f"{op}: call fit(X, Y) first.")
        checks.wide_float_tensor(op, "x", x, checks.AS_TENSOR)
        if x.ndim != 2 or x.shape[1] != X.shape[1]:
            raise ValueError(message(op, "x", f"shape (M, {X.shape[1]})", f"shape {tuple(x.shape)}"))
        checks.same_device(op, "x", x, X, "X")
        x, wide = x.double(), X.double()
        cross = self._theta(x, wide)
        mean = (cross @ self._weights).to(X)
        mean = mean[:, 0] if self._single else mean
        if not cov:
            return mean
        w = torch.cholesky_solve(cross.mT, self._factor)  # (N, M)
        mixed = self._matrix("nngp", x, wide) @ w
        found = self._matrix("nngp", x, x) + w.mT @ self._own @ w - mixed - mixed.mT
        return mean, ((found + found.mT) / 2).to(X)

    def _theta(self, x: Tensor, z: Tensor) -> Tensor:
        return self._matrix("ntk" if self.trained == "all" else "nngp", x, z)

    def _matrix(self, name: str, x: Tensor, z: Tensor) -> Tensor:
        found = getattr(self.kernel, name)(x, z)
        if not isinstance(found, Tensor) or found.shape != (len(x), len(z)):
            expected = f"a matrix ({len(x)}, {len(z)}) from {name}(x, z)"
            raise ValueError(message("NTKRegressor", "kernel", expected, checks.describe(found)))
        return found.to(x)
