"""Random functions: draws from Gaussian processes, with hyperparameters of their own if they have priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from .._core import checks, devices
from .._core.errors import message
from ._cholesky import factor_or_raise
from .kernel import Kernel, as_kernel

ENTRIES = 2**24  # of kernel matrices that are factorized at once


class GPSampler:
    """Draws functions from a Gaussian process of zero mean: a call gives their values at some points.

    With ``priors``, each function first draws its own hyperparameters, and ``kernel`` makes a kernel of them.

    Args:
        kernel: a kernel, see :func:`as_kernel`. With priors a function ``kernel(**hyperparameters)`` that returns one,
            such as the class :class:`RBF`.
        priors: distributions of hyperparameters by name, each of one number or of the shape of its hyperparameter.
        batched: whether the kernel serves all functions at once: it gets points (n, M, D) and, with priors,
            hyperparameters (n, ...). One call instead of n.

    Raises:
        TypeError: the kernel is not callable, or a prior is no distribution.

    Example:
        >>> import torch
        >>> from torch.distributions import LogNormal, Uniform
        >>> from probkernels.kernel_methods import RBF, GPSampler
        >>> sampler = GPSampler(RBF, priors={"lengthscale": Uniform(0.1, 1.0), "variance": LogNormal(0.0, 0.5)})
        >>> x, generator = torch.linspace(0, 1, 50)[:, None], torch.Generator().manual_seed(0)
        >>> sampler(x, 8, generator).shape
        torch.Size([8, 50])
    """

    def __init__(
        self, kernel: object, priors: Mapping[str, Distribution] | None = None, *, batched: bool = False
    ) -> None:
        self.batched = batched
        self.priors = dict(priors or {})
        for name, prior in self.priors.items():
            if not isinstance(prior, Distribution):
                expected = f"a torch distribution for '{name}'"
                raise TypeError(message("GPSampler", "priors", expected, checks.describe(prior)))
        if self.priors and not callable(kernel):
            expected = "a function of the hyperparameters that returns a kernel"
            raise TypeError(message("GPSampler", "kernel", expected, checks.describe(kernel)))
        if self.priors and isinstance(kernel, Kernel):
            hint = f"pass the class: {type(kernel).__name__}"
            expected = "a function of the hyperparameters that returns a kernel"
            raise TypeError(message("GPSampler", "kernel", expected, "a kernel", hint))
        self.kernel = kernel if self.priors else as_kernel(kernel)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        n: int,
        generator: torch.Generator | None = None,
        hyperparameters: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Values of n functions at x (M, D), or at points of each, x (n, M, D): (n, M), in the dtype of x.

        The factor is computed in float64, with the least jitter it takes.

        Args:
            x: points, float32 or float64, M >= 1.
            n: number of functions.
            generator: of all draws, on the device of x; None for torch's default generator.
            hyperparameters: those of every function, as :meth:`hyperparameters` returns them; None draws them.

        Raises:
            TypeError, ValueError: a dtype or shape is wrong, or a kernel matrix has no Cholesky factor.
        """
        checks.wide_float_tensor("GPSampler", "x", x, checks.AS_TENSOR)
        checks.integer("GPSampler", "n", n)
        if x.ndim not in (2, 3) or 0 in x.shape or (x.ndim == 3 and len(x) != n):
            raise ValueError(message("GPSampler", "x", f"shape (M, D) or ({n}, M, D)", f"shape {tuple(x.shape)}"))
        checks.finite("GPSampler", "x", x)
        hyper = self._checked(n, hyperparameters) if hyperparameters is not None else self.hyperparameters(n, generator)
        noise = torch.randn(n, x.shape[-2], generator=generator, dtype=torch.float64, device=x.device)
        if not self.priors and x.ndim == 2:
            return (noise @ factor_or_raise("GPSampler", "kernel", self._matrix(x, {})).mT).to(x)
        at_once, found = max(1, ENTRIES // x.shape[-2] ** 2), []
        for first in range(0, n, at_once):
            rows = slice(first, min(n, first + at_once))
            points = x.expand(n, *x.shape[-2:])[rows]
            factor = factor_or_raise(
                "GPSampler", "kernel", self._matrices(points, {k: v[rows] for k, v in hyper.items()})
            )
            found.append((factor @ noise[rows, :, None])[..., 0])
        return torch.cat(found).to(x)

    def _matrices(self, x: Tensor, hyper: dict[str, Tensor]) -> Tensor:
        """Kernel matrices (f, M, M) of functions with points x (f, M, D)."""
        if not self.batched:
            return torch.stack([self._matrix(one, {k: v[i] for k, v in hyper.items()}) for i, one in enumerate(x)])
        found = self._matrix(x, {k: v.to(x.device) for k, v in hyper.items()})
        checks.shape("GPSampler", "kernel", found, (*x.shape[:2], x.shape[1]), "of the matrices")
        return found

    def _matrix(self, x: Tensor, hyper: dict[str, Tensor]) -> Tensor:
        assert callable(self.kernel)
        kernel: Callable[..., Tensor] = as_kernel(self.kernel(**hyper)).to(x.device) if self.priors else self.kernel
        return kernel(x.double())

    def _checked(self, n: int, hyper: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if set(hyper) != set(self.priors) or any(len(value) != n for value in hyper.values()):
            expected = f"{n} of each of {sorted(self.priors)}"
            got = str({name: len(value) for name, value in hyper.items()})
            raise ValueError(message("GPSampler", "hyperparameters", expected, got))
        return dict(hyper)

    def hyperparameters(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """n draws of every hyperparameter, on the CPU: {name: (n, ...)}; {} without priors."""
        # distributions know no generator: they draw from a seed that it gives
        if not self.priors:
            return {}
        devices.refuse_baked("sample", "seed that is drawn for the hyperparameters")
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return {name: prior.sample((n,)) for name, prior in self.priors.items()}
