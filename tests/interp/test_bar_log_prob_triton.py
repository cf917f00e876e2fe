"""The Triton kernels of histogram densities in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import pytest

from tests.interp.test_power_norm_triton import interpret, outside

pytest.importorskip("triton", reason="triton is not installed")


@outside
def test_op_tests_in_the_interpreter() -> None:
    """Those of the kernels: every shape and dtype, large logits, special values."""
    chosen = "triton_interp and (log_softmax or printed or large or special)"
    assert "23 passed" in interpret("tests/ops/test_bar_log_prob.py", "-k", chosen)
