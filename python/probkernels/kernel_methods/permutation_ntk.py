"""Ensembles of wide two-layer ReLU networks that learn a permutation from the basis vectors: closed forms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

KINDS = ("ntk", "nngp")
TOLERANCE = 1e-10  # below it, a mean in float64 is 0 up to rounding: see round_sign


class PermutationMoments(NamedTuple):
    """The law of an output: mean_one where the permuted input is 1, mean_zero where it is 0, and the variance.

    Example:
        >>> from probkernels.kernel_methods import permutation_moments
        >>> round(permutation_moments(5, 2).mean_one, 4)
        0.5606
    """

    mean_one: float
    mean_zero: float
    variance: float


def permutation_moments(k: int, m: int, kind: str = "ntk") -> PermutationMoments:
    """The law of a wide network that has learned a permutation, at an input of k bits with m ones.

    The network f(x) = W2 relu(W1 x / sqrt(k)) / sqrt(width), all weights N(0, 1), is trained by gradient descent until
    it maps each basis vector e_i to P e_i. At x / |x| its outputs are then independent Gaussians of one variance.

    Args:
        k: number of bits, >= 2.
        m: number of ones, 1 to k. At m = 1 training has fixed the outputs: means 1 and 0, variance 0.
        kind: ``"ntk"``, all layers trained, or ``"nngp"``, the last layer trained.

    Returns:
        mean_one, mean_zero, variance. For m >= 2, mean_zero < 0 < mean_one: the sign tells the bit. For m = k no output
        is 0, and mean_zero has no meaning.

    Raises:
        TypeError, ValueError: an argument is not a whole number, or out of range.

    Giapitzakis, Back de Luca, Fountoulakis: "Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic
    Training Size and Quadratic Ensemble Complexity", 2025, arXiv:2502.16763.

    Example:
        >>> from probkernels.kernel_methods import permutation_moments
        >>> print(*(f"{value:.6f}" for value in permutation_moments(5, 2)))
        0.560632 -0.014640 0.013235
    """
    op = "permutation_moments"
    checks.integer(op, "k", k, 2)
    checks.integer(op, "m", m, 1, k)
    checks.one_of(op, "kind", kind, KINDS)
    if m == 1:
        return PermutationMoments(1.0, 0.0, 0.0)
    a, b = (1.0 if kind == "ntk" else 0.5), 1 / (2 * math.pi)
    u = 1 / math.sqrt(m)
    psi, zeta = _psi(u), _zeta(u)
    c = psi + zeta if kind == "ntk" else psi
    zero = b / (a - b) * (a - b - m * (c - b)) / (a - b + k * b)
    one = zero + (c - b) / (a - b)
    total = m * one + (k - m) * zero
    squares = m * one**2 + (k - m) * zero**2
    variance = 0.5 + (0.5 - b) * squares + b * total**2 - 2 * (m * one * psi + (k - m) * zero * b)
    return PermutationMoments(one, zero, variance / k)


def permutation_covariance(x: Tensor, kind: str = "ntk") -> Tensor:
    """The covariance of one output at several inputs; outputs at different positions are independent.

    Args:
        x: (T, k) nonzero inputs of zeros and ones, of any dtype.
        kind: as in :func:`permutation_moments`, whose variance is on the diagonal.

    Returns:
        (T, T), float64.

    Raises:
        TypeError, ValueError: x is not a tensor of zeros and ones with a one in each row.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import permutation_covariance
        >>> permutation_covariance(torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]))
        tensor([[0.0132, 0.0019],
                [0.0019, 0.0132]], dtype=torch.float64)
    """
    op = "permutation_covariance"
    checks.one_of(op, "kind", kind, KINDS)
    unit = _unit(op, x)
    k = x.shape[1]
    eye = torch.eye(k, dtype=torch.float64, device=x.device)
    cross, nngp = _kernel(unit, eye, kind), _kernel(unit, eye, "nngp")
    weights = torch.linalg.solve(_kernel(eye, eye, kind), cross.mT).mT
    mixed = weights @ nngp.mT
    return _kernel(unit, unit, "nngp") + weights @ _kernel(eye, eye, "nngp") @ weights.mT - mixed - mixed.mT


def ensemble_size(k: int, delta: float = 0.1, inputs: int = 1, kind: str = "ntk", factor: float = 8.0) -> int:
    """How many networks suffice for the signs of their mean to be right at all of some inputs, by a union bound.

    Args:
        k: number of bits, >= 2.
        delta: probability of an error, between 0 and 1.
        inputs: number of inputs that must be right at once: 2^k - 1 for all.
        kind: as in :func:`permutation_moments`.
        factor: 8 as in the paper, for an error of half the mean; 2 for an error of the mean.

    Returns:
        The least whole number >= factor max_m variance / min(mean^2) ln(2 k inputs / delta).

    Example:
        >>> from probkernels.kernel_methods import ensemble_size
        >>> ensemble_size(10, 0.1, inputs=1000), ensemble_size(10, 0.1, inputs=2**10 - 1, factor=2)
        (6561, 1644)
    """
    op = "ensemble_size"
    checks.integer(op, "k", k, 2)
    checks.integer(op, "inputs", inputs)
    checks.positive(op, "factor", factor)
    if not 0 < checks.number(op, "delta", delta) < 1:
        raise ValueError(message(op, "delta", "a number between 0 and 1", repr(delta)))
    worst = 0.0
    for m in range(2, k + 1):
        one, zero, variance = permutation_moments(k, m, kind)
        worst = max(worst, variance / min(one**2, zero**2))
    return math.ceil(factor * worst * (math.log(2 * k / delta) + math.log(inputs)))


def success_probability(k: int, m: int, networks: int, kind: str = "ntk") -> float:
    """The probability that the signs of the mean of some networks give all k bits of one input with m ones.

    Args:
        k: as in :func:`permutation_moments`.
        m: as in :func:`permutation_moments`.
        networks: number of networks, >= 1.
        kind: as in :func:`permutation_moments`.

    Example:
        >>> from probkernels.kernel_methods import success_probability
        >>> round(success_probability(5, 2, networks=205), 3)
        0.901
    """
    checks.integer("success_probability", "networks", networks)
    one, zero, variance = permutation_moments(k, m, kind)
    if m == 1:
        return 1.0
    root = math.sqrt(networks / variance)
    return _normal_cdf(root * abs(zero)) ** (k - m) * _normal_cdf(root * one) ** m


def round_sign(mean: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The bits that outputs stand for: 1 where they are above the tolerance, else 0; int64, of any shape.

    Args:
        mean: outputs, float32 or float64.
        tolerance: a number >= 0; means of basis vectors are 0 up to rounding. 0 for averages of networks.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import round_sign
        >>> round_sign(torch.tensor([0.56, -0.01, 1e-17]))
        tensor([1, 0, 0])
    """
    checks.wide_float_tensor("round_sign", "mean", mean, checks.AS_TENSOR)
    checks.finite("round_sign", "mean", mean.detach())
    checks.non_negative("round_sign", "tolerance", tolerance)
    return (mean > tolerance).long()


