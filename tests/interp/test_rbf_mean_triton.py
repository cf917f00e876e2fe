"""The Triton kernel of sums of RBF kernels in Triton's interpreter, in a process of its own."""

from __future__ import annotations

import pytest

from tests.interp.test_power_norm_triton import interpret, outside

pytest.importorskip("triton", reason="triton is not installed")


@outside
def test_op_tests_in_the_interpreter() -> None:
    """Shapes of several tiles each way, and special values: 12 sums, far points, NaN, zeros, strides, derivatives."""
    assert "17 passed" in interpret("tests/ops/test_rbf_mean.py", "-k", "triton_interp")
