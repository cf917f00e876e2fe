"""Anomaly maps and segmentation: what a diffusion model says about images that it has not seen.

A model of healthy images finds spoiled patches: it makes each image anew from some noise, and the map is what changed.
A second model draws masks of noisy images: their mean is the segmentation, and their spread tells where it may err.
The images are ellipses with a soft edge.

    python examples/diffusion_anomaly.py
"""

import torch
from probkernels.diffusion import VP, Denoiser, fit
from probkernels.inverse import Concatenated, anomaly_map, memorization_check, segment
from torch import Tensor, nn

SIZE, NOISE = 12, 0.5


def ellipses(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 12, 12) in -1 .. 1, and their masks of -1 and 1."""
    place = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")).float()
    center = 4 + 3 * torch.rand(count, 2, 1, 1, generator=generator)
    radius = 2.5 + 2 * torch.rand(count, 2, 1, 1, generator=generator)
    inside = 1 - ((place - center) / radius).square().sum(1).sqrt()
    return (4 * inside).tanh()[:, None], torch.where(inside > 0, 1.0, -1.0)[:, None]


class Net(nn.Module):
    """Predicts v of (B, 1, 12, 12), given some channels."""

    def __init__(self, channels: int, width: int = 160) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 3, 16))
        self.enter = nn.Linear(channels * SIZE**2 + 32, width)
        self.middle = nn.Linear(width, width)
        self.leave = nn.Linear(width, SIZE**2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies
        h = nn.functional.silu(self.enter(torch.cat([x.flatten(1), phase.sin(), phase.cos()], 1)))
        h = h + nn.functional.silu(self.middle(h))
        return self.leave(h).view(-1, 1, SIZE, SIZE)


def auroc(score: Tensor, truth: Tensor) -> float:
    """Probability that a True entry scores higher than a False one."""
    rank = score.flatten().argsort().argsort().double() + 1
    yes = truth.flatten()
    count = yes.sum()
    return float((rank[yes].sum() - count * (count + 1) / 2) / (count * (~yes).sum()))


torch.manual_seed(0)
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(1)
images, masks = ellipses(3000, generator)
test, wanted = ellipses(100, generator)
training = {"steps": 2000, "batch_size": 128, "ema": 0.995, "progress": False}

healthy = fit(Denoiser(Net(1), VP(), pred="v", clip=1.0), images, **training).average.eval()
spoiled, patch = test.clone(), torch.zeros(test.shape, dtype=torch.bool)
patch[:, :, 5:7, 5:7] = True
spoiled[patch] = 2 * torch.rand(int(patch.sum()), generator=generator) - 1
changed = (spoiled - test).abs() > 0.3
trivial = (spoiled - images.mean(0)).abs()
print(f"spoiled pixels, distance from the mean image: AUROC {auroc(trivial, changed):.3f}")
for method, how in (("denoise", {"level": 0.5}), ("likelihood", {"reference": images[:200]})):
    found = anomaly_map(healthy, spoiled, method, generator=generator, **how)
    print(f"spoiled pixels, map by {method}: AUROC {auroc(found, changed):.3f}")

noisy = images + NOISE * torch.randn(images.shape, generator=generator)
drawing = Denoiser(Concatenated(Net(2)), VP(), pred="v", clip=1.0)
drawing = fit(drawing, masks, noisy, **training).average.eval()
seen = test + NOISE * torch.randn(test.shape, generator=generator)
mean, std = segment(drawing, seen, n=16, generator=generator)
one, _ = segment(drawing, seen, n=1, generator=generator)
right = wanted > 0
for name, mask in (("threshold", seen > 0), ("one mask", one > 0.5), ("mean of sixteen", mean > 0.5)):
    overlap = 2 * (mask & right).sum() / (mask.sum() + right.sum())
    print(f"masks, {name}: Dice {overlap:.3f}")
print(f"wrong pixels by the spread: AUROC {auroc(std, (mean > 0.5) != right):.3f}")

copies = memorization_check(torch.cat([images[:3] + 0.001, test]), images)
print(
    f"copies of training images: {int(copies.copied[:3].sum())} of 3 planted, {int(copies.copied[3:].sum())} of others"
)
