"""The exact predictor of a patch world: Bayes' rule over all layouts and motions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import checks
from .pointers import Block, Known, PointerVocab, Query
from .worlds import ParallaxWorld, PatchWorld

IMPOSSIBLE = -200.0  # log-probability of what a world cannot show: evidence against all hypotheses favors the nearest
ENTRIES = 2**23  # of tables over hypotheses that are held at once


class ExactPsi:
    """The distribution of any value of a patch world given any others, by enumeration of layouts and motions.

    It is what a trained model approximates, and an oracle for what is extracted from one. Unlike a transformer, it
    does not care about the order of what is known. What the world cannot show, such as a code that was changed by
    hand, counts against all hypotheses alike.

    Args:
        world: a :class:`PatchWorld` or a :class:`ParallaxWorld`.
        positions: layouts to consider, (K, 2) positions of the objects for each; None for all of the world. Two
            objects have thousands, so name them where they are known.
        eps: probability that is added to each value, before probabilities are normalized.

    Attributes:
        vocab (PointerVocab): the world's modalities.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld
        >>> world = PatchWorld(6)
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> logits = ExactPsi(world).logits(scene.known("rgb0"), ("flow", scene.owner0[0].argmax()[None]))
        >>> logits.exp()  # each of 9 motions
        tensor([[[0.1111, 0.1111, 0.1111, 0.1111, 0.1111, 0.1111, 0.1111, 0.1111,
                  0.1111]]], dtype=torch.float64)
    """

    def __init__(
        self,
        world: PatchWorld | ParallaxWorld,
        positions: Sequence[Sequence[Sequence[int]]] | None = None,
        *,
        eps: float = 0.0,
    ) -> None:
        checks.non_negative("ExactPsi", "eps", eps)
        self.vocab: PointerVocab = world.vocab
        self.eps = eps
        self._cells, prior = world.hypotheses(positions)
        self._log_prior = prior.log().clamp(min=IMPOSSIBLE / 2)  # (U, V) of the codes; what is seen weighs more

    def logits(self, known: Known, query: Query) -> Tensor:
        """Log-probabilities (B, q, V) in float64, on the CPU, of the values of the query's modality.

        Args:
            known: known pairs, see :class:`PointerVocab`; may be empty.
            query: a modality and the pointers asked.

        Raises:
            TypeError, ValueError: an unknown modality, a pointer out of range, asked twice or known, no pointers.
        """
        blocks = self.vocab.blocks("ExactPsi.logits", known)
        name, at = self.vocab.asked("ExactPsi.logits", query, blocks)
        cells, (variables, codes) = self._cells[name], self._log_prior.shape
        per_row = len(cells) * max(variables * codes, at.shape[1] * self.vocab[name].num_values)
        rows, step, found = len(at), max(1, ENTRIES // per_row), []
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            some = [Block(n, p.expand(rows, -1)[part], v.expand(rows, -1)[part]) for n, p, v in blocks]
            found.append(self._probs(some, name, at[part]))
        p = torch.cat(found)
        return ((p + self.eps) / (1 + self.eps * p.shape[-1])).clamp(min=torch.finfo(p.dtype).tiny).log()

    def _probs(self, known: list[Block], name: str, at: Tensor) -> Tensor:
        codes, likelihood = self._evidence(known, len(at))
        live = (likelihood > likelihood.amax(1, keepdim=True) + IMPOSSIBLE / 2).any(0)
        weight = likelihood[:, live].softmax(1)  # (B, H)
        cells = self._cells[name][live][:, at].transpose(0, 1)  # (B, H, q)
        codes = codes[:, live].softmax(-1)  # (B, H, U, V)
        width = self.vocab[name].num_values
        fixed = torch.zeros(*at.shape, width, dtype=torch.float64)
        share = weight[:, :, None].expand(cells.shape)
        fixed.scatter_add_(2, cells.clamp(min=0).mT, (share * (cells >= 0)).mT)
        if not bool((cells < 0).any()):
            return fixed
        index = (-1 - cells).clamp(min=0)[..., None].expand(*cells.shape, width)
        return fixed + torch.einsum("bhq,bhqv->bqv", share * (cells < 0), codes.gather(2, index))

    def _evidence(self, known: list[Block], rows: int) -> tuple[Tensor, Tensor]:
        """Log-weights of the codes (B, H, U, V), and the log-likelihood of what is known (B, H)."""
        variables, width = self._log_prior.shape
        number = len(next(iter(self._cells.values())))
        against = torch.zeros(rows, number, dtype=torch.float64)  # counts are whole: no rounding
        seen = torch.zeros(rows, number, variables, dtype=torch.float64)
        agreed = torch.zeros(rows, number, variables * width, dtype=torch.float64)
        for block in known:
            cells = self._cells[block.name][:, block.pointers].transpose(0, 1)  # (B, H, k)
            value = block.values[:, None].expand(cells.shape)
            against += ((cells >= 0) & (cells != value)).sum(2)
            variable, is_code = (-1 - cells).clamp(min=0), (cells < 0).double()
            seen.scatter_add_(2, variable, is_code)
            agreed.scatter_add_(2, (variable * width + value.clamp(max=width - 1)), is_code)
        wrong = seen[..., None] - agreed.view(rows, number, variables, width)
        codes = self._log_prior + IMPOSSIBLE * wrong
        return codes, IMPOSSIBLE * against + codes.logsumexp(-1).sum(-1)
