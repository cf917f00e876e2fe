"""The CUDA kernels of PowerNorm on the emulator: every way they split the work, in every order of threads."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
import torch
from probkernels import use_backend
from probkernels.ops.power_norm import BWD, FWD, STATS, V_BWD
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.tolerances import ELEMENTWISE, SUM, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
EPS = 1e-5
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough


class Case(NamedTuple):
    """x (rows, features) in groups; ``bare`` leaves out the optional tensors, ``shift`` misaligns x and grad_y."""

    rows: int
    features: int
    groups: int
    dtype: torch.dtype
    bare: bool = False
    shift: int = 0

    def make(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.rows * self.features)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def matrix() -> Tensor:
            flat = normal(self.rows * self.features + self.shift).to(self.dtype)
            return flat[self.shift :].view(self.rows, self.features)

        acc, c = torch.float64 if self.dtype is torch.float64 else torch.float32, self.features
        mask = torch.rand(self.rows, generator=generator) < 0.3
        mask[0] = False
        full = {
            "x": matrix(),
            "grad_y": matrix(),
            "weight": (1 + 0.1 * normal(c)).to(acc),
            "bias": normal(c).to(acc),
            "psi2": (0.5 + normal(c).square()).to(acc),
            "scale2": (0.5 + normal(c).square()).to(acc),
            "nu": (0.3 * normal(c)).to(acc),
            "pad_mask": mask,
        }
        absent = ("weight", "bias", "nu", "pad_mask") if self.bare else ()
        return {name: None if name in absent else value for name, value in full.items()}


CASES = [
    Case(1, 1, 0, torch.float32),
    Case(1100, 3, 0, torch.float16),  # one tile: the teams of a block lie below each other
    Case(300, 16, 2, torch.bfloat16),
    Case(37, 64, 4, torch.float16),  # some teams to a warp
    Case(33, 24, 3, torch.bfloat16, bare=True),  # groups of three vectors: a lane in four is idle
    Case(9, 33, 3, torch.float64),
    Case(65, 300, 0, torch.float32),
    Case(65, 300, 0, torch.bfloat16),  # rows that are not aligned
    Case(41, 256, 4, torch.float32, shift=1),  # nor is the first
    Case(530, 1024, 0, torch.float32, bare=True),  # several chunks of several tiles
    Case(17, 96, 1, torch.float64),  # a team is a block of two warps
    Case(3, 4096, 1, torch.bfloat16),  # or of sixteen
    Case(6, 2600, 2, torch.float32),
    Case(5, 8192, 1, torch.float16),  # wider than any team
    Case(6, 1031, 1, torch.float32),
    Case(2, 2062, 2, torch.float64, bare=True),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.rows}-{c.features}-{c.groups}-{str(c.dtype)[6:]}")


def calls(a: dict[str, Any], groups: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every op that has kernels, with its arguments."""
    fwd = (a["x"], a["weight"], a["bias"], a["psi2"], a["nu"], a["pad_mask"], groups, EPS, False, False)
    bwd = (a["x"], a["grad_y"], a["weight"], a["psi2"], a["scale2"], a["nu"], a["pad_mask"], groups, EPS)
    v_bwd = (a["x"], a["grad_y"], a["weight"], a["psi2"], a["pad_mask"], groups, EPS)
    return [(STATS, (a["x"], a["pad_mask"], groups, EPS)), (FWD, fwd), (BWD, bwd), (V_BWD, v_bwd)]


def tupled(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def run(case: Case, backend: str) -> list[Tensor]:
    """All outputs of all ops."""
    with use_backend(backend):
        return [t for op, args in calls(case.make(), case.groups) for t in tupled(op.call(*args))]


def check(case: Case, got: list[Tensor]) -> None:
    """``got`` equals the reference in float64."""

    def exact(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    tensors = iter(got)
    for op, args in calls(case.make(), case.groups):
        expected = tupled(op.reference(*map(exact, args)))
        for e, kind in zip(expected, (ELEMENTWISE, SUM, SUM, SUM), strict=False):
            assert_close(next(tensors), e, case.dtype, SUM if op is STATS else kind, terms=case.rows)


@each_case
def test_kernels_equal_the_reference_in_every_order(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for order in ORDERS[:1] if SANITIZED else (*ORDERS, ORDERS[0]):
        monkeypatch.setenv("CUEMU_ORDER", order)
        runs.append(run(case, "cuda_emu"))
    check(case, runs[0])
    for other in runs[1:]:
        assert all(torch.equal(p, q) for p, q in zip(runs[0], other, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(CASES))
