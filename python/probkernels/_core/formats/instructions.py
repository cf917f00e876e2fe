"""The instructions of a compiled circuit. Each is a row of ``COLUMNS`` int32."""

from __future__ import annotations

from enum import IntEnum

COLUMNS = 9  # op, dst, a, b, n, m, stride, step, more


class Code(IntEnum):
    """The operation codes. r is the register file; k < n, j < m; `+=` adds if `more` is 1 and assigns otherwise.

    FILL: r[dst + k] = 1. MATVEC: r[dst + k] += sum_j fma(r[a + j], weights[b + j * stride + k * step]).
    MULTIPLY: r[dst + k] += r[a + k] * r[b + k]; b = -1: without that factor.
    CONTRACT: r[dst + k] += sum_j r[a + k * step + j * stride] * r[b + j]; b = -1: without that factor.
    OUTER: r[dst + i * m + j] = r[a + i] * r[b + j], i < n.
    RESCALE: r[dst + k] times the power of two that brings the largest into [1, 2); all 1 if all are 0.
    CODE: codes variable m with mixture weights r[a + k].
    LEAF: r[dst + k] = 65536 times the probability, under unit stride + k, of the value of variable m just coded.
    """

    FILL = 0
    MATVEC = 1
    MULTIPLY = 2
    CONTRACT = 3
    OUTER = 4
    RESCALE = 5
    CODE = 6
    LEAF = 7
