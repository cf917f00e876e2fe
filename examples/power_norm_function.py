"""PowerNorm as a function: keep the running state yourself, and watch its backward become exact.

PowerNorm divides each feature by a running mean square psi2, and its backward subtracts a running coefficient nu
instead of differentiating a batch statistic. On a batch that repeats, nu approaches the exact coefficient as 0.9^t,
and the gradient that of PN-V, which differentiates the batch's own mean square. On changing batches it is an average
over them, which is the point: its noise is that of many batches, not of one.

    python examples/power_norm_function.py
"""

import probkernels as pk
import torch

ALPHA = 0.9  # how much of the state one step keeps


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 8) * torch.arange(1, 9)  # (N, C), each feature on a scale of its own
    grad_y = torch.randn(256, 8) + 0.2 * x
    x.requires_grad_()

    y, mean_sq = pk.ops.power_norm_v(x)
    (exact,) = torch.autograd.grad(y, x, grad_y)

    psi2 = mean_sq.detach()  # (C); a new model would start at ones
    nu = torch.zeros(8, requires_grad=True)  # (C)
    print("step   |gradient - exact| / |exact|   mean |nu|")
    for step in range(1, 101):
        y, mean_sq = pk.ops.power_norm(x, psi2, nu=nu)
        grad_x, grad_nu = torch.autograd.grad(y, (x, nu), grad_y)
        if step in (1, 2, 5, 10, 20, 50, 100):
            print(
                f"{step:4d}   {((grad_x - exact).norm() / exact.norm()).item():26.2e}   {nu.abs().mean().item():9.4f}"
            )
        with torch.no_grad():  # the state's two updates, which nn.PowerNorm does for you
            psi2 = psi2.lerp(mean_sq, 1 - ALPHA)
            nu -= (1 - ALPHA) * grad_nu


if __name__ == "__main__":
    main()
