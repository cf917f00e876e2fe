"""Trains a codec on data in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from .._core import checks
from .._core.errors import message
from ..circuits import EM, hclt
from ._fitting import check_memory, check_size, fit_flow
from .layout import Layout, as_array, whole
from .pc_codec import PCCodec

FEW = 4096  # rows up to which every step of EM sees all of them
MOST_ROWS = 100_000
MOST_CATEGORIES = 65536


def train(
    items: np.ndarray | torch.Tensor, *, latents: int = 16, tile: tuple[int, int] | None = None,
    categories: int | Sequence[int] | None = None, epochs: int | None = None, most_rows: int = MOST_ROWS, seed: int = 0,
    checkpoint: str | Path | None = None, progress: bool = True, note: Mapping[str, object] | None = None,
    flow: bool = False,
) -> PCCodec:  # fmt: skip
    """Trains a codec with a hidden Chow-Liu tree (HCLT) on items like those to compress.

    Args:
        items: (N, ...) integers, as an array in memory, a memory map or a CPU tensor.
        latents: number of states of each latent variable. More states compress better but cost time and a larger model.
        tile: (height, width) of the tiles that images are cut into. None for no tiles.
        categories: number of codes of each variable, or one number for all. By default up to the largest value seen, or
            256 for 8-bit items that use more than half of the 256 values. Chunks with other values are stored without
            the model.
        epochs: number of EM epochs. By default 60 for up to 4,096 rows, else 20.
        most_rows: largest number of rows (items or tiles) to learn from. If there are more, they are sampled.
        seed: seed of the sample and the parameters.
        checkpoint: path of a checkpoint of the training. The same call resumes from it, see
            :meth:`probkernels.circuits.EM.fit`.
        progress: whether to show a progress bar.
        note: JSON data to store in the model file.
        flow: whether to fit an :class:`IntegerFlow` first, whose latents the tree then models. Helps with photos and
            other data in which a value is close to its neighbors' values.

    Raises:
        TypeError: the items are not integers, or a setting has the wrong type.
        ValueError: there are no items, more than 65,536 values, or too many items for the memory, or a setting is out
            of range.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022.

    Example:
        >>> import numpy as np
        >>> from probkernels import codec
        >>> images = np.random.default_rng(0).integers(0, 4, (200, 3, 1), np.uint8).repeat(3, axis=2)
        >>> model = codec.train(images, latents=4, progress=False)
        >>> len(model.compress(images)) < images.size // 4  # four values and three alike: two bits for three
        True
    """
    items = _array(items)
    for name, value in (("latents", latents), ("most_rows", most_rows)):
        checks.integer("train", name, value)
    checks.integer("train", "seed", seed, 0)
    layout = Layout(items.shape[1:], items.dtype.name, 0, tile)
    check_memory(layout, len(items), most_rows)
    rows = _sample(items, layout, most_rows, seed)
    low = min(int(rows.min()), 0) if layout.dtype[1:] in ("u1", "i1") else int(rows.min())
    span = int(rows.max()) - low + 1  # of any size: a difference of int64 might not fit into one
    if span > MOST_CATEGORIES:
        hint = "quantize them, or code differences"
        raise ValueError(message("train", "items", f"at most {MOST_CATEGORIES} values", f"a range of {span}", hint))
    rows -= low
    x = torch.from_numpy(rows)
    few = len(x) <= FEW
    categories = _categories(categories, rows, layout)
    check_size([categories] * layout.variables if isinstance(categories, int) else categories, latents)
    frozen = fit_flow(x, categories, seed, progress) if flow else None
    if frozen is not None:
        x = torch.from_numpy(frozen.encode(rows)).long()
    circuit = hclt(x, latents, categories=categories, seed=seed)
    trainer = EM(circuit, batch_size=None, pseudocount=1.0, seed=seed) if few else EM(circuit, seed=seed)
    trainer.fit(x, epochs=(60 if few else 20) if epochs is None else epochs, checkpoint=checkpoint, progress=progress)
    return PCCodec(circuit, offset=low, tile=tile, flow=frozen, note=note)


def _array(items: object) -> np.ndarray:
    if isinstance(items, torch.Tensor) and items.device.type == "cpu":
        items = items.detach().numpy()
    if not isinstance(items, np.ndarray):
        hint = "items.to_numpy() of columns of whole numbers; tables of text: the command line, or codec.Vocabulary"
        raise TypeError(message("train", "items", "an array of whole numbers", checks.describe(items), hint))
    items = as_array("train", items)
    if items.ndim == 0 or len(items) == 0:
        raise ValueError(message("train", "items", "at least one item", f"shape {items.shape}"))
    return items


def _sample(items: np.ndarray, layout: Layout, most_rows: int, seed: int) -> np.ndarray:
    """Rows of codes (N, V) int64 of randomly chosen items, at most ``most_rows`` rows."""
    random_numbers = np.random.default_rng(seed)
    most_items = max(1, most_rows // layout.rows_per_item)
    if len(items) > most_items:
        items = items[np.sort(random_numbers.choice(len(items), most_items, replace=False))]
    rows = layout.codes(layout.checked("train", items))
    if len(rows) > most_rows:
        rows = rows[np.sort(random_numbers.choice(len(rows), most_rows, replace=False))]
    return rows


def _categories(given: object, rows: np.ndarray, layout: Layout) -> int | list[int]:
    """The alphabet of every variable, or one for all."""
    if given is None:
        return _alphabet(rows, layout.dtype)
    if isinstance(given, (list, tuple)):
        return [whole("train", "categories", size) for size in given]
    size = whole("train", "categories", given)
    if size <= rows.max():
        raise ValueError(message("train", "categories", f"at least {rows.max() + 1}, as the data has", str(size)))
    return size


def _alphabet(rows: np.ndarray, dtype: str) -> int:
    size = int(rows.max()) + 1
    if dtype == "|u1" and size > 128:
        return 256
    return size
