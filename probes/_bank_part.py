"""A bank under construction: its arrays on disk, how many of their rows are safe, and whether those are what was written.

    KEY.part/NAME.npy           from its first row on as long as it will be, filled row by row
    KEY.part/progress.json      how many rows are safe, what was cut off of them, and of each file its length and the sha256 of
                                its bytes up to the last safe row

A part whose files are not what its progress says is begun again: lost rows would be learnt from as if they were right.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ._files import OutputError, write_bytes_atomically, write_text_atomically


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Where the block meets a full disk, a read-only folder and the like: an OutputError that names the file, else `path`,
    and what gives banks another place."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, f"{error.strerror or error} (banks are kept below PROBES_CACHE)",
                          str(error.filename or path)) from error


def sealed(about: dict) -> dict:
    """`about` with its `json_sha256`, for `check_seal`."""
    return {**about, "sha256": json_sha256(about)}


def check_seal(about: dict) -> None:
    """Raises ValueError where what was sealed is another by now."""
    if about.get("sha256") != json_sha256({name: value for name, value in about.items() if name != "sha256"}):
        raise ValueError("it was altered since it was written")


def json_sha256(about: dict | list) -> str:
    """The sha256 of what can be said in JSON."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class Part:
    """The folder of a bank of `total` rows before it is one; what an earlier process left there is taken up.

    Attributes:
        done: rows that were safe when it was opened
        cut: what was cut off of them
        arrays: memory maps by name, there once a first row is
    """

    def __init__(self, folder: Path, total: int):
        self.folder, self.total = folder, total
        self.done, self.cut = 0, 0.0
        self.arrays: dict[str, np.ndarray] = {}
        self._digests: dict[str, hashlib._Hash] = {}        # of each file, up to the last row written
        self._mark = folder / "progress.json"
        found, wrong = None, None
        if self._mark.exists():
            try:
                found = self._read()
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                wrong = error
        if found is None:
            self.discard()
            with storing(folder):
                folder.mkdir(parents=True)
        else:
            with storing(folder):
                self.arrays = {name: np.lib.format.open_memmap(self._file(name), "r+") for name in found["arrays"]}
            self.done, self.cut = found["done"], found["cut"]
        if wrong is not None:
            warnings.warn(f"bank: {folder} is not as it was left ({wrong}); it is begun again", UserWarning, stacklevel=2)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read(self) -> dict:
        """What the progress says, after its rows were read and found to be those that were written."""
        found = json.loads(self._mark.read_text())
        check_seal(found)
        for name, told in found["arrays"].items():
            digest, left = hashlib.sha256(), told["safe"]
            with open(self._file(name), "rb") as file:
                whole = os.fstat(file.fileno()).st_size == told["size"]
                while whole and (block := file.read(min(left, 1 << 20))):
                    digest.update(block)
                    left -= len(block)
            if left or digest.hexdigest() != told["sha256"]:
                raise ValueError(f"{name}.npy was truncated or altered")
            self._digests[name] = digest
        return found

    def write(self, start: int, values: dict[str, np.ndarray]) -> None:
        """Rows from `start` on; what is written follows what was."""
        for name, value in values.items():
            path = self._file(name)
            if name not in self.arrays:
                with storing(path):
                    self.arrays[name] = _allocate(path, value.dtype, (self.total, *value.shape[1:]))
                    with open(path, "rb") as file:
                        self._digests[name] = hashlib.sha256(file.read(self.arrays[name].offset))
            rows = self.arrays[name][start:start + len(value)]
            rows[:] = value
            self._digests[name].update(rows)

    def keep(self, done: int, cut: float) -> None:
        """Makes all that was written, `done` rows, safe: a build that is killed goes on from here."""
        with storing(self.folder):
            for array in self.arrays.values():
                array.flush()
            arrays = {name: dict(size=os.path.getsize(self._file(name)), safe=array.offset + array[:done].nbytes,
                                 sha256=self._digests[name].hexdigest()) for name, array in self.arrays.items()}
            write_text_atomically(self._mark, json.dumps(sealed(dict(done=done, cut=cut, arrays=arrays))))

    def mean(self) -> np.ndarray | None:
        """Of the targets, float32 [C, H, W]: 0 where no image has a value; None where there is no value at all."""
        targets, blocks = self.arrays["target"], range(0, self.total, 256)
        sums = sum(np.nansum(targets[i:i + 256], 0, np.float64) for i in blocks)
        known = sum((~np.isnan(targets[i:i + 256])).sum(0) for i in blocks)
        return (sums / np.maximum(known, 1)).astype(np.float32) if known.any() else None

    def finish(self, target: Path, mean: np.ndarray, about: dict) -> None:
        """Gives the bank its manifest and its name; every row is written and kept."""
        raw = io.BytesIO()
        np.save(raw, mean)
        files = {f"{name}.npy": digest.hexdigest() for name, digest in self._digests.items()}
        arrays = {name: dict(shape=list(a.shape), dtype=str(a.dtype)) for name, a in self.arrays.items()}
        manifest = dict(about, files=files | {"mean.npy": hashlib.sha256(raw.getvalue()).hexdigest()}, arrays=arrays)
        self.arrays.clear()
        with storing(target):
            write_bytes_atomically(self.folder / "mean.npy", raw.getvalue())
            write_text_atomically(self.folder / "manifest.json", json.dumps(sealed(manifest), indent=2))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(self.folder, target)
            (target / self._mark.name).unlink()

    def discard(self) -> None:
        self.arrays.clear()
        self._digests.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _allocate(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new memory map whose space on disk is taken now: a full disk must be an error, not a crash later."""
    array = None
    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    except OSError:
        del array
        with suppress(OSError):         # a folder that cannot be written refuses this too; the first error is the one to tell
            path.unlink(missing_ok=True)
        raise
    return array
