"""The one table of tolerances: how far a result may be from the float64 reference, by dtype and kind of result.

``elementwise`` is for outputs of the input's dtype, a few roundings each; ``sum`` for per-feature sums kept in the
accumulation dtype. Half precision adds its own rounding of the output.
"""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTWISE = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (3e-6, 3e-6),
    torch.float16: (1.5e-3, 1e-4),
    torch.bfloat16: (1.2e-2, 1e-3),
}
SUM = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (5e-6, 1e-5),
    torch.float16: (5e-6, 1e-5),
    torch.bfloat16: (5e-6, 1e-5),
}


Table = dict[torch.dtype, tuple[float, float]]


def bound(expected: Tensor, dtype: torch.dtype, kind: Table, terms: int = 1) -> Tensor:
    """The allowed absolute error of each entry, for sums of ``terms`` terms of order one: it grows as a random walk."""
    rtol, atol = kind[dtype]
    return atol * max(1.0, terms / 128) ** 0.5 + rtol * expected.abs()


def assert_close(got: Tensor, expected: Tensor, dtype: torch.dtype, kind: Table, terms: int = 1) -> None:
    """``got`` equals the float64 ``expected`` within the bound of ``kind`` for input dtype ``dtype``."""
    assert got.shape == expected.shape
    got, expected = got.double(), expected.double()
    excess = (got - expected).abs() - bound(expected, dtype, kind, terms)
    wrong = (excess > 0) | (got.isnan() != expected.isnan())
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} entries off, the worst by {excess.nan_to_num().max()}"
    )
