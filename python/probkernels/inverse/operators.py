"""Measurement operators: masks, Fourier samples, blur, lower resolution, matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._base import Operator, as_rows, of_rows, require_operator


def check_mask(op: str, mask: object) -> Tensor:
    """Returns ``mask`` as a bool tensor: True, or 1, where something is measured."""
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(message(op, "mask", "a tensor of bools, or of zeros and ones", checks.describe(mask)))
    wrong = (mask != 0) & (mask != 1)  # NaN is neither
    if bool(wrong.any()):
        hint = "1 where something is measured, else 0"
        raise ValueError(message(op, "mask", "zeros and ones", checks.offender(mask, wrong), hint))
    return mask.bool()


def fits(mask: Tensor, value: Tensor) -> bool:
    """Whether ``mask`` broadcasts to the last axes of ``value``, and does not enlarge it."""
    last = value.shape[value.ndim - mask.ndim :] if value.ndim >= mask.ndim else ()
    return len(last) == mask.ndim and all(m in (1, n) for m, n in zip(mask.shape, last, strict=True))


class Mask(Operator):
    """A x = mask * x: inpainting. y has the shape of x, with zeros where nothing is measured.

    Args:
        mask: bool, or zeros and ones; 1 where x is measured. It broadcasts against the last axes of x (B, *S).

    Raises:
        TypeError, ValueError: ``mask`` is no tensor of bools or of zeros and ones, or does not fit x.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Mask
        >>> Mask(torch.tensor([True, False]))(torch.tensor([[3.0, 4.0]]))
        tensor([[3., 0.]])
    """

    gram = 1.0
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", check_mask("Mask", mask))

    def _forth(self, x: Tensor) -> Tensor:
        if not fits(self.mask, x):
            expected = f"a shape whose last axes fit the mask's, {tuple(self.mask.shape)}"
            raise ValueError(message("Mask", "x", expected, f"shape {tuple(x.shape)}"))
        return torch.where(self.mask, x, 0.0)

    def _back(self, y: Tensor) -> Tensor:
        return self._forth(y)


class Fourier(Operator):
    """Samples of the orthonormal Fourier transform: MRI with one coil, or with several.

    With one coil, y = mask * F x has the shape of x. With C coils, x (B, *N) gives y (B, C, *N): y_c = mask * F(maps_c
    x). y is complex, with zeros where nothing is measured. The transform is not shifted: index 0 is frequency 0.

    Args:
        mask: bool, or zeros and ones; broadcasts against the last ``ndim`` axes *N.
        maps: (C, *N) or (B, C, *N) complex or real, sensitivity maps of the coils; None for one coil.
        ndim: number of axes of the transform, the last ones.
        real: True if x is real: then the adjoint and the pseudo-inverse return real images. False if x is complex;
            :class:`ComplexView` then takes x as real numbers (B, *N, 2).

    Raises:
        TypeError: x is complex and ``real`` is True, or the mask or the maps are no such tensors.
        ValueError: the mask holds other numbers than 0 and 1, or shapes do not fit.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Fourier
        >>> lines = Fourier(torch.tensor([1, 1, 0, 1])[:, None], real=True)
        >>> x = torch.arange(16.0).view(1, 4, 4)
        >>> lines(x).shape, lines.pinv(lines(x)).dtype
        (torch.Size([1, 4, 4]), torch.float32)
    """

    mask: Tensor
    maps: Tensor | None

    def __init__(self, mask: Tensor, maps: Tensor | None = None, *, ndim: int = 2, real: bool = False) -> None:
        super().__init__()
        self.axes = tuple(range(-checks.integer("Fourier", "ndim", ndim), 0))
        mask = check_mask("Fourier", mask)
        if mask.ndim > ndim:
            got = f"shape {tuple(mask.shape)}"
            raise ValueError(message("Fourier", "mask", f"at most ndim = {ndim} axes", got))
        self.register_buffer("mask", mask)
        if maps is not None:
            maps = self._checked("maps", maps)
            if maps.ndim not in (ndim + 1, ndim + 2) or not fits(mask, maps):
                expected = f"shape (C, *N) or (B, C, *N) with {ndim} axes *N that fit the mask's {tuple(mask.shape)}"
                raise ValueError(message("Fourier", "maps", expected, f"shape {tuple(maps.shape)}"))
            checks.finite("Fourier", "maps", torch.view_as_real(maps) if maps.is_complex() else maps)
        self.register_buffer("maps", maps)
        self.real = real
        self.gram = 1.0 if maps is None and not real else None

    def _forth(self, x: Tensor) -> Tensor:
        if self.real and x.is_complex():
            raise TypeError(message("Fourier", "x", "a real tensor, as real is True", str(x.dtype), "real=False"))
        if not fits(self.mask, x):
            expected = f"a shape whose last axes fit the mask's, {tuple(self.mask.shape)}"
            raise ValueError(message("Fourier", "x", expected, f"shape {tuple(x.shape)}"))
        if self.maps is not None:
            self._refuse_shape("x", x, self.maps.shape[-len(self.axes) :], "one image a row; the maps add the coils")
            self._same_batch("x", x, len(self.axes) + 1)
            x = x.unsqueeze(-len(self.axes) - 1) * self.maps
        return torch.where(self.mask, torch.fft.fftn(x, dim=self.axes, norm="ortho"), 0.0)

    def _back(self, y: Tensor) -> Tensor:
        if not y.is_complex():
            raise TypeError(message("Fourier", "y", "a complex tensor", str(y.dtype), "torch.view_as_complex(y)"))
        if not fits(self.mask, y):
            expected = f"a shape whose last axes fit the mask's, {tuple(self.mask.shape)}"
            raise ValueError(message("Fourier", "y", expected, f"shape {tuple(y.shape)}"))
        if self.maps is not None:
            self._refuse_shape("y", y, self.maps.shape[-len(self.axes) - 1 :])
            self._same_batch("y", y, len(self.axes) + 2)
        x = torch.fft.ifftn(torch.where(self.mask, y, 0.0), dim=self.axes, norm="ortho")
        if self.maps is not None:
            x = (self.maps.conj() * x).sum(-len(self.axes) - 1)
        return x.real if self.real else x

    def _same_batch(self, name: str, value: Tensor, axes: int) -> None:
        """Raises unless maps of each row (B, C, *N) meet as many rows, and no further axis: they would broadcast."""
        if self.maps is None or self.maps.ndim == len(self.axes) + 1:
            return
        if value.ndim != axes or len(self.maps) not in (1, len(value)):
            expected = f"{axes} axes, and a batch of {len(self.maps)} as the maps have"
            hint = "maps (C, *N) serve every batch; with n_samples, repeat those of each row"
            raise ValueError(message("Fourier", name, expected, f"shape {tuple(value.shape)}", hint))

    def pinv(self, y: Tensor) -> Tensor:
        """See the base. A real image has conjugate values at opposite frequencies, so one of the two is enough."""
        if self.maps is not None or not self.real:
            return super().pinv(y)
        seen = self.mask.expand(y.shape[-len(self.axes) :]).to(y.real.dtype)
        both = torch.where(self.mask, y, 0.0) + self._opposite(torch.where(self.mask, y, 0.0)).conj()
        count = seen + self._opposite(seen)
        return torch.fft.ifftn(both / count.clamp_min(1), dim=self.axes, norm="ortho").real

    def _opposite(self, y: Tensor) -> Tensor:
        """y at the negated frequencies."""
        return y.flip(self.axes).roll([1] * len(self.axes), self.axes)


class ComplexView(Operator):
    """An operator on complex x, for x given as real numbers (B, *S, 2): real and imaginary parts.

    Args:
        operator: the operator.

    Example:
        >>> import torch
        >>> from probkernels.inverse import ComplexView, Fourier
        >>> scan = ComplexView(Fourier(torch.ones(4, 4)))
        >>> scan(torch.ones(1, 4, 4, 2)).dtype, scan.adjoint(scan(torch.ones(1, 4, 4, 2))).shape
        (torch.complex64, torch.Size([1, 4, 4, 2]))
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        require_operator("ComplexView", "operator", operator)
        self.operator, self.gram = operator, operator.gram

    def _forth(self, x: Tensor) -> Tensor:
        if x.is_complex():
            hint = "torch.view_as_real(x)"
            raise TypeError(message("ComplexView", "x", "a real tensor of shape (B, ..., 2)", str(x.dtype), hint))
        self._refuse_shape("x", x, (2,), "real and imaginary part in the last axis: torch.view_as_real(x)")
        return self.operator.A(torch.view_as_complex(x.contiguous()))

    def _back(self, y: Tensor) -> Tensor:
        return torch.view_as_real(self.operator.adjoint(y).resolve_conj())

    def pinv(self, y: Tensor) -> Tensor:
        """See the base."""
        return torch.view_as_real(self.operator.pinv(y).resolve_conj())

    def solve(self, r: Tensor, ridge: float | Tensor) -> Tensor:
        """See the base."""
        return self.operator.solve(r, ridge)


