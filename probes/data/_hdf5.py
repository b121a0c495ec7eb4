"""Number arrays in HDF5 files, part by part, with errors that name the file."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from ..images import ImageError


def read_hdf5(path: Path, dataset: str, index: int | None = None) -> np.ndarray:
    """A dataset of a file, or its part `index` along the first axis; only that part is read.

    Raises ImageError for a file that is no HDF5, is damaged, lacks the dataset or holds something else than numbers in it,
    or keeps them in another file; ValueError where h5py is missing.
    """
    with _opened(path) as file:
        found = _numbers(file, path, dataset)
        try:
            return found[()] if index is None else found[index]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise ImageError(f"{path}: {dataset} cannot be read ({' '.join(str(error).split())}); the file is damaged or "
                             "incomplete; copy or download it again") from error


def shape_of(path: Path, dataset: str) -> tuple[int, ...]:
    """Of a dataset. Raises as `read_hdf5` does."""
    with _opened(path) as file:
        return _numbers(file, path, dataset).shape


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


def _numbers(file, path: Path, dataset: str):
    import h5py

    if isinstance(file.get(dataset, getlink=True), h5py.ExternalLink):
        raise ImageError(f"{path}: its {dataset} is a link to another file, which is not followed")
    found = file.get(dataset)
    if not isinstance(found, h5py.Dataset):
        raise ImageError(f"{path}: it has no dataset {dataset!r}; it has {', '.join(sorted(file)[:8]) or 'nothing'}")
    if found.dtype.kind not in "fiub":
        raise ImageError(f"{path}: its {dataset} holds {found.dtype}; expected numbers")
    if found.external or found.is_virtual:
        raise ImageError(f"{path}: its {dataset} lies in another file, which is not followed")
    return found
