"""8-bit moments of sparse AdamW: the codebooks, the error of a code, and what training with them costs."""

from __future__ import annotations

import copy

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import Selection, dequantize_blocks, quantize_blocks, sparse_adamw_
from probkernels.reference.sparse_adamw import codebook, midpoints
from torch import Tensor

from tests.ops.test_sparse_adamw import Problem
from tests.tolerances import ELEMENTWISE, assert_close

WIDE = [torch.float32, torch.float64]


def everything(count: int, device: torch.device) -> Selection:
    return Selection.from_mask(torch.ones(count, dtype=torch.bool, device=device))


def magnitudes() -> Tensor:
    """Nine decades below 1, and 1 itself."""
    return torch.cat([torch.logspace(-9, 0, 5000, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)])


def cell(x: Tensor, signed: bool) -> Tensor:
    """The width of the cell that x, |x| <= 1, lies in; below the lowest decade, that decade's start."""
    decade = (torch.log10(x.abs().clamp_min(1e-30)).floor() + 7).clamp(-1, 6)
    width = 0.9 * 10 ** (decade - 6) / 2.0 ** (decade + (0 if signed else 1))
    return torch.where(decade < 0, 2e-6, width)


# --- the coding ---


@pytest.mark.parametrize("signed", [False, True])
def test_codebooks(signed: bool) -> None:
    values = codebook(signed)
    assert values.shape == (256,) and (values.diff() > 0).all() and {0.0, 1.0} <= set(values.tolist())
    if signed:  # symmetric, but for 1 having no opposite
        assert torch.equal(-values[:127].flip(0), values[128:255]) and values[127] == 0
    else:
        assert values[0] == 0 and values[1] == pytest.approx(0.325e-6)
    assert values[-2] == pytest.approx(1 - 0.45 / (64 if signed else 128))
    assert ((midpoints(signed) > values[:-1]) & (midpoints(signed) < values[1:])).all()


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_codes_are_the_nearest_and_err_by_half_a_cell(signed: bool, dtype: torch.dtype) -> None:
    x = magnitudes() * 3.7
    x = (torch.cat([x, -x]) if signed else x)[torch.randperm(2 * len(x) if signed else len(x))].to(dtype)
    codes, scale = quantize_blocks(x, signed=signed)
    largest = torch.nn.functional.pad(x, (0, -len(x) % 256)).view(-1, 256).abs().amax(1)
    assert codes.dtype is torch.uint8 and torch.equal(scale, largest)
    per_entry = scale.double().repeat_interleave(256)[: len(x)]
    ratio, found = x.double() / per_entry, dequantize_blocks(codes, scale, signed=signed).double() / per_entry
    gap = (ratio[:, None] - codebook(signed).double()).abs()
    assert ((ratio - found).abs() <= gap.amin(1) + 1e-7).all()
    assert ((ratio - found).abs() <= cell(ratio, signed) / 2 + 1e-7).all()


