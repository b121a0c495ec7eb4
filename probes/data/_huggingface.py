"""A dataset of the Hugging Face hub by its id, or any folder that `datasets.load_dataset` reads.

    hf:OWNER/NAME,split=test,depth=depth_map,depth_scale=1000

Columns: `image`, and one for each intrinsic that is there: named as the intrinsic, or by the option of its name. A column may
hold images (grey of 8 or 16 bits, colour of 8; their codes become maps as `_map_files.read_map` says: depth needs
depth_scale=, normals frame=) or arrays [H, W], [H, W, C] or [C, H, W] of physical values.

Datasets that come with a loading script are refused: no code of a dataset is run. With streaming=true nothing is stored; the
rows come in their order, and to ask for row i costs reading all before it, unless the last one asked for came before it.
"""
from __future__ import annotations

import hashlib
import inspect
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from generators._names import unknown

from .._intrinsics import intrinsics
from ..images import ImageError, Photo, read_image
from ..images._file import formats, reading
from ._map_files import check_frame, physical, read_picture, same_size
from ._options import depth_unit, flag, number
from ._photographs import Photographs
from ._sample import Sample

_ALSO = {"image": ("rgb", "img", "photo"), "normal": ("normals",), "depth": ("depth_map",)}


class HuggingFace(Photographs):
    """The rows of one split.

    Args:
        path: OWNER/NAME on the hub, or a folder of Parquet files, images, …
        split: by default test, validation or train, whichever is there first
        config: of datasets that have several
        image, normal, depth, albedo, shading: names of columns
        frame, depth_scale: see `probes.data._map_files.read_map`
        revision: branch, tag or commit
        streaming: read over the network without storing; see above
        count: of rows, where streaming cannot tell
    """

    masked = True

    def __init__(self, path: str | Path, split: str | None = None, config: str | None = None, image: str | None = None,
                 normal: str | None = None, depth: str | None = None, albedo: str | None = None, shading: str | None = None,
                 frame: str | None = None, depth_scale: str | float | None = None, revision: str | None = None,
                 streaming: str | bool = False, count: str | int | None = None):
        folder = Path(path).expanduser()
        source = str(folder.resolve()) if folder.exists() else Path(path).as_posix()
        self._frame, self._unit = frame, depth_unit(depth_scale)
        if frame is not None:
            check_frame(frame)
        self.streaming = flag("streaming", streaming)
        rows, split = _load(source, split, config, revision, self.streaming)
        columns = list(rows.column_names or [])
        named = dict(image=image, normal=normal, depth=depth, albedo=albedo, shading=shading)
        self.columns = _columns(columns, named, source)
        kept = list(self.columns.values())
        self._rows = _undecoded(rows.select_columns(kept), kept)
        self.count = self._counted(rows, split, count, source)
        self.exact = tuple(name for name in self.columns if name != "image")
        self.found = {name: self.count for name in self.exact}
        self.name = f"{source}, {split}"
        self._identity = f"{source} {config} {split} {revision} {self.columns} {frame} {depth_scale} {self.count}"
        self._walk, self._next, self._lock = None, 0, threading.Lock()

    def _counted(self, rows: Any, split: str, count: str | int | None, source: str) -> int:
        if not self.streaming:
            return len(rows)
        known = (rows.info.splits or {}).get(split)
        if count is None and known is None:
            raise ValueError(f"count: {source} does not tell how many rows {split} has; give count=N")
        return int(number("count", count)) if count is not None else known.num_examples

    def sample_name(self, index: int) -> str:
        return f"{index:06d}"

    def files(self, index: int) -> list[Path]:
        return []

    @property
    def fingerprint(self) -> str:
        """Of what was asked for, and of the stored tables, which `datasets` fingerprints; of streamed ones the former only."""
        stored = "" if self.streaming else self._rows._fingerprint
        return hashlib.sha256(f"hf {self._identity} {stored}".encode()).hexdigest()

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        self.require(intrinsics)
        self.check((index,))
        row = self._row(index)
        name = f"{self.name}, row {index}"
        image = read_image(_picture(row[self.columns["image"]], name), name)
        maps = {key: self._map(row[self.columns[key]], key, f"{name}, {self.columns[key]}") for key in intrinsics}
        same_size(maps, image.pixels, name)
        return Sample(self.sample_name(index), image.pixels, maps)

    def _row(self, index: int) -> dict:
        if not self.streaming:
            return self._rows[index]
        with self._lock:                            # one stream, however many threads ask
            if self._walk is None or index < self._next:
                self._walk, self._next = iter(self._rows), 0
            while True:
                try:
                    row = next(self._walk)
                except StopIteration:
                    raise ImageError(f"{self.name}: it ended after {self._next} rows, row {index} was asked for; give "
                                     f"count={self._next}") from None
                self._next += 1
                if self._next == index + 1:
                    return row

    def _map(self, value: Any, intrinsic: str, name: str) -> Tensor:
        unit = self._unit
        if isinstance(value, (dict, Image.Image)):
            values = read_picture(_picture(value, name), name, intrinsic, self._frame, unit)
        else:
            if value is None:
                raise ImageError(f"{name}: the cell is empty; expected a map")
            try:
                values = np.asarray(value, np.float32)
            except (TypeError, ValueError) as error:
                raise ImageError(f"{name}: it holds {type(value).__name__}, which is no array of numbers ({error})") from error
        return physical(values, intrinsic, name, self._frame or "omnidata", 1.0 if unit is None else unit)


