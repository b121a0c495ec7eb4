"""A dataset of the Hugging Face hub by its id, or any folder that `datasets.load_dataset` reads.

    hf:OWNER/NAME,split=test,depth=depth_map,depth_scale=1000

Columns: `image`, and one for each intrinsic that is there: named as the intrinsic, or by the option of its name. A column may
hold images (grey of 8 or 16 bits, colour of 8; their codes become maps as `_map_files.read_map` says: depth needs
depth_scale=, or depth_meaning=relative or disparity, normals frame=) or arrays [H, W], [H, W, C] or [C, H, W] of physical
values; albedo and shading in a column of uint8 or uint16 are codes of [0, 1].

Datasets that come with a loading script are refused: no code of a dataset is run. An image that a row does not hold itself but
names is read only where it is a file of the dataset: a row could name any file of yours, or an address.

With streaming=true nothing is stored; the rows come in their order, and to ask for row i costs reading all before it, unless
the last one asked for came before it.
"""
from __future__ import annotations

import hashlib
import inspect
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from generators._names import unknown

from .._intrinsics import intrinsics
from ..images import ImageError, read_image
from ..images._file import formats, reading
from ._map_files import check_frame, physical, same_size
from ._options import depth_meaning as checked_meaning
from ._options import depth_unit, flag, named, number
from ._photographs import Photographs
from ._pictures import TOP, picture_size, read_picture
from ._sample import Sample

ALL = "all"
_ALSO = {"image": ("rgb", "img", "photo"), "normal": ("normals",), "depth": ("depth_map",)}


