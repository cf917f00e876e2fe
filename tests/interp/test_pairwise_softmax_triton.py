"""The Triton kernels of the pairwise softmax in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import pairwise_softmax
from torch import Tensor

from tests.interp.test_power_norm_triton import inside, interpret, outside
from tests.tolerances import ELEMENTWISE, SUM, assert_close

pytest.importorskip("triton", reason="triton is not installed")

# points, features, classes: one tile; several tiles each way and blocks of features; classes of few points and of none
CASES = [
    ((2, 1, 1), torch.float64),
    ((40, 37, 2), torch.float64),
    ((70, 20, 3), torch.float32),
    ((35, 3, 30), torch.float32),
]


@outside
def test_kernels_in_the_interpreter() -> None:
    """This file's tests, and the op's of special values."""
    chosen = "equal_the or same_bits or triton_interp and (identical or no_number or hand)"
    files = __file__, "tests/ops/test_pairwise_softmax.py"
    assert f"{len(CASES) + 1 + 4} passed" in interpret(*files, "-k", chosen)


@outside
@pytest.mark.slow
def test_op_tests_in_the_interpreter() -> None:
    assert "passed" in interpret("tests/ops/test_pairwise_softmax.py", "-k", "triton_interp")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small inputs have several."""
    from probkernels.triton_kernels import pairwise_softmax as kernels

    for name, size in (("ROWS", 32), ("COLUMNS", 32), ("MOST", 32)):
        monkeypatch.setattr(kernels, name, size)


def run(shape: tuple[int, int, int], dtype: torch.dtype, backend: str) -> list[Tensor]:
    """Both outputs and the gradient."""
    points, features, classes = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(points, features, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(classes, (points,), generator=generator)
    grads = [torch.randn(size, generator=generator).to(dtype) for size in ((points, classes), (points,))]
    with use_backend(backend):
        outputs = pairwise_softmax(x, labels, classes, features**0.5)
        return [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, x, grads)]


@inside
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_kernels_equal_the_reference(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    got, expected = run(shape, dtype, "triton_interp"), run(shape, torch.float64, "reference")
    for value, truth, kind in zip(got, expected, (ELEMENTWISE, ELEMENTWISE, SUM), strict=True):
        assert_close(value, truth, dtype, kind, 512)


@inside
def test_every_run_gives_the_same_bits() -> None:
    first, second = (run((70, 20, 3), torch.float32, "triton_interp") for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
