"""The noise that an image starts from is moved until the image agrees with what was seen: the lower half of a digit.

The gradient goes through all steps of the sampler. The exact one of these very steps is set beside AdjointDPM's, which
is that of the differential equation that the steps approximate. Uses the network of diffusion_guided.py.
"""

from __future__ import annotations

import torch
from diffusion_guided import NO_CLASS, digits_8x8, nearest, show, trained_on
from probkernels.diffusion import Denoiser, sample
from torch import Tensor

STEPS, ROUNDS, IMAGES = 10, 40, 64
SEEN = slice(32, 64)  # the pixels of the lower half


def complete(model: Denoiser, halves: Tensor, grad: str) -> tuple[Tensor, list[float]]:
    """Images (N, 64) whose lower halves are ``halves`` (N, 32), and the error of these halves before every round."""
    x_T = torch.randn(len(halves), 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    nothing = torch.full((len(halves),), NO_CLASS)
    optimizer = torch.optim.Adam([x_T], lr=0.1)
    errors = []
    for _ in range(ROUNDS + 1):
        x = sample(model, x_T, solver="ddim", steps=STEPS, cond=nothing, grad=grad)
        loss = (x[:, SEEN] - halves).square().mean()
        errors.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return x.detach(), errors


def main() -> None:
    torch.manual_seed(0)
    images, digits = digits_8x8()
    model = trained_on(images[IMAGES:], digits[IMAGES:], clip=None).requires_grad_(False)
    found = {}
    for grad in ("exact", "continuous"):
        found[grad], errors = complete(model, images[:IMAGES, SEEN], grad)
        right = (nearest(found[grad], images[IMAGES:], digits[IMAGES:]) == digits[:IMAGES]).float().mean()
        print(f"{grad} gradient: error of what was seen {errors[0]:.3f} -> {errors[-1]:.3f}, {right:.1%} right")
    print("six digits, and what became of noise when only their lower halves were seen:")
    show(images[:6])
    show(found["exact"][:6])


if __name__ == "__main__":
    main()
