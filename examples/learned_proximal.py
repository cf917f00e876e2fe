"""A learned prior that can be evaluated: train a learned proximal network, look at its prior, reconstruct with it.

Points lie near the axes of the plane: each has one large coordinate at most. The network learns to denoise them by
proximal matching. Its regularizer R, found by inverting it, is low near the axes. Plug-and-play ADMM then finds points
whose second coordinate was halved before noise came in.

    python examples/learned_proximal.py
"""

import torch
from probkernels.inverse import ICNN, LPN, GammaSchedule, Stage, fit_lpn, pnp_admm
from torch import Tensor

SIGMA = 0.5


def sparse(generator: torch.Generator, count: int = 200) -> Tensor:
    """Points with one coordinate from a Laplace distribution of scale 2, the other near 0."""
    u = torch.rand(count, generator=generator) - 0.5
    large = -2 * u.sign() * torch.log1p(-2 * u.abs())
    points = 0.02 * torch.randn(count, 2, generator=generator)
    points[torch.arange(count), torch.randint(2, (count,), generator=generator)] = large
    return points


class Halving:
    """y = (x1, x2 / 2)."""

    a = torch.tensor([1.0, 0.5])

    def A(self, x: Tensor) -> Tensor:
        return x * self.a

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.a


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lpn = LPN(ICNN(2, hidden=24, layers=2, beta=10.0, strong_convexity=0.02))
    schedule = GammaSchedule([Stage(400, "l1", 3e-3), Stage(150, 1.0, 1e-3), Stage(150, 0.5, 1e-3)])
    fit_lpn(lpn, sparse, SIGMA, schedule)

    truth = sparse(torch.Generator().manual_seed(1), 500)
    noisy = truth + SIGMA * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for name, x in (("noisy", noisy), ("denoised", lpn(noisy))):
            print(f"{name}: mean squared error {(x - truth).square().mean():.4f}")

    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.4, 1.4]])
    value, found = lpn.prior(points)
    for point, r in zip(points.tolist(), (value - value[0]).tolist(), strict=True):
        print(f"R{tuple(round(p, 1) for p in point)} - R(0.0, 0.0) = {r:.3f}")
    print(f"largest residual of the inversion {float(found.residual.max()):.1e}")

    halving = Halving()
    y = halving.A(truth) + SIGMA * torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    result = pnp_admm(y, halving, lpn, rho=1.05, steps=500, tol=1e-4)
    for name, x in (("pseudo-inverse", y / halving.a), ("plug-and-play", result.x)):
        print(f"{name}: mean squared error {(x - truth).square().mean():.4f}")
    print(f"convergence certified: {result.certificate.holds}, after {len(result.primal_residual)} steps")


if __name__ == "__main__":
    main()
