"""The deep kernel machine of all training points: its objective, and regression with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import Loop
from .gram_kernels import GramKernel, GramState, as_gram_kernel
from .gram_layers import FORMS, LEAST_NOISE, GramLayer, above_least, check_nu, check_square, cholesky, gram_kl


def gaussian_evidence(op: str, kernel: Tensor, targets: Tensor, noise: float | Tensor) -> Tensor:
    """Sum over columns of log N(y; 0, K + noise I)."""
    eye = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    factor = cholesky(op, "kernel", kernel + noise * eye)
    solved = torch.linalg.solve_triangular(factor, targets, upper=False)
    log_det = 2 * factor.diagonal().log().sum() + len(kernel) * math.log(2 * math.pi)
    return -(solved.square().sum() + targets.shape[1] * log_det) / 2


def dkm_objective(
    grams: Sequence[Tensor],
    first: Tensor,
    targets: Tensor,
    *,
    noise: float = 0.1,
    nu: float | Sequence[float] = 1.0,
    kernel: str | GramKernel = "relu",
    kl: str = "exact",
) -> Tensor:
    """The objective of a deep kernel machine for given Gram matrices: their log posterior per relative width.

    ``sum_c log N(y_c; 0, K(G_L) + noise I) - sum_l nu_l KL(N(0, G_l) || N(0, K(G_{l-1})))``

    Args:
        grams: G_1 ... G_L, each (P, P) and positive definite.
        first: G_0 (P, P), the Gram matrix of the inputs.
        targets: (P, C), a column for each output.
        noise: variance of the noise, a number >= 0.
        nu: relative width of all layers or of each; finite, as a layer of infinite width has no G of its own.
        kernel: a :class:`GramKernel`, or the name of one with weight 1 and bias 0.
        kl: "exact" or "taylor", see :func:`gram_kl`.

    Returns:
        (): the objective, to be maximized, with a gradient to ``grams``.

    Raises:
        TypeError, ValueError: an argument has another dtype or shape, or is not positive definite.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import dkm_objective
        >>> one = torch.ones(1, 1)
        >>> dkm_objective([2 * one], one, 2 * one, noise=0.0, kernel="linear")  # G_1 = sqrt(y^2 G_0) is the best
        tensor(-2.4189)
    """
    op = "dkm_objective"
    checks.non_negative(op, "noise", noise)
    widths = check_nu(op, nu, len(grams))
    if math.inf in widths:
        raise ValueError(message(op, "nu", "finite numbers", "inf", "leave out the layer: its G is K(G below)"))
    check_square(op, "first", first)
    check_targets(op, targets, first)
    chosen = kernel if isinstance(kernel, GramKernel) else GramKernel(kernel, learn=False)
    total, below = first.new_zeros(()), chosen(first)
    for gram, width in zip(grams, widths, strict=True):
        checks.shape(op, "grams", gram, first.shape, "of 'first'")
        total = total + width * gram_kl(gram, below, kl)
        below = chosen(gram)
    return gaussian_evidence(op, below, targets, noise) - total


def check_targets(op: str, targets: object, first: Tensor) -> None:
    """Checks targets (P, C) of P points."""
    checks.wide_float_tensor(op, "targets", targets, checks.AS_TENSOR)
    assert isinstance(targets, Tensor)
    if targets.ndim != 2 or len(targets) != len(first):
        raise ValueError(message(op, "targets", f"shape ({len(first)}, C)", f"shape {tuple(targets.shape)}"))
    checks.finite(op, "targets", targets)


def no_points(ii: Tensor) -> GramState:
    """The state of inducing points alone."""
    return GramState(ii, ii.new_zeros(0, len(ii)), ii.new_zeros(0))


class DeepKernelMachine(nn.Module):
    """A deep kernel machine on all P training points, for regression.

    A deep Gaussian process of infinite width whose likelihood is scaled with the width. Its posterior collapses onto
    the Gram matrices G_1 ... G_L that maximize :func:`dkm_objective`. With ``nu`` infinite they are those of the prior:
    the neural network Gaussian process (NNGP). From Yang et al., *A theory of representation learning gives a deep
    generalisation of kernel methods*, ICML 2023, https://arxiv.org/abs/2108.13097.

    Each layer keeps the triangular factor W of ``G_l = L W W^T L^T``, where ``K(G_{l-1}) = L L^T``. All start at W = I,
    the NNGP. Cost O(P^3) for each layer and step, memory O(P^2): for large P take :class:`SparseDKM`. Parameters are
    float64.

    Args:
        n: number of training points P.
        depth: number of learned Gram matrices L. There are L + 1 kernels. 0 gives a Gaussian process.
        nu: relative width, a positive number for all layers or one for each. May be infinite.
        kernel: "relu", "squared_exponential", "normalized_gaussian", "heaviside", "linear"; or a
            :class:`GramKernel`, which all layers share.
        noise: variance of the noise at first, a positive number.
        learn_noise: whether ``noise`` is a parameter.
        least_noise: what a learned ``noise`` stays above. At nu = 1 and less, the objective can rise without end as the
            noise and the kernel's least eigenvalues fall together, until rounding spoils the predictions.
        kl: "exact" or "taylor", see :func:`gram_kl`.

    Raises:
        TypeError, ValueError: an argument is out of range, such as a learned noise at or below ``least_noise``.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import DeepKernelMachine
        >>> x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        >>> machine = DeepKernelMachine(9, depth=1, nu=1.0, kernel="squared_exponential", noise=0.01)
        >>> losses = machine.fit(x @ x.T, x.sin(), steps=20)
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        n: int,
        *,
        depth: int = 2,
        nu: float | Sequence[float] = 1.0,
        kernel: str | GramKernel = "relu",
        noise: float = 0.1,
        learn_noise: bool = True,
        least_noise: float = LEAST_NOISE,
        kl: str = "exact",
    ) -> None:
        op = "DeepKernelMachine"
        super().__init__()
        checks.integer(op, "n", n)
        checks.integer(op, "depth", depth, least=0)
        checks.one_of(op, "kl", kl, FORMS)
        widths = check_nu(op, nu, depth)
        self.kernels = nn.ModuleList(as_gram_kernel(op, kernel) for _ in range(depth + 1))
        self.layers = nn.ModuleList(GramLayer(n, width, kl=kl) for width in widths)
        checks.non_negative(op, "least_noise", least_noise)
        self.least_noise = least_noise if learn_noise else 0.0
        start = above_least(op, noise, self.least_noise, "lower least_noise, or set learn_noise=False")
        self.log_noise = nn.Parameter(torch.tensor(start, dtype=torch.float64).log(), requires_grad=learn_noise)

    @property
    def noise(self) -> Tensor:
        """(): the variance of the noise."""
        return self.least_noise + self.log_noise.exp()

    def forward(self, state: GramState) -> tuple[GramState, Tensor]:
        """The kernel matrices of the last layer, and the sum of nu times the divergences."""
        total = state.ii.new_zeros(())
        state = self.kernels[0].of_state(state)  # type: ignore[operator]
        for layer, kernel in zip(self.layers, self.kernels[1:], strict=True):
            state, kl = layer(state)
            state, total = kernel.of_state(state), total + kl  # type: ignore[operator]
        return state, total

    def grams(self, first: Tensor) -> list[Tensor]:
        """G_1 ... G_L, each (P, P), for the Gram matrix (P, P) of the inputs."""
        found, state = [], no_points(first)
        for layer, kernel in zip(self.layers, self.kernels, strict=False):
            state, _ = layer(kernel.of_state(state))  # type: ignore[operator]
            found.append(state.ii)
        return found

    def objective(self, first: Tensor, targets: Tensor) -> Tensor:
        """:func:`dkm_objective` at the current Gram matrices, (), with a gradient to all parameters."""
        state, kl = self(no_points(first))
        return gaussian_evidence("DeepKernelMachine", state.ii, targets, self.noise) - kl

    def fit(
        self, first: Tensor, targets: Tensor, *, steps: int = 100, tolerance: float = 1e-7, progress: bool = False
    ) -> list[float]:
        """Maximizes the objective with L-BFGS.

        Args:
            first: (P, P) float64, the Gram matrix of the inputs.
            targets: (P, C) float64.
            steps: at most so many steps of L-BFGS, each with a line search.
            tolerance: stops where no gradient is larger, and where a step changes nothing.
            progress: whether to show a progress bar.

        Returns:
            Minus the objective before each step, and at the end.

        Raises:
            TypeError, ValueError: an argument has another dtype or shape, or a matrix is not positive definite.
        """
        op = "DeepKernelMachine.fit"
        check_square(op, "first", first)
        check_targets(op, targets, first)
        checks.integer(op, "steps", steps)
        trained = [p for p in self.parameters() if p.requires_grad]
        if not trained:
            return [-self.objective(first, targets).item()]
        optimizer = torch.optim.LBFGS(
            trained, max_iter=1, max_eval=25, history_size=20, tolerance_grad=tolerance, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        far = 1e3 * (1 + abs(self.objective(first, targets).item()))  # an error here reaches the caller
        losses: list[float] = []

        def loss() -> Tensor:
            optimizer.zero_grad()
            try:
                value = -self.objective(first, targets)
            except ValueError:  # a line search went where a kernel is no longer positive definite: it turns back
                return first.new_tensor(far)
            value.backward()
            return value

        with Loop(steps, progress=progress) as loop:
            for n in loop:
                losses.append(float(optimizer.step(loss).detach()))
                checks.finite_loss(op, n, losses[-1])
                loop.show(loss=losses[-1])
                stuck = losses[-1:] == losses[-2:-1]  # the line search finds no better point
                slopes = [float(p.grad.abs().max()) for p in trained if p.grad is not None]
                if stuck or max(slopes, default=math.inf) <= tolerance:
                    loop.stop()
        return [*losses, loss().item()]

    @torch.no_grad()
    def predict(self, state: GramState, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, C) and variances (B,) of function values, without noise, at other points.

        Args:
            state: inner products: (P, P) of the training points, (B, P) of others with them, (B,) of others.
            targets: (P, C), those of the training.
        """
        kernel, _ = self(state)
        eye = torch.eye(len(kernel.ii), dtype=kernel.ii.dtype, device=kernel.ii.device)
        factor = cholesky("DeepKernelMachine", "kernel", kernel.ii + self.noise * eye)
        solved = torch.linalg.solve_triangular(factor, torch.cat([kernel.ti.mT, targets], 1), upper=False)
        cross, values = solved[:, : len(kernel.ti)], solved[:, len(kernel.ti) :]
        return cross.mT @ values, (kernel.t - cross.square().sum(0)).clamp_min(0)
