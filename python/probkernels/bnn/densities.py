"""Densities that are fitted to samples of a posterior: mixtures of Gaussians and a RealNVP flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import EarlyStopping, copy_state_, minimize

LEAST_VARIANCE = 1e-6  # of a component, added to its variances, in units of the variance of all samples
LOG_2PI = math.log(2 * math.pi)


class GaussianMixture(nn.Module):
    """A mixture of Gaussians with full covariances. Its state is buffers.

    Args:
        weights: (k,) probabilities of the components.
        means: (k, P).
        factors: (k, P, P) lower Cholesky factors of the covariances.

    Raises:
        TypeError, ValueError: shapes do not fit together, or numbers are not finite.

    Example:
        >>> import torch
        >>> from probkernels.bnn import GaussianMixture
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> normal.log_prob(torch.zeros(3, 2))
        tensor([-1.8379, -1.8379, -1.8379])
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        super().__init__()
        checks.wide_float_tensor("GaussianMixture", "means", means)
        if means.ndim != 2:
            raise ValueError(message("GaussianMixture", "means", "shape (k, P)", f"shape {tuple(means.shape)}"))
        k, dim = means.shape
        for name, value, shape in (("weights", weights, (k,)), ("factors", factors, (k, dim, dim))):
            checks.wide_float_tensor("GaussianMixture", name, value)
            checks.shape("GaussianMixture", name, value, shape, "(as 'means')")
            checks.finite("GaussianMixture", name, value)
        checks.finite("GaussianMixture", "means", means)
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)
        self.scores: dict[int, float] = {}  # held-out log-likelihoods by the number of components, where it was chosen

    @property
    def components(self) -> int:
        """The number of components k."""
        return len(self.weights)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (...) of each point of ``x`` (..., P), differentiable in ``x``."""
        _check_points("GaussianMixture.log_prob", x, self.means.shape[1])
        return _component_log_prob(x, self.weights, self.means, self.factors).logsumexp(-1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n, P) points."""
        checks.integer("GaussianMixture.sample", "n", n, 0)
        noise = torch.randn(n, self.means.shape[1], generator=generator).to(self.means)
        uniform = torch.rand(n, generator=generator).to(self.means)
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), uniform, right=True)
        return self.means[chosen] + (self.factors[chosen] @ noise[..., None])[..., 0]


def fit_gaussian_mixture(
    samples: Tensor, components: int | Sequence[int] = (1, 4, 8), *, held_out: float = 0.25, iterations: int = 500,
    restarts: int = 5, tolerance: float = 1e-3, generator: torch.Generator | None = None,
) -> GaussianMixture:  # fmt: skip
    """Fits a mixture of Gaussians by EM. The log-likelihood of held-out samples chooses the number of components.

    The chosen number is fitted again to all samples. EM starts from k-means++ seeds, several times, on samples scaled
    to variance 1, in float64.

    Args:
        samples: (S, P), S > P, float32 or float64.
        components: the number of components, or those to choose from.
        held_out: share of samples, drawn at random, that judge the numbers; not used for a single number.
        iterations: the most EM steps.
        restarts: EM runs of each number. The one with the largest likelihood counts.
        tolerance: EM ends when the mean log-likelihood gains less.
        generator: on the CPU, for the split and the seeds.

    Returns:
        The mixture, in the dtype of the samples. ``scores`` has the mean held-out log-likelihood of each number.

    Raises:
        TypeError, ValueError: samples that are not finite or do not vary, or too few of them.

    Example:
        >>> import torch
        >>> from probkernels.bnn import fit_gaussian_mixture
        >>> generator = torch.Generator().manual_seed(0)
        >>> samples = torch.randn(400, 1, generator=generator) + 10 * (torch.arange(400)[:, None] % 2)
        >>> fit_gaussian_mixture(samples, (1, 2), generator=generator).means.round().flatten().sort().values
        tensor([ 0., 10.])
    """
    op = "fit_gaussian_mixture"
    numbers = [components] if isinstance(components, int) else list(components)
    for number in numbers or [0]:
        checks.integer(op, "components", number)
    checks.positive_fraction(op, "held_out", held_out)
    for name, value in (("iterations", iterations), ("restarts", restarts)):
        checks.integer(op, name, value)
    checks.positive(op, "tolerance", tolerance)
    x, shift, scale = _standardized(op, samples)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    held, fit = (x[rows] for rows in order.tensor_split([round(held_out * len(x))]))
    least = max(max(numbers), x.shape[1] + 1)
    parts = ((x, len(x)),) if len(numbers) == 1 else ((fit, len(fit)), (held, len(held) + least - 1))
    for _, count in parts:
        if count < least:
            wanted = f"enough samples to fit {least - 1} dimensions or components to {count} of them"
            raise ValueError(message(op, "samples", wanted, f"shape {tuple(samples.shape)}", "draw more samples"))
    scores = {}
    if len(numbers) > 1:
        for k in numbers:
            law = _best_of(fit, k, iterations, restarts, tolerance, generator)
            scores[k] = (_component_log_prob(held, *law).logsumexp(1).mean() - scale.log().sum()).item()
    best = max(scores, key=scores.__getitem__) if scores else numbers[0]
    weights, means, factors = _best_of(x, best, iterations, restarts, tolerance, generator)
    parameters = (weights, means * scale + shift, factors * scale[:, None])
    mixture = GaussianMixture(*(part.to(samples.dtype) for part in parameters))
    mixture.scores = scores
    return mixture


