"""A small causal transformer on characters of real text, with a norm of the caller's choice.

The text is ``pydoc_data.topics``, Python's own reference documentation: it ships with every CPython.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...training import cosine, minimize

VOCABULARY = 128
LENGTH = 64
EMBEDDING_STD = (
    0.05  # with it LayerNorm, and LayerNorm alone was asked, comes near its expected loss at both batch sizes
)


def load_topics() -> tuple[list[Tensor], list[Tensor]]:
    """Training and validation text: the first 90 % and the last 10 % of every topic of over 3,000 characters."""
    from pydoc_data.topics import topics

    long = [topics[name] for name in sorted(topics) if len(topics[name]) > 3000]
    codes = [torch.tensor(list(map(ord, text))).clamp_max(VOCABULARY - 1) for text in long]
    return [c[: int(0.9 * len(c))] for c in codes], [c[int(0.9 * len(c)) :] for c in codes]


def draw_batch(texts: list[Tensor], size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Chunks of one topic, so that batch statistics fluctuate from batch to batch: inputs and targets (B, T)."""
    text = texts[int(torch.randint(len(texts), (), generator=generator))]
    starts = torch.randint(len(text) - LENGTH, (size, 1), generator=generator)
    chunks = text[starts + torch.arange(LENGTH + 1)]
    return chunks[:, :-1], chunks[:, 1:]


class Block(nn.Module):
    """A pre-norm transformer layer: causal attention and a ReLU network, each with a residual connection."""

    def __init__(self, width: int, heads: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = norm(width), norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, T, C / heads)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.ffn(self.norm2(x))


class CharTransformer(nn.Module):
    """Characters (B, T) -> logits of the next ones (B, T, VOCABULARY). The last norm is always a LayerNorm."""

    def __init__(self, norm: Callable[[int], nn.Module], width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(LENGTH, width)
        with torch.no_grad():
            for table in (self.characters, self.positions):
                table.weight.mul_(EMBEDDING_STD)
        self.blocks = nn.Sequential(*(Block(width, heads, norm) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCABULARY))

    def forward(self, codes: Tensor) -> Tensor:
        """codes (B, T) int64 -> logits (B, T, VOCABULARY)."""
        return self.head(self.blocks(self.characters(codes) + self.positions.weight))

    def loss(self, codes: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per character."""
        return F.cross_entropy(self(codes).flatten(0, 1), targets.flatten())


def train(
    model: CharTransformer, texts: list[Tensor], batch: int, steps: int, seed: int, after: Callable[[int, float], None]
) -> None:
    """Adam with a linear warm-up of 100 steps times a cosine; ``after(step, loss)`` follows every step."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98), foreach=True)
    model.train()
    minimize(
        lambda step: model.loss(*draw_batch(texts, batch, generator)),
        optimizer,
        steps,
        lr_schedule=lambda fraction: min(1.0, (fraction * steps + 1) / 100) * cosine(fraction),
        after=after,
    )


@torch.no_grad()
def validate(model: CharTransformer, texts: list[Tensor], batches: int = 40) -> float:
    """Nats per character over the same batches of 16 chunks every time, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    model.eval()
    return sum(float(model.loss(*draw_batch(texts, 16, generator))) for _ in range(batches)) / batches
