"""Digests of tensors: the same entries give the same bytes, however they lie in memory."""

from __future__ import annotations

import pytest
import torch
from probkernels._core import digests
from torch import Tensor


@pytest.mark.parametrize(
    "t",
    [
        torch.ones(1).expand(1),
        torch.ones(1, dtype=torch.int32).as_strided((1,), (0,)),
        torch.arange(6.0).view(2, 3).T,
        torch.ones(3, dtype=torch.bfloat16)[::2],
        torch.ones(()),
        torch.ones(0, 3),
    ],
)
def test_bytes_do_not_depend_on_strides(t: Tensor) -> None:
    assert bytes(digests.raw(t)) == bytes(digests.raw(torch.stack([t, t])[0]))
    assert digests.of_data(t) == digests.of_data(torch.stack([t, t])[0])
