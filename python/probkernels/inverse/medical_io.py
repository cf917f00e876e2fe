"""Volumes of medical scanners: NIfTI through nibabel, DICOM through pydicom."""

from __future__ import annotations

import gzip
import importlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.outputs import write_bytes

NIFTI = (".nii", ".nii.gz")


class Volume(NamedTuple):
    """A volume and where its voxels are.

    Attributes:
        data: (X, Y, Z, ...) float32.
        affine: (4, 4) float64: maps (i, j, k, 1) to millimeters, in the axes right, anterior and superior of NIfTI.
        spacing: distances of voxels along the first three axes, in millimeters.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Volume
        >>> Volume(torch.zeros(4, 4, 2), torch.eye(4).double(), (1.0, 1.0, 1.0)).data.shape
        torch.Size([4, 4, 2])
    """

    data: Tensor
    affine: Tensor
    spacing: tuple[float, float, float]


def load_volume(path: str | Path) -> Volume:
    """Reads a volume: a NIfTI file (``.nii``, ``.nii.gz``), a DICOM file, or a folder with a DICOM series' slices.

    Stored numbers are scaled as the file says (NIfTI's scl_slope, DICOM's RescaleSlope). Slices are sorted along the
    normal of their plane, and DICOM's axes left and posterior become right and anterior.

    Args:
        path: the file or folder.

    Raises:
        ImportError: nibabel or pydicom is not installed: ``pip install probkernels[medical]``.
        FileNotFoundError: there is no such file or folder, or the folder is empty.
        ValueError: the file is cut off or not of the format, or slices do not form one volume.

    Example:
        >>> from probkernels.inverse import load_volume
        >>> load_volume("scan.nii.gz")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"load_volume: there is no file or folder '{path}'")
    return _nifti(path) if path.is_file() and path.name.endswith(NIFTI) else _dicom(path)


def save_volume(
    path: str | Path, data: Tensor, affine: Tensor | Sequence[float] | None = None, *, overwrite: bool = False
) -> None:
    """Writes a volume as a NIfTI file, atomically: an interrupted call leaves no part of a file.

    Args:
        path: path of the file, ``.nii`` or ``.nii.gz``.
        data: (X, Y, Z, ...) real; float16 and bfloat16 are stored as float32, and bool as uint8.
        affine: (4, 4), as of :class:`Volume`; or three spacings in millimeters; None for 1 mm.
        overwrite: whether a file at ``path`` may be replaced.

    Raises:
        ImportError: nibabel is not installed.
        FileExistsError: there is a file, and ``overwrite`` is False.
        TypeError, ValueError: the data are no real tensor with three axes or more, or the affine has another shape.

    Example:
        >>> import torch
        >>> from probkernels.inverse import save_volume
        >>> save_volume("scan.nii.gz", torch.rand(8, 8, 4), (1.0, 1.0, 3.0))  # doctest: +SKIP
    """
    path = Path(path)
    if not path.name.endswith(NIFTI):
        raise ValueError(message("save_volume", "path", "a name that ends in .nii or .nii.gz", repr(path.name)))
    if not isinstance(data, Tensor) or data.is_complex():
        raise TypeError(message("save_volume", "data", "a real tensor", checks.describe(data)))
    if data.ndim < 3:
        hint = "a slice is a volume of one: data[..., None]"
        raise ValueError(message("save_volume", "data", "shape (X, Y, Z, ...)", f"shape {tuple(data.shape)}", hint))
    matrix = _affine(affine)
    nibabel = _library("save_volume", "nibabel")
    if path.exists() and not overwrite:
        raise FileExistsError(f"save_volume: there is already a file '{path}'. Hint: overwrite=True replaces it")
    data = data.detach().cpu()
    small = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.bool: torch.uint8}
    values = data.to(small.get(data.dtype, data.dtype)).numpy()
    image = nibabel.Nifti1Image(values, matrix, dtype=values.dtype)
    with tempfile.TemporaryDirectory() as folder:  # nibabel compresses by the file's name
        made = os.path.join(folder, f"volume{'.nii.gz' if path.name.endswith('.gz') else '.nii'}")
        nibabel.save(image, made)
        write_bytes(path, Path(made).read_bytes())


def _affine(affine: Any) -> np.ndarray:
    values = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    if values.shape == (3,):
        values = np.diag([*values, 1.0])
    if values.shape != (4, 4) or not np.isfinite(values).all():
        got = f"shape {values.shape}" if values.shape != (4, 4) else "one with NaN or infinity"
        raise ValueError(message("save_volume", "affine", "a finite (4, 4) matrix, or three spacings", got))
    return values


def _library(op: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "pip install 'probkernels[medical]'"
        raise ImportError(f"{op}: needs {name}, which is not installed. Hint: {hint}") from error


def _volume(data: np.ndarray, affine: np.ndarray) -> Volume:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return Volume(torch.from_numpy(np.ascontiguousarray(data)), torch.from_numpy(affine.copy()), (x, y, z))


def _broken(path: Path, what: str, error: Exception | str) -> ValueError:
    return ValueError(message("load_volume", "path", f"a whole {what}", f"'{path}': {error}", "it may be cut off"))


def _nifti(path: Path) -> Volume:
    nibabel = _library("load_volume", "nibabel")
    try:
        if path.name.endswith(".gz"):  # nibabel stops before the checksum at the end
            with gzip.open(path) as stream:
                while stream.read(1 << 20):
                    pass
        image = nibabel.load(path)
        data = image.get_fdata(dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise _broken(path, "NIfTI file", error) from error
    return _volume(data, np.asarray(image.affine, dtype=np.float64))


def _dicom(path: Path) -> Volume:
    """The slices of a folder, or the frames of a file, as one volume."""
    pydicom = _library("load_volume", "pydicom")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
    if not files:
        raise FileNotFoundError(f"load_volume: expected DICOM files in '{path}', got none")
    slices = [_slice(pydicom, file) for file in files]
    first = slices[0][0]
    for (_, pixels), file in zip(slices, files, strict=True):
        if pixels.shape != slices[0][1].shape:
            expected = f"slices of one size, {slices[0][1].shape}"
            raise ValueError(message("load_volume", "path", expected, f"{pixels.shape} in '{file}'"))
    series = {str(getattr(header, "SeriesInstanceUID", "")) for header, _ in slices}
    if len(series) > 1:
        raise ValueError(message("load_volume", "path", "one DICOM series", f"{len(series)} in '{path}'"))
    along_row, along_column = _directions(first)
    normal = np.cross(along_row, along_column)
    places = np.array([_position(header) for header, _ in slices])
    order = np.argsort(places @ normal, kind="stable")
    steps = np.diff(places[order] @ normal)
    if len(steps) and not (steps.min() > 0 and np.allclose(steps, steps.mean(), rtol=0.05)):
        raise ValueError(message("load_volume", "path", "slices at even distances", f"{np.unique(steps.round(4))} mm"))
    data = np.concatenate([slices[i][1] for i in order])  # (Z, rows, columns)
    between = float(getattr(first, "SpacingBetweenSlices", None) or getattr(first, "SliceThickness", None) or 1.0)
    step = (places[order[-1]] - places[order[0]]) / (len(slices) - 1) if len(slices) > 1 else normal * between
    rows, columns = (float(v) for v in getattr(first, "PixelSpacing", (1.0, 1.0)))
    affine = np.eye(4)
    affine[:3] = np.stack([along_row * columns, along_column * rows, step, places[order[0]]], 1)
    return _volume(data.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _slice(pydicom: Any, file: Path) -> tuple[Any, np.ndarray]:
    """A file's header and its frames (frames, rows, columns), in the units of the scanner."""
    try:
        header = pydicom.dcmread(file)
        pixels = np.asarray(header.pixel_array, dtype=np.float32)
    except (OSError, EOFError, ValueError, AttributeError, pydicom.errors.InvalidDicomError) as error:
        raise _broken(file, "DICOM file with pixels", error) from error
    if int(getattr(header, "SamplesPerPixel", 1)) != 1:
        raise ValueError(message("load_volume", "path", "DICOM files with one number a pixel", f"colors in '{file}'"))
    scaled = pixels * float(getattr(header, "RescaleSlope", 1)) + float(getattr(header, "RescaleIntercept", 0))
    return header, scaled.astype(np.float32).reshape(-1, *scaled.shape[-2:])


def _directions(header: Any) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([float(v) for v in getattr(header, "ImageOrientationPatient", (1, 0, 0, 0, 1, 0))])
    return values[:3], values[3:]


def _position(header: Any) -> np.ndarray:
    """Where the slice's first pixel is; without a place, its number in the series stands for one."""
    place = getattr(header, "ImagePositionPatient", None)
    number = float(getattr(header, "InstanceNumber", None) or 0)
    return np.array([float(v) for v in (place if place is not None else (0, 0, number))])