class RealNVP(nn.Module):
    """A flow of affine couplings between points and a standard normal distribution.

    Each coupling keeps the first half x_a of the entries and maps the others to (x_b - t(x_a)) exp(-s(x_a)), with s
    bounded by tanh; then the order of entries is reversed. The sizes of the halves differ by one where P is odd. Points
    are shifted and scaled first, by buffers that :func:`fit_real_nvp` sets.

    Args:
        dim: P, the number of entries, at least 2.
        couplings: number of couplings; with at least 2 all entries change.
        hidden: width of both hidden layers of s and t.
        dtype: of the parameters.
        device: of the parameters.

    Raises:
        TypeError, ValueError: a number that is not whole or too small.

    Reference: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017.

    Example:
        >>> import torch
        >>> from probkernels.bnn import RealNVP
        >>> flow, x = RealNVP(4), torch.randn(7, 4)
        >>> z, log_det = flow(x)
        >>> torch.allclose(flow.inverse(z), x, atol=1e-5), flow.log_prob(x).shape
        (True, torch.Size([7]))
    """

    shift: Tensor
    log_scale: Tensor

    def __init__(
        self, dim: int, couplings: int = 4, hidden: int = 100, *, dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        least = ((dim, "dim", 2), (couplings, "couplings", 1), (hidden, "hidden", 1))
        for value, name, smallest in least:
            checks.integer("RealNVP", name, value, smallest)
        self.dim, self.kept = dim, dim // 2

        def net() -> nn.Sequential:
            sizes = (self.kept, hidden, hidden, dim - self.kept)
            layers: list[nn.Module] = []
            for k in range(3):
                layers += [nn.Linear(sizes[k], sizes[k + 1], dtype=dtype, device=device), nn.LeakyReLU()]
            return nn.Sequential(*layers[:-1])

        self.scales = nn.ModuleList(net() for _ in range(couplings))
        self.shifts = nn.ModuleList(net() for _ in range(couplings))
        self.register_buffer("shift", torch.zeros(dim, dtype=dtype, device=device))
        self.register_buffer("log_scale", torch.zeros(dim, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps points (..., P) to z (..., P). Also returns log |det dz/dx| (...)."""
        _check_points("RealNVP.forward", x, self.dim)
        z = (x - self.shift) * (-self.log_scale).exp()
        log_det = -self.log_scale.sum().expand(x.shape[:-1])
        for scale, shift in zip(self.scales, self.shifts, strict=True):
            a, b = z[..., : self.kept], z[..., self.kept :]
            s = scale(a).tanh()
            z = torch.cat([a, (b - shift(a)) * (-s).exp()], -1).flip(-1)
            log_det = log_det - s.sum(-1)
        return z, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps z (..., P) to points (..., P)."""
        _check_points("RealNVP.inverse", z, self.dim, "z")
        for scale, shift in zip(reversed(self.scales), reversed(self.shifts), strict=True):
            flipped = z.flip(-1)
            a, b = flipped[..., : self.kept], flipped[..., self.kept :]
            z = torch.cat([a, b * scale(a).tanh().exp() + shift(a)], -1)
        return z * self.log_scale.exp() + self.shift

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (...) of each point of ``x`` (..., P)."""
        z, log_det = self(x)
        return log_det - (z.square().sum(-1) + self.dim * LOG_2PI) / 2

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n, P) points."""
        checks.integer("RealNVP.sample", "n", n, 0)
        return self.inverse(torch.randn(n, self.dim, generator=generator).to(self.shift))


def fit_real_nvp(
    samples: Tensor, *, couplings: int = 4, hidden: int = 100, held_out: float = 0.25, epochs: int = 200,
    batch: int = 32, lr: float = 0.01, patience: int | None = 20, generator: torch.Generator | None = None,
) -> RealNVP:  # fmt: skip
    """Fits a :class:`RealNVP` by Adamax to its mean log-likelihood. The epoch that is best on held-out samples counts.

    Args:
        samples: (S, P), P >= 2, float32 or float64.
        couplings: as in :class:`RealNVP`.
        hidden: as in :class:`RealNVP`.
        held_out: share of samples, drawn at random, that judge each epoch.
        epochs: the most epochs.
        batch: samples in a step.
        lr: learning rate, halved every 5,000 steps.
        patience: epochs without a better held-out log-likelihood, after which training ends; None for all epochs.
        generator: on the CPU, for the split and the batches. Weights start from torch's global random numbers.

    Returns:
        The flow, whose parameters no longer require a gradient.

    Raises:
        TypeError, ValueError: samples that are not finite or do not vary, or fewer than 2 to fit or to judge.

    Example:
        >>> import torch
        >>> from probkernels.bnn import fit_real_nvp
        >>> flow = fit_real_nvp(torch.randn(200, 2), epochs=2)
        >>> flow.sample(5).shape
        torch.Size([5, 2])
    """
    op = "fit_real_nvp"
    checks.positive_fraction(op, "held_out", held_out)
    checks.integer(op, "epochs", epochs)
    checks.integer(op, "batch", batch)
    checks.positive(op, "lr", lr)
    _, shift, scale = _standardized(op, samples)
    samples = samples.detach()
    order = torch.randperm(len(samples), generator=generator).to(samples.device)
    held, fit = (samples[rows] for rows in order.tensor_split([round(held_out * len(samples))]))
    if min(len(held), len(fit)) < 2:
        wanted = "2 samples or more to fit and to judge"
        raise ValueError(message(op, "samples", wanted, f"{len(fit)} and {len(held)}", "draw more samples"))
    flow = RealNVP(samples.shape[1], couplings, hidden, dtype=samples.dtype, device=samples.device)
    flow.shift.copy_(shift)
    flow.log_scale.copy_(scale.log())
    stopping, steps, rows = EarlyStopping(patience), math.ceil(len(fit) / batch), [order[:0]]
    best = {name: value.clone() for name, value in flow.state_dict().items()}

    def loss(n: int) -> Tensor:
        if n % steps == 0:
            rows[:] = torch.randperm(len(fit), generator=generator).to(fit.device).split(batch)
        return -flow.log_prob(fit[rows[n % steps]]).mean()

    def after(n: int, _: float) -> bool:
        if (n + 1) % steps:
            return False
        with torch.no_grad():
            value = -flow.log_prob(held).mean().item()
        if stopping.improved(n // steps, value):
            copy_state_(best, flow.state_dict(), op)
        return stopping.stop

    optimizer = torch.optim.Adamax(flow.parameters(), lr=lr)
    total = epochs * steps
    minimize(
        loss, optimizer, total, lr_schedule=lambda done: 0.5 ** (round(done * total) // 5000), after=after, name=op
    )
    flow.load_state_dict(best)
    return flow.requires_grad_(False)


def _check_points(op: str, x: Tensor, dim: int, name: str = "x") -> None:
    checks.float_tensor(op, name, x)
    if not x.ndim or x.shape[-1] != dim:
        raise ValueError(message(op, name, f"points of shape (..., {dim})", f"shape {tuple(x.shape)}"))


def _standardized(op: str, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples with mean 0 and variance 1, in float64; their mean and standard deviation."""
    checks.wide_float_tensor(op, "samples", samples)
    if samples.ndim != 2 or len(samples) < 2 or not samples.shape[1]:
        got = f"shape {tuple(samples.shape)}"
        raise ValueError(message(op, "samples", "shape (S, P) with S >= 2", got, "join chains with flatten(0, 1)"))
    checks.finite(op, "samples", samples, "did the sampler diverge?")
    x = samples.detach().double()
    scale = x.std(0)
    constant = scale <= 1e-12 * x.abs().amax(0)
    if constant.any():
        got = f"column {int(constant.nonzero()[0])} of one value"
        raise ValueError(message(op, "samples", "samples that vary", got, "did the chains move?"))
    return (x - x.mean(0)) / scale, x.mean(0), scale


def _component_log_prob(x: Tensor, weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """(..., k) log-density of each component, with its weight."""
    dim = means.shape[1]
    eye = torch.eye(dim, dtype=means.dtype, device=means.device)
    inverse = torch.linalg.solve_triangular(factors, eye.expand_as(factors), upper=False)
    white = torch.einsum("kij,...kj->...ki", inverse, x[..., None, :] - means)
    log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
    return weights.log() - log_det - (white.square().sum(-1) + dim * LOG_2PI) / 2


Law = tuple[Tensor, Tensor, Tensor]  # weights, means, Cholesky factors


def _best_of(
    x: Tensor, k: int, iterations: int, restarts: int, tolerance: float, generator: torch.Generator | None
) -> Law:
    """The likeliest of several EM runs; one component needs but one."""
    runs = [_em(x, k, iterations, tolerance, generator) for _ in range(restarts if k > 1 else 1)]
    return max(runs, key=lambda run: run[0])[1]


def _em(x: Tensor, k: int, iterations: int, tolerance: float, generator: torch.Generator | None) -> tuple[float, Law]:
    """Mean log-likelihood and law of one EM run."""
    nearest = torch.cdist(x, _seeds(x, k, generator)).argmin(1)
    law, before = _maximized(x, nn.functional.one_hot(nearest, k).to(x.dtype)), -math.inf
    for _ in range(iterations):
        joint = _component_log_prob(x, *law)
        value = joint.logsumexp(1).mean().item()
        if value - before < tolerance:
            break
        law, before = _maximized(x, joint.softmax(1)), value
    return _component_log_prob(x, *law).logsumexp(1).mean().item(), law


def _seeds(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """k-means++: each seed is drawn by its squared distance from those before."""
    first = int(torch.randint(len(x), (), generator=generator))
    chosen = x[first][None]
    for _ in range(k - 1):
        far = torch.cdist(x, chosen).amin(1).square().cpu() + 1e-300
        chosen = torch.cat([chosen, x[int(torch.multinomial(far, 1, generator=generator))][None]])
    return chosen


def _maximized(x: Tensor, share: Tensor) -> Law:
    """The M-step, from the share (S, k) of each component in each sample."""
    total = share.sum(0) + 1e-10
    means = share.T @ x / total[:, None]
    away = x - means[:, None]
    covariance = (share.T[..., None] * away).mT @ away / total[:, None, None]
    covariance.diagonal(dim1=1, dim2=2).add_(LEAST_VARIANCE)
    return total / total.sum(), means, torch.linalg.cholesky(covariance)