def _psi(u: float) -> float:
    return (math.sqrt(max(0.0, 1 - u * u)) + (math.pi - math.acos(u)) * u) / (2 * math.pi)


def _zeta(u: float) -> float:
    return (math.pi - math.acos(u)) * u / (2 * math.pi)


def _kernel(x: Tensor, z: Tensor, kind: str) -> Tensor:
    """The kernel of unit vectors: NNGP, or NTK."""
    u = (x @ z.mT).clamp(-1, 1)
    angle = (math.pi - u.acos()) * u
    psi = ((1 - u * u).clamp(min=0).sqrt() + angle) / (2 * math.pi)
    return (psi + angle / (2 * math.pi) if kind == "ntk" else psi) / x.shape[1]


def _unit(op: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(message(op, "x", "a tensor of zeros and ones", checks.describe(x), checks.AS_TENSOR))
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(message(op, "x", "shape (T, k), k >= 2", f"shape {tuple(x.shape)}"))
    wrong = (x != 0) & (x != 1)
    if bool(wrong.any()):
        raise ValueError(message(op, "x", "zeros and ones", checks.offender(x, wrong)))
    ones = x.double().sum(1)
    if bool((ones == 0).any()):
        row = int((ones == 0).nonzero()[0])
        raise ValueError(message(op, "x", "a one in each row", f"row {row} without"))
    return x.double() / ones.sqrt()[:, None]


def _normal_cdf(value: float) -> float:
    return math.erfc(-value / math.sqrt(2)) / 2
