"""What classes in the style of scikit-learn share: parameters by name, arrays in and out."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import checks
from .errors import message

Self = TypeVar("Self", bound="Estimator")


class Estimator:
    """A class whose constructor stores its arguments under their names."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self: Self, **params: Any) -> Self:
        """Sets arguments of the constructor, for the next ``fit``."""
        for name, value in params.items():
            checks.one_of(type(self).__name__, "set_params", name, tuple(self.get_params()))
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        defaults = inspect.signature(type(self)).parameters
        own = (f"{k}={v!r}" for k, v in self.get_params().items() if v is not defaults[k].default)
        return f"{type(self).__name__}({', '.join(own)})"

    def _fitted(self, what: str, attribute: str = "model_") -> None:
        if not hasattr(self, attribute):
            op = f"{type(self).__name__}.{what}"
            raise RuntimeError(message(op, "self", "a fitted model", "one that is not", "call fit first"))


def as_float(op: str, name: str, value: Any) -> Tensor:
    """A float32 or float64 tensor; integers become float64."""
    found = value
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "iubf":
            raise TypeError(message(op, name, "numbers", str(array.dtype)))
        found = (
            torch.from_numpy(np.ascontiguousarray(array)) if array.dtype.kind != "f" or array.itemsize < 16 else array
        )
    if isinstance(found, Tensor) and not found.is_floating_point() and not found.is_complex():
        found = found.double()
    checks.wide_float_tensor(op, name, found)
    return found.detach()


def as_inputs(op: str, X: object, columns: int | None = None) -> Tensor:
    """Finite inputs (N, D) of ``columns`` columns; None for any number, with N >= 1."""
    x = as_float(op, "X", X)
    wanted = f"(N, {columns})" if columns is not None else "(N, D), N >= 1, D >= 1"
    wrong = x.shape[-1] != columns if columns is not None and x.ndim else not x.numel()
    if x.ndim != 2 or wrong:
        hint = "one feature is X.reshape(-1, 1)" if x.ndim == 1 else ""
        raise ValueError(message(op, "X", f"shape {wanted}", f"shape {tuple(x.shape)}", hint))
    checks.finite(op, "X", x, "fill in missing values first")
    return x


def as_classes(op: str, y: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted classes of ``count`` labels, and the place of each label among them."""
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.ndim != 1 or len(labels) != count:
        raise ValueError(message(op, "y", f"shape ({count},)", f"shape {labels.shape}"))
    if labels.dtype.kind not in "iubUS":
        raise TypeError(message(op, "y", "integers, bools or strings", str(labels.dtype)))
    classes, places = np.unique(labels, return_inverse=True)
    return classes, places


def like(given: object, found: Tensor) -> Any:
    """A tensor if a tensor was given, else an array."""
    return found if isinstance(given, Tensor) else found.cpu().numpy()


def labels_like(given: object, labels: np.ndarray) -> Any:
    """Labels as a tensor if a tensor was given and they are numbers, else as an array."""
    return torch.from_numpy(labels) if isinstance(given, Tensor) and labels.dtype.kind in "iub" else labels


def accuracy(predicted: Any, y: Any) -> float:
    """The share of predicted labels that equal y."""
    truth = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    return float(np.mean(np.asarray(predicted) == truth))


def r_squared(predicted: Any, truth: Tensor) -> float:
    """The coefficient of determination R^2; constant truth gives NaN."""
    wrong = truth - torch.as_tensor(predicted).to(truth)
    return float(1 - wrong.square().sum() / (truth - truth.mean(0)).square().sum())