def test_coding_keeps_zeros_and_codes() -> None:
    x = torch.randn(1000)
    x[3], x[300:512] = 0.0, 0.0
    back = dequantize_blocks(*quantize_blocks(x, signed=True), signed=True)
    assert back[3] == 0 and not back[300:512].any()
    assert not dequantize_blocks(*quantize_blocks(torch.zeros(7), signed=True), signed=True).any()
    codes, scale = quantize_blocks(x.abs(), signed=False)
    again, same = quantize_blocks(dequantize_blocks(codes, scale, signed=False), signed=False)
    assert torch.equal(codes, again) and torch.equal(scale, same)  # 1 is a value, so a block's largest comes back


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_kernels_code_exactly_as_the_reference(on: torch.device, dtype: torch.dtype) -> None:
    """From zero state with betas of 0, m is the gradient and the root of v its magnitude, to the bit. The values are
    midpoints, their neighbors, codes, and random ones over nine decades; every block has 1 as its largest."""
    points = torch.cat([midpoints(True), midpoints(False), codebook(True), codebook(False)]).to(dtype)
    up, down = (torch.nextafter(points, torch.tensor(end, dtype=dtype)) for end in (float("inf"), float("-inf")))
    x = torch.cat([points, up, down, -points, -up, -down, magnitudes().to(dtype), -magnitudes().to(dtype)]).clamp(-1, 1)
    x = torch.nn.functional.pad(x, (0, -len(x) % 255)).view(-1, 255)
    g = torch.nn.functional.pad(x, (0, 1), value=1.0).flatten()[:-100].to(on)  # the last block is not full
    g[-1] = 1.0
    blocks, w = -(-len(g) // 256), torch.zeros(len(g), device=on, dtype=dtype)
    m, v = (torch.zeros(len(g), dtype=torch.uint8, device=on) for _ in range(2))
    m_scale, v_scale = (torch.zeros(blocks, device=on, dtype=dtype) for _ in range(2))
    scales = {"m_scale": [m_scale], "v_scale": [v_scale]}
    sparse_adamw_([w], [everything(len(g), on)], [g], [m], [v], 1, betas=(0.0, 0.0), weight_decay=0, **scales)
    for codes, scale, value, signed in ((m, m_scale, g, True), (v, v_scale, g.abs(), False)):
        expected, largest = quantize_blocks(value, signed=signed)
        exact = value.square().sqrt() == value.abs()  # not so where the square underflows
        assert (
            torch.equal(scale, largest) and torch.equal(codes[exact], expected[exact]) and exact.double().mean() > 0.99
        )


@pytest.mark.parametrize("dtype", [*WIDE, torch.bfloat16, torch.float16], ids=str)
def test_kernels_equal_the_reference(on: torch.device, dtype: torch.dtype) -> None:
    """Ten steps, compared one by one from the same state: a code may move by one where roundings differ."""
    ours = Problem([dtype], on, bits=8)
    for step in range(1, 11):
        theirs = copy.deepcopy(ours)
        ours.step(step)
        with use_backend("reference"):
            theirs.step(step)
        for k, value in enumerate(theirs.values):
            assert_close(ours.values[k], value, value.dtype, ELEMENTWISE)
            for got, expected in ((ours.m_scale[k], theirs.m_scale[k]), (ours.v_scale[k], theirs.v_scale[k])):
                assert_close(got, expected, value.dtype, ELEMENTWISE)
            for got, expected in ((ours.m[k], theirs.m[k]), (ours.v[k], theirs.v[k])):
                difference = (got.int() - expected.int()).abs()
                assert difference.max() <= 1 and difference.double().mean() < 0.005


def test_a_nan_gradient_spoils_its_block_only(on: torch.device) -> None:
    w, g = torch.zeros(1000, device=on), torch.ones(1000, device=on)
    g[300] = float("nan")
    state = [torch.zeros(1000, dtype=torch.uint8, device=on) for _ in range(2)]
    scales = [torch.zeros(4, device=on) for _ in range(2)]
    named = {"m_scale": [scales[0]], "v_scale": [scales[1]]}
    for step, bad in ((1, [300]), (2, list(range(256, 512)))):
        sparse_adamw_([w], [everything(1000, on)], [g], [state[0]], [state[1]], step, **named)
        assert w.isnan().nonzero().flatten().tolist() == bad
        g[300] = 1.0
    assert scales[0].isnan().tolist() == scales[1].isnan().tolist() == [False, True, False, False]


# --- training ---


def train(bits: int, seed: int, steps: int = 200) -> float:
    """Loss after fitting a random teacher with a two-layer net of which the half with small weights is trained."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    weights = [normal(64, 16) / 4, normal(1, 64) / 8]
    teacher = [normal(64, 16) / 4, normal(1, 64) / 8]
    selections = [Selection.from_mask(w.abs() < w.abs().median()) for w in weights]
    kept = torch.uint8 if bits == 8 else torch.float32
    state = [[torch.zeros(s.count, dtype=kept) for s in selections] for _ in range(2)]
    scales = [[torch.zeros(-(-s.count // 256)) for s in selections] for _ in range(2)]
    named = dict(zip(("m_scale", "v_scale"), scales, strict=True)) if bits == 8 else {}
    loss = torch.tensor(0.0)
    for step in range(1, steps + 1):
        x = normal(256, 16)
        leaves = [w.requires_grad_() for w in weights]
        y, target = ((x @ a.t()).tanh() @ b.t() for a, b in (leaves, teacher))
        loss = (y - target).square().mean()
        grads = torch.autograd.grad(loss, leaves)
        weights = [w.detach() for w in leaves]
        sparse_adamw_(weights, selections, grads, *state, step, lr=1e-2, **named)
    return loss.item()


def test_training_ends_within_five_percent_of_full_moments() -> None:
    """Summed over three seeds; training itself takes the loss down tenfold."""
    start, full, small = (sum(train(*how) for how in runs) for runs in (
        [(32, s, 1) for s in range(3)], [(32, s) for s in range(3)], [(8, s) for s in range(3)]
    ))  # fmt: skip
    assert full < 0.1 * start
    assert abs(small - full) < 0.05 * full, (small, full)


# --- errors ---


def test_bad_arguments() -> None:
    x = torch.zeros(300)
    with pytest.raises(TypeError, match="quantize_blocks: argument 'x': expected a float32 or float64 tensor"):
        quantize_blocks(x.half(), signed=True)
    with pytest.raises(ValueError, match="quantize_blocks: argument 'x': expected shape"):
        quantize_blocks(x.view(30, 10), signed=True)
    codes, scale = quantize_blocks(x, signed=True)
    with pytest.raises(TypeError, match="argument 'codes'"):
        dequantize_blocks(x, scale, signed=True)
    with pytest.raises(TypeError, match="argument 'scale'"):
        dequantize_blocks(codes, codes, signed=True)
    with pytest.raises(ValueError, match="argument 'scale': expected shape \\(2,\\)"):
        dequantize_blocks(codes, scale[:1], signed=True)
    with pytest.raises(ValueError, match="argument 'codes'"):
        dequantize_blocks(codes.view(30, 10), scale, signed=True)
