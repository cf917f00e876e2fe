"""Programs and their coder: every kind of circuit round trips, costs its likelihood, and gives the same bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from probkernels import use_backend
from probkernels._core.errors import CorruptStreamError
from probkernels.circuits import Categorical, Circuit, Gaussian, Graph, Input, Product, Sum, factorized_graph
from probkernels.codec import Program, decode, decode_each, encode
from probkernels.codec._compile import integer_table
from probkernels.reference.program_code import Model, answer, cumulative, fma, mixture, symbols_of
from torch import Tensor

from tests.codec.models import KINDS, model, rows, toy


def program(kind: str) -> tuple[Program, Tensor]:
    circuit = model(kind)
    return Program.from_circuit(circuit), rows(60, circuit.num_variables)


def bits_of(p: Program, x: Tensor) -> float:
    steps = Model(*p.tensors, p.registers)
    return sum(24 - math.log2(width) for row in x.tolist() for _, width in symbols_of(steps, row))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_round_trips_with_the_bytes_of_the_reference(kind: str) -> None:
    p, x = program(kind)
    for lanes in (1, 3, 16, 40):
        streams = encode(p, x, 25, lanes)
        assert torch.equal(decode(p, streams, [25, 25, 10], lanes), x)
        with use_backend("reference"):
            assert encode(p, x[:50], 25, lanes) == streams[:2]
            assert torch.equal(decode(p, streams[2:], [10], lanes), x[50:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_symbols_cost_the_negative_log_likelihood(kind: str) -> None:
    p, x = program(kind)
    expected = -model(kind).double().log_prob(x).sum().item() / math.log(2)
    assert bits_of(p, x) == pytest.approx(expected, rel=2e-3)
    assert sorted(p.order) == list(range(p.variables))


@pytest.mark.parametrize("kind", KINDS)
def test_streams_cost_what_the_symbols_cost(kind: str) -> None:
    p, x = program(kind)
    (stream,) = encode(p, x, 60, 16)
    assert 0 <= 8 * len(stream) - bits_of(p, x) <= 16 * 64
    (alone,) = encode(p, x[:1], 1, 1)
    assert 0 <= 8 * len(alone) - bits_of(p, x[:1]) <= 24 + 8  # bits of the first symbol pushed, and whole bytes


def conditionals(p: Program, row: list[int]) -> dict[int, list[float]]:
    """Of every variable, its distribution given those of the row that are coded before it."""
    walk = Model(*p.tensors, p.registers).walk()
    ask, found = next(walk, None), {}
    while ask is not None:
        variable, below = ask
        found[variable] = (np.diff(below) / 2**24).tolist()
        ask = answer(walk, row[variable])
    return found


def test_the_toy_has_the_conditionals_of_the_notes() -> None:
    """Own pixel first, then 0, then the subtree of 2: the order 1, 0, 2, 3. Tables have 16 bits."""
    p = Program.from_circuit(toy())
    assert p.order == [1, 0, 2, 3]
    expected = {
        1: [0.38, 0.23, 0.39],
        0: [0.4913043478, 0.2347826087, 0.2739130435],
        2: [0.7269911504, 0.1292035398, 0.1438053097],
        3: [0.3766153846, 0.2390769231, 0.3843076923],
    }
    for variable, distribution in conditionals(p, [0, 1, 2, 0]).items():
        assert distribution == pytest.approx(expected[variable], abs=1e-4)
    costs = [math.prod(conditionals(p, [a, b, c, d])[v][x] for v, x in enumerate((a, b, c, d)))
             for a in range(3) for b in range(3) for c in range(3) for d in range(3)]  # fmt: skip
    assert sum(costs) == pytest.approx(1, abs=1e-6)
    assert costs[0 * 27 + 1 * 9 + 2 * 3 + 0] == pytest.approx(0.00612, rel=1e-3)
    assert costs[-1] == pytest.approx(0.035535, rel=1e-3)


@pytest.mark.parametrize("kind", ["hclt", "outer", "sums_of_sums"])
def test_conditionals_are_ratios_of_marginals(kind: str) -> None:
    circuit = model(kind).double()
    p, x = program(kind)
    row = x[3].tolist()
    missing = torch.ones(1, len(row), dtype=torch.bool)
    for variable, distribution in conditionals(p, row).items():
        before = circuit.log_prob(x[3:4], missing).exp()
        missing[0, variable] = False
        tries = x[3:4].repeat(5, 1)
        tries[:, variable] = torch.arange(5, dtype=torch.int32)
        ratio = circuit.log_prob(tries, missing.expand(5, -1)).exp() / before
        assert distribution == pytest.approx(ratio.tolist(), abs=2e-4)


def test_dyadic_probabilities_cost_exactly_their_bits() -> None:
    p = (0.5, 0.25, 0.125, 0.125)
    circuit = Circuit(Graph([Input(0, 1, Categorical(4)), Sum((0,), 1)]))
    circuit.inputs[0].logits.data[0, :, 0] = torch.tensor(p).log()
    x = torch.tensor([[0]] * 4 + [[1]] * 2 + [[2], [3]], dtype=torch.int32).repeat(50, 1)
    compiled = Program.from_circuit(circuit)
    assert bits_of(compiled, x) == pytest.approx(50 * 14, rel=1e-3)
    (stream,) = encode(compiled, x, len(x), 1)
    assert 8 * len(stream) <= 50 * 14 + 8
    assert torch.equal(decode(compiled, [stream], [len(x)], 1), x)


def test_a_row_by_itself_costs_a_few_bits_more_than_its_probability() -> None:
    p, x = program("hclt")
    extra = [8 * len(encode(p, row, 1, 1)[0]) - bits_of(p, row) for row in x.split(1)]
    assert min(extra) > -1 and max(extra) < 16
    assert sum(extra) / len(extra) < 8


@pytest.mark.parametrize("categories", [1, 2, 256, 257, 65536])
def test_every_alphabet_round_trips(categories: int) -> None:
    circuit = Circuit(factorized_graph([Categorical(categories)] * 3))
    circuit.reset(seed=0)
    p = Program.from_circuit(circuit)
    x = torch.tensor([[0, categories // 2, categories - 1], [categories - 1] * 3, [0] * 3], dtype=torch.int32)
    streams = encode(p, x, 2)
    assert torch.equal(decode(p, streams, [2, 1]), x)


def test_a_tree_deeper_than_pythons_stack() -> None:
    nodes: list[Input | Product | Sum] = [Input(0, 2, Categorical(2))]
    for v in range(1, 1100):
        nodes += [Input(v, 2, Categorical(2)), Product((len(nodes) - 1, len(nodes))), Sum((len(nodes) + 1,), 2)]
    nodes[-1] = Sum(nodes[-1].children, 1)  # type: ignore[union-attr]
    p = Program.from_circuit(Circuit(Graph(nodes)))
    x = (torch.rand(3, 1100) < 0.5).to(torch.uint8)
    assert torch.equal(decode(p, encode(p, x, 3), [3]), x.int())


def test_bad_circuits_are_refused() -> None:
    with pytest.raises(ValueError, match="expected discrete inputs, got a continuous variable 0"):
        Program.from_circuit(Circuit(factorized_graph([Gaussian()])))
    parts = [Input(v, 1, Categorical(2)) for v in range(3)]
    graph = Graph([*parts, Product((0, 1)), Product((3, 2)), Product((1, 2)), Product((0, 5)), Sum((4, 6), 1)])
    with pytest.raises(ValueError, match="one split of every scope"):
        Program.from_circuit(Circuit(graph))
    with pytest.raises(ValueError, match="at most 2048 input units of a variable"):
        Program.from_circuit(Circuit(Graph([Input(0, 2049, Categorical(2)), Sum((0,), 1)])))
    with pytest.raises(TypeError, match="expected a Circuit"):
        Program.from_circuit(graph)  # type: ignore[arg-type]


def test_bad_codes_are_refused() -> None:
    p, x = program("hclt")
    with pytest.raises(ValueError, match="values below 5, from 0, got 5 in row 3, variable 2"):
        encode(p, x.index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(5, dtype=torch.int32)), 10)
    with pytest.raises(ValueError, match="expected shape"):
        encode(p, x[:, :3], 10)
    with pytest.raises(TypeError, match="a uint8 or int32 tensor"):
        encode(p, x.long(), 10)
    with pytest.raises(ValueError, match="a number >= 1"):
        encode(p, x, 0)
    with pytest.raises(ValueError, match="1 numbers >= 1"):
        decode(p, [b""], [0])
    assert encode(p, x[:0], 10) == [] and decode(p, [], []).shape == (0, 7)


def test_damage_is_reported_chunk_by_chunk_and_alike_by_the_reference() -> None:
    p, x = program("hclt")
    streams = encode(p, x, 20, 4)
    found = []
    for at in range(0, len(streams[1]), 3):
        flipped = bytearray(streams[1])
        flipped[at] ^= 4
        variants = [bytes(flipped), streams[1][:at], streams[1] + bytes(at + 1)]
        for bad in variants:
            codes, why = decode_each(p, [streams[0], bad, streams[2]], [20] * 3, 4)
            assert why[1] and not why[0] and not why[2]
            assert torch.equal(codes[:20], x[:20]) and torch.equal(codes[40:], x[40:])
            found.append((bad, why[1]))
    assert {why for _, why in found} == {"ends early", "has a wrong state", "has words left over"}
    with use_backend("reference"):
        for bad, why in found[::9]:
            assert decode_each(p, [bad], [20], 4)[1] == [why]
    with pytest.raises(CorruptStreamError, match="chunk 1: ends early"):
        decode(p, [streams[0], b"", streams[2]], [20] * 3, 4)
    for empty in ([b""], [b"", b""]):
        assert decode_each(p, empty, [20] * len(empty), 4)[1] == ["ends early"] * len(empty)


def test_streams_of_no_bytes() -> None:
    """Variables with one value need none."""
    p = Program.from_circuit(Circuit(factorized_graph([Categorical(1)] * 3)))
    x = torch.zeros(5, 3, dtype=torch.int32)
    streams = encode(p, x, 2, 1)
    assert streams == [b"", b"", b""]
    assert torch.equal(decode(p, streams, [2, 2, 1], 1), x)
    assert torch.equal(decode(p, streams[:1], [2], 1), x[:2])


@pytest.mark.parametrize("lanes", [1, 5, 16])
def test_noise_never_harms(lanes: int) -> None:
    """Of one lane short noise is a stream: that of the rows it decodes to, and of no others."""
    p, _ = program("outer")
    generator = np.random.default_rng(lanes)
    streams = [generator.bytes(int(generator.integers(0, 200))) for _ in range(300)]
    codes, why = decode_each(p, streams, [7] * 300, lanes)
    assert codes.min() >= 0 and codes.max() < 5
    for stream, reason, x in zip(streams, why, codes.split(7), strict=True):
        assert reason if lanes > 1 else reason or encode(p, x, 7, 1) == [stream]


# --- programs from elsewhere ---


def test_arrays_build_the_same_program() -> None:
    p, x = program("outer")
    again = Program.from_arrays(p.arrays())
    assert again.model_id == p.model_id and again.order == p.order
    assert encode(again, x, 60) == encode(p, x, 60)
    assert len({program(kind)[0].model_id for kind in KINDS}) == len(KINDS)


def test_a_program_does_not_change_with_its_arrays() -> None:
    p, _ = program("hclt")
    arrays = {name: array.copy() for name, array in p.arrays().items()}
    again = Program.from_arrays(arrays)
    for name, array in again.arrays().items():
        arrays[name][...] = 0
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert again.model_id == p.model_id


def test_changed_arrays_are_refused_or_harmless() -> None:
    p, _ = program("sums_of_sums")
    x = rows(8, 2)
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(1500):
        arrays = {name: array.copy() for name, array in p.arrays().items()}
        name = generator.choice(sorted(arrays))
        flat = arrays[name].reshape(-1)
        value = generator.choice([-1, 0, 1, 2, 7, 2**15, 2**31 - 1, -(2**31)])
        flat[generator.integers(len(flat))] = np.array(value).astype(flat.dtype)
        try:
            changed = Program.from_arrays(arrays)
        except CorruptStreamError:
            outcomes.add("refused")
            continue
        outcomes.add("taken")
        if changed.registers < 1 << 16 and min(changed.categories) >= 5:
            assert torch.equal(decode(changed, encode(changed, x, 8), [8]), x)
    assert outcomes == {"refused", "taken"}


def test_arrays_of_another_kind_are_refused() -> None:
    arrays = program("hclt")[0].arrays()
    for name in arrays:
        with pytest.raises(CorruptStreamError, match="expected arrays"):
            Program.from_arrays({other: a for other, a in arrays.items() if other != name})
        with pytest.raises(CorruptStreamError, match=f"'{name}': expected"):
            Program.from_arrays({**arrays, name: arrays[name].astype(np.float64)})
    with pytest.raises(CorruptStreamError, match="0 or in"):
        Program.from_arrays({**arrays, "weights": arrays["weights"] * np.float32("nan")})


# --- the arithmetic ---


def test_fma_rounds_once() -> None:
    """Against exact rationals, also where a sum in float64 would round twice."""
    from fractions import Fraction

    generator = np.random.default_rng(0)
    a, b, c = (
        generator.random(2000).astype(np.float32) * np.float32(2.0) ** generator.integers(-40, 2, 2000) for _ in "abc"
    )
    a, b, c = (t.astype(np.float32) for t in (a, b, c))
    got = fma(a, b, c)
    for i in range(len(a)):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        near = [np.float32(got[i]), np.nextafter(got[i], np.float32(0)), np.nextafter(got[i], np.float32(4))]
        assert min(near, key=lambda v: abs(Fraction(float(v)) - exact)) == got[i]
    one, tiny = np.float32(1), np.float32(2.0**-24)
    assert fma(np.float32(1 + 2**-23), tiny, one) == np.float32(1 + 2**-23)  # just above a tie


def test_mixture_weights_sum_to_65536() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 16, 2048):
        w = mixture(generator.random(n).astype(np.float32) ** 8)
        assert w.sum() == 65536 and w.min() >= 0
    assert mixture(np.zeros(3, np.float32)).tolist() == [21846, 21845, 21845]


def test_tables_leave_every_category_possible() -> None:
    table = integer_table(np.array([[1.0, 0.25], [0.0, 0.5], [0.0, 0.25]])).astype(np.int64)
    assert table.tolist() == [[0, 0], [65535, 16384], [65535, 49151]]
    below = cumulative(256 * table)
    assert below[-1].tolist() == [2**24] * 2 and np.diff(below, axis=0)[:, 0].tolist() == [65535 * 256 + 1, 1, 254]


def test_tables_are_as_near_as_counts_allow() -> None:
    p = np.random.default_rng(0).random((300, 4)) ** 6
    p /= p.sum(0)
    found = np.diff(cumulative(256 * integer_table(p).astype(np.int64)), axis=0) / 2**24
    assert found.min() >= 2.0**-24 and np.abs(found[:-1] - p[:-1]).max() < 2.0**-16