def _load(source: str, split: str | None, config: str | None, revision: str | None, streaming: bool) -> tuple[Any, str]:
    try:
        import datasets
    except ImportError:
        raise ValueError("data: datasets of the Hugging Face hub are read by the package datasets; "
                         "`pip install 'probes[data]'`") from None
    options: dict[str, Any] = dict(name=config, revision=revision, streaming=streaming)
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:      # before version 4
        options["trust_remote_code"] = False
    try:
        found = datasets.load_dataset(source, **options)
    except Exception as error:      # of a hub, a network, a script, a table: the library raises some thirty kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"data: hf:{source} cannot be opened ({type(error).__name__}: {reason}); check the name, give config= "
                         "where it has several, log in with `hf auth login` where it is gated") from error
    there = list(found)
    if split is None:
        split = next((name for name in ("test", "validation", "val", "train") if name in there), there[0])
    if split not in there:
        raise unknown("split", split, there)
    return found[split], split


def _columns(there: list[str], named: dict[str, str | None], source: str) -> dict[str, str]:
    """What is in which column."""
    found = {}
    for key in ("image", *intrinsics()):
        told = named.get(key)
        if told is not None and told not in there:
            raise unknown(key, told, there)
        column = told or next((name for name in (key, *_ALSO.get(key, ())) if name in there), None)
        if column is not None:
            found[key] = column
    if "image" not in found:
        raise ValueError(f"image: hf:{source} has no column image; choose of {', '.join(there)} with image=COLUMN")
    return found


def _undecoded(rows: Any, columns: list[str]) -> Any:
    """Images as the bytes they are: one that is damaged is then an error of its row, by name."""
    import datasets

    for column in columns:
        if isinstance((rows.features or {}).get(column), datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _picture(value: Any, name: str) -> Any:
    """A cell -> what read_image takes."""
    if isinstance(value, dict) and value.get("bytes") is not None:
        with reading(name):
            return Image.open(io.BytesIO(value["bytes"]), formats=[kind for kind in formats() if kind != "TGA"])
    if isinstance(value, dict) and value.get("path"):
        if Path(value["path"]).is_file():
            return Path(value["path"])
        import datasets

        with reading(name):
            return datasets.Image().decode_example(value)
    if isinstance(value, (Image.Image, Photo)):
        return value
    if isinstance(value, (list, np.ndarray)):
        return np.asarray(value, np.uint8)
    raise ImageError(f"{name}: the cell holds {type(value).__name__}; expected an image")
