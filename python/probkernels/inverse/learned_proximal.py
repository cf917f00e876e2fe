"""Learned proximal networks: ``LPN``, its prior, and the loading of published weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._convex import FirstDerivatives, Inversion, dot, invert
from .icnn import ICNN, ConvexPotential, ConvICNN
from .proximal_checks import ProximalReport, assert_prox


class Prior(NamedTuple):
    """What :meth:`LPN.prior` found."""

    value: Tensor  # R(x), (B,) float64, up to a constant
    inversion: Inversion  # its certificate


class LPN(nn.Module):
    """A network that is the proximal operator of some regularizer R by construction: the gradient of a convex function.

    f(y) = argmin_x 1/2 ||x - y||^2 + R(x). Trained as a denoiser by :func:`fit_lpn`, R tends to -sigma^2 log p.

    Args:
        potential: an :class:`ICNN` or :class:`ConvICNN`.
        sigma: the noise level, or the range (low, high), that it was trained for; None if unknown. :func:`fit_lpn`
            sets it.

    Calls: ``lpn(y)`` is f(y), of the shape and dtype of y; ``lpn(y, sigma)`` is the same, the form in which deepinv
    calls a denoiser, and raises if ``sigma`` is not what the network was trained for.

    Raises:
        TypeError: y is not a real floating-point tensor.
        ValueError: a shape is wrong, or ``sigma`` is not positive or another one.

    Reference: Fang, Buchanan and Sulam, "What's in a Prior? Learned Proximal Networks for Inverse Problems", ICLR 2024.

    Example:
        >>> import torch
        >>> from probkernels.inverse import ICNN, LPN
        >>> lpn = LPN(ICNN(2, hidden=8, layers=1, strong_convexity=0.5))
        >>> lpn.project_()
        >>> x = torch.tensor([[0.3, -0.2]])
        >>> found = lpn.invert(x)
        >>> torch.allclose(lpn(found.y), x, atol=1e-5), bool(found.converged)
        (True, True)
    """

    def __init__(self, potential: ConvexPotential, *, sigma: float | tuple[float, float] | None = None) -> None:
        super().__init__()
        if not isinstance(potential, ConvexPotential):
            raise TypeError(message("LPN", "potential", "an ICNN or ConvICNN", checks.describe(potential)))
        self.potential = potential
        self.sigma = None if sigma is None else noise_range("LPN", sigma)

    def forward(self, y: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """f(y)."""
        if sigma is not None:
            self._check_sigma(sigma)
        return self.potential.gradient(y)

    def _check_sigma(self, sigma: float | Tensor) -> None:
        for level in sigma.flatten().tolist() if isinstance(sigma, Tensor) else [sigma]:
            value = checks.number("LPN", "sigma", level)
            checks.positive("LPN", "sigma", value)
            if self.sigma is not None and not 0.999999 * self.sigma[0] <= value <= 1.000001 * self.sigma[1]:
                wanted = f"the level it was trained for, {self.sigma[0]:g} to {self.sigma[1]:g}"
                raise ValueError(message("LPN", "sigma", wanted, repr(value), "a network serves its own noise alone"))

    def project_(self) -> None:
        """:meth:`ConvexPotential.project_`."""
        self.potential.project_()

    def denoise(self, y: Tensor, *, patch: int, stride: int, wrap: bool = False) -> Tensor:
        """f by patches of ``patch`` x ``patch`` every ``stride`` pixels, averaged where they overlap: y (B, C, H, W).

        The average of gradients is a gradient where all pixels are covered equally often. ``wrap`` makes it so: patches
        go around the edges, and ``stride`` divides H, W and ``patch``. Without it the last patches end at the edges, as
        in the published code, pixels near edges are covered less often, and the whole is not quite a proximal operator.
        """
        checks.float_tensor("LPN.denoise", "y", y)
        for name, value in (("patch", patch), ("stride", stride)):
            checks.integer("LPN.denoise", name, value)
        if y.ndim != 4 or min(y.shape[2:]) < patch or stride > patch:
            wanted = f"shape (B, C, H, W) with H and W at least {patch}, and a stride of at most that"
            raise ValueError(message("LPN.denoise", "y", wanted, f"shape {tuple(y.shape)}, stride {stride}"))
        if wrap and any(n % stride for n in (*y.shape[2:], patch)):
            raise ValueError(message("LPN.denoise", "stride", f"a divisor of {(*y.shape[2:], patch)}", str(stride)))
        total, count = torch.zeros_like(y), y.new_zeros(y.shape[2:])
        span = torch.arange(patch, device=y.device)
        for top in _starts(y.shape[2], patch, stride, wrap):
            for left in _starts(y.shape[3], patch, stride, wrap):
                rows, columns = (top + span)[:, None] % y.shape[2], (left + span)[None] % y.shape[3]
                total = total.index_put((*_all_images(y), rows, columns), self(y[:, :, rows, columns]), True)
                count[rows, columns] += 1
        return total / count

    def invert(self, x: Tensor, *, tol: float = 1e-6, max_steps: int = 100, start: Tensor | None = None) -> Inversion:
        """y with f(y) = x, by Newton's method on the convex function psi(y) - <x, y>, in float64 for every dtype.

        Args:
            x: (B, ...), float32 or float64.
            tol: of ||f(y) - x|| of each row.
            max_steps: of Newton's method.
            start: the first y; x if None.

        Returns:
            y, and a certificate: the residual of each row and whether it is within ``tol``. With ``strong_convexity`` 0
            a row that f cannot reach does not converge.

        Raises:
            TypeError, ValueError: an argument is wrong, or the potential is not convex: see :meth:`project_`.
        """
        checks.wide_float_tensor("LPN.invert", "x", x)
        checks.finite("LPN.invert", "x", x)
        checks.positive("LPN.invert", "tol", tol)
        checks.integer("LPN.invert", "max_steps", max_steps)
        begin = x if start is None else start
        checks.wide_float_tensor("LPN.invert", "start", begin)
        checks.shape("LPN.invert", "start", begin, x.shape, "(that of 'x')")
        wrong = self.potential.violation()
        if wrong > 0:
            expected, got = "constrained weights of 0 or above, for a convex potential", f"{-wrong:.3g}"
            raise ValueError(message("LPN.invert", "potential", expected, got, "call project_() after every step"))
        exact = copy.deepcopy(self.potential).requires_grad_(False).double()
        found = invert(exact.value_and_gradient, x.detach().double(), begin.detach().double(), tol, max_steps)
        return found._replace(y=found.y.to(x.dtype))

    def prior(self, x: Tensor, *, tol: float = 1e-6, max_steps: int = 100) -> Prior:
        """R(x) = <y, x> - 1/2 ||x||^2 - psi(y) with f(y) = x: the regularizer whose proximal operator f is, up to a
        constant. Differentiable: its gradient is y - x, and that of parameters is exact, as y is a minimizer. Once:
        second derivatives raise.

        Args: as of :meth:`invert`, whose certificate comes along. R of a row that did not converge is a lower bound.
        """
        found = self.invert(x, tol=tol, max_steps=max_steps)
        wide, y = x.double(), found.y.double()
        exact = {name: value.double() for name, value in self.potential.named_parameters()}
        psi = torch.func.functional_call(self.potential, exact, (y,))
        value = dot(y, wide).flatten() - 0.5 * dot(wide, wide).flatten() - psi
        return Prior(FirstDerivatives.apply(value), found)

    def assert_prox(self, x: Tensor, *, tol: float = 1e-8) -> ProximalReport:
        """:func:`assert_prox` of this network, computed in float64."""
        exact = copy.deepcopy(self.potential).double()
        mu = exact.strong_convexity
        return assert_prox(exact.gradient, x.double(), potential=exact, strong_convexity=mu, tol=tol)


def _starts(size: int, patch: int, stride: int, wrap: bool) -> list[int]:
    if wrap:
        return list(range(0, size, stride))
    return [*range(0, size - patch, stride), size - patch]


def _all_images(y: Tensor) -> tuple[Tensor, Tensor]:
    images, channels = torch.arange(y.shape[0], device=y.device), torch.arange(y.shape[1], device=y.device)
    return images[:, None, None, None], channels[None, :, None, None]


def noise_range(op: str, sigma: float | tuple[float, float]) -> tuple[float, float]:
    """``sigma`` as the lowest and highest noise level."""
    low, high = sigma if isinstance(sigma, tuple) and len(sigma) == 2 else (sigma, sigma)
    for level in (low, high):
        checks.positive(op, "sigma", level)
    if low > high:
        raise ValueError(message(op, "sigma", "(low, high) with low <= high", repr(sigma)))
    return float(low), float(high)


def load_official(state: Mapping[str, Any], *, beta: float, alpha: float = 0.0, sigma: float | None = None) -> LPN:
    """An :class:`LPN` from a state dict of the authors' code, whose architecture the shapes tell.

    Args:
        state: of ``lpn_mnist``, ``lpn_128`` or the network of vectors: weights ``lin.*`` and ``res.*``, also inside a
            dict under ``"model_state_dict"``, ``"state_dict"`` or ``"model"``, and with a prefix ``module.``.
        beta: sharpness that it was trained with: 10 for vectors and MNIST, 100 for CelebA and MayoCT.
        alpha: of that code, which adds alpha ||x||^2: our ``strong_convexity`` is 2 alpha. 0.01 for MNIST, 1e-6 for
            CelebA and MayoCT.
        sigma: noise level that it was trained for.

    Raises:
        ValueError: the state dict is of another network, or its constrained weights are negative.

    Example:
        >>> from probkernels.inverse import ICNN, load_official
        >>> source = ICNN(1, hidden=4, layers=1)
        >>> source.project_()
        >>> lpn = load_official({f"module.{k}": v for k, v in source.state_dict().items()}, beta=10.0, alpha=0.01)
        >>> lpn.potential.strong_convexity
        0.02
    """
    checks.non_negative("load_official", "alpha", alpha)
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    lin = [plain[f"lin.{i}.weight"] for i in range(len(plain)) if f"lin.{i}.weight" in plain]
    hint = "weights are lin.0.weight, lin.1.weight, ..., res.0.weight, ..."
    if len(lin) < 2:
        found = ", ".join(list(plain)[:3]) or "nothing"
        raise ValueError(message("load_official", "state", "weights of a learned proximal network", found, hint))
    how: dict[str, Any] = {"beta": beta, "strong_convexity": 2 * alpha}
    potential: ConvexPotential
    if lin[0].ndim == 2:
        potential = ICNN(lin[0].shape[1], lin[0].shape[0], len(lin) - 2, **how)
    else:
        head, hidden = lin[-2], lin[0].shape[0]
        strides = [1 + i % 2 for i in range(len(lin) - 2)]
        side = round((head.shape[1] // hidden) ** 0.5) if head.ndim == 2 else head.shape[2]
        how.update(size=side * 2 ** (sum(strides) - len(strides)), features=head.shape[0])
        potential = ConvICNN(lin[0].shape[1], hidden, strides, head="dense" if head.ndim == 2 else "conv", **how)
    try:
        potential.load_state_dict(plain)
    except RuntimeError as error:
        raise ValueError(message("load_official", "state", "a published network", str(error)[:300], hint)) from error
    potential.to(lin[0].dtype)
    if potential.violation() > 0:
        wanted = "weights lin.1, lin.2, ... of 0 or above"
        raise ValueError(message("load_official", "state", wanted, f"{-potential.violation():g}", "call wclip() first"))
    return LPN(potential, sigma=sigma)
