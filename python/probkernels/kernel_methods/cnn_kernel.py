"""Kernels of infinitely wide convolutional networks: NNGP and NTK."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..ops.conv_arc_cosine import conv_arc_cosine, conv_arc_cosine_diagonal
from ._network_kernel import NetworkKernel

READOUTS = ("flatten", "global_average")
DIAGONAL_IMAGES = 4  # of a block whose diagonal is kept, with global average pooling

Window = tuple[Any, slice, slice]  # (..., rows, columns): some pixels of maps


class CNNKernel(NetworkKernel):
    """The kernel of an infinitely wide convolutional network, with trainable hyperparameters.

    The network is ``depth`` times "3 x 3 convolution, activation", with stride 1 and zeros around the image; then the
    readout, and a dense layer. It is in the NTK parameterization: weights have variance w_std^2 / inputs, biases
    b_std^2; the last layer has last_w_std and no biases. Points are images (..., N, C, H, W), as torch takes them.

    Args:
        depth: number of convolutions, >= 1.
        readout: ``"flatten"`` (each pixel has its own last weights), or ``"global_average"`` (the mean over pixels).
        w_std: positive number.
        b_std: number >= 0. With 0, the network has no biases, and there is no parameter for them.
        last_w_std: positive number.
        kind: which kernel a call returns: ``"nngp"`` (Bayesian network, or last layer trained) or ``"ntk"`` (all layers
            trained by gradient descent).
        activation: ``"relu"`` or ``"erf"``.
        image_shape: (C, H, W), to take flat images (..., N, C * H * W) as well. Regressions need that: their points are
            vectors.
        tile: images on each side of a block of pairs. Memory beyond the results grows with tile^2 * H * W, and not with
            the number of images.

    Attributes:
        log_w_std, log_b_std, log_last_w_std: the parameters, float64 unless the module is cast.

    Raises:
        TypeError, ValueError: an argument is out of range. In calls: images have a wrong dtype or shape.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import CNNKernel
        >>> x = torch.sin(torch.arange(32).reshape(2, 1, 4, 4) / 10 - 1.5)
        >>> CNNKernel(depth=2, w_std=1.4, b_std=0.3)(x).detach()
        tensor([[0.3138, 0.1388],
                [0.1388, 0.3484]])

    Reference: Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are Gaussian Processes", ICLR
    2019; Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019.
    """

    def __init__(
        self,
        depth: int,
        readout: str = "flatten",
        w_std: float = 1.0,
        b_std: float = 0.0,
        last_w_std: float = 1.0,
        kind: str = "nngp",
        *,
        activation: str = "relu",
        image_shape: Sequence[int] | None = None,
        tile: int = 32,
    ) -> None:
        super().__init__(depth, activation, w_std, b_std, last_w_std, kind)
        checks.one_of("CNNKernel", "readout", readout, READOUTS)
        self.readout, self.tile = readout, checks.integer("CNNKernel", "tile", tile)
        self.image_shape = None if image_shape is None else _image_shape(image_shape)

    def extra_repr(self) -> str:
        """What print shows of the kernel."""
        return f"{super().extra_repr()}, readout={self.readout!r}"

    def diagonal(self, x: Tensor) -> Tensor:
        x = self._images("x", x)
        if self.readout == "global_average":
            blocks = x.split(DIAGONAL_IMAGES, -4)
            return torch.cat([self._of_images(block).diagonal(dim1=-2, dim2=-1) for block in blocks], -1)
        _, nngp, ntk = conv_arc_cosine_diagonal(x.flatten(0, -4), **self._layers(x))
        return (nngp if self.kind == "nngp" else ntk).view(x.shape[:-3])

    def _of_images(self, x: Tensor) -> Tensor:
        nngp, ntk = self._of_batches(x, None, self.kind == "ntk")
        return nngp if ntk is None else ntk

    def _kernels(self, x: Tensor, z: Tensor | None, ntk: bool) -> tuple[Tensor, Tensor | None]:
        images = self._images("x", x)
        return self._of_batches(images, None if z is None else self._images("z", z, images), ntk)

    def _of_batches(self, x: Tensor, z: Tensor | None, ntk: bool) -> tuple[Tensor, Tensor | None]:
        other = x if z is None else z
        batch = torch.broadcast_shapes(x.shape[:-4], other.shape[:-4])
        left, right = (t.expand(*batch, *t.shape[-4:]).reshape(batch.numel(), *t.shape[-4:]) for t in (x, other))
        with torch.autocast(x.device.type, enabled=False):
            found = [self._matrices(a, None if z is None else b, ntk) for a, b in zip(left, right, strict=True)]
        size = (1 + ntk, *batch, x.shape[-4], other.shape[-4])
        both = torch.stack(found, 1).view(size) if found else x.new_zeros(size)
        return both[0], both[1] if ntk else None

    def _matrices(self, x: Tensor, z: Tensor | None, ntk: bool) -> Tensor:
        """Images (M, C, H, W) and (N, C, H, W) -> the kernels (1 + ntk, M, N), tile by tile."""
        net = self._layers(x)
        left, *ends = conv_arc_cosine_diagonal(x, **net)
        other, right = (x, left) if z is None else (z, conv_arc_cosine_diagonal(z, **net)[0])
        rows, columns = (range(0, max(len(t), 1), self.tile) for t in (x, other))
        tiles: dict[tuple[int, int], Tensor] = {}
        for i in rows:
            for j in columns:
                if z is None and j < i:
                    tiles[i, j] = tiles[j, i].mT
                    continue
                to, till = i + self.tile, j + self.tile
                known = torch.stack([end[i:to] for end in ends[: 1 + ntk]]) if z is None and i == j else None
                given = (x[i:to], other[j:till], left[i:to], right[j:till])
                tiles[i, j] = self._tile(given, known, **net, ntk=ntk)
        return torch.cat([torch.cat([tiles[i, j] for j in columns], -1) for i in rows], -2)

    def _tile(self, given: tuple[Tensor, ...], diagonal: Tensor | None, **net: Any) -> Tensor:
        """The kernels of some pairs of images. ``diagonal`` (1 + ntk, M): the rows are the columns, and each pixel with
        itself gives that."""
        x, z, left, right = given
        found = _stacked(*given, **net)
        if diagonal is not None:
            places = torch.eye(len(x), dtype=torch.bool, device=x.device)
            found = torch.where(places, diagonal[..., None], found)
        if self.readout == "flatten":
            return found
        pixels = x.shape[-2] * x.shape[-1]
        found = found / pixels
        for here, there in _windows(x.shape[-2], x.shape[-1], half=diagonal is not None):
            crops = (x[here], z[there], left[here], right[there])
            part = _stacked(*crops, **net) * (crops[0].shape[-2:].numel() / pixels**2)
            found = found + (part if diagonal is None else part + part.mT)
        return found

    def _layers(self, like: Tensor) -> dict[str, Any]:
        """The arguments of ``conv_arc_cosine``."""
        weights, biases = self._variances(like)
        return {"weights": weights, "biases": biases, "activation": self.activation}

    def _images(self, name: str, value: Tensor, like: Tensor | None = None) -> Tensor:
        """Checks points, and makes them (..., N, C, H, W)."""
        checks.wide_float_tensor("CNNKernel", name, value, "cast the images: x.float()")
        shape, images = self.image_shape, value
        if shape is not None and value.shape[-3:] != shape and value.ndim >= 2 and value.shape[-1] == shape.numel():
            images = value.unflatten(-1, shape)
        wanted = shape if like is None else like.shape[-3:]
        wrong = images.ndim < 4 or 0 in images.shape[-3:] or (wanted is not None and images.shape[-3:] != wanted)
        if wrong or (like is not None and images.dtype != like.dtype):
            sizes = "C, H, W" if wanted is None else ", ".join(map(str, wanted))
            expected = f"images (..., N, {sizes})" + (f", {like.dtype}, as 'x'" if like is not None else "")
            hint = "image_shape=(C, H, W) allows flat images" if shape is None else ""
            raise ValueError(message("CNNKernel", name, expected, checks.describe(value), hint))
        return images


def _stacked(*given: Tensor, **net: Any) -> Tensor:
    """The kernels of a tile (1 + ntk, M, N)."""
    nngp, ntk = conv_arc_cosine(*given, **net)
    return nngp[None] if ntk is None else torch.stack([nngp, ntk])


def _windows(height: int, width: int, half: bool) -> Iterator[tuple[Window, Window]]:
    """For every shift but 0 (of two opposite ones the first, if ``half``), the pixels p for which p + shift is in the
    image too, and these: pairs of pixels at one shift only meet each other in convolutions."""
    for down in range(0 if half else 1 - height, height):
        for across in range(1 - width, width):
            if (down, across) == (0, 0) or (half and (down, across) < (0, 0)):
                continue
            pairs = [(slice(max(0, -by), size - max(0, by)), by) for by, size in ((down, height), (across, width))]
            down_to, across_to = (slice(at.start + by, at.stop + by) for at, by in pairs)
            yield (..., pairs[0][0], pairs[1][0]), (..., down_to, across_to)


def _image_shape(given: Sequence[int]) -> torch.Size:
    whole = isinstance(given, (list, tuple)) and all(type(n) is int and n > 0 for n in given)
    if not whole or len(given) != 3:
        raise ValueError(message("CNNKernel", "image_shape", "three numbers (C, H, W) >= 1", checks.describe(given)))
    return torch.Size(given)
