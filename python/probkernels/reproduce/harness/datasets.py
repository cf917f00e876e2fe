"""Data sets of the experiments: those that ship with scikit-learn, and files in the folder of --data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import data_files

DIGITS_TRAIN = 1297  # of 1,797; the others, by other writers, are the test set
FOLD = 1097  # of those, to fit on where the other 200 choose a setting


@dataclass(frozen=True)
class Images:
    """Rows are images of side x side pixels with values 0 .. categories - 1; labels (N,) int64."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor | None
    categories: int

    @property
    def side(self) -> int:
        """Pixels in a row of an image."""
        return math.isqrt(self.train.shape[1])

    @property
    def lower_half(self) -> Tensor:
        """(D,) bool: the pixels in the lower half."""
        return torch.arange(self.train.shape[1]) >= self.side * (self.side // 2)


def digits() -> Images:
    """All 1,797 digits of scikit-learn in 17 levels.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    require_sklearn()
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels, labels = torch.tensor(x, dtype=torch.int64), torch.tensor(y, dtype=torch.int64)
    n = DIGITS_TRAIN
    return Images(pixels[:n], labels[:n], pixels[n:], labels[n:], 17)


def require_sklearn() -> None:
    """Raises ImportError with an install hint if scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        hint = "pip install 'probkernels[report]'"
        raise ImportError(f"reproduce: needs scikit-learn for its digits. Hint: {hint}") from error


def mnist(folder: Path) -> Images:
    """MNIST in 256 levels, from ``mnist.npz`` in the folder: xtr, xte (N, 784) or (N, 28, 28), and ytr (N,).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has other contents.
    """
    path, arrays = folder / "mnist.npz", data_files.load(folder, "mnist")
    train, labels, test = (arrays[key] for key in data_files.KNOWN["mnist"].arrays)
    for key, array in (("xtr", train), ("xte", test)):
        shape = array.reshape(len(array), -1).shape if array.ndim > 1 else array.shape
        if array.dtype != np.uint8 or len(shape) != 2 or math.isqrt(shape[1]) ** 2 != shape[1]:
            wanted = "square images of uint8"
            raise ValueError(f"reproduce: '{path}': expected {wanted} in '{key}', got {array.dtype} {shape}")
    rows = [torch.from_numpy(array.reshape(len(array), -1)) for array in (train, test)]
    return Images(rows[0], torch.from_numpy(labels.astype(np.int64)), rows[1], None, 256)


def one_of_each(labels: Sequence[int] | Tensor) -> list[int]:
    """The index of the first image of every class, in the order of the classes."""
    found: dict[int, int] = {}
    for place, label in enumerate(torch.as_tensor(labels).tolist()):
        found.setdefault(label, place)
    return [found[label] for label in sorted(found)]
