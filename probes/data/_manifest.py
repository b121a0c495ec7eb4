"""A table of files, CSV or Parquet: one row an image, for whatever lies elsewhere or is named in another way.

    image,normal,depth,mask,split,fx,fy,cx,cy
    rooms/1.jpg,truth/1_n.npy,truth/1_d.exr,,val,518.9,519.5,325.1,253.2

Columns: `image`; one for each intrinsic that is known (normal, depth, albedo, shading); optional `mask`, `name`, `split`,
`group` (a scan, a scene: what shall not be divided between images to learn from and images to be scored on), and the camera in
pixels of the image, `fx`, `fy`, `cx`, `cy`. Paths are relative to the table. What the files may be, and what frame=,
depth_scale= and depth_meaning= mean, is told in `_beside`. Other columns are left alone, and named by `probes data check`.
"""
from __future__ import annotations

import csv
import difflib
import math
from collections import Counter
from pathlib import Path

from generators._names import unknown

from .._intrinsics import intrinsics
from ._options import existing, named
from ._paired import Pair, Paired
from ._sample import Camera

_CAMERA = ("fx", "fy", "cx", "cy")
_OTHER = ("image", "mask", "name", "split", "group", *_CAMERA)
ALL = "all"


class Manifest(Paired):
    """Rows in the order of the table, or, where it has groups, in one that holds whole groups out.

    Args:
        path: .csv or .parquet
        split: only rows whose column `split` says so; "all" for all, which must be asked for where there are several
        frame, depth_scale, depth_meaning: see `probes.data._beside.Beside`
    """

    def __init__(self, path: str | Path, split: str | None = None, frame: str | None = None,
                 depth_scale: str | float | None = None, depth_meaning: str | None = None):
        path = existing(path)
        rows, columns = _rows(path)
        if "image" not in columns:
            raise ValueError(f"data: {path} lacks the column image; it has {', '.join(columns) or 'none'}")
        maps = [name for name in intrinsics() if name in columns]
        self.notes = _left_out(columns, maps)
        self.splits = {}
        for row in rows:
            if row.get("split"):
                self.splits[row["split"]] = self.splits.get(row["split"], 0) + 1
        if split is None and len(self.splits) > 1:
            raise ValueError(f"split: {path} holds {' and '.join(self.splits)}; choose one, split={next(iter(self.splits))} "
                             f"for instance, or split={ALL}")
        if split not in (None, ALL):
            if "split" not in columns:
                raise ValueError(f"split: {path} has no column split; leave it out")
            if split not in self.splits:
                raise unknown("split", split, [*self.splits, ALL])
        everything = split is None or (split == ALL and ALL not in self.splits)
        chosen = [(line, row) for line, row in enumerate(rows, 2) if everything or row.get("split") == split]
        if not chosen:
            raise ValueError(f"data: {path} has no rows; expected one an image")
        pairs = [_pair(path, line, row, maps) for line, row in chosen]
        most, times = Counter(pair.name for pair in pairs).most_common(1)[0]
        if times > 1:
            raise ValueError(f"data: {path} has {times} rows named {most!r}; give each its own in a column name")
        name = named("manifest", path, split=split, frame=frame, depth_scale=depth_scale, depth_meaning=depth_meaning)
        super().__init__(name, pairs, frame, depth_scale, depth_meaning)


def recognises(path: Path) -> bool:
    """By its ending."""
    return path.is_file() and path.suffix.lower() in (".csv", ".parquet")


def _rows(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    if not path.is_file():
        raise ValueError(f"data: there is no file {path}; expected a .csv or .parquet")
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:      # spreadsheets put a byte order mark first
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            return [{key: (value or "").strip() for key, value in row.items() if key is not None} for row in reader], columns
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"data: {path} is no CSV in UTF-8 ({error}); export it again") from error


def _parquet(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("data: Parquet is read by pyarrow; `pip install 'probes[data]'`, or use CSV") from None
    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"data: {path} is no Parquet, damaged or incomplete ({' '.join(str(error).split())})") from error
    columns = table.column_names
    kept = [name for name in columns if name in {*_OTHER, *intrinsics()}]
    if "image" in kept and not pyarrow.types.is_string(table.schema.field("image").type) \
            and not pyarrow.types.is_large_string(table.schema.field("image").type):
        raise ValueError(f"data: the column image of {path} holds {table.schema.field('image').type}, expected paths; for "
                         f"images inside the table use hf:{path.parent}")
    return [{key: "" if value is None else str(value) for key, value in row.items()}
            for row in table.select(kept).to_pylist()], columns


def _pair(path: Path, line: int, row: dict[str, str], maps: list[str]) -> Pair:
    if not row["image"]:
        raise ValueError(f"data: {path}, line {line}: no image; expected a path")
    name = row.get("name") or Path(row["image"]).with_suffix("").as_posix()
    files = {key: path.parent / row[key] for key in maps if row.get(key)}
    mask = path.parent / row["mask"] if row.get("mask") else None
    return Pair(name, path.parent / row["image"], files, mask, _camera(path, line, row), row.get("group", ""))


def _camera(path: Path, line: int, row: dict[str, str]) -> Camera | None:
    given = [row.get(key, "") for key in _CAMERA]
    if not any(given):
        return None
    try:
        numbers = [float(value) for value in given]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or min(numbers[:2]) <= 0:
        told = ", ".join(value or "empty" for value in given)
        raise ValueError(f"data: {path}, line {line}: fx, fy, cx, cy are {told}; expected four numbers in pixels, or none")
    return Camera(*numbers)


def _left_out(columns: list[str], maps: list[str]) -> list[str]:
    known = {*_OTHER, *intrinsics()}
    notes = []
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1, cutoff=0.75)
            notes.append(f"column {column!r} is not used" + (f"; did you mean {near[0]}?" if near else ""))
    return notes
