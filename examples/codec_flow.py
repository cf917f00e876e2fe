"""Tiles of two photos, compressed with a circuit, with an integer flow, and with a circuit over the flow's latents.

Needs scikit-learn and Pillow for the photos: pip install 'probkernels[report]'
"""

from __future__ import annotations

import numpy as np
import torch
from probkernels.circuits import EM, Circuit, factorized, hclt
from probkernels.codec import FrozenFlow, IntegerFlow, PCCodec
from sklearn.datasets import load_sample_images
from torch import Tensor

SIDE = 4
VALUES = [256] * SIDE**2


def tiles(image: np.ndarray) -> Tensor:
    """(N, 16) int64: the green channel of an image (H, W, 3), in tiles."""
    height, width = (n // SIDE * SIDE for n in image.shape[:2])
    cut = image[:height, :width, 1].reshape(height // SIDE, SIDE, width // SIDE, SIDE).swapaxes(1, 2)
    return torch.from_numpy(cut.reshape(-1, SIDE**2)).long()


def tree(x: Tensor) -> Circuit:
    """A hidden Chow-Liu tree of 8 states."""
    circuit = hclt(x[:5000], latents=8, categories=256)
    EM(circuit, batch_size=256).fit(x[2000:], validation=x[:2000], epochs=8)
    return circuit


def report(name: str, circuit: Circuit, items: Tensor, flow: FrozenFlow | None = None) -> None:
    """Compresses the items, reads them back and prints what they take."""
    codec, array = PCCodec(circuit, flow=flow), items.byte().numpy()
    blob = codec.compress(array)
    assert (codec.decompress(blob) == array).all()
    print(f"{name:36s} {8 * len(blob) / array.size:.3f} bits a pixel, and a model of {len(codec.to_bytes()):,} bytes")


def main() -> None:
    x = torch.cat([tiles(image) for image in load_sample_images().images])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    test, train = x[:4000], x[4000:]

    flow = IntegerFlow(VALUES, couplings=4, hidden=64)
    flow.fit(train[2000:], validation=train[:2000], epochs=12, batch_size=256)
    whole = flow.freeze()  # whole numbers alone from here on
    latents = torch.from_numpy(whole.encode(train.numpy())).long()

    report("pixels one by one", factorized(train, categories=256), test)
    report("circuit", tree(train), test)
    report("flow, latents one by one", factorized(latents, categories=256), test, whole)
    report("circuit over the flow's latents", tree(latents), test, whole)


if __name__ == "__main__":
    main()