class HuggingFace(Photographs):
    """The rows of one split, in their order.

    Args:
        path: OWNER/NAME on the hub, or a folder of Parquet files, images, …
        split: one, or "all"; needed where there are several
        config: of datasets that have several
        image, normal, depth, albedo, shading: names of columns
        frame: of normals: one of `probes.frames.FRAMES`
        depth_scale: what one metre is in the depth column
        depth_meaning: metric, relative or disparity: metric where nothing is said
        revision: branch, tag or commit
        streaming: read over the network without storing; see above
        count: of rows: the first so many; where streaming cannot tell, how many there are
    """

    masked = True

    def __init__(self, path: str | Path, split: str | None = None, config: str | None = None, image: str | None = None,
                 normal: str | None = None, depth: str | None = None, albedo: str | None = None, shading: str | None = None,
                 frame: str | None = None, depth_scale: str | float | None = None, depth_meaning: str | None = None,
                 revision: str | None = None, streaming: str | bool = False, count: str | int | None = None):
        folder, given = Path(path).expanduser(), str(path)
        if not folder.exists() and given.startswith(("/", ".", "~")):
            raise ValueError(f"data: there is no {folder.resolve()}; check the path")
        source = str(folder.resolve()) if folder.exists() else Path(path).as_posix()
        self._own, self._depth = _own_folders(source, folder.exists()), checked_meaning(depth_meaning) or "metric"
        self._frame, self._unit = frame, depth_unit(depth_scale)
        if frame is not None:
            check_frame(frame)
        self.streaming = flag("streaming", streaming)
        asked = split
        rows, split = _load(source, split, config, revision, self.streaming)
        columns = list(rows.column_names or [])
        told = dict(image=image, normal=normal, depth=depth, albedo=albedo, shading=shading)
        self.columns = _columns(columns, told, source)
        kept = list(self.columns.values())
        self._rows = _undecoded(rows.select_columns(kept), kept)
        self.count = self._counted(rows, split, count, source)
        if not self.streaming:
            self._rows = self._rows.select(range(self.count))
        self.exact = tuple(name for name in self.columns if name != "image")
        self.found = {name: self.count for name in self.exact}
        self.name = named("hf", source, split=asked, config=config, image=image, normal=normal, depth=depth, albedo=albedo,
                          shading=shading, frame=frame, depth_scale=depth_scale, depth_meaning=depth_meaning, revision=revision,
                          streaming="true" if self.streaming else None, count=count)
        self._identity = dict(source=source, config=config, split=split, revision=revision, columns=self.columns, frame=frame,
                              unit=self._unit, count=self.count)
        self._walk, self._next, self._lock = None, 0, threading.Lock()

    def _counted(self, rows: Any, split: str, count: str | int | None, source: str) -> int:
        wanted = None if count is None else int(number("count", count))
        if not self.streaming:
            if wanted is not None and wanted > len(rows):
                raise ValueError(f"count: {source} has {len(rows)} rows in {split}, got count={wanted}")
            return len(rows) if wanted is None else wanted
        if wanted is not None:
            return wanted
        known = [(rows.info.splits or {}).get(name) for name in split.split("+")]
        if None in known:
            raise ValueError(f"count: {source} does not tell how many rows {split} has; give count=N")
        return sum(part.num_examples for part in known)

    def sample_name(self, index: int) -> str:
        return f"{index:06d}"

    def files(self, index: int) -> list[Path]:
        return []

    @property
    def fingerprint(self) -> str:
        """Of what was asked for, and of the stored tables, which `datasets` fingerprints; of streamed ones the former only."""
        stored = "" if self.streaming else self._rows._fingerprint
        return hashlib.sha256(json.dumps(["hf", self.story, stored], sort_keys=True).encode()).hexdigest()

    def identity(self) -> dict:
        return self._identity

    def meaning(self, intrinsic: str) -> str:
        return self._depth if intrinsic == "depth" else ""

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        self.require(intrinsics)
        row, name = self._row(index), self._told(index)
        image = read_image(self._picture(row[self.columns["image"]], name), name)
        maps = self._maps(row, intrinsics, name)
        same_size(maps, image.pixels.shape[1:], name)
        return Sample(self.sample_name(index), image.pixels, maps)

    def maps(self, index: int, intrinsics: Sequence[str]) -> dict[str, Tensor]:
        self.require(intrinsics)
        row, name = self._row(index), self._told(index)
        maps = self._maps(row, intrinsics, name)
        image = self._picture(row[self.columns["image"]], name)
        if not isinstance(image, np.ndarray):
            same_size(maps, picture_size(image, name), name)
        return maps

    def _maps(self, row: dict, intrinsics: Sequence[str], name: str) -> dict[str, Tensor]:
        return {key: self._map(row[self.columns[key]], key, f"{name}, {self.columns[key]}") for key in intrinsics}

    def _told(self, index: int) -> str:
        return f"{self.name}, row {index}"

    def _row(self, index: int) -> dict:
        self.check((index,))
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
        unit, meaning = self._unit, self.meaning(intrinsic)
        if isinstance(value, (dict, Image.Image)):
            values = read_picture(self._picture(value, name), name, intrinsic, self._frame, unit, meaning)
            if values.dtype == np.float32 and intrinsic == "depth":
                unit = None                             # its text said what they are
        else:
            if value is None:
                raise ImageError(f"{name}: the cell is empty; expected a map")
            try:
                values = np.asarray(value, np.float32)      # what is None in a row is a hole, for which integers have no code
                if intrinsic in ("albedo", "shading"):
                    values = values / np.float32(self._peak(self.columns[intrinsic]))
            except (TypeError, ValueError) as error:
                raise ImageError(f"{name}: it holds {type(value).__name__}, which is no array of numbers ({error})") from error
        return physical(values, intrinsic, name, self._frame or "omnidata", 1.0 if unit is None else unit, meaning=meaning)

    def _peak(self, column: str) -> int:
        """What 1 is in a column of albedo or shading. A row comes as lists of numbers: only the column knows their dtype."""
        feature = (self._rows.features or {}).get(column)
        while isinstance(feature, list) or hasattr(feature, "feature"):     # lists of lists
            feature = feature[0] if isinstance(feature, list) else feature.feature
        return {"uint8": 255, "uint16": TOP}.get(getattr(feature, "dtype", None), 1)

    def _picture(self, value: Any, name: str) -> Path | Image.Image | np.ndarray:
        """A cell -> what read_image takes."""
        if isinstance(value, dict) and value.get("bytes") is not None:
            with reading(name):
                return Image.open(io.BytesIO(value["bytes"]), formats=[kind for kind in formats() if kind != "TGA"])
        if isinstance(value, dict) and value.get("path"):
            place = Path(str(value["path"])).resolve()
            if "://" in str(value["path"]) or not any(place.is_relative_to(own) for own in self._own):
                raise ImageError(f"{name}: it names {value['path']}, which is no file of the dataset, and is not read; "
                                 "expected the image itself in the row")
            return place
        if isinstance(value, Image.Image):
            return value
        if isinstance(value, (list, np.ndarray)):
            found = np.asarray(value)
            if found.dtype.kind == "f":                             # in [0, 1], as every array of such numbers
                return found
            peak = TOP if self._peak(self.columns["image"]) == TOP else 255
            if found.dtype.kind not in "iu" or found.size and not 0 <= found.min() <= found.max() <= peak:
                raise ImageError(f"{name}: it holds what are no codes of an image; expected whole numbers from 0 to {peak}, or "
                                 "others from 0 to 1")
            return found.astype(np.uint16 if peak == TOP else np.uint8)
        raise ImageError(f"{name}: the cell holds {type(value).__name__}; expected an image")


def _own_folders(source: str, local: bool) -> list[Path]:
    """Where the files of a dataset lie: its folder, or what was stored of it from the hub."""
    if local:
        place = Path(source)
        return [place if place.is_dir() else place.parent]
    try:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name
    except ImportError:
        return []
    return [(Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="dataset")).resolve()]


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
    if split is None and len(there) > 1:
        raise ValueError(f"split: hf:{source} holds {' and '.join(there)}; choose one, split={there[0]} for instance, or "
                         f"split={ALL}")
    if split == ALL and ALL not in there:
        return datasets.concatenate_datasets([found[name] for name in there]), "+".join(there)
    split = split or there[0]
    if split not in there:
        raise unknown("split", split, [*there, ALL])
    return found[split], split


def _columns(there: list[str], given: dict[str, str | None], source: str) -> dict[str, str]:
    """What is in which column."""
    found = {}
    for key in ("image", *intrinsics()):
        told = given.get(key)
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
