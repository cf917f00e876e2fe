"""Converts items (images, table rows, sensor frames) to rows of codes, the input of a model, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._core import checks
from .._core.errors import message

DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<i8")  # a file's dtype code is the place here
MOST_DIMENSIONS = 8
MOST_VARIABLES = 2**24
MOST_VALUES = 2**31  # of one item


@dataclass(frozen=True)
class Layout:
    """The layout of an item: its shape, its dtype, and how its values become codes 0, 1, ...

    A value v has the code v - offset. With ``tile`` (height, width), an item (H, W) or (H, W, C) is cut into tiles, row
    by row. Tiles at the right and lower edges are padded by repeating the last column and row. Each tile is a row of
    codes. Without ``tile``, the flattened item is one row of codes.

    Args:
        shape: shape of one item, without the axis of items. () for a column of single values.
        dtype: NumPy integer dtype of the items, at most 64 bits, but not uint64.
        offset: the value that has code 0.
        tile: (height, width) of a tile, or None.

    Raises:
        TypeError: the dtype is not supported, or sizes or the offset are not whole numbers.
        ValueError: a size is below one or too large, or a tile comes with items that have not two or three dimensions.

    Example:
        >>> import numpy as np
        >>> from probkernels.codec import Layout
        >>> layout = Layout((6, 4), "uint8", tile=(4, 4))
        >>> layout.rows_per_item, layout.variables
        (2, 16)
        >>> images = np.arange(24, dtype=np.uint8).reshape(1, 6, 4)
        >>> bool((layout.items(layout.codes(images)) == images).all())
        True
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"
    offset: int = 0
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_of(self.dtype))
        object.__setattr__(self, "shape", sizes("Layout", "shape", self.shape))
        object.__setattr__(self, "offset", whole("Layout", "offset", self.offset))
        if len(self.shape) > MOST_DIMENSIONS or min(self.shape, default=1) < 1 or math.prod(self.shape) > MOST_VALUES:
            wanted = f"at most {MOST_DIMENSIONS} sizes >= 1 with a product of at most {MOST_VALUES}"
            raise ValueError(message("Layout", "shape", wanted, str(self.shape)))
        if not -(2**63) <= self.offset < 2**63:
            raise ValueError(message("Layout", "offset", "an int64", str(self.offset)))
        if self.tile is not None:
            object.__setattr__(self, "tile", sizes("Layout", "tile", self.tile))
            if len(self.shape) not in (2, 3):
                raise ValueError(message("Layout", "tile", "None, as items are no images", f"items of {self.shape}"))
            if len(self.tile) != 2 or any(not 1 <= size <= MOST_VARIABLES for size in self.tile):
                raise ValueError(message("Layout", "tile", "two sizes >= 1", str(self.tile)))
            if self.rows_per_item * self.variables > 2 * MOST_VALUES:
                raise ValueError(message("Layout", "tile", "tiles no larger than the image", str(self.tile)))
        if self.variables > MOST_VARIABLES:
            raise ValueError(message("Layout", "shape", f"at most {MOST_VARIABLES} variables", str(self.variables)))

    @property
    def rows_per_item(self) -> int:
        """Number of rows of codes in one item: its tiles."""
        return math.prod(self._grid) if self.tile else 1

    @property
    def variables(self) -> int:
        """Number of codes in a row."""
        return math.prod((*self.tile, *self.shape[2:]) if self.tile else self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of one uncompressed item."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def _grid(self) -> tuple[int, int]:
        assert self.tile is not None
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    def codes(self, items: np.ndarray) -> np.ndarray:
        """Converts items (N, *shape) to codes (N * rows_per_item, variables) int64. Differences wrap modulo 2**64, so
        every value can be restored whatever the offset.
        """
        wide = items.astype(np.int64) - np.int64(self.offset)
        if self.tile is None:
            return wide.reshape(len(items), self.variables)
        down, across = self._grid
        (height, width), rest = self.tile, wide.shape[3:]
        edges = [(0, 0), (0, down * height - self.shape[0]), (0, across * width - self.shape[1])]
        wide = np.pad(wide, edges + [(0, 0)] * len(rest), mode="edge")
        wide = wide.reshape(len(items), down, height, across, width, *rest).swapaxes(2, 3)
        return np.ascontiguousarray(wide).reshape(len(items) * down * across, self.variables)

    def items(self, codes: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`codes`, in the layout's dtype."""
        values = codes.astype(np.int64) + np.int64(self.offset)
        if self.tile is not None:
            down, across = self._grid
            (height, width), rest = self.tile, self.shape[2:]
            values = values.reshape(-1, down, across, height, width, *rest).swapaxes(2, 3)
            values = values.reshape(-1, down * height, across * width, *rest)[:, : self.shape[0], : self.shape[1]]
        return np.ascontiguousarray(values.reshape(-1, *self.shape).astype(self.dtype))

    def checked(self, op: str, items: object) -> np.ndarray:
        """Checks items and returns them as a contiguous array of the layout's dtype.

        Raises:
            TypeError: the items are not integers, of another dtype, or masked.
            ValueError: the items have another shape.
        """
        array = as_array(op, items)
        if array.dtype.newbyteorder("<").str != self.dtype:
            raise TypeError(message(op, "items", f"dtype {np.dtype(self.dtype)}", str(array.dtype)))
        if array.shape[1:] != self.shape or array.ndim != len(self.shape) + 1:
            raise ValueError(message(op, "items", f"shape (N, *{self.shape})", str(array.shape)))
        return np.ascontiguousarray(array.astype(self.dtype, copy=False))


def whole(op: str, name: str, value: object, least: int | None = None) -> int:
    """Checks for a whole number >= ``least``, Python's or NumPy's. Rejects everything that ``int`` would truncate.

    Example:
        >>> import numpy as np
        >>> from probkernels.codec.layout import whole
        >>> whole("f", "n", np.int64(3))
        3
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(message(op, name, "a whole number", checks.describe(value)))
    if least is not None and value < least:
        raise ValueError(message(op, name, f"a number >= {least}", str(value)))
    return int(value)


def read_only(array: np.ndarray) -> np.ndarray:
    """A contiguous copy that nobody can write to: what a model's identity and its cached parts come from."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def dtype_of(value: object) -> str:
    """The name of a dtype that a file can have, in the byte order of files.

    Example:
        >>> from probkernels.codec.layout import dtype_of
        >>> dtype_of("int16"), dtype_of(">i4")
        ('<i2', '<i4')
    """
    try:
        name = np.dtype(value).newbyteorder("<").str  # type: ignore[call-overload]
    except TypeError:  # no dtype at all
        name = ""
    if name not in DTYPES:
        hint = "quantize floats to integers first; bool as uint8; uint64 as int64, if below 2**63"
        raise TypeError(message("Layout", "dtype", "integers of at most 64 bits", str(value), hint))
    return str(name)


def sizes(op: str, name: str, value: object) -> tuple[int, ...]:
    """Whole numbers of a tuple or a list.

    Example:
        >>> from probkernels.codec.layout import sizes
        >>> sizes("f", "tile", [8, 8])
        (8, 8)
    """
    if not isinstance(value, (tuple, list)):
        raise TypeError(message(op, name, "a tuple of whole numbers", checks.describe(value)))
    return tuple(whole(op, name, size) for size in value)


def as_array(op: str, items: object) -> np.ndarray:
    """Converts an array, CPU tensor or list of items to an array.

    Example:
        >>> from probkernels.codec.layout import as_array
        >>> as_array("f", [[1, 2]]).shape
        (1, 2)
    """
    hint = ""
    if isinstance(items, np.ma.MaskedArray):  # whose mask no file keeps
        hint = "items.filled(value), with a value that stands for what is missing"
    else:
        try:
            return np.asarray(items)
        except (
            ValueError,
            TypeError,
            RuntimeError,
        ):  # ragged lists; tensors elsewhere, with a gradient, or of bfloat16
            pass
    raise TypeError(message(op, "items", "an array of whole numbers", checks.describe(items), hint))
