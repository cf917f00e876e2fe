"""A condition is found from pictures: the embedding with which a frozen network drew eight of them from known noise.

The gradient of samples to the condition is all that is needed; the embedding found then draws new pictures of the same
kind. Uses the network of diffusion_guided.py.
"""

from __future__ import annotations

import torch
from diffusion_guided import NO_CLASS, Net, digits_8x8, nearest, show, trained_on
from probkernels.diffusion import VP, Denoiser, sample
from torch import Tensor, nn

STEPS, ROUNDS, PICTURES, NEW = 20, 60, 8, 200


class Embedded(nn.Module):
    """The network, given embeddings (B, 32) in place of digits."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.net.classes = nn.Identity()

    def forward(self, x: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        return self.net(x, t, embedding)


def main() -> None:
    torch.manual_seed(0)
    images, digits = digits_8x8()
    net = trained_on(images, digits).net
    table = net.classes.weight.detach()
    model = Denoiser(Embedded(net), VP(), pred="v").requires_grad_(False)

    noise = torch.randn(PICTURES + NEW, 64, generator=torch.Generator().manual_seed(1))
    for digit in (3, 7):
        secret = table[digit].expand(PICTURES, -1)
        given = sample(model, noise[:PICTURES], solver="dpmpp_2m", steps=STEPS, cond=secret)
        embedding = table[NO_CLASS].clone().requires_grad_()
        optimizer = torch.optim.Adam([embedding], lr=0.1)
        errors = []
        for _ in range(ROUNDS):
            cond = embedding.expand(PICTURES, -1)
            x = sample(model, noise[:PICTURES], solver="dpmpp_2m", steps=STEPS, cond=cond, grad="exact")
            loss = (x - given).square().mean()
            errors.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"digit {digit}: error of the pictures {errors[0]:.4f} -> {errors[-1]:.5f}")
        for name, vector in (("no class", table[NO_CLASS]), ("the embedding found", embedding.detach())):
            x = sample(model, noise[PICTURES:], solver="dpmpp_2m", steps=STEPS, cond=vector.expand(NEW, -1))
            share = (nearest(x, images, digits) == digit).float().mean()
            print(f"  of {NEW} new pictures by {name}, {share:.1%} look like a {digit}")
    show(x[:6])


if __name__ == "__main__":
    main()
