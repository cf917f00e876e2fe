"""A convolutional coupling of tiers of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .couplings import Coupling, Product, _shrink

Tier = tuple[int, int, int, int]  # states of a group, groups of a pixel, height, width


def _tiers(op: str, tiers: Sequence[Tier], kernels: Sequence[Sequence[int]]) -> None:
    if not tiers:
        raise ValueError(message(op, "tiers", "at least one tier", "none"))
    for i, tier in enumerate(tiers):
        if len(tier) != 4:
            raise ValueError(message(op, f"tiers[{i}]", "(states, groups, height, width)", checks.shown(tier)))
        for number in tier:
            checks.integer(op, f"tiers[{i}]", number)
    if [len(row) for row in kernels] != [len(tiers)] * len(tiers):
        raise ValueError(message(op, "kernels", f"{len(tiers)} rows of {len(tiers)} sizes", checks.shown(kernels)))
    for i, row in enumerate(kernels):
        for j, k in enumerate(row):
            checks.integer(op, f"kernels[{i}][{j}]", k, 0)
            if k and (j > i or tiers[j][2] % tiers[i][2] or tiers[j][3] % tiers[i][3]):
                expected = "0 above the diagonal, and where tier j's height and width are no multiples of tier i's"
                raise ValueError(message(op, f"kernels[{i}][{j}]", expected, str(k)))


class _Convolution(nn.Module):
    """A strided convolution from one tier to another that covers every tap at every pixel, and its transpose.

    Row tiers reach beyond their image by ``margin`` pixels, so that no tap of a border pixel is lost.
    """

    def __init__(self, low: Tier, high: Tier, k: int, margin: int) -> None:
        super().__init__()
        self.low, self.strides = low, (low[2] // high[2], low[3] // high[3])
        self.k, self.margin = k, margin
        inputs, outputs = low[0] * low[1], high[0] * high[1]
        self.weight = nn.Parameter(torch.randn(outputs, inputs, k, k) / (outputs * k * k) ** 0.5)
        self.pads = []  # left and right of the width, above and below
        for size, ends, stride in ((low[3], high[3], self.strides[1]), (low[2], high[2], self.strides[0])):
            before = k // 2 + stride * margin
            self.pads += [before, stride * (ends + 2 * margin - 1) + k - before - size]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> rows of the higher tier, with its margin."""
        return nnf.conv2d(nnf.pad(x, self.pads), self.weight, stride=self.strides)

    def transposed(self, y: Tensor) -> Tensor:
        """The adjoint of ``forward``."""
        x = nnf.conv_transpose2d(y, self.weight, stride=self.strides)
        left, _, top, _ = self.pads
        return x[:, :, top : top + self.low[2], left : left + self.low[3]]

    def blocks(self) -> Tensor:
        """W^T W of each group, summed over the taps that a pixel takes part in: (H, W, groups, n, n)."""
        states, groups, height, width = self.low
        taps = self.weight.unflatten(1, (groups, states)).permute(3, 4, 1, 0, 2)  # (k, k, groups, outputs, n)
        grams = taps.mT @ taps
        place = torch.arange(self.k, device=grams.device)
        rows, columns = (
            (torch.arange(size, device=grams.device)[:, None] + self.k // 2 - place) % stride == 0
            for size, stride in zip((height, width), self.strides, strict=True)
        )
        return torch.einsum("ha,wb,abgmn->hwgmn", rows.to(grams.dtype), columns.to(grams.dtype), grams)


class MonotoneConvCoupling(Coupling):
    """A coupling of tiers of images by convolutions; q is flat, tier by tier, each (height, width, groups, states).

    A is block lower-triangular: tier i has rows, and ``kernels[i][j]`` is the size of the convolution from tier j to
    them, 0 for none. The stride is the ratio of the tiers' sizes. Every group's block of ``A^T A`` is subtracted
    exactly, borders included, and A is scaled from the right, so that Phi stays symmetric.

    Args:
        tiers: for each tier (states, groups of a pixel, height, width). A tier of labels is (classes, 1, 1, 1).
        kernels: for each tier i, sizes of the convolutions from tiers 0 to i, with zeros behind.
        m: in (0, 1), a lower bound of the eigenvalues of I - Phi.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Reference: Feng, Winston, Kolter, "Monotone deep Boltzmann machines", TMLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.energy import MonotoneConvCoupling
        >>> coupling = MonotoneConvCoupling([(3, 1, 4, 4), (2, 2, 2, 2)], [[3, 0], [3, 1]])
        >>> coupling(torch.ones(1, 64)).shape, coupling.min_eig() >= 0.0999
        (torch.Size([1, 64]), True)
    """

    def __init__(self, tiers: Sequence[Tier], kernels: Sequence[Sequence[int]], m: float = 0.1) -> None:
        _tiers("MonotoneConvCoupling", tiers, kernels)
        sizes = [states for states, groups, height, width in tiers for _ in range(groups * height * width)]
        super().__init__("MonotoneConvCoupling", sizes, m)
        self.tiers = [tuple(tier) for tier in tiers]
        self.places: list[tuple[int, int]] = []
        self.parts = nn.ModuleDict()
        for i, row in enumerate(kernels):
            margin = max(row) // 2  # what taps reach beyond the image
            for j, k in enumerate(row):
                if k:
                    self.parts[f"{i}_{j}"] = _Convolution(tiers[j], tiers[i], k, margin)
                    self.places.append((i, j))
        if not self.places:
            raise ValueError(message("MonotoneConvCoupling", "kernels", "at least one size above 0", "zeros"))

    def _part(self, i: int, j: int) -> _Convolution:
        part = self.parts[f"{i}_{j}"]
        assert isinstance(part, _Convolution)
        return part

    def _images(self, q: Tensor) -> list[Tensor]:
        """Flat (B, d) -> (B, H, W, groups, states) for each tier."""
        shapes = [(height, width, groups, states) for states, groups, height, width in self.tiers]
        parts = q.split([h * w * g * n for h, w, g, n in shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def product(self) -> Product:
        """The function q (B, d) -> Phi q, with the weights as they are now; differentiable."""
        blocks, scales = [], []
        for j, (states, groups, height, width) in enumerate(self.tiers):
            found = [self._part(i, j).blocks() for i, low in self.places if low == j]
            weight = next(self.parameters())
            block = sum(found, weight.new_zeros(height, width, groups, states, states))
            scale = _shrink(torch.linalg.eigvalsh(block)[..., -1:], self.m)
            blocks.append(block * scale[..., None] ** 2)
            scales.append(scale)

        def multiply(q: Tensor) -> Tensor:
            images = self._images(q)
            own = [(block @ x[..., None])[..., 0] for block, x in zip(blocks, images, strict=True)]
            scaled = [(x * s).flatten(3).permute(0, 3, 1, 2) for x, s in zip(images, scales, strict=True)]
            back: list[Tensor | float] = [0.0] * len(images)
            for i in sorted({i for i, _ in self.places}):
                columns = [j for row, j in self.places if row == i]
                parts = [self._part(i, j)(scaled[j]) for j in columns]
                rows = torch.stack(parts).sum(0)
                for j in columns:
                    back[j] = back[j] + self._part(i, j).transposed(rows)
            found = []
            for x, s, block, total in zip(images, scales, own, back, strict=True):
                pulled = total.permute(0, 2, 3, 1).view_as(x) * s if isinstance(total, Tensor) else 0.0
                found.append((block - pulled).flatten(1))
            return torch.cat(found, -1)

        return multiply
