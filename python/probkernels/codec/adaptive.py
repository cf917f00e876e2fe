"""An adaptive model without training or model file: it learns from the values already coded. A baseline for
circuits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .._core import digests
from .._core.errors import CorruptStreamError, message
from ..ops import adaptive_decode, adaptive_encode
from ..ops.adaptive_code import MOST_ORDER
from .coder import WHY

GROUP = 1 << 24  # bytes coded at once: streams are given room for what they might become


class AdaptiveCoder:
    """An adaptive model of order k for 8-bit items. Use it with a container in place of a circuit.

    Args:
        variables: number of values in an item.
        order: number of preceding values that a value's distribution depends on, 0 to 7.

    Raises:
        ValueError: a number is out of range.

    Reference: Krichevsky and Trofimov, "The Performance of Universal Encoding", IEEE Trans. Inf. Theory 27, 1981.

    Example:
        >>> import io, numpy as np
        >>> from probkernels.codec import AdaptiveCoder, CodecReader, CodecWriter, Layout
        >>> images = np.arange(2000, dtype=np.uint8).reshape(100, 4, 5) % 7
        >>> coder, file = AdaptiveCoder(variables=20, order=1), io.BytesIO()
        >>> with CodecWriter(file, coder, Layout((4, 5))) as writer:
        ...     writer.append(images)
        >>> bool((CodecReader(file.getvalue(), coder)[:] == images).all()), len(file.getvalue()) < 400
        (True, True)
    """

    def __init__(self, variables: int, order: int = 1) -> None:
        for name, value, least, most in (("variables", variables, 1, 2**24), ("order", order, 0, MOST_ORDER)):
            if not least <= value <= most:
                raise ValueError(message("AdaptiveCoder", name, f"{least} to {most}", repr(value)))
        self.order, self.categories = order, [256] * variables
        self.model_id = digests.identity(f"adaptive-v1 {variables} {order}".encode())

    def encode(self, codes: np.ndarray, rows_per_chunk: int, lanes: int) -> list[bytes]:
        """Encodes codes (N, V) int32, one payload for each chunk. ``lanes`` has no effect."""
        plain, each = torch.from_numpy(codes.astype(np.uint8).reshape(-1)), rows_per_chunk * codes.shape[1]
        found: list[bytes] = []
        for group in plain.split(max(1, GROUP // each) * each) if len(plain) else ():
            payload, sizes = adaptive_encode(group, each, self.order)
            rows = zip(payload.numpy(), sizes.tolist(), strict=True)
            found += [row[:size].tobytes() for row, size in rows]
        return found

    def decode(self, payloads: Sequence[bytes], rows: Sequence[int], lanes: int) -> np.ndarray:
        """Decodes payloads to codes (sum of rows, V) int32.

        Raises:
            CorruptStreamError: the encoder cannot have made a payload.
        """
        v = len(self.categories)
        joined = torch.frombuffer(bytearray(b"".join(payloads) + b"\0"), dtype=torch.uint8)
        offsets = torch.tensor([0, *map(len, payloads)]).cumsum(0)
        starts = torch.tensor([0, *(count * v for count in rows)]).cumsum(0)
        data, damage = adaptive_decode(joined, offsets, starts, self.order, int(starts[-1]))
        for place, reason in enumerate(damage.tolist()):
            if reason:
                raise CorruptStreamError(f"AdaptiveCoder.decode: stream {place} {WHY[reason]}")
        return data.numpy().astype(np.int32).reshape(-1, v)
