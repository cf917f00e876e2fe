"""Volumes as files: written and read again, cut off, and without the libraries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.inverse import load_volume, save_volume


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nibabel", "pydicom"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_libraries")
def test_without_the_libraries_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "a.dcm").write_bytes(b"x")
    for name, library in (("a.nii.gz", "nibabel"), ("a.dcm", "pydicom")):
        with pytest.raises(ImportError, match=rf"needs {library}.*probkernels\[medical\]"):
            load_volume(tmp_path / name)
    with pytest.raises(ImportError, match=r"save_volume: needs nibabel.*probkernels\[medical\]"):
        save_volume(tmp_path / "b.nii", torch.zeros(2, 2, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dcm", "a.nii.gz"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("a.png", torch.zeros(2, 2, 2)), ValueError, "'path'"),
        (("a.nii", torch.zeros(2, 2)), ValueError, "'data'.*data"),
        (("a.nii", torch.zeros(2, 2, 2, dtype=torch.complex64)), TypeError, "'data'"),
        (("a.nii", torch.zeros(2, 2, 2), torch.eye(3)), ValueError, "'affine'"),
        (("a.nii", torch.zeros(2, 2, 2), (1.0, float("nan"), 1.0)), ValueError, "'affine'.*NaN"),
    ],
)
def test_bad_input(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        save_volume(*arguments)
    with pytest.raises(FileNotFoundError, match="no file or folder 'nowhere'"):
        load_volume("nowhere")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti(tmp_path: Path, name: str) -> None:
    pytest.importorskip("nibabel")
    path, data = tmp_path / name, torch.randn(16, 15, 14)
    affine = torch.tensor([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]], dtype=torch.float64)
    save_volume(path, data, affine)
    found = load_volume(path)
    assert torch.equal(found.data, data) and torch.equal(found.affine, affine) and found.spacing == (1.5, 2.0, 3.0)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_volume(path, data)
    save_volume(path, data > 0, (1.0, 2.0, 3.0), overwrite=True)
    found = load_volume(path)
    assert torch.equal(found.data, (data > 0).float()) and found.spacing == (1.0, 2.0, 3.0)
    save_volume(path, data, overwrite=True)
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="'path': expected a whole NIfTI file"):
            load_volume(path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def write_slice(path: Path, pixels: np.ndarray, z: float, series: str = "1.2.3") -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID, d.SeriesInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID, series
    d.Rows, d.Columns = pixels.shape
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 0
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.RescaleSlope, d.RescaleIntercept = 15, 2, -10
    d.PixelSpacing, d.ImageOrientationPatient, d.ImagePositionPatient = [0.5, 0.25], [1, 0, 0, 0, 1, 0], [-3, 4, z]
    d.PixelData = pixels.astype("<u2").tobytes()
    d.save_as(path, enforce_file_format=True)


def test_dicom(tmp_path: Path) -> None:
    """Slices in the order of their places, whatever their names; rows are the second axis."""
    pytest.importorskip("pydicom")
    pixels = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for name, i in (("a", 2), ("b", 0), ("c", 1)):
        write_slice(tmp_path / f"{name}.dcm", pixels[i], 1.0 + 3 * i)
    found = load_volume(tmp_path)
    assert torch.equal(found.data, torch.from_numpy(pixels.transpose(2, 1, 0) * 2.0 - 10).float())
    assert found.spacing == (0.25, 0.5, 3.0)
    corner = found.affine @ torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    assert corner.tolist() == [-(-3 + 4 * 0.25), -(4 + 3 * 0.5), 7.0, 1.0]
    one = load_volume(tmp_path / "a.dcm")
    assert torch.equal(one.data[..., 0], found.data[..., 2])
    whole = (tmp_path / "a.dcm").read_bytes()
    for size in (50, len(whole) - 9):
        (tmp_path / "a.dcm").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"'path': expected a whole DICOM file.*a\.dcm"):
            load_volume(tmp_path)
    write_slice(tmp_path / "a.dcm", pixels[2], 9.0)
    with pytest.raises(ValueError, match="even distances"):
        load_volume(tmp_path)
    write_slice(tmp_path / "a.dcm", pixels[2], 7.0, series="1.2.4")
    with pytest.raises(ValueError, match="one DICOM series"):
        load_volume(tmp_path)
