"""Reconstruction and inpainting with one diffusion model of digits as the prior.

A small network learns the digits. Then, without more training, it fills in a missing half and reconstructs digits from
half of their Fourier rows. The mean of several samples has the least squared error; one sample looks like a digit.

    python examples/diffusion_reconstruction.py
"""

import torch
from probkernels.diffusion import VP, Denoiser, fit
from probkernels.inverse import Fourier, Measurement, denoise, inpaint, reconstruct
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Net(nn.Module):
    """Predicts v of images (B, 8, 8) at times (B,)."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 3, 32))
        self.enter = nn.Linear(128, width)
        self.middle = nn.Linear(width, width)
        self.leave = nn.Linear(width, 64)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies
        h = nn.functional.silu(self.enter(torch.cat([x.flatten(1), phase.sin(), phase.cos()], 1)))
        h = h + nn.functional.silu(self.middle(h))
        return self.leave(h).view_as(x)


def report(name: str, found: Tensor, truth: Tensor) -> None:
    print(f"{name}: mean squared error {(found - truth).square().mean():.4f}")


torch.manual_seed(0)
torch.set_num_threads(1)
images = torch.tensor(load_digits().images).float() / 8 - 1
train, test = images[:1300], images[1300:1400]
model = fit(Denoiser(Net(), VP(), pred="v", clip=1.0), train, steps=2500, batch_size=128, ema=0.995, progress=False)
prior, generator = model.average.eval(), torch.Generator().manual_seed(1)

noisy = test + 0.5 * torch.randn(test.shape, generator=generator)
report("noisy", noisy, test)
report("denoised", denoise(prior, noisy, 0.5), test)

known = torch.arange(8) < 4  # the left half
samples = inpaint(prior, test, known, n_samples=8, steps=50, generator=generator)
report("right half, mean image", train.mean(0)[:, 4:], test[..., 4:])
report("right half, one sample", samples[0][..., 4:], test[..., 4:])
report("right half, mean of eight", samples.mean(0)[..., 4:], test[..., 4:])

rows = torch.zeros(8, 1, dtype=torch.bool)
rows[[0, 1, 4, 7]] = True
scan = Fourier(rows, real=True)
seen = Measurement(scan, scan(test), method="repaint", resample=5)
how = {"n_samples": 8, "solver": "ddim", "eta": 1.0, "steps": 50}
samples = reconstruct(prior, seen, test.shape, generator=generator, **how)
report("half of the Fourier rows, zero-filled", scan.pinv(scan(test)), test)
report("half of the Fourier rows, mean of eight", samples.mean(0), test)
spread, error = samples.std(0).flatten(), (samples.mean(0) - test).abs().flatten()
print(f"correlation of the samples' spread and the error {torch.corrcoef(torch.stack([spread, error]))[0, 1]:.2f}")
