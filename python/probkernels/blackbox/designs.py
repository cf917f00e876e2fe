"""Discrete designs, such as DNA or protein sequences, as real vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


class DiscreteDesigns:
    """Encodes sequences of L letters as L (C - 1) real numbers, and decodes real vectors to the nearest sequence.

    The code of a letter is the logarithm of a softened one-hot vector relative to the first letter, as in Design-Bench:
    letter 0 is (-a, ..., -a), letter c is a at place c - 1 and 0 elsewhere, with a = log(1 + 0.6 C / 0.4).

    Args:
        letters: number of letters C, at least 2.
        length: number of letters of a design.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.blackbox import DiscreteDesigns
        >>> designs = DiscreteDesigns(letters=4, length=2)
        >>> code = designs.encode(torch.tensor([[0, 3]]))
        >>> code
        tensor([[-1.9459, -1.9459, -1.9459,  0.0000,  0.0000,  1.9459]])
        >>> designs.decode(code)
        tensor([[0, 3]])
    """

    def __init__(self, letters: int, length: int) -> None:
        self.letters = checks.integer("DiscreteDesigns", "letters", letters, least=2)
        self.length = checks.integer("DiscreteDesigns", "length", length)
        self.size = length * (letters - 1)
        self.scale = math.log(1 + 0.6 * letters / 0.4)

    def encode(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Real vectors (N, L (C - 1)) of designs (N, L), integers 0 .. C - 1."""
        checks.integer_tensor("DiscreteDesigns", "x", x)
        if x.ndim != 2 or x.shape[1] != self.length:
            expected = f"shape (N, {self.length})"
            raise ValueError(message("DiscreteDesigns", "x", expected, f"shape {tuple(x.shape)}"))
        wrong = (x < 0) | (x >= self.letters)
        if wrong.any():
            expected = f"letters 0 to {self.letters - 1}"
            raise ValueError(message("DiscreteDesigns", "x", expected, checks.offender(x, wrong)))
        one_hot = torch.nn.functional.one_hot(x.long(), self.letters).to(dtype)
        return (self.scale * (one_hot[..., 1:] - one_hot[..., :1])).flatten(1)

    def decode(self, code: Tensor) -> Tensor:
        """The designs (N, L) of real vectors (N, L (C - 1)): the largest letter at each place, the first of equals."""
        checks.float_tensor("DiscreteDesigns", "code", code)
        if code.ndim != 2 or code.shape[1] != self.size:
            expected = f"shape (N, {self.size})"
            raise ValueError(message("DiscreteDesigns", "code", expected, f"shape {tuple(code.shape)}"))
        checks.finite("DiscreteDesigns", "code", code)
        rest = code.view(len(code), self.length, self.letters - 1)
        return torch.cat([torch.zeros_like(rest[..., :1]), rest], -1).argmax(-1)
