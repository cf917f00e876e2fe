"""The data of expectation maximization: parameters as probabilities, and the flows of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Probabilities:
    """A circuit's parameters as probabilities instead of logarithms. EM works on them.

    Attributes:
        sums: weights of each sum layer, (G, O, I).
        inputs: table of probabilities of each input layer, (V, C, K). None if the layer's parameters are not a table.

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

    Attributes:
        log_prob: log-likelihood of each observation, (B,); not summed.
        sums: flows of each sum layer, (G, O, I).
        inputs: statistics for the M-step of each input layer. For a table, the flow by category, (V, C, K).
        unseen: flow of missing observations of each input layer, (V, K).

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
        """All tensors that are summed over observations."""
        return [*self.sums, *self.inputs, *self.unseen]

    def __iadd__(self, other: Flows) -> Flows:
        for mine, its in zip(self.tensors(), other.tensors(), strict=True):
            mine += its
        self.log_prob = torch.cat([self.log_prob, other.log_prob])
        return self
