"""Files of --data: each kind is read, what is missing is named with where it is published, damage is named."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from probkernels.reproduce.harness import data_files


def fill(folder: Path) -> None:
    np.savez(folder / "mnist1d.npz", x=np.ones((3, 40)), y=np.arange(3), x_test=np.ones((2, 40)), y_test=np.arange(2))
    for i in range(3):
        with lzma.open(folder / f"fashion_mnist_train_images_{i}.npy.xz", "wb") as file:
            np.lib.format.write_array(file, np.full((2, 4, 4), i, np.uint8))
    with gzip.open(folder / "tinyshakespeare.txt.gz", "wt", encoding="utf-8", newline="") as text:
        text.write("To be é\r\n")
    (folder / "hare_lynx.csv").write_text("year,hare,lynx\n1845,19.58,30.09\n1846,19.6,45.15\n")


def test_every_kind_is_read(tmp_path: Path) -> None:
    fill(tmp_path)
    assert data_files.load(tmp_path, "mnist1d")["x"].shape == (3, 40)
    images = data_files.load(tmp_path, "fashion_mnist_train")
    assert images.shape == (6, 4, 4) and images[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert data_files.load(tmp_path, "tinyshakespeare") == "To be é\r\n"
    assert data_files.load(tmp_path, "hare_lynx")[1].tolist() == [1846.0, 19.6, 45.15]
    assert data_files.has(tmp_path, "fashion_mnist_train") and not data_files.has(tmp_path, "photos")
    assert not data_files.has(None, "photos")


def test_what_is_missing_is_named_with_where_it_is_published(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "fashion_mnist_train_images_1.npy.xz").unlink()
    with pytest.raises(FileNotFoundError, match=r"images_1.npy.xz', got none. Hint: published: .*fashion-mnist"):
        data_files.load(tmp_path, "fashion_mnist_train")
    assert all(data.published and data.files for data in data_files.KNOWN.values())


def test_other_contents_and_damage_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist1d.npz", x=np.ones(3))
    with pytest.raises(ValueError, match=r"mnist1d.npz': expected an array 'y', got x"):
        data_files.load(tmp_path, "mnist1d")
    fill(tmp_path)
    for name, file in (("mnist1d", "mnist1d.npz"), ("tinyshakespeare", "tinyshakespeare.txt.gz")):
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match=f"{file}': cannot be read"):
            data_files.load(tmp_path, name)
    np.savez(tmp_path / "mnist1d.npz", x=np.array([{}], dtype=object), y=1, x_test=1, y_test=1)
    with pytest.raises(ValueError, match=r"mnist1d.npz': cannot be read"):  # pickles are not loaded
        data_files.load(tmp_path, "mnist1d")
