"""Input-convex networks with their gradient in closed form: ``ICNN`` of vectors, ``ConvICNN`` of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, interpolate, softplus
from torch.nn.utils import parametrize

from .._core import checks
from .._core.errors import message
from ..ops import softplus_sigmoid

WEIGHTS = ("clamp", "softplus")
HEADS = ("sum", "dense", "conv")


class _Positive(nn.Module):
    """softplus of a free parameter: weights that no optimizer can make negative."""

    def forward(self, free: Tensor) -> Tensor:
        return softplus(free)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight + torch.log(-torch.expm1(-weight.clamp_min(1e-30)))


def _adjoint(layer: nn.Module, g: Tensor, shape: torch.Size) -> Tensor:
    """W^T g, for a layer whose input has ``shape``."""
    if isinstance(layer, nn.Conv2d):
        step, kernel = layer.stride, layer.kernel_size
        pad: Any = layer.padding
        left = [(n + 2 * p - k) % s for n, p, k, s in zip(shape[2:], pad, kernel, step, strict=True)]
        return conv_transpose2d(g, layer.weight, None, step, pad, left)
    weight: Any = layer.weight
    return (g @ weight).view(shape)


def _flat(layer: nn.Module, z: Tensor) -> Tensor:
    return z.flatten(1) if isinstance(layer, nn.Linear) else z


def _resizing(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix (new, old) of bilinear resizing along one axis."""
    eye = torch.eye(old, dtype=like.dtype, device=like.device)[None]
    return interpolate(eye, new, mode="linear")[0].T


