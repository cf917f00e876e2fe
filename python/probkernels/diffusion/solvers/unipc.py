"""UniPC: a predictor of order k, and a corrector that uses the evaluation at the predicted point."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from ..process import Process
from ..table import Ends, ends
from .scheme import Scheme, zeros


def unipc(process: Process, times: Tensor, *, order: int = 2, variant: str = "bh2") -> Scheme:
    """UniPC in the data. Registers: the predicted state, the previous corrected state, and earlier evaluations.

    Step n evaluates at its predicted state x^p_n, corrects, and predicts x^p_{n+1}; the last state is a prediction.
    """
    checks.one_of("unipc", "variant", variant, ("bh1", "bh2"))
    if order not in (1, 2, 3):
        raise ValueError(message("unipc", "order", "1, 2 or 3", repr(order)))
    e = ends(process, times)
    n = len(e.t)
    c = zeros(n, 1, 2 + order)
    c["inputs"][:, 0, 0] = 1
    for i in range(n):
        # the corrected state x^c_i over [x^p_i, x^c_{i-1}, m_{i-1}, m_{i-2}, ..] and m_i
        corrected, now = torch.zeros(2 + order, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        if i == 0:
            corrected[0] = 1
        else:
            k = min(order, i)
            a, past, now = _half_step(e, i - 1, k, variant, corrector=True)
            corrected[1] = a
            corrected[2 : 2 + k] = past
        a, past, _ = _half_step(e, i, 1 if e.r1[i] == 0 else min(order, i + 1), variant, corrector=False)
        c["carry"][i, 0] = a * corrected
        c["carry"][i, 0, 2 : 1 + len(past)] += past[1:]
        c["gather"][i, 0, 0] = a * now + past[0]
        c["carry"][i, 1] = corrected
        c["gather"][i, 1, 0] = now
        c["gather"][i, 2, 0] = 1
        for j in range(3, 2 + order):
            c["carry"][i, j, j - 1] = 1
    return Scheme(e.t[:, None], **c, kind="x0", times=times)


def _half_step(e: Ends, n: int, k: int, variant: str, corrector: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the step n -> n + 1: of x_n, of m_n .. m_{n-k+1} (k,), and of the new m_{n+1} (corrector only)."""
    none = torch.zeros((), dtype=torch.float64)
    a = e.s1[n] / e.s[n]
    decay = e.r1[n] / e.r[n] - 1  # e^{-h} - 1
    past = torch.zeros(k, dtype=torch.float64)
    past[0] = -e.a1[n] * decay
    if k == 1 and not corrector:
        return a, past, none
    lam = -e.r.log()
    h = -e.r1[n].log() - lam[n]
    u = -h
    ratios = torch.stack([(lam[n - m] - lam[n]) / h for m in range(1, k)] + [torch.ones((), dtype=torch.float64)])
    scale = u if variant == "bh1" else decay
    weights = _weights(ratios, u, decay / u - 1, scale, k if corrector else k - 1)
    parts = -e.a1[n] * scale * weights / ratios[: len(weights)]
    past[0] -= parts.sum()
    past[1:] += parts[: k - 1]
    return a, past, parts[-1] if corrector else none


def _weights(ratios: Tensor, u: Tensor, phi: Tensor, scale: Tensor, size: int) -> Tensor:
    """(size,): solves the leading block of UniPC's equations. With one unknown it is 1/2 rather than exact."""
    if size == 1:
        return torch.full((1,), 0.5, dtype=torch.float64)
    right, factorial = [], 1.0
    for i in range(1, size + 1):
        factorial *= i
        right.append(phi * factorial / scale)
        phi = phi / u - 1 / (factorial * (i + 1))
    rows = torch.stack([ratios[:size] ** i for i in range(size)])
    return torch.linalg.solve(rows, torch.stack(right))
