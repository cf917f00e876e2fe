"""Integer flows: bijections in whole numbers, and codecs with a circuit over their latents."""

from __future__ import annotations

import hashlib
import lzma

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import codec
from probkernels._core.errors import CorruptStreamError, ModelMismatchError
from probkernels.circuits import EM, factorized, hclt
from probkernels.codec import FlowCoder, FrozenFlow, IntegerFlow, PCCodec, Program, frozen_flow
from probkernels.codec import format as parts
from probkernels.codec.frozen_flow import Coupling

SIZES = [5, 17, 256, 2, 9, 1, 65536]


def frozen(sizes: list[int] = SIZES, seed: int = 0, hidden: int = 6) -> FrozenFlow:
    """Couplings of any weights."""
    chance, found = np.random.default_rng(seed), []
    for _ in range(3):
        order = chance.permutation(len(sizes))
        inside, outside = order[: len(sizes) // 2], order[len(sizes) // 2 :]
        A, B = (chance.integers(-9000, 9000, shape).astype(np.int16) for shape in
                ((hidden, len(inside)), (len(outside), hidden)))  # fmt: skip
        a, b = chance.integers(-(10**6), 10**6, hidden), chance.integers(-(10**9), 10**9, len(outside))
        found.append(Coupling(inside, outside, A, a, B, b, 8, 17))
    return FrozenFlow(sizes, found)


def rows(n: int, sizes: list[int] = SIZES, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, sizes, (n, len(sizes)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=9), st.integers(0, 2**16))
def test_decoding_is_the_inverse(sizes: list[int], seed: int) -> None:
    flow, x = frozen(sizes, seed), rows(20, sizes, seed)
    z = flow.encode(x)
    assert z.min() >= 0 and (z < np.array(sizes)).all() and z.dtype == np.int32
    assert np.array_equal(flow.decode(z), x)


def test_it_is_one_to_one_over_all_rows() -> None:
    x = np.stack(np.meshgrid(*map(np.arange, (3, 4, 5))), -1).reshape(-1, 3)
    z = frozen([3, 4, 5]).encode(x)
    assert len({tuple(row) for row in z.tolist()}) == 60


def test_float64_is_exact() -> None:
    """Every shift again in Python's whole numbers."""
    flow, x = frozen(hidden=40), rows(30)
    for c in flow.couplings:
        for row, got in zip(x.astype(object), c.shift(x), strict=True):
            acc = c.A.astype(object) @ row[c.given] + c.a.astype(object)
            h = np.array([min(max((int(v) + 2 ** (c.first - 1)) >> c.first, 0), 2**15 - 1) for v in acc], object)
            t = c.B.astype(object) @ h + c.b.astype(object)
            assert [(int(v) + 2 ** (c.second - 1)) >> c.second for v in t] == got.tolist()
    assert any((np.abs(c.shift(x)) > 1000).any() for c in flow.couplings)


def test_golden_latents_whatever_the_batches_and_threads() -> None:
    flow, x = frozen(hidden=33), rows(257)
    z = flow.encode(x)
    assert hashlib.sha256(z.astype("<i4").tobytes()).hexdigest()[:16] == GOLDEN
    pieces = [flow.encode(x[at : at + size]) for at, size in ((0, 1), (1, 16), (17, 240))]
    assert np.array_equal(np.concatenate(pieces), z)
    assert flow.encode(x[:0]).shape == (0, len(SIZES))


GOLDEN = "20cb2019f9a98c00"


@pytest.mark.parametrize("wrong", [np.zeros((3, 6)), np.zeros((3, 6), int), np.full((3, 7), -1), np.full((3, 7), 300)])
def test_bad_rows(wrong: np.ndarray) -> None:
    with pytest.raises((TypeError, ValueError), match="rows"):
        frozen().encode(wrong)
    with pytest.raises((TypeError, ValueError), match="rows"):
        frozen().decode(wrong)


def test_a_frozen_flow_does_not_change_with_its_arrays() -> None:
    one, bias = np.ones((1, 1), np.int16), np.zeros(1, np.int64)
    shift = Coupling(np.array([0]), np.array([1]), one, bias, one, bias, 0, 0)
    flow, x = FrozenFlow([4, 4], [shift]), np.array([[1, 1], [2, 3]])
    before, name = flow.encode(x), flow.to_bytes()
    bias += 1
    for array in (flow.categories, flow.couplings[0].A, flow.couplings[0].b):
        with pytest.raises(ValueError, match="read-only"):
            array += 1
    assert np.array_equal(flow.encode(x), before) and flow.to_bytes() == name


def test_numbers_that_float64_cannot_hold_are_refused() -> None:
    flow = frozen()
    c = flow.couplings[0]
    huge = Coupling(c.given, c.moved, c.A, c.a, c.B, c.b + 2**53, c.first, c.second)
    with pytest.raises(ValueError, match=r"below 2\*\*53"):
        FrozenFlow(SIZES, [huge])
    with pytest.raises(ValueError, match="shifts"):
        FrozenFlow(SIZES, [Coupling(c.given, c.moved, c.A, c.a, c.B, c.b, 31, 0)])
    with pytest.raises(ValueError, match="every variable once"):
        FrozenFlow(SIZES, [Coupling(c.given, c.given, c.A, c.a, c.B, c.b, 8, 8)])


# --- training ---


def smooth(n: int, v: int = 6, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Neighbors differ little: a walk over 0 .. size - 1."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(size, (n, 1), generator=generator)
    steps = torch.randint(-1, 2, (n, v - 1), generator=generator)
    return torch.cat([first, first + steps.cumsum(1)], 1).clamp(0, size - 1)


def test_a_new_flow_is_the_identity() -> None:
    x = smooth(50)
    flow = IntegerFlow([32] * 6)
    assert torch.equal(flow(x), x.float())
    assert np.array_equal(flow.freeze().encode(x.numpy()), x.numpy())
    assert torch.allclose(flow.bits(x), torch.full((50,), 30.0))  # six uniform values of 32


def test_training_finds_what_neighbors_share_and_freezing_keeps_it() -> None:
    x, held_out = smooth(800), smooth(200, seed=1)
    flow = IntegerFlow([32] * 6, couplings=2, hidden=32)
    history = flow.fit(x, validation=held_out, epochs=60, rate=3e-3, progress=False)
    assert flow.bits(held_out).mean() == pytest.approx(min(history))
    assert min(history) < 25  # of 30; a perfect predictor would need 5 + 5 log2(3) = 12.9
    z = flow.freeze().encode(held_out.numpy())
    assert (z == flow(held_out).detach().numpy()).mean() > 0.95
    again = IntegerFlow([32] * 6, couplings=2, hidden=32)
    again.load_state_dict(flow.state_dict())
    assert np.array_equal(again.freeze().encode(held_out.numpy()), z)


def test_training_is_deterministic_and_never_ends_worse_than_it_began() -> None:
    x, noise = smooth(300), torch.randint(0, 32, (300, 6), generator=torch.Generator().manual_seed(0))
    flows = [IntegerFlow([32] * 6, hidden=16, seed=3) for _ in range(2)]
    bits = [flow.fit(x, validation=noise, epochs=5, rate=0.02, progress=False) for flow in flows]
    assert bits[0] == bits[1]
    start = IntegerFlow([32] * 6, hidden=16)
    start._count(x)
    assert flows[0].bits(noise).mean() <= start.bits(noise).mean() < max(bits[0])


def test_the_loss_is_linear_between_whole_numbers() -> None:
    flow = IntegerFlow([8] * 2, couplings=1, hidden=4)
    x = torch.tensor([[3, 2]])
    flow.prior.copy_(torch.tensor([1.0, 2, 4, 8, 16, 2, 1, 1]) / 35)
    moved = int(flow.moved_0)  # type: ignore[arg-type]
    output = flow.networks[0][2]
    for shift in (0.0, 0.25, 0.75, 1.0, 1.5, 6.0):
        with torch.no_grad():
            output.bias.fill_(shift / 8)
            output.weight.zero_()
        low = int(np.floor(shift))
        cost = [-float(flow.prior[moved, (int(x[0, moved]) + low + k) % 8].log2()) for k in (0, 1)]
        stay = -float(flow.prior[1 - moved, x[0, 1 - moved]].log2())
        loss = flow._loss(x)
        assert loss.item() == pytest.approx(stay + cost[0] + (cost[1] - cost[0]) * (shift - low), abs=1e-4)
        (slope,) = torch.autograd.grad(loss, output.bias)
        assert slope.item() == pytest.approx(8 * (cost[1] - cost[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("sizes", "error"),
    [([4], ValueError), ([4, 0], ValueError), ([4, 4.0], TypeError), ([4, True], TypeError), ([4, 2**17], ValueError)],
)
def test_bad_alphabets(sizes: list[int], error: type[Exception]) -> None:
    with pytest.raises(error, match="categories"):
        IntegerFlow(sizes)


def test_bad_training() -> None:
    flow = IntegerFlow([4] * 3)
    for x in (torch.zeros(3, 3), torch.zeros(3, 2).long(), torch.full((3, 3), 4), torch.zeros(0, 3).long()):
        with pytest.raises((TypeError, ValueError), match="'x'"):
            flow.fit(x, progress=False)
    x = torch.zeros(3, 3).long()
    for wrong, error in (({"epochs": 0}, ValueError), ({"batch_size": 0}, ValueError), ({"epochs": 1.5}, TypeError)):
        with pytest.raises(error, match=f"IntegerFlow.fit: argument '{next(iter(wrong))}'"):
            flow.fit(x, progress=False, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'validation': expected whole numbers in 0 .* got 99 at \[1, 2\]"):
        flow.fit(x, validation=x.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(99)), progress=False)
    with pytest.raises(TypeError, match=r"IntegerFlow.bits: argument 'x': expected a tensor, got list"):
        flow.bits(x.tolist())
    with pytest.raises(ValueError, match="'x'"):
        flow(torch.zeros(3))
    with pytest.raises(ValueError, match="hidden"):
        IntegerFlow([4] * 3, hidden=0)


@pytest.mark.parametrize("value", [4, -1, 2**40, 0.5, float("nan")])
def test_values_without_a_code_do_not_pass_for_others(value: float) -> None:
    flow, x = IntegerFlow([4] * 3), torch.tensor([[0, 1, 2], [3, 3, value]])
    for call in (flow, flow.bits):
        with pytest.raises(ValueError, match=r"'x': expected whole numbers in 0 .. alphabet - 1, got .* at \[1, 2\]"):
            call(x)


def test_flows_of_half_precision_or_nan_are_not_frozen() -> None:
    flow = IntegerFlow([257] * 3).bfloat16()  # 257 is 256 now
    for call in (flow.freeze, lambda: flow.bits(torch.zeros(1, 3))):
        with pytest.raises(TypeError, match=r"expected a flow in float32 or float64, got torch.bfloat16"):
            call()
    flow = IntegerFlow([4] * 3)
    next(flow.parameters()).data[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"finite numbers in networks.0.0.weight, got nan at \[1, 0\]"):
        flow.freeze()


def test_frozen_flows_refuse_masks() -> None:
    with pytest.raises(TypeError, match="expected whole numbers, got a masked array"):
        frozen().encode(np.ma.masked_equal(rows(4), 1))


# --- as bytes ---


def test_bytes_come_back() -> None:
    flow = frozen()
    other, rest = FrozenFlow.from_bytes(flow.to_bytes() + b"more", 2**20)
    assert rest == b"more" and other.flow_id == flow.flow_id
    assert np.array_equal(other.encode(rows(40)), flow.encode(rows(40)))
    assert frozen(seed=1).flow_id != flow.flow_id


def test_every_damaged_byte_and_every_cut_is_found() -> None:
    data = frozen(hidden=2).to_bytes()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        for bad in (bytes(broken), data[:at]):
            with pytest.raises(CorruptStreamError):
                FrozenFlow.from_bytes(bad, 2**20)
    with pytest.raises(CorruptStreamError, match="max_bytes"):
        FrozenFlow.from_bytes(data, 100)


def test_hostile_content_with_a_right_checksum() -> None:
    flow = frozen(hidden=2)
    plain, head = flow._plain(), frozen_flow.PREFIX
    chance, read = np.random.default_rng(0), 0
    for _ in range(300):
        broken = bytearray(plain)
        broken[chance.integers(len(broken))] ^= 1 << int(chance.integers(8))
        packed = lzma.compress(bytes(broken), lzma.FORMAT_RAW, filters=frozen_flow.FILTERS)
        start = head.pack(frozen_flow.MAGIC, 1, 0, len(SIZES), 3, 2, len(packed))
        try:
            found, _ = FrozenFlow.from_bytes(parts.sealed(start + packed), 2**20)
        except CorruptStreamError:
            continue
        read += 1  # another flow, but still one to one
        x = np.minimum(rows(5), found.categories - 1)
        assert np.array_equal(found.decode(found.encode(x)), x)
    assert read > 100


# --- with a circuit ---


@pytest.fixture(scope="module")
def fitted() -> tuple[PCCodec, np.ndarray]:
    x = smooth(600)
    flow = IntegerFlow([32] * 6, couplings=2, hidden=32)
    flow.fit(x, epochs=10, rate=3e-3, progress=False)
    whole = flow.freeze()
    circuit = hclt(torch.from_numpy(whole.encode(x.numpy())).long(), latents=3, categories=32)
    return PCCodec(circuit, flow=whole), smooth(300, seed=2).numpy().astype(np.uint8)


def test_files_with_a_flow(fitted: tuple[PCCodec, np.ndarray], tmp_path) -> None:  # type: ignore[no-untyped-def]
    pc, x = fitted
    blob = pc.compress(x, chunk_items=50, embed=True)
    assert np.array_equal(pc.decompress(blob), x)
    assert np.array_equal(codec.open(blob)[120:170], x[120:170])
    pc.save(tmp_path / "m.pcm")
    again = PCCodec.load(tmp_path / "m.pcm")
    assert again.model_id == pc.model_id and again.to_bytes() == pc.to_bytes()
    assert again.compress(x, chunk_items=50, embed=True) == blob
    with pytest.raises(ModelMismatchError):
        PCCodec(pc.program).decompress(blob)


def test_rows_outside_the_alphabets_and_noise(fitted: tuple[PCCodec, np.ndarray]) -> None:
    pc, x = fitted
    for items in (np.full((9, 6), 200, np.uint8), np.random.default_rng(0).integers(0, 32, (70, 6), np.uint8), x[:0]):
        assert np.array_equal(pc.decompress(pc.compress(items)), items)


def test_threads_do_not_change_a_byte(fitted: tuple[PCCodec, np.ndarray]) -> None:
    pc, x = fitted
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(pc.compress(x, chunk_items=20))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_other_alphabets_are_refused(fitted: tuple[PCCodec, np.ndarray]) -> None:
    program = Program.from_circuit(factorized(torch.zeros(3, 6).long(), categories=31))
    with pytest.raises(ValueError, match="alphabets"):
        FlowCoder(program, fitted[0].flow)  # type: ignore[arg-type]
    data = fitted[0].flow.to_bytes() + PCCodec(program).to_bytes()  # type: ignore[union-attr]
    with pytest.raises(CorruptStreamError, match="alphabets"):
        PCCodec.from_bytes(data)


def test_a_circuit_over_the_latents_saves_bits() -> None:
    """On scikit-learn's digits: over the flow alone, which a factorized prior codes."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    x = torch.tensor(load_digits().data).long()
    seen, test = x[:1297], x[1297:]
    flow = IntegerFlow([17] * 64, couplings=2, hidden=32)
    flow.fit(seen[:1097], validation=seen[1097:], epochs=40, progress=False)
    whole = flow.freeze()
    z = torch.from_numpy(whole.encode(seen.numpy())).long()
    tree = hclt(z, latents=8, categories=17)
    EM(tree, batch_size=None, pseudocount=1.0).fit(z, epochs=40, progress=False)
    sizes = [
        len(PCCodec(circuit, flow=map_).compress(test.byte().numpy(), lanes=1)) * 8 / test.numel()
        for circuit, map_ in (
            (factorized(seen, categories=17), None), (factorized(z, categories=17), whole), (tree, whole)
        )
    ]  # fmt: skip
    assert sizes[1] < sizes[0] - 0.02  # the flow gains over none
    assert sizes[2] < sizes[1] - 0.15  # and the circuit over the flow
