"""Local patch quantizer: an image as a grid of codes, each of which depends on its own patch only."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

ENTROPY_WEIGHT, COMMITMENT_WEIGHT = 1e-3, 2.5e-3
MOST_BITS = 30


class QuantizerLoss(NamedTuple):
    """The weighted sum that is trained, and its parts: squared error, entropy and commitment."""

    loss: Tensor
    mse: Tensor
    entropy: Tensor
    commitment: Tensor


class _Residual(nn.Module):
    """Two convolutions with SiLU before each, added to their input. Of size 1 they stay within a patch."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, size, padding=size // 2)
        self.second = nn.Conv2d(width, width, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class PatchQuantizer(nn.Module):
    """An autoencoder with one code of ``bits`` bits for each patch, by lookup-free quantization.

    The encoder is local: a convolution of the size and stride of a patch, then layers of size 1, without norms. So a
    changed pixel changes one code. A bit is the sign of an output; its gradient passes straight through. The decoder
    sees neighbors: residual layers of size 3 and nearest upsampling. From Kotar et al., *World Modeling with
    Probabilistic Structure Integration*, 2025, https://arxiv.org/abs/2509.09737; lookup-free quantization is by Yu et
    al., 2023, https://arxiv.org/abs/2310.05737.

    Args:
        bits: bits of a code: 2**bits values for :class:`PointerVocab`, at most 30 bits.
        channels: channels of images; 2 for a flow.
        patch: pixels of a side of a patch, a power of 2.
        width: channels of hidden layers.
        depth: number of residual layers of encoder and decoder.

    Attributes:
        num_values (int): number of values of a code.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import PatchQuantizer, PixelWorld
        >>> quantizer = PatchQuantizer(8)
        >>> frame = PixelWorld().sample(2, torch.Generator().manual_seed(0)).frame0
        >>> codes = quantizer.encode(frame)
        >>> codes.shape, quantizer.decode(codes).shape
        (torch.Size([2, 6, 6]), torch.Size([2, 3, 24, 24]))
        >>> quantizer(frame).loss.backward()
    """

    def __init__(self, bits: int = 16, *, channels: int = 3, patch: int = 4, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        op = "PatchQuantizer"
        self.bits = checks.integer(op, "bits", bits, most=MOST_BITS)
        for name, value in (("channels", channels), ("patch", patch), ("width", width)):
            checks.integer(op, name, value)
        checks.integer(op, "depth", depth, least=0)
        if patch & (patch - 1):
            raise ValueError(message(op, "patch", "a power of 2", str(patch)))
        self.channels, self.patch, self.num_values = channels, patch, 2**bits
        within = [_Residual(width, 1) for _ in range(depth)]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, patch, patch), nn.SiLU(), *within, nn.Conv2d(width, bits, 1)
        )
        across: list[nn.Module] = [nn.Conv2d(bits, width, 3, padding=1), *(_Residual(width, 3) for _ in range(depth))]
        for _ in range(patch.bit_length() - 1):
            across += [nn.Upsample(scale_factor=2, mode="nearest"), _Residual(width, 3)]
        self.decoder = nn.Sequential(*across, nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def extra_repr(self) -> str:
        """Sizes of codes and patches."""
        return f"bits={self.bits}, channels={self.channels}, patch={self.patch}"

    def forward(self, images: Tensor) -> QuantizerLoss:
        """The training loss of images (B, C, H, W): squared error + 0.001 entropy + 0.0025 commitment.

        The entropy is that of each bit, with probability sigmoid(4 z) of being set, less that of its mean over all
        patches: bits shall be certain, and used alike. Commitment is the squared distance of z from its sign.

        Raises:
            TypeError, ValueError: as :meth:`encode`.
        """
        z = self._outputs("PatchQuantizer", images)
        sign = torch.where(z >= 0, 1.0, -1.0).to(z.dtype)
        mse = (self.decoder(z + (sign - z).detach()) - images).square().mean()
        p = (4 * z).sigmoid()
        entropy = (_bit_entropy(p).mean((0, 2, 3)) - _bit_entropy(p.mean((0, 2, 3)))).sum()
        commitment = (z - sign.detach()).square().mean()
        loss = mse + ENTROPY_WEIGHT * entropy + COMMITMENT_WEIGHT * commitment
        return QuantizerLoss(loss, mse, entropy, commitment)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, H / patch, W / patch), int64 from 0 to 2**bits - 1, of images (B, C, H, W).

        Raises:
            TypeError: images are not floating-point.
            ValueError: another number of channels, sides that are no multiples of the patch, no images, or numbers that
                are not finite.
        """
        set_ = self._outputs("PatchQuantizer.encode", images) >= 0
        return (set_.long() << torch.arange(self.bits, device=images.device)[:, None, None]).sum(1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, C, H, W) of codes (B, H / patch, W / patch).

        Raises:
            TypeError, ValueError: codes are no integers, have another shape, or are out of range.
        """
        op, weight = "PatchQuantizer.decode", next(self.decoder.parameters())
        checks.integer_tensor(op, "codes", codes)
        if codes.ndim != 3 or 0 in codes.shape:
            raise ValueError(message(op, "codes", "shape (B, rows, columns)", f"shape {tuple(codes.shape)}"))
        wrong = (codes < 0) | (codes.long() >= self.num_values)
        if bool(wrong.any()):
            expected = f"codes from 0 to {self.num_values - 1}"
            raise ValueError(message(op, "codes", expected, checks.offender(codes, wrong)))
        bits = (codes.long()[:, None] >> torch.arange(self.bits, device=codes.device)[:, None, None]) & 1
        return self.decoder((2 * bits - 1).to(weight))

    def _outputs(self, op: str, images: Tensor) -> Tensor:
        """(B, bits, rows, columns), of which the signs are the bits."""
        checks.float_tensor(op, "images", images, checks.AS_TENSOR)
        sides = images.shape[2:]
        if (
            images.ndim != 4
            or images.shape[1] != self.channels
            or 0 in images.shape
            or any(s % self.patch for s in sides)
        ):
            expected = f"shape (B, {self.channels}, H, W), sides multiples of {self.patch}"
            raise ValueError(message(op, "images", expected, f"shape {tuple(images.shape)}"))
        checks.finite(op, "images", images)
        return self.encoder(images)


def _bit_entropy(p: Tensor) -> Tensor:
    """Entropy of bits in nats."""
    return -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p))