class Blur(Operator):
    """Convolution with a kernel over the last axes, which wrap around.

    Args:
        kernel: (k_1, .., k_d) real; its middle, k // 2, stands on the pixel. d is the number of axes.
        rtol: frequencies that the kernel damps below ``rtol`` of the strongest one are lost: ``pinv`` leaves them 0.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Blur
        >>> blur = Blur(torch.tensor([1.0, 2.0, 1.0]) / 4)
        >>> blur(torch.tensor([[0.0, 4.0, 0.0, 0.0]]))
        tensor([[1., 2., 1., 0.]])
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, rtol: float = 1e-4) -> None:
        super().__init__()
        checks.float_tensor("Blur", "kernel", kernel)
        if kernel.ndim < 1 or not kernel.numel():
            raise ValueError(message("Blur", "kernel", "at least one axis, and a weight", f"{tuple(kernel.shape)}"))
        checks.finite("Blur", "kernel", kernel)
        checks.fraction("Blur", "rtol", rtol)
        self.register_buffer("kernel", kernel)
        self.axes, self.rtol = tuple(range(-kernel.ndim, 0)), rtol

    def transfer(self, like: Tensor) -> Tensor:
        """The kernel's Fourier transform (N_1, .., N_d), for images of the shape of ``like``."""
        d = self.kernel.ndim
        if like.ndim <= d or any(k > n for k, n in zip(self.kernel.shape, like.shape[-d:], strict=True)):
            expected = f"shape (B, ...) with last axes no smaller than the kernel's {tuple(self.kernel.shape)}"
            raise ValueError(message("Blur", "x", expected, f"shape {tuple(like.shape)}"))
        real = like.real.dtype if like.is_complex() else like.dtype
        small = [
            side
            for k, n in zip(reversed(self.kernel.shape), reversed(like.shape[-d:]), strict=True)
            for side in (0, n - k)
        ]
        whole = torch.nn.functional.pad(self.kernel.to(real), small)
        return torch.fft.fftn(whole.roll([-(k // 2) for k in self.kernel.shape], self.axes), dim=self.axes)

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        out = torch.fft.ifftn(torch.fft.fftn(x, dim=self.axes) * response, dim=self.axes)
        return out if x.is_complex() else out.real

    def _forth(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.transfer(x))

    def _back(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.transfer(y).conj())

    def pinv(self, y: Tensor) -> Tensor:
        """See the base."""
        h = self.transfer(y)
        kept = h.abs() > self.rtol * h.abs().amax()
        return self._filtered(y, torch.where(kept, 1 / torch.where(kept, h, 1.0), 0.0))

    def regularized(self, y: Tensor, ridge: float) -> Tensor:
        """The minimum of |A x - y|^2 + ridge |x|^2: Wiener's filter if ridge is the noise-to-signal ratio of power."""
        checks.positive("Blur", "ridge", ridge)
        h = self.transfer(y)
        return self._filtered(y, h.conj() / (h.abs().square() + ridge))

    def solve(self, r: Tensor, ridge: float | Tensor) -> Tensor:
        """See the base."""
        ridge = as_rows(ridge, r)
        if not of_rows(ridge, r):
            return super().solve(r, ridge)
        h = self.transfer(r)
        power = h.abs().square() + ridge
        return self._filtered(r, torch.where(h.abs() > self.rtol * h.abs().amax(), 1 / power, 0.0))


class Downsample(Operator):
    """Means over blocks of pixels: lower resolution. For another filter: ``Downsample(...) @ Blur(...)``.

    Args:
        factor: side of a block; the last axes must be multiples of it.
        ndim: number of axes to shorten, the last ones.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Downsample
        >>> half = Downsample(2, ndim=1)
        >>> half(torch.tensor([[1.0, 3.0, 5.0, 5.0]])), half.pinv(torch.tensor([[2.0, 5.0]]))
        (tensor([[2., 5.]]), tensor([[2., 2., 5., 5.]]))
    """

    def __init__(self, factor: int, ndim: int = 2) -> None:
        super().__init__()
        self.factor = checks.integer("Downsample", "factor", factor)
        self.ndim = checks.integer("Downsample", "ndim", ndim)
        self.gram = float(factor) ** -ndim

    def _forth(self, x: Tensor) -> Tensor:
        last = x.shape[x.ndim - self.ndim :]
        if x.ndim <= self.ndim or any(n % self.factor for n in last):
            expected = f"shape (B, ...) whose last {self.ndim} axes are multiples of {self.factor}"
            raise ValueError(message("Downsample", "x", expected, f"shape {tuple(x.shape)}"))
        blocks = [size for n in last for size in (n // self.factor, self.factor)]
        return x.reshape(*x.shape[: x.ndim - self.ndim], *blocks).mean([-1 - 2 * i for i in range(self.ndim)])

    def _back(self, y: Tensor) -> Tensor:
        if y.ndim <= self.ndim:
            got = f"shape {tuple(y.shape)}"
            raise ValueError(message("Downsample", "y", f"shape (B, ...) with {self.ndim} more axes", got))
        for axis in range(-self.ndim, 0):
            y = y.repeat_interleave(self.factor, axis)
        return y * float(self.factor) ** -self.ndim


class Matrix(Operator):
    """A x = matrix @ x for flattened x.

    Args:
        matrix: (M, D) float or complex.
        shape: *S, the shape of one x, with D numbers; (D,) by default.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Matrix
        >>> Matrix(torch.tensor([[1.0, 1.0]]))(torch.tensor([[3.0, 4.0]]))
        tensor([[7.]])
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        matrix = self._checked("matrix", matrix)
        if matrix.ndim != 2:
            raise ValueError(message("Matrix", "matrix", "shape (M, D)", f"shape {tuple(matrix.shape)}"))
        self.shape = tuple(shape or matrix.shape[1:])
        if math.prod(self.shape) != matrix.shape[1]:
            raise ValueError(message("Matrix", "shape", f"one of {matrix.shape[1]} numbers", repr(self.shape)))
        self.register_buffer("matrix", matrix)

    def _forth(self, x: Tensor) -> Tensor:
        self._refuse_shape("x", x, self.shape)
        matrix = self._like(x)
        return x.flatten(1).to(matrix.dtype) @ matrix.mT

    def _back(self, y: Tensor) -> Tensor:
        self._refuse_shape("y", y, self.matrix.shape[:1])
        matrix = self._like(y)
        return (y.to(matrix.dtype) @ matrix.conj()).unflatten(1, self.shape)

    def _like(self, value: Tensor) -> Tensor:
        return self.matrix.to(torch.promote_types(self.matrix.dtype, value.dtype))

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (M, K), singular values (K,) and V^H (K, D) of the matrix."""
        u, s, vh = torch.linalg.svd(self.matrix, full_matrices=False)
        return u, s, vh

    def pinv(self, y: Tensor) -> Tensor:
        """See the base."""
        self._refuse_shape("y", y, self.matrix.shape[:1])
        matrix = self._like(y)
        return (y.to(matrix.dtype) @ torch.linalg.pinv(matrix).mT).unflatten(1, self.shape)
