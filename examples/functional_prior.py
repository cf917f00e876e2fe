"""A prior of functions: a network that is told how smooth functions are, before it sees data.

A network with standard normal weights draws functions that are almost straight. Its six standard deviations are fitted
so that the functions are like those of a Gaussian process. Then both networks learn the same 20 points.

    python examples/functional_prior.py
"""

import torch
from probkernels.bnn import FunctionalPriorMatcher, GaussianLikelihood, GaussianPrior, sample_posterior, scaled_mlp
from probkernels.kernel_methods import RBF, GPSampler


def main() -> None:
    net = scaled_mlp((1, 50, 50, 1), "tanh")
    prior = GaussianPrior(net, std=1.3, learnable=True)
    grid = torch.linspace(-3, 3, 48)[:, None]
    gp = GPSampler(RBF(lengthscale=0.6))
    matcher = FunctionalPriorMatcher(prior, gp, grid, functions=64, critic_steps=20, width=100)
    before = matcher.distances()
    matcher.fit(40, lr_schedule=lambda done: 1.0 if done < 0.7 else 0.4, progress=True)
    for name, value in matcher.distances().items():
        print(f"distance of the priors, {name}: {before[name]:.3f} before, {value:.3f} after")
    print("standard deviations:", {name: round(float(std.detach()), 2) for name, std in prior.std.items()})

    generator = torch.Generator().manual_seed(0)
    f = gp(grid, 1, generator)[0]
    rows = torch.randperm(48, generator=generator)[:20]
    y = f[rows, None] + 0.3 * torch.randn(20, 1, generator=generator)
    for name, own in (("standard normal", GaussianPrior(net)), ("fitted", prior.requires_grad_(False))):
        found = sample_posterior(
            net, own, GaussianLikelihood(0.09), grid[rows], y, burn_in=800, samples=20, keep_every=20
        )
        error = (found.functions(grid)[..., 0].mean((0, 1)) - f).square().mean().sqrt()
        print(f"{name} prior: error of the function {error:.3f}")


if __name__ == "__main__":
    main()
