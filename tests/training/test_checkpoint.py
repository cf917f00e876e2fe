"""Checkpoints: what they hold, and what they refuse."""

from __future__ import annotations

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
    assert found["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.999] and set(found["optimizer"]["state"]) == {0, 1}
    assert (found["step"], found["best"], found["name"], found["history"]) == (3, None, "x", [1.5, 2.5])
    assert found["empty"] == {} and found["nothing"].shape == (0, 2) and torch.equal(found["tied"]["b"], shared)
    other = torch.optim.Adam(torch.nn.Linear(2, 1).parameters(), lr=0.2)
    other.load_state_dict(found["optimizer"])
    assert other.param_groups[0]["lr"] == 0.1
    torch.testing.assert_close(dict(found["model"]), dict(net.state_dict()), rtol=0, atol=0)


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
