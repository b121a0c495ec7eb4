"""Number arrays in HDF5 files, part by part, with errors that name the file."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..images import ImageError
from ._limits import check_numbers

_DEFLATE = 1100         # bytes that one stored byte may stand for: zlib's best is 1032


def read_hdf5(path: Path, dataset: str, index: int | None = None) -> np.ndarray:
    """A dataset of a file, or its part `index` along the first axis; only that part is read.

    Raises ImageError for a file that is no HDF5, is damaged, lacks the dataset or holds something else than numbers in it,
    keeps them in another file, or claims more of them than it stores or than `_limits` allows; ValueError where h5py is
    missing.
    """
    with _opened(path) as file:
        found = _numbers(file, path, dataset)
        _check_size(found, found.shape if index is None else found.shape[1:], f"{path}: {dataset}")
        try:
            return found[()] if index is None else found[index]
        except (OSError, RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise ImageError(f"{path}: {dataset} cannot be read ({' '.join(str(error).split())}); the file is damaged or "
                             "incomplete; copy or download it again") from error


def shape_of(path: Path, dataset: str) -> tuple[int, ...]:
    """Of a dataset. Raises as `read_hdf5` does."""
    with _opened(path) as file:
        return _numbers(file, path, dataset).shape


def read_strings(path: Path, dataset: str, count: int) -> list[str] | None:
    """A MATLAB cell array of `count` strings: references to arrays of character codes. None where there is none such."""
    import h5py

    with _opened(path) as file:
        try:
            found = _within(file, path, dataset)
            if h5py.check_ref_dtype(found.dtype) is not h5py.Reference or found.size != count:
                return None
            cells = [file[cell] for cell in found[()].ravel()]
            return ["".join(map(chr, cell[()].ravel())) if cell.dtype.kind == "u" and cell.size < 256 else "" for cell in cells]
        except (ImageError, OSError, RuntimeError, ValueError, TypeError, AttributeError):
            return None


def _opened(path: Path):
    try:
        import h5py
    except ImportError:
        raise ValueError("data: HDF5 files are read by h5py; `pip install 'probes[data]'`") from None
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise ImageError(f"{path}: the file is no HDF5, damaged or incomplete ({' '.join(str(error).split())}); copy or "
                         "download it again") from error


def _within(file, path: Path, dataset: str):
    """A dataset that lies in this very file."""
    import h5py

    elsewhere = ImageError(f"{path}: its {dataset} is a link to another file, which is not followed")
    if isinstance(file.get(dataset, getlink=True), h5py.ExternalLink):
        raise elsewhere
    found = file.get(dataset)
    if not isinstance(found, h5py.Dataset):
        raise ImageError(f"{path}: it has no dataset {dataset!r}; it has {', '.join(sorted(file)[:8]) or 'nothing'}")
    if found.file.filename != file.filename:        # a link of this file to a link to another
        raise elsewhere
    if found.external or found.is_virtual:
        raise ImageError(f"{path}: its {dataset} lies in another file, which is not followed")
    return found


def _numbers(file, path: Path, dataset: str):
    found = _within(file, path, dataset)
    if found.dtype.kind not in "fiub":
        raise ImageError(f"{path}: its {dataset} holds {found.dtype}; expected numbers")
    return found


def _check_size(found, wanted: tuple[int, ...], name: str) -> None:
    """Of what is asked for, and of the chunks that are unpacked for it; and that so much may be stored in the file at all."""
    check_numbers(wanted, name)
    check_numbers(found.chunks or (), name)
    stored, claimed = found.id.get_storage_size(), math.prod(found.shape) * found.dtype.itemsize
    if claimed > _DEFLATE * stored:
        raise ImageError(f"{name}: an array of shape {list(found.shape)} in {stored:,} bytes, which cannot hold it; the file "
                         "is incomplete, or made to exhaust the memory; copy or download it again")
