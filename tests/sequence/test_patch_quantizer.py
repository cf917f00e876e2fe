"""The patch quantizer: codes depend on their own patch only, bits, loss, gradients; bad input."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.sequence import PatchQuantizer, PixelWorld
from torch import Tensor

from .test_exact_psi import seeded


def images(n: int = 1, seed: int = 0) -> Tensor:
    return PixelWorld(6, 4).sample(n, seeded(seed)).frame0


def quantizer(**options: int) -> PatchQuantizer:
    torch.manual_seed(0)
    return PatchQuantizer(8, width=16, **options)


def test_a_pixel_changes_only_its_own_code() -> None:
    net, image = quantizer(), images()
    before = net.encode(image)
    pixels = torch.arange(24 * 24)
    many = image.repeat(len(pixels), 1, 1, 1)
    many.flatten(2)[pixels, :, pixels] += 10.0
    changed = net.encode(many) != before
    own = (pixels // 24 // 4) * 6 + pixels % 24 // 4
    others = changed.flatten(1).scatter(1, own[:, None], False)
    assert not others.any()
    assert changed.flatten(1).gather(1, own[:, None]).float().mean() > 0.5


def test_codes_of_shuffled_patches_are_shuffled() -> None:
    net, image, order = quantizer(), images(), torch.randperm(36, generator=seeded())
    patches = image.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]  # (1, 3, 36, 4, 4)
    shuffled = patches.unflatten(2, (6, 6)).transpose(3, 4).reshape(1, 3, 24, 24)
    assert torch.equal(net.encode(shuffled).flatten(1), net.encode(image).flatten(1)[:, order])


def test_codes_hold_the_signs_and_the_loss_is_theirs() -> None:
    net, image = quantizer(), images(3)
    z = net.encoder(image)
    codes = net.encode(image)
    assert torch.equal((codes[:, None] >> torch.arange(8)[:, None, None]) & 1, (z >= 0).long())
    assert codes.min() >= 0 and codes.max() < net.num_values == 256
    found = net(image)
    torch.testing.assert_close(found.mse, (net.decode(codes) - image).square().mean())
    torch.testing.assert_close(found.commitment, (z.abs() - 1).square().mean())
    certain = torch.distributions.Bernoulli(logits=4 * z)
    spread = torch.distributions.Bernoulli(certain.probs.mean((0, 2, 3)))
    torch.testing.assert_close(found.entropy, certain.entropy().mean((0, 2, 3)).sum() - spread.entropy().sum())
    torch.testing.assert_close(found.loss, found.mse + 1e-3 * found.entropy + 2.5e-3 * found.commitment)


def test_images_are_learned() -> None:
    net, frames = quantizer(depth=1), images(4)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    first = net(frames).mse.item()
    for _ in range(30):
        optimizer.zero_grad()
        net(frames).loss.backward()
        optimizer.step()
    assert net(frames).mse < 0.5 * first
    assert net.encoder[0].weight.grad.abs().max() > 0  # type: ignore[union-attr,operator]


def test_flows_and_other_patches() -> None:
    net = quantizer(channels=2, patch=2, depth=0)
    codes = net.encode(torch.randn(2, 2, 6, 8, generator=seeded()))
    assert codes.shape == (2, 3, 4) and net.decode(codes).shape == (2, 2, 6, 8)


def test_codes_of_one_byte() -> None:
    codes = torch.tensor([[[0, 200], [255, 1]]])
    net = PatchQuantizer(8, width=4)
    assert torch.equal(net.decode(codes.to(torch.uint8)), net.decode(codes))


def test_bad_input_is_refused() -> None:
    net = quantizer()
    for wrong in (
        torch.zeros(1, 3, 24, 23),
        torch.zeros(1, 2, 24, 24),
        torch.zeros(3, 24, 24),
        torch.zeros(0, 3, 8, 8),
    ):
        with pytest.raises(ValueError, match="multiples of 4"):
            net.encode(wrong)
    with pytest.raises(TypeError, match="images"):
        net(torch.zeros(1, 3, 24, 24, dtype=torch.long))
    with pytest.raises(ValueError, match="finite numbers, got nan"):
        net(torch.full((1, 3, 4, 4), math.nan))
    with pytest.raises(ValueError, match=r"codes from 0 to 255, got 256 at \[0, 0, 0\]"):
        net.decode(torch.full((1, 1, 1), 256))
    for options in ({"patch": 3}, {"bits": 31}, {"width": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            PatchQuantizer(**options)
