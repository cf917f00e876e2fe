"""PV-RNN scans on every backend against the reference in float64: outputs, gradients, sizes, lengths, errors."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops import pvrnn_scan
from probkernels.ops.pvrnn_scan import _inputs
from torch import Tensor

from tests.tolerances import SUM, assert_close

CPU, F64 = torch.device("cpu"), torch.float64
NAMES = ("h0", "noise", "weight", "bias", "z_weight", "adapt")
# sequences, steps, units, latents, steps of the posterior: lanes and groups that are not full; no posterior; no latents
SIZES = [(3, 5, 10, 1, 5), (18, 3, 17, 17, 2), (2, 3, 16, 2, 0), (2, 2, 3, 0, 0)]


def run(on: torch.device, dtype: torch.dtype, sizes: tuple[int, ...], **how: Any) -> dict[str, Tensor]:
    """All outputs and gradients, on the CPU."""
    tensors = [t if t is None else t.to(on, dtype) for t in _inputs(F64, CPU, *sizes)]
    for i in (0, 1, 2, 3, 4, 6):
        if tensors[i] is not None:
            tensors[i].requires_grad_()
    scan = pvrnn_scan(*tensors, log_sigma=(-1.0, 1.0), **how)
    cotangents = [torch.linspace(-1, 2, t.numel()).view(t.shape).to(on, t.dtype) for t in scan]
    leaves = {name: t for name, t in zip((*NAMES[:5], "", "adapt"), tensors, strict=True) if name and t is not None}
    grads = torch.autograd.grad(list(scan), list(leaves.values()), cotangents)
    found = {**scan._asdict(), **{f"grad of {name}": g for name, g in zip(leaves, grads, strict=True)}}
    return {name: t.detach().cpu() for name, t in found.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_backend_equals_the_reference(on: torch.device, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    lengths = torch.arange(sizes[0]) % (sizes[1] + 1)  # one of them is empty
    for how in ({}, {"lengths": lengths, "start": False}):
        there = {k: v.to(on) if isinstance(v, Tensor) else v for k, v in how.items()}
        got = run(on, dtype, sizes, **there)
        with pk.use_backend("reference"):
            expected = run(CPU, F64, sizes, **how)
        for name, value in expected.items():
            scale = max(1.0, value.abs().max().item() if value.numel() else 0.0)
            assert got[name].dtype is dtype
            assert_close(got[name] / scale, value / scale, dtype, SUM, terms=100_000)


def test_second_derivatives() -> None:
    tensors = [t if t is None else t.requires_grad_(i != 5) for i, t in enumerate(_inputs(F64, CPU, 2, 2, 2, 1, 1))]
    leaves = [t for i, t in enumerate(tensors) if i != 5]
    how: dict[str, Any] = {"lengths": torch.tensor([2, 1])}

    def outputs(*given: Tensor) -> tuple[Tensor, ...]:
        scan = pvrnn_scan(*given[:5], tensors[5], given[5], **how)
        return scan.d, scan.z, scan.kl

    assert torch.autograd.gradgradcheck(outputs, leaves, fast_mode=True)


def test_half_precision_is_computed_in_float32() -> None:
    tensors = [t if t is None else t.bfloat16() for t in _inputs(F64, CPU, 2, 3, 4, 1, 3)]
    found = pvrnn_scan(*tensors)
    assert all(torch.equal(p, q) for p, q in zip(found, pvrnn_scan(*(t.float() for t in tensors)), strict=True))


def test_threads_and_batches_do_not_change_a_sequence() -> None:
    tensors = _inputs(torch.float32, CPU, 37, 4, 20, 3, 4)
    whole = pvrnn_scan(*tensors)
    torch.set_num_threads(2)
    try:
        again = pvrnn_scan(*tensors)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(p, q) for p, q in zip(whole, again, strict=True))
    h0, noise, *weights, adapt = tensors
    part = pvrnn_scan(h0[5:7], noise[5:7], *weights, adapt[5:7])
    assert all(torch.equal(p[5:7], q) for p, q in zip(whole, part, strict=True))


def test_nan_stays_in_its_sequence() -> None:
    h0, *rest = _inputs(F64, CPU, 3, 3, 4, 1, 3)
    h0[1, 2] = torch.nan
    scan = pvrnn_scan(h0, *rest)
    assert scan.d[1].isnan().all() and scan.kl[1, 1:].isnan().all()
    assert scan.d[[0, 2]].isfinite().all()


def test_errors() -> None:
    h0, noise, weight, bias, z_weight, leak, adapt = _inputs(F64, CPU, 2, 3, 4, 1, 3)
    rest = (weight, bias, z_weight, leak)
    with pytest.raises(TypeError, match=r"'h0'.*floating-point tensor"):
        pvrnn_scan([0.0], noise, *rest)
    with pytest.raises(ValueError, match=r"'noise'.*\(2, steps, latents\) with at least one step"):
        pvrnn_scan(h0, noise[:, :0], *rest)
    with pytest.raises(ValueError, match=r"'weight'.*\(8, 4\)"):
        pvrnn_scan(h0, noise, weight[1:], bias, z_weight, leak)
    with pytest.raises(ValueError, match=r"'adapt'.*\(2, 3, 2\)"):
        pvrnn_scan(h0, noise, *rest, torch.zeros(2, 4, 2, dtype=F64))
    with pytest.raises(ValueError, match=r"'lengths'.*0 to 3.*4"):
        pvrnn_scan(h0, noise, *rest, adapt, lengths=torch.tensor([1, 4]))
    with pytest.raises(ValueError, match=r"'log_sigma'.*below"):
        pvrnn_scan(h0, noise, *rest, adapt, log_sigma=(1.0, 1.0))
    with pytest.raises(NotImplementedError, match="'leak' has no gradient"):
        pvrnn_scan(h0, noise, weight, bias, z_weight, leak.requires_grad_(), adapt)
