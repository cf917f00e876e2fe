"""Kernels as modules: algebra, diagonals, gradients, kernels of other libraries, errors."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from probkernels.kernel_methods import RBF, Kernel, as_kernel, rbf_kernel
from torch import Tensor

X = torch.randn(3, 70, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(x: Tensor, z: Tensor) -> Tensor:
    return x @ z.mT


def test_sums_products_and_scalings_are_those_of_the_matrices() -> None:
    a, b, scale = RBF(0.7, 2.0), as_kernel(linear), torch.tensor(0.3, requires_grad=True)
    whole = scale * a * b + 2 * b + linear
    expected = 0.3 * a(X, Z) * linear(X, Z) + 3 * linear(X, Z)
    torch.testing.assert_close(whole(X, Z), expected, rtol=1e-7, atol=1e-7)  # 0.3 is a float32 number
    torch.testing.assert_close(whole.diagonal(X), whole(X).diagonal(dim1=-2, dim2=-1))
    whole(X, Z).sum().backward()
    torch.testing.assert_close(scale.grad, (a(X, Z) * linear(X, Z)).sum().float())
    assert a.log_lengthscale.grad is not None


def test_each_input_may_have_its_lengthscale() -> None:
    lengthscale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    kernel = RBF(lengthscale, 1.5)
    torch.testing.assert_close(kernel(X, Z), rbf_kernel(X / lengthscale, Z / lengthscale, 1.0, 1.5))
    assert kernel(X.float()).dtype == torch.float32
    assert torch.equal(copy.deepcopy(kernel)(X), kernel(X))
    assert set(kernel.state_dict()) == {"log_lengthscale", "log_variance"}


def test_kernels_of_other_libraries_return_lazy_matrices() -> None:
    lazy = as_kernel(lambda x, z: SimpleNamespace(to_dense=lambda: linear(x, z)))
    torch.testing.assert_close(lazy(X, Z), linear(X, Z))
    assert as_kernel(lazy) is lazy


def test_gpytorch_kernels_work() -> None:
    gpytorch = pytest.importorskip("gpytorch")
    theirs = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    ours = RBF(float(theirs.base_kernel.lengthscale), float(theirs.outputscale))
    torch.testing.assert_close(as_kernel(theirs)(X, Z), ours(X, Z))


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (TypeError, "kernel", lambda: as_kernel(3)),
        (ValueError, "lengthscale", lambda: RBF(lengthscale=0.0)),
        (ValueError, "variance", lambda: RBF(variance=float("nan"))),
        (ValueError, ">= 0", lambda: RBF() * -1.0),
        (ValueError, r"70, 5\)", lambda: as_kernel(lambda x, z: x)(X, Z)),
        (NotImplementedError, "^$", lambda: Kernel()(X)),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: object) -> None:
    with pytest.raises(error, match=text):
        make()  # type: ignore[operator]
