"""A circuit learns handwritten digits: how likely an image is, what its hidden half holds, what others look like.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import math

import torch
from probkernels.circuits import EM, Circuit, factorized, hclt
from sklearn.datasets import load_digits
from torch import Tensor

SHADES = " .:-=+*#%@"


def bits(circuit: Circuit, x: Tensor) -> float:
    """Bits per pixel that a lossless code of these images would need."""
    with torch.no_grad():
        return -circuit.log_prob(x).mean().item() / (64 * math.log(2))


def show(title: str, images: Tensor) -> None:
    """Prints 8 x 8 images (n, 64) side by side, two characters a pixel."""
    print(f"\n{title}")
    for row in images.view(-1, 8, 8).transpose(0, 1).tolist():
        print("   ".join("".join(2 * SHADES[value * 9 // 16] for value in pixels) for pixels in row))


def main() -> None:
    pixels = torch.tensor(load_digits().data, dtype=torch.int64)  # (1797, 64), values 0 .. 16
    train, test = pixels[:1297], pixels[1297:]

    circuit = hclt(train, latents=8, categories=17)  # a tree of latent variables over the pixels
    EM(circuit, batch_size=None, pseudocount=1.0).fit(train, epochs=60, progress=False)
    independent = factorized(train, categories=17)
    print(f"bits per pixel, test: circuit {bits(circuit, test):.3f}, independent pixels {bits(independent, test):.3f}")

    lower = torch.arange(64) >= 32  # the half to hide
    with torch.no_grad():
        told = circuit.conditional(test, targets=lower).mean().item() / (-32 * math.log(2))
        alone = circuit.marginal(test, lower).mean().item() / (-32 * math.log(2))
    print(f"bits per pixel, lower half: {told:.3f} given the upper one, {alone:.3f} without it")

    some = test[[0, 2, 5, 8]]
    show("the images", some)
    show("their lower halves drawn given the upper ones", circuit.sample(1, given=some, missing=lower, seed=0)[0])
    show("the most probable lower halves", circuit.mpe(some, lower)[0])
    show("new images", circuit.sample(4, seed=1))


if __name__ == "__main__":
    main()
