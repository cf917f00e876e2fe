"""What expectation maximization works on: parameters as probabilities, and the flows of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Probabilities:
    """A circuit's parameters outside log space, which EM works on: of every sum layer (G, O, I), and of every input
    layer its table of probabilities (V, C, K), or None where it is no plain table.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> factorized(torch.tensor([[0, 1], [1, 1]]), pseudocount=0.0).probabilities().inputs[0][0, :, 0]
        tensor([0.5000, 0.5000])
    """

    sums: list[Tensor]
    inputs: list[Tensor | None]


@dataclass
class Flows:
    """Circuit flows summed over a batch: how much of each observation's probability passes through each edge.

    log_prob (B,); sums: per sum layer (G, O, I); inputs: per input layer what its M-step needs, for tables the flow by
    category (V, C, K); unseen: per input layer the flow of missing observations (V, K).

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> x = torch.tensor([[0, 1], [1, 1], [1, 0]])
        >>> factorized(x).flows(x).inputs[0][0, :, 0]  # how often variable 0 was 0, and 1
        tensor([1., 2.])
    """

    log_prob: Tensor
    sums: list[Tensor]
    inputs: list[Tensor]
    unseen: list[Tensor]

    def tensors(self) -> list[Tensor]:
        """All that is summed over observations."""
        return [*self.sums, *self.inputs, *self.unseen]

    def __iadd__(self, other: Flows) -> Flows:
        for mine, its in zip(self.tensors(), other.tensors(), strict=True):
            mine += its
        self.log_prob = torch.cat([self.log_prob, other.log_prob])
        return self