class ConvexPotential(nn.Module):
    """Base of input-convex networks psi(x) of softplus units, whose gradient needs no autograd.

    z_0 = s(W_0 x), z_l = s(W_l z_(l-1) + R_l x), psi = w z + r x + mu / 2 ||x||^2 with s the softplus. ``lin`` holds W
    and w, ``res`` holds R and r; all of ``lin`` but the first must not be negative. Images are resized to those of z
    before a ``res`` layer.

    Example:
        >>> from probkernels.inverse import ICNN, ConvexPotential
        >>> isinstance(ICNN(2, hidden=5, layers=2), ConvexPotential)
        True
    """

    def __init__(
        self, lin: Sequence[nn.Module], res: Sequence[nn.Module], beta: float, strong_convexity: float, weights: str
    ) -> None:
        super().__init__()
        name = type(self).__name__
        checks.positive(name, "beta", beta)
        checks.non_negative(name, "strong_convexity", strong_convexity)
        checks.one_of(name, "weights", weights, WEIGHTS)
        self.lin, self.res = nn.ModuleList(lin), nn.ModuleList(res)
        self.beta, self.strong_convexity, self.weights = float(beta), float(strong_convexity), weights
        if weights == "softplus":
            for layer in self.lin[1:]:
                with torch.no_grad():
                    layer.weight.abs_()  # type: ignore[operator]
                parametrize.register_parametrization(layer, "weight", _Positive())

    def initialize_(self, mean: float = -10.0, std: float = 0.1, generator: torch.Generator | None = None) -> None:
        """Sets every constrained weight to exp(N(mean, std^2)), about 4.5e-5: f starts near mu x plus a constant."""
        checks.non_negative(type(self).__name__, "std", std)
        with torch.no_grad():
            for layer in self.lin[1:]:
                weight: Any = layer.weight
                drawn = torch.randn(weight.shape, dtype=weight.dtype, device=weight.device, generator=generator)
                if self.weights == "softplus":
                    layer.weight = (mean + std * drawn).exp()
                else:
                    weight.copy_((mean + std * drawn).exp())

    @torch.no_grad()
    def project_(self) -> None:
        """Sets negative constrained weights to 0. Call it after every step of an optimizer; with ``weights="softplus"``
        there is nothing to do."""
        if self.weights == "clamp":
            for layer in self.lin[1:]:
                layer.weight.clamp_(min=0)  # type: ignore[operator]

    def violation(self) -> float:
        """By how much the most negative constrained weight is below 0; 0 for a convex potential."""
        weights = [layer.weight for layer in self.lin[1:]]
        return max([0.0, *(-float(w.detach().min()) for w in weights)])  # type: ignore[operator]

    def _checked(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _view(self, x: Tensor, z: Tensor) -> Tensor:
        """x at the size of z."""
        if z.ndim < 4 or z.shape[2:] == x.shape[2:]:
            return x
        high, wide = (_resizing(a, b, x) for a, b in zip(x.shape[2:], z.shape[2:], strict=True))
        return high @ x @ wide.T

    def _into_x(self, g: Tensor, z_shape: torch.Size, x: Tensor) -> Tensor:
        """The adjoint of :meth:`_view`."""
        if len(z_shape) < 4 or z_shape[2:] == x.shape[2:]:
            return g
        high, wide = (_resizing(a, b, x) for a, b in zip(x.shape[2:], z_shape[2:], strict=True))
        return high.T @ g @ wide

    def _layers(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[torch.Size]]:
        """The last z; all slopes s'(a), and the shapes of what W_0, W_1, ... were given."""
        z, slope = softplus_sigmoid(self.lin[0](_flat(self.lin[0], x)), self.beta)
        slopes, shapes = [slope], [x.shape]
        for core, skip in zip(self.lin[1:-1], self.res, strict=False):
            shapes.append(z.shape)
            z, slope = softplus_sigmoid(core(_flat(core, z)) + skip(_flat(skip, self._view(x, z))), self.beta)
            slopes.append(slope)
        return z, slopes, shapes

    def _has_linear(self) -> bool:
        return len(self.res) == len(self.lin) - 1

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """psi(x) (B,) and its gradient, of the shape of x, in one pass forth and one back. Both are differentiable:
        training needs one backward pass and not the two of ``autograd.grad(..., create_graph=True)``."""
        x = self._checked(x)
        z, slopes, shapes = self._layers(x)
        last: Any = self.lin[-1]
        psi = last(z.flatten(2).sum(2) if z.ndim > 2 else z)[:, 0]
        psi = psi + 0.5 * self.strong_convexity * x.square().flatten(1).sum(1)
        g = last.weight.view(1, -1, *[1] * (z.ndim - 2)) * slopes[-1]
        found = self.strong_convexity * x
        for i in range(len(slopes) - 1, 0, -1):
            skip, core, shape = self.res[i - 1], self.lin[i], shapes[i]
            seen = shape if len(shape) < 4 else torch.Size((*x.shape[:2], *shape[2:]))
            into = _adjoint(skip, g, x.shape if len(shape) < 4 else seen)
            found = found + self._into_x(into, shape, x)
            g = _adjoint(core, g, shape) * slopes[i - 1]
        found = found + _adjoint(self.lin[0], g, x.shape)
        if self._has_linear():
            line: Any = self.res[-1]
            psi, found = psi + line(x.flatten(1))[:, 0], found + line.weight.view(1, *x.shape[1:])
        return psi, found

    def gradient(self, x: Tensor) -> Tensor:
        """f(x) = grad psi(x), of the shape of x."""
        return self.value_and_gradient(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        """psi(x) (B,)."""
        x = self._checked(x)
        z, _, _ = self._layers(x)
        psi = self.lin[-1](z.flatten(2).sum(2) if z.ndim > 2 else z)[:, 0]
        if self._has_linear():
            psi = psi + self.res[-1](x.flatten(1))[:, 0]
        return psi + 0.5 * self.strong_convexity * x.square().flatten(1).sum(1)


class ICNN(ConvexPotential):
    """An input-convex network of vectors: fully connected layers of softplus units with skips from the input.

    Args:
        features: length d of x.
        hidden: units of a layer.
        layers: hidden-to-hidden layers.
        beta: sharpness of the softplus.
        strong_convexity: mu >= 0: adds mu / 2 ||x||^2 to psi, and mu x to its gradient.
        weights: ``"clamp"`` for constrained weights that :meth:`project_` keeps at 0 or above, ``"softplus"`` for a
            parametrization that cannot leave them.

    Calls: ``potential(x)`` is psi (B,) for x (B, d), float32 or float64; ``potential.gradient(x)`` is f(x) (B, d).

    Raises:
        TypeError: x is not a real floating-point tensor.
        ValueError: x has another length, or an argument is out of range.

    Reference: Amos, Xu and Kolter, "Input Convex Neural Networks", ICML 2017.

    Example:
        >>> import torch
        >>> from probkernels.inverse import ICNN
        >>> potential = ICNN(2, hidden=8, layers=1, strong_convexity=0.1)
        >>> potential.project_()
        >>> x = torch.randn(5, 2, requires_grad=True)
        >>> (truth,) = torch.autograd.grad(potential(x).sum(), x)
        >>> torch.allclose(potential.gradient(x), truth, atol=1e-6)
        True
    """

    def __init__(
        self,
        features: int,
        hidden: int = 50,
        layers: int = 4,
        *,
        beta: float = 10.0,
        strong_convexity: float = 0.0,
        weights: str = "clamp",
    ) -> None:
        for name, value in (("features", features), ("hidden", hidden)):
            checks.integer("ICNN", name, value)
        checks.integer("ICNN", "layers", layers, 0)
        between = [nn.Linear(hidden, hidden, bias=False) for _ in range(layers)]
        lin = [nn.Linear(features, hidden, bias=False), *between, nn.Linear(hidden, 1, bias=False)]
        res = [*[nn.Linear(features, hidden) for _ in range(layers)], nn.Linear(features, 1)]
        super().__init__(lin, res, beta, strong_convexity, weights)
        self.features = features

    def _checked(self, x: Tensor) -> Tensor:
        checks.float_tensor("ICNN", "x", x)
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(message("ICNN", "x", f"shape (B, {self.features})", f"shape {tuple(x.shape)}"))
        return x


class ConvICNN(ConvexPotential):
    """An input-convex network of images: 3 x 3 convolutions of softplus units with skips from the resized input.

    Args:
        channels: of an image.
        hidden: channels of a layer.
        strides: of the layers; the first is 1.
        head: ``"sum"`` adds w z over all places: any image size, and the gradient at a place does not depend on it.
            ``"dense"`` and ``"conv"`` are the heads of the published 28 x 28 and 128 x 128 networks, for one ``size``.
        size: height and width of an image; None with ``head="sum"``.
        features: units of the heads ``"dense"`` and ``"conv"``.
        beta: as for :class:`ICNN`.
        strong_convexity: as for :class:`ICNN`.
        weights: as for :class:`ICNN`.

    Calls: ``potential(x)`` is psi (B,) for x (B, channels, H, W); ``potential.gradient(x)`` has the shape of x.

    Reference: Fang, Buchanan and Sulam, ICLR 2024.

    Example:
        >>> import torch
        >>> from probkernels.inverse import ConvICNN
        >>> potential = ConvICNN(1, hidden=4)
        >>> potential.initialize_()
        >>> potential(torch.randn(2, 1, 9, 12)).shape, potential.gradient(torch.randn(2, 1, 5, 5)).shape
        (torch.Size([2]), torch.Size([2, 1, 5, 5]))
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 64,
        strides: Sequence[int] = (1, 2, 1, 2),
        *,
        head: str = "sum",
        size: int | None = None,
        features: int = 64,
        beta: float = 10.0,
        strong_convexity: float = 0.0,
        weights: str = "clamp",
    ) -> None:
        for name, value in (("channels", channels), ("hidden", hidden), ("features", features)):
            checks.integer("ConvICNN", name, value)
        checks.one_of("ConvICNN", "head", head, HEADS)
        if not strides or strides[0] != 1 or any(s not in (1, 2) for s in strides):
            raise ValueError(message("ConvICNN", "strides", "1, then numbers of 1 and 2", repr(tuple(strides))))
        if (size is None) != (head == "sum"):
            wanted = "None with head 'sum'" if head == "sum" else f"an image size with head '{head}'"
            raise ValueError(message("ConvICNN", "size", wanted, repr(size)))
        lin: list[nn.Module] = [nn.Conv2d(channels, hidden, 3, 1, 1, bias=head != "dense")]
        lin += [nn.Conv2d(hidden, hidden, 3, s, 1, bias=False) for s in strides[1:]]
        res: list[nn.Module] = [nn.Conv2d(channels, hidden, 3, s, 1) for s in strides[1:]]
        if size is not None:
            side = checks.integer("ConvICNN", "size", size)
            for s in strides:
                side = -(-side // s)
            if head == "dense":
                lin.append(nn.Linear(hidden * side**2, features, bias=False))
                res.append(nn.Linear(channels * side**2, features))
            else:
                lin.append(nn.Conv2d(hidden, features, side, bias=False))
                res.append(nn.Conv2d(channels, features, side))
        lin.append(nn.Linear(hidden if head == "sum" else features, 1, bias=head == "conv"))
        super().__init__(lin, res, beta, strong_convexity, weights)
        self.channels, self.head, self.size = channels, head, size

    def _has_linear(self) -> bool:
        return False

    def _checked(self, x: Tensor) -> Tensor:
        checks.float_tensor("ConvICNN", "x", x)
        sizes = ("H", "W") if self.size is None else (self.size, self.size)
        if x.ndim != 4 or x.shape[1] != self.channels or (self.size and tuple(x.shape[2:]) != sizes):
            wanted = f"shape (B, {self.channels}, {sizes[0]}, {sizes[1]})"
            hint = "head='sum' takes any size; LPN.denoise averages patches" if self.size else ""
            raise ValueError(message("ConvICNN", "x", wanted, f"shape {tuple(x.shape)}", hint))
        return x
