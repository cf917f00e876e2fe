"""Train a torch transformer with PowerNorm instead of LayerNorm, then run it without any norm at all.

At inference PowerNorm is a fixed scale and shift of each feature, so it folds into the linear layer that follows.
The task: say of each token whether it occurred before in its sequence, which takes attention to solve.

    python examples/power_norm_transformer.py
"""

import copy
import time

import probkernels as pk
import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, LENGTH, WIDTH = 16, 16, 64


class Tagger(nn.Module):
    """Tokens (B, T) -> logits (B, T) of "occurred before"."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        encoded = self.encoder(self.tokens(tokens), mask=self.causal, is_causal=True)  # (B, T, C)
        return self.head(encoded).squeeze(-1)


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Random tokens (B, T) and whether each occurred before (B, T)."""
    tokens = torch.randint(VOCABULARY, (size, LENGTH))
    same = tokens[:, :, None] == tokens[:, None, :]  # (B, T, T)
    return tokens, same.tril(-1).any(-1).float()


def train(model: nn.Module, steps: int = 250) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        tokens, seen = batch(32)
        loss = F.binary_cross_entropy_with_logits(model(tokens), seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    tokens, seen = batch(512)
    return ((model.eval()(tokens) > 0) == seen.bool()).float().mean().item()


def without_norms(model: Tagger) -> Tagger:
    """A copy for inference whose second norms and last norm live in the linear layers behind them."""
    folded = copy.deepcopy(model).eval()
    for layer in folded.encoder.layers:
        layer.linear1, layer.norm2 = layer.norm2.fold_into(layer.linear1), nn.Identity()
    folded.head, folded.encoder.norm = folded.encoder.norm.fold_into(folded.head), None
    return folded


@torch.no_grad()
def milliseconds(model: nn.Module, tokens: Tensor) -> float:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        model(tokens)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    torch.manual_seed(0)
    layer_norm = Tagger()
    power_norm = pk.nn.convert_layernorm(copy.deepcopy(layer_norm), batch_first=True)  # the same initial weights
    for name, model in (("LayerNorm", layer_norm), ("PowerNorm", power_norm)):
        torch.manual_seed(1)  # and the same batches
        train(model)
        print(f"{name}: accuracy {accuracy(model):.3f}")

    tokens, _ = batch(256)
    folded = without_norms(power_norm)
    with torch.no_grad():
        gap = (folded(tokens) - power_norm(tokens)).abs().max().item()
    print(f"\nfolded: {sum(isinstance(m, pk.nn.PowerNorm) for m in folded.modules())} norms left of 5")
    print(f"folded: logits differ from the unfolded ones by at most {gap:.1e}")
    for name, model in (("LayerNorm", layer_norm), ("PowerNorm", power_norm), ("folded", folded)):
        print(f"{name}: {milliseconds(model, tokens):.2f} ms for {tokens.numel()} tokens")


if __name__ == "__main__":
    main()
