"""The forward-learning experiment: its graphs, its byte counter, a miniature run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce.forward_gnn import experiment, model
from probkernels.reproduce.forward_gnn.records import BLOCKS, BP, CORA, CORA_ML, DEPTHS, LINEAR, SF, Trained, kept

from tests.reproduce.support import Sum, run_here


def test_blocks_have_their_edge_probabilities() -> None:
    data = model.load(BLOCKS, 0, "")
    assert torch.equal(model.load(BLOCKS, 0, "").x, data.x)
    same = data.y[data.edges[0]] == data.y[data.edges[1]]
    inside, across = int(same.sum()) / (400 * 99), int((~same).sum()) / (400 * 300)
    assert abs(inside - 0.05) < 5 * (0.05 / (200 * 99)) ** 0.5
    assert abs(across - 0.005) < 5 * (0.005 / (200 * 300)) ** 0.5
    assert [int(part.sum()) for part in (data.train, data.val, data.test)] == [256, 64, 80]
    assert (data.train.int() + data.val.int() + data.test.int()).eq(1).all()


def write_graph(folder: Path) -> None:
    splits = np.tile(np.array([0, 0, 1, 2], np.int8), (5, 1))
    arrays = {
        "edge_index": np.array([[0, 1, 2, 3], [1, 0, 3, 2]], np.int16),
        "x_indptr": np.array([0, 2, 3, 3, 4], np.int32),
        "x_indices": np.array([0, 2, 1, 2], np.int16),
        "y": np.array([0, 1, 0, 1], np.int8),
    }
    values = np.array([1, 3, 2, 5], np.float32)
    np.savez(folder / "graph_cora_ml.npz", **arrays, splits=splits, x_data=values)
    np.savez(folder / "graph_cora.npz", **arrays, split=splits[0], n_features=np.int32(4))


def test_files_are_read_and_rows_sum_to_one(tmp_path: Path) -> None:
    write_graph(tmp_path)
    data = model.load(CORA_ML, 1, str(tmp_path))
    assert data.x.to_dense().tolist() == [[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert data.test.tolist() == [False, False, False, True] and data.classes == 2
    assert model.load(CORA, 0, str(tmp_path)).x.to_dense()[0].tolist() == [0.5, 0, 0.5, 0]


def test_bytes_of_layers_are_counted() -> None:
    x, w = torch.ones(8, 4), torch.ones(4, 4, requires_grad=True)
    assert model.Kept().of(lambda: (x @ w).relu().sum().backward()) == x.nbytes + x.nbytes  # the input, the result
    assert model.Kept().of(lambda: [(x @ w).sum().backward() for _ in range(3)]) == x.nbytes


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_graph(tmp_path)
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "EPOCHS", 4)
    monkeypatch.setattr(model, "HIDDEN", 8)
    every = [(name, 1, way) for name in (BLOCKS, CORA_ML) for way in (SF, BP)]
    monkeypatch.setattr(experiment, "jobs", lambda quick: every)
    progress = Sum()
    records = experiment.measure(False, tmp_path, progress)
    assert progress.done == progress.total == 4 * len(DEPTHS)
    trained = [record for record in records if isinstance(record, Trained)]
    assert len(trained) == 2 * (2 * len(DEPTHS) + 1)
    assert {record.way for record in trained} == {SF, BP, LINEAR}
    assert all(0 <= record.accuracy <= 100 for record in trained)
    forward = kept(records, SF)
    assert len(set(forward.values())) == 1
    assert experiment.measure(False, None, Sum()) == [r for r in records if getattr(r, "data", BLOCKS) == BLOCKS]
    with pytest.raises(FileNotFoundError, match="gasteigerjo"):
        experiment.measure(False, tmp_path / "other", Sum())
