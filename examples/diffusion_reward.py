"""A network is tuned to a reward on what it draws: a classifier's log-probability of one digit, without a condition.

The gradient goes through the sampler into the network's weights, through all steps or the last few alone (``last_k``),
which is cheaper and biased. Uses the network of diffusion_guided.py.
"""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F
from diffusion_guided import NO_CLASS, digits_8x8, nearest, show, trained_on
from probkernels.diffusion import Denoiser, sample
from torch import Tensor, nn

STEPS, ROUNDS, BATCH, NEW = 20, 25, 64, 300
WANTED = 5


def classifier(images: Tensor, digits: Tensor) -> nn.Module:
    """64 -> 128 -> 10, trained on noisy images so that its gradients are smooth."""
    net = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(300):
        rows = torch.randint(len(images), (256,))
        loss = F.cross_entropy(net(images[rows] + 0.3 * torch.randn(256, 64)), digits[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.requires_grad_(False)


def tune(model: Denoiser, judge: nn.Module, last_k: int | None) -> Denoiser:
    """A copy of the model, tuned by what the judge says of its samples."""
    tuned = copy.deepcopy(model).requires_grad_()
    optimizer = torch.optim.Adam(tuned.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    nothing = torch.full((BATCH,), NO_CLASS)
    for _ in range(ROUNDS):
        noise = torch.randn(BATCH, 64, generator=generator)
        x = sample(tuned, noise, solver="ddim", steps=STEPS, cond=nothing, grad="exact", last_k=last_k)
        loss = -judge(x).log_softmax(1)[:, WANTED].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tuned


def main() -> None:
    torch.manual_seed(0)
    images, digits = digits_8x8()
    model, judge = trained_on(images, digits), classifier(images, digits)
    noise = torch.randn(NEW, 64, generator=torch.Generator().manual_seed(2))

    def share(of: Denoiser) -> tuple[float, Tensor]:
        x = sample(of, noise, solver="ddim", steps=STEPS, cond=torch.full((NEW,), NO_CLASS))
        return (nearest(x, images, digits) == WANTED).float().mean().item(), x

    print(f"before: {share(model)[0]:.1%} of {NEW} samples look like a {WANTED}")
    for last_k in (1, 5, None):
        start = time.perf_counter()
        tuned = tune(model, judge, last_k)
        seconds = time.perf_counter() - start
        found, x = share(tuned)
        through = f"gradient through {last_k or 'all'} of {STEPS} steps"
        print(f"{through}: {found:.1%} look like a {WANTED} ({seconds:.1f} s)")
    show(x[:6])


if __name__ == "__main__":
    main()
