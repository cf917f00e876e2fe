"""Kernels of infinitely wide convolutional networks: published digits, a direct recursion, tiles, gradients, errors."""

from __future__ import annotations

import pytest
import torch
from probkernels.kernel_methods import RBF, CNNKernel, GPRegression, NTKRegressor
from torch import Tensor

IMAGES = torch.sin(torch.arange(32, dtype=torch.float64).reshape(2, 1, 4, 4) / 10 - 1.5)
# entries (1, 1), (1, 2), (2, 2) of neural-tangents 0.6.5, with w_std 1.4 and b_std 0.3
NETS = [
    ("flatten", 1, [0.3688371347, 0.0330362969, 0.4152236378], [0.7376742695, -0.0273815278, 0.8304472756]),
    ("flatten", 2, [0.3138411654, 0.1388371495, 0.3484280213], [0.8965234962, 0.1520428107, 1.0002840638]),
    ("global_average", 1, [0.2606326145, 0.0519915847, 0.3014445057], None),
    ("global_average", 2, [0.2147552459, 0.1385918753, 0.2398427637], None),
]
READOUTS = ["flatten", "global_average"]


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (2, 3, 2)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("readout", "depth", "nngp", "ntk"), NETS)
def test_published_digits(readout: str, depth: int, nngp: list[float], ntk: list[float] | None) -> None:
    kernel = CNNKernel(depth, readout, 1.4, 0.3)
    places = ([0, 0, 1], [0, 1, 1])
    got = kernel.nngp_and_ntk(IMAGES)
    torch.testing.assert_close(got[0][places].tolist(), nngp, rtol=0, atol=6e-11)
    if ntk is not None:
        torch.testing.assert_close(got[1][places].tolist(), ntk, rtol=0, atol=6e-9)
    for kind, matrix in zip(("nngp", "ntk"), got, strict=True):
        kernel = CNNKernel(depth, readout, 1.4, 0.3, kind=kind)
        assert torch.equal(kernel(IMAGES), matrix) and torch.equal(matrix, matrix.mT)
        torch.testing.assert_close(kernel.diagonal(IMAGES), matrix.diagonal(), rtol=1e-14, atol=0)
        apart = kernel(IMAGES, IMAGES.clone())  # equal images that nobody knows to be equal: angles are rounded
        torch.testing.assert_close(apart, matrix, rtol=1e-7, atol=1e-12)


