"""Circuit files: exact round trips, nothing half written, and damaged or hostile files that do no harm."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probkernels import CorruptStreamError
from probkernels._core import files
from probkernels.circuits import Categorical, Circuit, Graph, hclt_graph, load, prune, save

from tests.circuits.models import DISCRETE, MIXED, data, random_graph

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def same(left: Circuit, right: Circuit) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return left.graph == right.graph and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("families", [DISCRETE, MIXED])
def test_round_trips(families: list[Any], dtype: torch.dtype, tmp_path: Path) -> None:
    x = data(families, 50, 0)
    circuit = Circuit(random_graph(families, 0, outer=True), data=x, seed=3).to(dtype)
    sparse = prune(circuit, x, keep=0.5)
    assert sparse.graph.num_edges < circuit.graph.num_edges
    for model in (circuit, sparse):
        save(model, tmp_path / "circuit")
        loaded = load(tmp_path / "circuit")
        copies = [loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        fresh = Circuit(model.graph, seed=8).to(dtype)
        assert not same(fresh, model)
        fresh.load_state_dict(model.state_dict())
        for other in [*copies, fresh]:
            assert same(other, model)
            assert torch.equal(other.log_prob(x), model.log_prob(x))
            assert other.log_prob(x).dtype == dtype


def test_what_load_would_refuse_is_not_saved(tmp_path: Path) -> None:
    circuit = Circuit(hclt_graph([-1, 0], [Categorical(3)] * 2, 2))
    mixed = copy.deepcopy(circuit)
    mixed.inputs.double()
    for other in (copy.deepcopy(circuit).half(), copy.deepcopy(circuit).bfloat16(), mixed):
        with pytest.raises(TypeError, match="save: argument 'circuit': expected parameters in float32 or float64"):
            save(other, tmp_path / "circuit")
    assert not list(tmp_path.iterdir())


def test_copies_are_independent() -> None:
    circuit = Circuit(hclt_graph([-1, 0], [Categorical(3)] * 2, 2))
    twin = copy.deepcopy(circuit)
    twin.reset(seed=1)
    assert not same(circuit, twin)


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (Circuit(hclt_graph([-1, 0], [Categorical(3)] * 2, 2), seed=seed) for seed in range(2))
    save(old, tmp_path / "circuit")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            save(new, tmp_path / "circuit")
    assert same(load(tmp_path / "circuit"), old)
    assert [p.name for p in tmp_path.iterdir()] == ["circuit"]


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a Circuit"):
        save(torch.nn.Linear(1, 1), tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(OSError):
        load(tmp_path / "nothing")


# --- damaged and hostile ---


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "circuit"
    save(Circuit(random_graph(MIXED[:3], 0)), path)
    return path.read_bytes()


def read(content: bytes, tmp_path: Path) -> Circuit:
    (tmp_path / "bad").write_bytes(content)
    return load(tmp_path / "bad")


def test_every_truncation_and_flipped_bit(good: bytes, tmp_path: Path) -> None:
    for length in range(0, len(good), 31):
        with pytest.raises(CorruptStreamError):
            read(good[:length], tmp_path)
    for at in range(0, len(good), 17):
        damaged = bytearray(good)
        damaged[at] ^= 1 << random.Random(at).randrange(8)
        with pytest.raises(CorruptStreamError):
            read(bytes(damaged), tmp_path)


@FEW
@given(content=st.binary(max_size=200))
def test_noise(content: bytes, tmp_path: Path) -> None:
    for text in (content, struct.pack("<Q", len(content)) + content):
        with pytest.raises(CorruptStreamError):
            read(text, tmp_path)


CIRCUIT = Circuit(hclt_graph([1, -1, 1], [Categorical(3)] * 3, 2))


def forge(tmp_path: Path, graph: Any, tensors: dict[str, torch.Tensor] | None = None, **changed: str) -> Circuit:
    """A file with a valid digest, and whatever it says."""
    text = graph if isinstance(graph, str) else json.dumps(graph)
    metadata = {"format": "probkernels.circuit", "version": "1", "graph": text, **changed}
    files.write(tmp_path / "forged", CIRCUIT.state_dict() if tensors is None else tensors, metadata)
    return load(tmp_path / "forged")


def described() -> dict[str, Any]:
    return json.loads(CIRCUIT.graph.to_json())


def test_the_forger_can_forge(tmp_path: Path) -> None:
    assert same(forge(tmp_path, described()), CIRCUIT)


HUGE = [0, -1, 7, 2**31, 2**62, 2**64, 10**30, 1.5, True, None, "2", [], {}]


@pytest.mark.parametrize("value", HUGE)
def test_hostile_numbers(value: Any, tmp_path: Path) -> None:
    for index, node in enumerate(described()["nodes"]):
        for key in node:
            graph = described()
            if key == "family":
                graph["nodes"][index]["family"]["categories"] = value
            else:
                graph["nodes"][index][key] = value
            try:
                loaded = forge(tmp_path, graph)
            except CorruptStreamError:
                continue
            assert loaded.graph == CIRCUIT.graph, (index, key, value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@FEW
@given(
    value=json_values,
    index=st.integers(-1, 4),
    key=st.sampled_from(["children", "units", "edge_mask", "family", "type"]),
)
def test_graphs_of_any_json(value: Any, index: int, key: str, tmp_path: Path) -> None:
    graph = described()
    if index < 0:
        graph["nodes"] = value
    else:
        graph["nodes"][index][key] = value
    try:
        loaded = forge(tmp_path, graph)
    except CorruptStreamError:
        return
    Graph.from_json(loaded.graph.to_json())


def test_other_texts_versions_and_tensors(tmp_path: Path) -> None:
    for text in ("", "[", "[" * 100_000, "null", "1" * 5000, "NaN", '"' * 3):
        with pytest.raises(CorruptStreamError):
            forge(tmp_path, text)
    for changed in ({"format": "other"}, {"version": "2"}):
        with pytest.raises(CorruptStreamError, match="version 1"):
            forge(tmp_path, described(), **changed)
    state = CIRCUIT.state_dict()
    name = next(iter(state))
    for tensors in (
        {}, {**state, "more": torch.zeros(1)}, {**state, name: torch.zeros(1)}, {**state, name: state[name].double()},
        {key: t.to(torch.int32) for key, t in state.items()},
    ):  # fmt: skip
        with pytest.raises(CorruptStreamError):
            forge(tmp_path, described(), tensors)


def test_small_files_of_huge_circuits_build_nothing(tmp_path: Path) -> None:
    """Sizes are compared with what the file holds before a circuit of those sizes is made."""
    many = 10**12
    wide = {"type": "input", "variable": 0, "units": many, "family": {"name": "Categorical", "categories": 2}}
    far = {**wide, "units": 1, "variable": many}
    indicators = {**wide, "family": {"name": "Indicator", "categories": many}}
    top = {"type": "sum", "children": [0], "units": 1, "edge_mask": None}
    for nodes in ([wide, top], [far, top], [indicators, top], [wide, {**top, "units": many}, {**top, "children": [1]}]):
        with pytest.raises(CorruptStreamError):
            forge(tmp_path, {"format": "probkernels.circuit", "version": 1, "nodes": nodes})


def test_a_state_dict_of_another_graph_is_refused() -> None:
    """The trees differ only in which variable is where, so all shapes fit."""
    one, other = (
        Circuit(hclt_graph(parents, [Categorical(3)] * 5, 2), seed=seed)
        for seed, parents in enumerate(([-1, 0, 1, 2, 3], [1, 2, 3, 4, -1]))
    )
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    for state in (one.state_dict(), torch.load(file)):
        for strict in (True, False):
            with pytest.raises(RuntimeError, match="'state_dict': expected parameters of the same graph, got those of"):
                other.load_state_dict(state, strict=strict)
    with pytest.raises(RuntimeError, match="of the same graph"):
        torch.nn.ModuleList([other]).load_state_dict(torch.nn.ModuleList([one]).state_dict())
    x = torch.tensor([[0, 1, 2, 1, 0]])
    for state in (one.state_dict(), dict(one.state_dict())):  # a plain dict knows no graph
        twin = Circuit(one.graph, seed=9)
        twin.load_state_dict(state)
        assert torch.equal(twin.log_prob(x), one.log_prob(x))
