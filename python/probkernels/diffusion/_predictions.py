"""What a network may predict, as a combination of data and noise, and one prediction out of another."""

from __future__ import annotations

import torch
from torch import Tensor

PREDICTIONS = ("eps", "v", "x0", "score", "flow", "edm")

Pair = tuple[Tensor, Tensor]


def parts(kind: str, a: Tensor, s: Tensor, sigma_data: float) -> Pair:
    """(b, c) such that ``kind`` is b x0 + c eps, where the signal is a and the noise s; float64, of their shape.

    For "edm" it is F in x0 = c_skip y + c_out F with y = x / a, its c's written without s / a: all have limits where no
    signal is left, and where no noise is.
    """
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    if kind == "edm":
        norm = edm_norm(a, s, sigma_data)
        return s / (sigma_data * norm), -sigma_data * a / norm
    return {"eps": (zero, one), "x0": (one, zero), "v": (-s, a), "score": (zero, -1 / s), "flow": (-one, one)}[kind]


def conversion(kind: str, pred: str, a: Tensor, s: Tensor, sigma_data: float) -> Pair:
    """(p, q) such that ``kind`` is p x + q output of a network that predicts ``pred``; float64.

    With x = a x0 + s eps, two equations in two unknowns. Whatever has a limit where a or s is 0 is finite there.
    """
    if kind == pred:
        return torch.zeros_like(a), torch.ones_like(a)
    if pred == "score":
        p, q = conversion(kind, "eps", a, s, sigma_data)
        return p, -s * q
    if kind == "score":
        p, q = conversion("eps", pred, a, s, sigma_data)
        return -p / s, -q / s
    (k0, k1), (o0, o1) = parts(kind, a, s, sigma_data), parts(pred, a, s, sigma_data)
    of_edm = edm_norm(a, s, sigma_data) / -sigma_data
    determinant = {"eps": a, "x0": -s, "v": a * a + s * s, "flow": a + s, "edm": of_edm}[pred]
    return (k0 * o1 - k1 * o0) / determinant, (a * k1 - s * k0) / determinant


def edm_norm(a: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """Standard deviation of x, if data have ``sigma_data``: the input of EDM's networks is x over it."""
    return (s * s + a * a * sigma_data**2).sqrt()
