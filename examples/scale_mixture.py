"""A Gaussian process that learns its output scale: a Student-t process, another prior, and joint draws."""

from __future__ import annotations

import torch
from probkernels.kernel_methods import Burr12, FixedScale, InverseGamma, MLPKernel, ScaleMixtureGP, select_scale_mixture

generator = torch.Generator().manual_seed(0)
X = torch.rand(90, 2, generator=generator) * 4 - 2
y = 0.2 * (X[:, 0].sin() + 0.5 * X[:, 1] + 0.1 * torch.randn(90, generator=generator))  # far below scale 1
train, validation, test = (X[:15], y[:15]), (X[15:40], y[15:40]), (X[40:], y[40:])

priors = {"fixed": FixedScale(1.0), "inverse gamma": InverseGamma(1.0, 1.0), "Burr XII": Burr12(1.0, 1.0)}
for name, prior in priors.items():
    models = [ScaleMixtureGP(MLPKernel(2, w_std=1.4, b_std=0.3), noise=noise) for noise in (0.001, 0.01, 0.1, 1.0)]
    best, loss = select_scale_mixture(models, train, validation, [prior])  # the test set has no say
    print(f"{name:14} scale {best.scale():.3f}, test NLL {best.loss(*test):.3f}, evidence {best.log_evidence():.2f}")

torch.manual_seed(0)
draws = best.sample(X[40:43], 1000)  # (1000, 3): the values of a draw share one scale
print("standard deviations of three values:", [f"{value:.3f}" for value in draws.std(0).tolist()])

trained = ScaleMixtureGP(MLPKernel(2, w_std=1.4, b_std=0.3), InverseGamma(1.0, 1.0), noise=0.1)
trained.fit(*train, steps=150, lr=0.05, validation=validation, every=25)  # evidence; the best on validation stays
print(f"trained: noise {trained.noise.item():.3f}, test NLL {trained.loss(*test):.3f}")
