"""Checkpoints: what they hold, and what they refuse."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from probkernels import CorruptStreamError, ModelMismatchError
from probkernels.training import Checkpoint
from probkernels.training.checkpoint import copy_state_


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    shared = torch.arange(3.0)
    state = {
        "model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 3, "best": None, "name": "x",
        "history": [1.5, 2.5], "tied": {"a": shared, "b": shared}, "empty": {}, "nothing": torch.zeros(0, 2),
    }  # fmt: skip
    checkpoint = Checkpoint(tmp_path / "run", "fit", {"seed": 0})
    assert not checkpoint.exists()
    checkpoint.save(state)
    found = checkpoint.load()
    assert checkpoint.exists() and list(found) == list(state)
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999) and set(found["optimizer"]["state"]) == {0, 1}
    assert (found["step"], found["best"], found["name"], found["history"]) == (3, None, "x", [1.5, 2.5])
    assert found["empty"] == {} and found["nothing"].shape == (0, 2) and torch.equal(found["tied"]["b"], shared)
    other = torch.optim.Adam(torch.nn.Linear(2, 1).parameters(), lr=0.2)
    other.load_state_dict(found["optimizer"])
    assert other.param_groups[0]["lr"] == 0.1
    torch.testing.assert_close(dict(found["model"]), dict(net.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "value",
    [(), (1, [2, (3,)], {"a": (None, "x")}), {(1, 2): {0: True}}, torch.Size([2, 3]), random.Random(0).getstate()],
    ids=["empty", "nested", "keys", "size", "random"],
)
def test_tuples_come_back_as_tuples(value: object, tmp_path: Path) -> None:
    Checkpoint(tmp_path / "run", "fit", {}).save({"x": value})
    assert Checkpoint(tmp_path / "run", "fit", {}).load() == {"x": value}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.tensor([[1 + 2j, -0.5j], [3, 4j]], dtype=torch.complex128).to(dtype)
    state = {"x": x, "conj": x.conj(), "t": x.T, "imag": x.conj().imag, "empty": x[:0], "one": x[0, 0]}
    Checkpoint(tmp_path / "run", "fit", {}).save(state)
    found = Checkpoint(tmp_path / "run", "fit", {}).load()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tolist() == tensor.resolve_conj().resolve_neg().tolist()


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run", "fit", {})
    for value, said in [({1}, "set"), (b"x", "bytes"), (torch.device("cpu"), "device"), (1j, "complex")]:
        with pytest.raises(TypeError, match=f"'state': expected dicts.*{said}"):
            checkpoint.save({"a": [value]})
    with pytest.raises(TypeError, match=r"run': '0': expected a dense tensor.*sparse_coo"):
        checkpoint.save({"a": torch.eye(2).to_sparse()})
    assert not checkpoint.exists()


def test_another_training_is_refused_by_name(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "run", "fit", {"seed": 0, "rows": 5, "only": 1}).save({})
    with pytest.raises(ModelMismatchError, match=r"run.*differs in new, only, seed"):
        Checkpoint(tmp_path / "run", "fit", {"seed": 1, "rows": 5, "new": 2}).load()
    with pytest.raises(CorruptStreamError, match="not a checkpoint of EM"):
        Checkpoint(tmp_path / "run", "EM", {"seed": 0, "rows": 5, "only": 1}).load()


def test_facts_compare_as_json_holds_them(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "run", "fit", {"shape": (3, 4), "lr": 0.1}).save({"step": 1})
    assert Checkpoint(tmp_path / "run", "fit", {"lr": 0.1, "shape": [3, 4]}).load() == {"step": 1}


@pytest.mark.parametrize("place", [5, 200, -3])
def test_a_flipped_byte_is_noticed(tmp_path: Path, place: int) -> None:
    Checkpoint(tmp_path / "run", "fit", {}).save({"x": torch.ones(20)})
    data = bytearray((tmp_path / "run").read_bytes())
    data[place] ^= 1
    (tmp_path / "run").write_bytes(data)
    with pytest.raises(CorruptStreamError, match="run"):
        Checkpoint(tmp_path / "run", "fit", {}).load()


def test_copy_state_names_what_differs() -> None:
    mine = {"a": torch.zeros(2), "b": torch.zeros(3)}
    copy_state_(mine, {"a": torch.ones(2), "b": torch.ones(3)}, "fit")
    assert mine["b"].sum() == 3
    with pytest.raises(ModelMismatchError, match=r"fit: 'b' is torch.float32 \(3,\) here and absent"):
        copy_state_(mine, {"a": torch.ones(2)}, "fit")
    with pytest.raises(ModelMismatchError, match=r"'a' is torch.float32 \(2,\) here and torch.float64 \(2,\)"):
        copy_state_(mine, {"a": torch.ones(2, dtype=torch.float64), "b": torch.zeros(3)}, "fit")
