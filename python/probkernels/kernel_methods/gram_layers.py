"""Layers of a deep kernel machine: learned Gram matrices, their divergence from a kernel, batch norm, the output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._cholesky import factorize
from .gram_kernels import GramState

FORMS = ("exact", "taylor")
NORMS = ("global", "local")
WISHART_SHARE = 4  # columns of a sampled Gram matrix: this share of the inducing points
WISHART_DIAGONAL = 0.1  # added to a sampled Gram matrix
LEAST_NOISE = 1e-4  # variance: for targets of variance 1, a standard deviation of a hundredth
HINT = "points that are nearly equal need a bias, fewer inducing points, or float64"


def cholesky(op: str, name: str, matrix: Tensor) -> Tensor:
    """The lower Cholesky factor of a matrix, with as little jitter as it takes."""
    factor, _, failed = factorize(matrix)
    if bool(failed.any()):
        least = torch.linalg.eigvalsh(matrix.detach()).min() if bool(matrix.isfinite().all()) else torch.nan
        got = f"a matrix whose least eigenvalue is {float(least):g}"
        raise ValueError(message(op, name, "a positive definite matrix", got, HINT))
    return factor


def whitened_kl(kernel_factor: Tensor, white: Tensor, form: str) -> Tensor:
    """KL(N(0, G) || N(0, K)) for K = L L^T and G = (L W)(L W)^T, with W lower triangular.

    "taylor" is ``|G^-1 K - I|^2 / 4``, which needs no logarithm of a determinant.
    """
    if form == "taylor":
        eye = torch.eye(len(white), dtype=white.dtype, device=white.device)
        kernel = kernel_factor @ kernel_factor.mT
        return (torch.cholesky_solve(kernel, kernel_factor @ white) - eye).square().sum() / 4
    return (white.square().sum() - len(white)) / 2 - white.diagonal().log().sum()


def gram_kl(gram: Tensor, kernel: Tensor, form: str = "exact") -> Tensor:
    """The divergence KL(N(0, G) || N(0, K)) between Gaussians with two covariance matrices. G comes first.

    Args:
        gram: (n, n), positive definite, float32 or float64.
        kernel: (n, n), positive definite.
        form: "exact"; or "taylor", its second-order stand-in ``|G^-1 K - I|_F^2 / 4``, which float32 can bear.

    Returns:
        (): the divergence, in natural units.

    Raises:
        TypeError, ValueError: an argument has another dtype or shape, or is not positive definite.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import gram_kl
        >>> gram_kl(torch.tensor([[2.0]]), torch.tensor([[1.0]]))  # (2 - log 2 - 1) / 2
        tensor(0.1534)
    """
    checks.one_of("gram_kl", "form", form, FORMS)
    check_square("gram_kl", "gram", gram)
    check_square("gram_kl", "kernel", kernel)
    checks.shape("gram_kl", "kernel", kernel, gram.shape, "of 'gram'")
    factor = cholesky("gram_kl", "kernel", kernel)
    white = torch.linalg.solve_triangular(factor, cholesky("gram_kl", "gram", gram), upper=False)
    return whitened_kl(factor, white, form)


def check_square(op: str, name: str, value: object) -> None:
    """Checks a finite square matrix of float32 or float64."""
    checks.wide_float_tensor(op, name, value, checks.AS_TENSOR)
    assert isinstance(value, Tensor)
    if value.ndim != 2 or value.shape[0] != value.shape[1] or not len(value):
        raise ValueError(message(op, name, "shape (n, n), n >= 1", f"shape {tuple(value.shape)}"))
    checks.finite(op, name, value.detach())


def above_least(op: str, noise: float, least: float, hint: str) -> float:
    """Checks a variance and the floor that it must be above; what it is above it."""
    checks.positive(op, "noise", noise)
    checks.non_negative(op, "least_noise", least)
    if noise <= least:
        raise ValueError(message(op, "noise", f"a number above least_noise = {least:g}", f"{noise:g}", hint))
    return noise - least


def check_nu(op: str, nu: float | Sequence[float], depth: int) -> list[float]:
    """One relative width for each layer: positive, or infinite."""
    found = [nu] * depth if isinstance(nu, (int, float)) else list(nu)
    if len(found) != depth:
        raise ValueError(message(op, "nu", f"a number, or one for each of {depth} layers", f"{len(found)} numbers"))
    for value in found:
        checks.positive(op, "nu", value, "infinity stands for a layer that learns nothing", finite=False)
    return [float(value) for value in found]


class _Triangular(nn.Module):
    """A lower triangular matrix with positive diagonal, a multiple of the identity at first.

    Entries below the diagonal are parameters over sqrt(n), so that a step of Adam changes the matrix alike for all n.
    """

    def __init__(self, n: int, scale: float = 1.0) -> None:
        super().__init__()
        self.raw = nn.Parameter(math.log(scale) * torch.eye(n, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.raw.tril(-1) / math.sqrt(len(self.raw)) + self.raw.diagonal().exp().diag()

    @torch.no_grad()
    def set(self, factor: Tensor) -> None:
        """Takes the values of a Cholesky factor."""
        self.raw.copy_(factor.tril(-1) * math.sqrt(len(factor)) + factor.diagonal().log().diag())


class GramLayer(nn.Module):
    """A learned Gram matrix of n inducing points, and the Gram matrices of other points that follow from it.

    With K = L L^T from the layer below and a learned lower triangular W, G_ii = L W W^T L^T; at first W = I and G = K.
    For a batch, A = K_ti K_ii^-1, G_ti = A G_ii and g_t = k_t - diag(A K_it) + diag(A G_ii A^T).

    Args:
        n: number of inducing points.
        nu: relative width, a positive number. Infinity makes the layer the identity.
        kl: "exact" or "taylor", see :func:`gram_kl`.
        stochastic: whether training draws G_ii from a Wishart distribution of n / 4 degrees of freedom with mean G_ii.
            0.1 I is then added to G_ii, also in evaluation mode.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GramLayer, GramState
        >>> kernel = GramState(torch.eye(2), torch.tensor([[0.6, 0.0]]), torch.ones(1))
        >>> layer = GramLayer(2, nu=10.0).float()
        >>> state, kl = layer(kernel)  # K, until the layer is trained
        >>> state.ti, kl.item()
        (tensor([[0.6000, 0.0000]], grad_fn=<MmBackward0>), 0.0)
    """

    def __init__(self, n: int, nu: float = 1.0, *, kl: str = "exact", stochastic: bool = False) -> None:
        super().__init__()
        checks.integer("GramLayer", "n", n)
        checks.one_of("GramLayer", "kl", kl, FORMS)
        self.n, self.form, self.stochastic = n, kl, stochastic
        self.nu = check_nu("GramLayer", nu, 1)[0]
        self.white = _Triangular(n) if math.isfinite(self.nu) else None

    def extra_repr(self) -> str:
        """Size and width."""
        return f"{self.n}, nu={self.nu:g}"

    def forward(self, kernel: GramState, generator: torch.Generator | None = None) -> tuple[GramState, Tensor]:
        """The state after the layer, and nu times its divergence from ``kernel``."""
        if self.white is None:
            return kernel, kernel.ii.new_zeros(())
        factor = cholesky("GramLayer", "kernel", kernel.ii)
        cross = torch.linalg.solve_triangular(factor, kernel.ti.mT, upper=False).mT  # (B, n)
        white = self.white()
        kl = self.nu * whitened_kl(factor, white, self.form)
        if self.stochastic:
            white = self._sampled(factor, white, generator)
        gram_factor, through = factor @ white, cross @ white
        left = (kernel.t - cross.square().sum(-1)).clamp_min(0)  # what the inducing points do not explain
        state = GramState(gram_factor @ gram_factor.mT, through @ gram_factor.mT, left + through.square().sum(-1))
        return state, kl

    def _sampled(self, factor: Tensor, white: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.training:
            columns = -(-self.n // WISHART_SHARE)
            noise = torch.randn(self.n, columns, dtype=white.dtype, device=white.device, generator=generator)
            white = white @ noise / math.sqrt(columns)
        eye = torch.eye(self.n, dtype=white.dtype, device=white.device)
        added = math.sqrt(WISHART_DIAGONAL) * torch.linalg.solve_triangular(factor, eye, upper=False)
        return torch.cat([white, added], 1)

    @torch.no_grad()
    def set_gram(self, gram: Tensor, kernel: Tensor) -> None:
        """Makes G_ii equal to ``gram`` (n, n) where the layer below gives ``kernel`` (n, n)."""
        if self.white is None:
            raise ValueError(message("GramLayer.set_gram", "gram", "a layer of finite nu", "nu inf"))
        factors = [cholesky("GramLayer.set_gram", name, m) for name, m in (("kernel", kernel), ("gram", gram))]
        self.white.set(torch.linalg.solve_triangular(factors[0], factors[1], upper=False))


class GramBatchNorm(nn.Module):
    """Divides Gram matrices by squared lengths, and multiplies them by a learned scale.

    Args:
        kind: "global" divides all by the mean squared length of the inducing points; "local" makes every squared
            length 1. Neither looks at other points of the batch, so that a prediction depends on its own point alone.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GramBatchNorm, GramState
        >>> state = GramState(torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([[2.0, 0.0]]), torch.tensor([4.0]))
        >>> with torch.no_grad():
        ...     GramBatchNorm("global")(state).t, GramBatchNorm("local")(state).ti
        (tensor([2.]), tensor([[1., 0.]]))
    """

    def __init__(self, kind: str = "global") -> None:
        super().__init__()
        checks.one_of("GramBatchNorm", "kind", kind, NORMS)
        self.kind = kind
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, state: GramState) -> GramState:
        """The normalized state."""
        scale, lengths = self.log_scale.exp().to(state.ii), state.ii.diagonal()
        if self.kind == "global":
            factor = scale / lengths.mean()
            return GramState(*(factor * part for part in state))
        floor = torch.finfo(lengths.dtype).tiny
        inducing, batch = lengths.clamp_min(floor).rsqrt(), state.t.clamp_min(floor).rsqrt()
        ii = scale * inducing[:, None] * state.ii * inducing
        return GramState(ii, scale * batch[:, None] * state.ti * inducing, scale * batch.square() * state.t)


class InducingOutput(nn.Module):
    """The output of a sparse deep kernel machine: a sparse variational Gaussian process with one covariance.

    q(u_c) = N(L m_c, L R R^T L^T) at the inducing points, where K_ii = L L^T, for each output c.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GramState, InducingOutput
        >>> kernel = GramState(torch.eye(2), torch.zeros(3, 2), torch.ones(3))
        >>> tuple(InducingOutput(2, 1).float()(kernel)[0].shape)
        (3, 1)
    """

    def __init__(self, n: int, outputs: int, kl: str = "exact", spread: float = 0.1) -> None:
        super().__init__()
        self.form = kl
        self.mean = nn.Parameter(torch.zeros(n, outputs, dtype=torch.float64))
        self.white = _Triangular(n, math.sqrt(spread))

    def forward(self, kernel: GramState) -> tuple[Tensor, Tensor, Tensor]:
        """Means (B, C) and variances (B,) of function values, and the divergence, summed over outputs."""
        factor, white = cholesky("InducingOutput", "kernel", kernel.ii), self.white()
        cross = torch.linalg.solve_triangular(factor, kernel.ti.mT, upper=False).mT
        left = (kernel.t - cross.square().sum(-1)).clamp_min(0)
        outputs = self.mean.shape[1]
        kl = outputs * whitened_kl(factor, white, self.form) + self.mean.square().sum() / 2
        return cross @ self.mean, left + (cross @ white).square().sum(-1), kl

    @torch.no_grad()
    def start_from(self, kernel: Tensor, targets: Tensor, noise: float = 0.1) -> None:
        """Sets the mean to what a Gaussian process with noise makes of targets (n, C) at the inducing points."""
        factor = cholesky("InducingOutput", "kernel", kernel)
        noisy = kernel + noise * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
        self.mean.copy_(factor.mT @ torch.cholesky_solve(targets, cholesky("InducingOutput", "kernel", noisy)))
