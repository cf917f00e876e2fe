"""The Triton kernels of KL divergences of rows in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import pytest

from tests.interp.test_power_norm_triton import interpret, outside

pytest.importorskip("triton", reason="triton is not installed")


@outside
def test_op_tests_in_the_interpreter() -> None:
    """Those of the kernels: every shape and dtype, rising logits, masked values, what is no number."""
    chosen = "triton_interp and (log_softmax or rising or masked or no_number)"
    assert "20 passed" in interpret("tests/ops/test_kl_rows.py", "-k", chosen)
