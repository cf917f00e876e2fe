"""Kernels of infinitely wide networks: published digits, diagonals, gradients, wide networks, errors."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.kernel_methods import RBF, MLPKernel, ResidualMLPKernel
from torch import Tensor

X = torch.tensor([[1, 0.5, -0.3], [-0.2, 0.8, 0.4]], dtype=torch.float64)
# entries (1, 1), (1, 2), (2, 2) of neural-tangents 0.6.5, with w_std 1.4 and b_std 0.3
NETS = [
    (MLPKernel, 1, "relu", [0.4827333333, 0.1626120727, 0.3194], [0.9654666667, 0.2023033206, 0.6388]),
    (MLPKernel, 2, "relu", [0.5180786667, 0.2550119748, 0.358012], [1.509236, 0.4149234843, 1.029036]),
    (MLPKernel, 4, "relu", [0.5866627515, 0.3876127354, 0.4329347248], [2.6668957573, 0.9054687547, 1.898255619]),
    (MLPKernel, 1, "erf", [0.4578812591, 0.0702511356, 0.3791213647], [1.0153825541, 0.1407888203, 0.8104844805]),
    (MLPKernel, 4, "erf", [0.4643658531, 0.1474107973, 0.4596330473], [3.1534342273, 0.5353182586, 2.9644757692]),
    (ResidualMLPKernel, 2, "relu", [2.02660776, 0.947955817, 1.38627576], [5.97070704, 1.5606843667, 4.056179036]),
]


def points(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("make", "depth", "activation", "nngp", "ntk"), NETS)
def test_published_digits(
    make: type[MLPKernel], depth: int, activation: str, nngp: list[float], ntk: list[float]
) -> None:
    kernel = make(depth, activation, 1.4, 0.3)
    places = ([0, 0, 1], [0, 1, 1])
    # the peer rounds angles of equal points: 1.898255619 for 1.898255624, which is exact
    for got, expected, atol in zip(kernel.nngp_and_ntk(X), (nngp, ntk), (6e-11, 6e-9), strict=True):
        torch.testing.assert_close(got[places].tolist(), expected, rtol=0, atol=atol)
        assert abs(got[0, 1].item() - expected[1]) < 6e-11
        assert torch.equal(got, got.mT)
    for kind in ("nngp", "ntk"):
        kernel = make(depth, activation, 1.4, 0.3, kind=kind)
        torch.testing.assert_close(kernel.diagonal(X), kernel(X).diagonal(), rtol=1e-15, atol=0)
        apart = kernel(X, X.clone())  # equal points that nobody knows to be equal: their angle is rounded
        torch.testing.assert_close(apart, kernel(X), rtol=1e-7, atol=1e-12)


def test_closed_forms_of_one_hidden_layer() -> None:
    x, z = (torch.nn.functional.normalize(points(5, seed)) for seed in (0, 1))
    u, d = x @ z.mT, x.shape[1]
    angle = torch.acos(u)
    psi, zeta = ((1 - u * u).sqrt() + (math.pi - angle) * u) / (2 * math.pi), (math.pi - angle) * u / (2 * math.pi)
    nngp, ntk = MLPKernel(1).nngp_and_ntk(x, z)
    torch.testing.assert_close(nngp, psi / d)
    torch.testing.assert_close(ntk, (psi + zeta) / d)
    torch.testing.assert_close(MLPKernel(1).nngp(3 * x, 2 * z), 6 * nngp)  # homogeneous
    torch.testing.assert_close(MLPKernel(1, last_w_std=3.0).ntk(x, z), 9 * ntk)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_gradients_to_inputs_and_hyperparameters(activation: str, kind: str) -> None:
    for kernel in (
        MLPKernel(2, activation, 1.4, 0.3, 1.2, kind),
        ResidualMLPKernel(1, activation, 1.2, 0.2, kind=kind),
    ):
        names = list(dict(kernel.named_parameters()))

        def matrix(
            x: Tensor, z: Tensor, *values: Tensor, kernel: MLPKernel = kernel, names: list[str] = names
        ) -> Tensor:
            return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)), (x, z))

        def square(x: Tensor, *values: Tensor, kernel: MLPKernel = kernel, names: list[str] = names) -> Tensor:
            return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)), (x,))

        values = [p.detach().requires_grad_() for p in kernel.parameters()]
        x, z = points(3).requires_grad_(), points(2, 1).requires_grad_()
        assert torch.autograd.gradcheck(matrix, (x, z, *values))
        assert torch.autograd.gradcheck(square, (x, *values))
        assert torch.autograd.gradgradcheck(matrix, (x, z, *values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_gradients_are_finite_at_equal_opposite_and_zero_points(kind: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype)
    for activation in ("relu", "erf"):
        for b_std in (0.0, 0.5):
            kernel = MLPKernel(3, activation, 1.4, b_std, kind=kind)
            for z in (None, x.clone()):
                some = x.clone().requires_grad_()
                found = kernel(some, z)
                found.sum().backward()
                assert found.isfinite().all()
                assert some.grad is not None
                assert some.grad.isfinite().all()
                assert all(p.grad is not None and p.grad.isfinite() for p in kernel.parameters())


def test_batches_float32_and_algebra() -> None:
    kernel = MLPKernel(2, "erf", 1.4, 0.3)
    x, z = torch.stack([points(4), points(4, 2)]), points(3, 1)
    torch.testing.assert_close(kernel(x, z)[1], kernel(x[1], z))
    assert kernel(x.float()).dtype == torch.float32
    torch.testing.assert_close(kernel(x.float()).double(), kernel(x), rtol=1e-5, atol=1e-6)
    both = 0.5 * kernel + RBF() * kernel
    torch.testing.assert_close(both(x, z), (0.5 + RBF()(x, z)) * kernel(x, z))
    torch.testing.assert_close(both.diagonal(x), 1.5 * kernel.diagonal(x))
    assert kernel(x[:, :0], z).shape == (2, 0, 3)
    assert kernel(x, z[:0]).shape == (2, 4, 0)


def test_a_wide_network_has_the_tangent_kernel() -> None:
    width, w_std, b_std = 20_000, 1.4, 0.3
    generator = torch.Generator().manual_seed(0)
    shapes = ((width, 3), (width,), (1, width))
    first, bias, last = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)

    def grads(x: Tensor) -> Tensor:
        hidden = torch.relu(w_std / 3**0.5 * first @ x + b_std * bias)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad((last @ hidden / width**0.5)[0], (first, bias, last))]
        )

    jacobian = torch.stack([grads(x) for x in X])
    found = MLPKernel(1, "relu", w_std, b_std, kind="ntk")(X)
    torch.testing.assert_close(jacobian @ jacobian.mT, found.detach(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "depth", lambda: MLPKernel(0)),
        (ValueError, "did you mean 'relu'", lambda: MLPKernel(1, "ReLU")),
        (ValueError, "kind", lambda: MLPKernel(1, kind="both")),
        (ValueError, "b_std", lambda: MLPKernel(1, b_std=-1.0)),
        (ValueError, "w_std", lambda: MLPKernel(1, w_std=0.0)),
        (ValueError, "blocks", lambda: ResidualMLPKernel(-1)),
        (TypeError, "float16", lambda: MLPKernel(1)(X.half())),
        (ValueError, "'z'", lambda: MLPKernel(1)(X, X[:, :2])),
        (ValueError, "'z'", lambda: MLPKernel(1)(X, X.float())),
        (ValueError, "'x'", lambda: MLPKernel(1)(X[0])),
    ],
)
def test_errors(error: type[Exception], text: str, make: object) -> None:
    assert callable(make)
    with pytest.raises(error, match=text):
        make()