def all_pixel_pairs(x: Tensor, z: Tensor, kernel: CNNKernel) -> tuple[Tensor, Tensor]:
    """Both kernels from the tensor (M, N, H, W, H, W), ReLU, by the equations as they are written."""
    (weights, biases), size = kernel._variances(x), x.shape[-2:]

    def convolved(k: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(k, (1,) * 8)
        slices = [[slice(d, d + n) for n in size] for d in range(3)]
        return sum(wide[..., r[0], c[1], r[0], c[1]] for r in slices for c in slices) / 9  # type: ignore[return-value]

    k = weights[0] * convolved(torch.einsum("mcab,ncde->mnabde", x, z) / x.shape[1]) + biases[0]
    of_x, of_z = (
        weights[0] * convolved(torch.einsum("mcab,mcde->mabde", t, t) / t.shape[1]) + biases[0] for t in (x, z)
    )
    t = k
    for layer in range(1, len(weights)):
        a, b = (torch.einsum("mabab->mab", d) for d in (of_x, of_z))
        lengths = (a[:, None, :, :, None, None] * b[:, None, None]).sqrt()
        angle = torch.acos((k / lengths).clamp(-1, 1))
        k, t = (
            lengths * (angle.sin() + (torch.pi - angle) * angle.cos()) / (2 * torch.pi),
            t * (torch.pi - angle) / (2 * torch.pi),
        )
        if layer + 1 < len(weights):
            k = weights[layer] * convolved(k) + biases[layer]
            t = k + weights[layer] * convolved(t)
            of_x, of_z = (weights[layer] * convolved(d / 2) + biases[layer] for d in (of_x, of_z))
    if kernel.readout == "flatten":
        k, t = (torch.einsum("mnabab->mn", s) / size.numel() for s in (k, t))
    else:
        k, t = (s.mean((2, 3, 4, 5)) for s in (k, t))
    return weights[-1] * k, weights[-1] * (k + t)


@pytest.mark.parametrize("readout", READOUTS)
def test_equals_the_recursion_over_all_pixel_pairs(readout: str) -> None:
    x, z = images(3, shape=(2, 3, 4)), images(2, 1, (2, 3, 4))
    kernel = CNNKernel(3, readout, 1.4, 0.3, 1.2)
    for got, expected in zip(kernel.nngp_and_ntk(x, z), all_pixel_pairs(x, z, kernel), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("readout", READOUTS)
def test_tiles_change_nothing(readout: str) -> None:
    x, z = (images(n, n, (2, 2, 2)).requires_grad_() for n in (4, 3))
    for other in (None, z):
        found = []
        for tile in (32, 3):
            kernel = CNNKernel(2, readout, 1.4, 0.3, kind="ntk", tile=tile)
            matrix = kernel(x, other)
            inputs = [x, *kernel.parameters(), *([] if other is None else [z])]
            found.append([matrix, *torch.autograd.grad((matrix * matrix.detach()).sum(), inputs)])
        for some in found[1:]:
            for got, expected in zip(some, found[0], strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_to_inputs_and_hyperparameters(readout: str, kind: str) -> None:
    for activation in ("relu", "erf"):
        kernel = CNNKernel(2, readout, 1.4, 0.3, 1.2, kind, activation=activation)
        names = list(dict(kernel.named_parameters()))

        def matrix(x: Tensor, z: Tensor | None, *values: Tensor, k: CNNKernel = kernel, n: list[str] = names) -> Tensor:
            return torch.func.functional_call(k, dict(zip(n, values, strict=True)), (x, z))

        values = [p.detach().requires_grad_() for p in kernel.parameters()]
        shape = (1, 2, 2) if readout == "flatten" else (1, 1, 2)
        x, z = (images(n, n, shape).requires_grad_() for n in (2, 1))
        assert torch.autograd.gradcheck(matrix, (x, z, *values), fast_mode=True)
        assert torch.autograd.gradcheck(matrix, (x, None, *values), fast_mode=True)
        if activation == "relu":
            assert torch.autograd.gradgradcheck(matrix, (x, z, *values), fast_mode=True)


def test_gradients_are_finite_at_equal_and_zero_images() -> None:
    x = torch.stack([IMAGES[0], IMAGES[0], -IMAGES[0], torch.zeros(1, 4, 4).double()])
    for readout in READOUTS:
        for b_std in (0.0, 0.5):
            kernel = CNNKernel(2, readout, 1.4, b_std, kind="ntk")
            for z in (None, x.clone()):
                some = x.clone().requires_grad_()
                matrix = kernel(some, z)
                (grad,) = torch.autograd.grad(matrix.sum(), some)
                assert matrix.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("readout", READOUTS)
def test_batches_float32_algebra_and_empty(readout: str) -> None:
    kernel = CNNKernel(2, readout, 1.4, 0.3, activation="erf")
    x, z = torch.stack([images(4), images(4, 2)]), images(3, 1)
    torch.testing.assert_close(kernel(x, z)[1], kernel(x[1], z))
    torch.testing.assert_close(kernel.diagonal(x), kernel(x).diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(kernel(x.float(), z.float()).double(), kernel(x, z), rtol=1e-5, atol=1e-6)
    assert kernel(x.float()).dtype == torch.float32
    torch.testing.assert_close((2.0 * kernel + kernel)(x, z), 3 * kernel(x, z))
    assert kernel(x[:, :0], z).shape == (2, 0, 3) and kernel(x[:0], z).shape == (0, 4, 3)
    assert kernel(z[:0]).shape == (0, 0) and kernel.diagonal(z[:0]).shape == (0,)
    assert torch.linalg.eigvalsh(kernel(images(12).detach())).min() > -1e-12


def test_regressions_take_flat_images() -> None:
    X, y = images(8), torch.linspace(-1, 1, 8, dtype=torch.float64)
    kernel = CNNKernel(2, w_std=1.4, b_std=0.3, image_shape=(2, 3, 2))
    torch.testing.assert_close(kernel(X.flatten(1)), kernel(X))
    both = kernel + RBF(2.0)
    with torch.no_grad():
        torch.testing.assert_close(
            GPRegression(X.flatten(1), y, kernel=both).predict(X.flatten(1)).mean, y, atol=0.1, rtol=0
        )
        torch.testing.assert_close(NTKRegressor(kernel).fit(X.flatten(1), y).predict(X.flatten(1)), y)


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "depth", lambda: CNNKernel(0)),
        (ValueError, "did you mean 'flatten'", lambda: CNNKernel(1, "flaten")),
        (ValueError, "kind", lambda: CNNKernel(1, kind="both")),
        (ValueError, "tile", lambda: CNNKernel(1, tile=0)),
        (ValueError, "image_shape", lambda: CNNKernel(1, image_shape=(28, 28))),
        (TypeError, "float16", lambda: CNNKernel(1)(IMAGES.half())),
        (ValueError, "'z'.*as 'x'", lambda: CNNKernel(1)(IMAGES, IMAGES[..., :2])),
        (ValueError, "'z'", lambda: CNNKernel(1)(IMAGES, IMAGES.float())),
        (ValueError, "'x'.*image_shape", lambda: CNNKernel(1)(IMAGES.flatten(1))),
        (ValueError, "'x'.*1, 3, 3", lambda: CNNKernel(1, image_shape=(1, 3, 3))(IMAGES)),
        (ValueError, "'x'", lambda: CNNKernel(1)(IMAGES[:, :0])),
    ],
)
def test_errors(error: type[Exception], text: str, make: object) -> None:
    assert callable(make)
    with pytest.raises(error, match=text):
        make()
