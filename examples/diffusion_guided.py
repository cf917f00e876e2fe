"""A diffusion model learns handwritten digits, and guidance makes it draw the digit that is asked for.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels.diffusion import VP, Denoiser, fit, sample
from sklearn.datasets import load_digits
from torch import Tensor, nn

SHADES = " .:-=+*#%@"
NO_CLASS = 10
WIDTH = 192


class Net(nn.Module):
    """Predicts v of an image x (B, 64) at times t (B,), given digits (B,), 10 for none."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(11, 32)
        self.register_buffer("frequencies", torch.logspace(0, 3, 32))
        self.enter = nn.Linear(64 + 32 + 64, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.leave = nn.Linear(WIDTH, 64)

    def forward(self, x: Tensor, t: Tensor, digit: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies  # (B, 32)
        h = nn.functional.silu(self.enter(torch.cat([x, self.classes(digit), phase.sin(), phase.cos()], 1)))
        for layer in self.middle:
            h = h + nn.functional.silu(layer(h))
        return self.leave(h)


def nearest(x: Tensor, images: Tensor, digits: Tensor) -> Tensor:
    """The digit of the majority of the five nearest images: (N, 64) -> (N,)."""
    near = torch.cdist(x, images).topk(5, largest=False).indices
    return digits[near].mode(1).values


def show(x: Tensor) -> None:
    """Prints 8 x 8 images (n, 64) in -1 .. 1 side by side, two characters a pixel."""
    shades = ((x.clamp(-1, 1) + 1) * 4.5).round().int()
    for row in shades.view(-1, 8, 8).transpose(0, 1).tolist():
        print("  ".join("".join(2 * SHADES[value] for value in pixels) for pixels in row))


def digits_8x8() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in -1 .. 1 and their digits."""
    table = load_digits()
    return torch.tensor(table.data, dtype=torch.float32) / 8 - 1, torch.tensor(table.target)


def trained_on(images: Tensor, digits: Tensor, clip: float | None = 1.0) -> Denoiser:
    """A denoiser of averaged weights, after 2000 steps."""
    model = Denoiser(Net(), VP(), pred="v", clip=clip)
    null = torch.tensor(NO_CLASS)
    trained = fit(model, images, digits, null=null, steps=2000, batch_size=128, ema=0.995, progress=False)
    print(f"loss: {sum(trained.losses[:100]) / 100:.3f} at first, {sum(trained.losses[-100:]) / 100:.3f} at last")
    return trained.average


def main() -> None:
    torch.manual_seed(0)
    images, digits = digits_8x8()
    model, null = trained_on(images, digits), torch.tensor(NO_CLASS)

    asked = torch.arange(10).repeat_interleave(40)
    noise = torch.randn(400, 64, generator=torch.Generator().manual_seed(1))
    for w in (0.0, 1.0, 2.0, 4.0):
        x = sample(model, noise, solver="dpmpp_2m", steps=20, cond=asked, uncond=null, guidance=w)
        right = (nearest(x, images, digits) == asked).float().mean()
        print(f"guidance {w:g}: {right:.1%} look like the digit that was asked for")
    show(x[::80])


if __name__ == "__main__":
    main()
