"""Every op with a CUDA kernel on its examples, on the emulator, in other orders of threads. A new op is among them."""

from __future__ import annotations

import pytest
import torch
from probkernels._core.registry import OPS
from probkernels.cli import _self_test

from tests import backends
from tests.emu.test_emulator import ORDERS

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
NAMES = [name for name, op in OPS.items() if "cuda" in op.kernels]


def test_every_source_has_an_op_here() -> None:
    sources = {path.stem for path in (backends.ROOT / "csrc/cuda").glob("*.cu")}
    assert {OPS[name].family for name in NAMES} == sources


@pytest.mark.parametrize("name", NAMES)
def test_examples_in_every_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for order in ORDERS[1:]:  # the composition tests run the first one
        monkeypatch.setenv("CUEMU_ORDER", order)
        assert _self_test.self_test(OPS[name], "cuda_emu", torch.device("cpu")) == []
