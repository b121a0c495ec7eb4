"""Scores on disk while they come: a row a sample, what pooled figures need beside it, and whose they are.

    scores.json    what is scored, on what, by which protocols; from the beginning, and with the results at the end
    samples.csv    a row for each sample: every metric, its valid pixels, or why it was left out
    pooling.bin    histograms of samples, for medians over the pixels of all: (number, length, compressed .npz) each,
                   read one at a time
"""
from __future__ import annotations

import io
import json
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._files import OutputError, write_text_atomically, writing
from .._rows import Rows

Extras = dict[str, np.ndarray]
MANIFEST, TABLE, POOLING = "scores.json", "samples.csv", "pooling.bin"
_WORDS = ("name", "skipped")        # columns that hold no figure
_HEAD = struct.Struct("<QI")
_ADVICE = "choose another folder with --output, or begin again with --overwrite true"


class Store:
    """Rows by the number of their sample.

    Args:
        folder: where they are kept; None: nowhere
        identity: all that decides them
        columns: of a row
        overwrite: begin again

    `warnings`: lines about the first predictions; None as long as nobody has looked. Raises ValueError where the folder holds
    scores of something else.
    """

    def __init__(self, folder: Path | None, identity: dict, columns: Sequence[str], overwrite: bool):
        self.folder, self.identity = folder, json.loads(json.dumps(identity))
        self.rows: dict[int, dict[str, str]] = {}
        self._places: dict[int, tuple[int, int]] = {}       # of a sample's record in pooling.bin: (where, how long)
        self._file: BinaryIO | None = None
        self.warnings: list[str] | None = None
        self.columns = list(columns)
        if folder is None:
            return
        self.table, self.pooling = Rows(folder / TABLE, columns), folder / POOLING
        before = None if overwrite else self._before()
        if before is not None:
            self.warnings = before.get("warnings")
            self.rows = _by_number(self.table)
            self._places = _records(self.pooling)
        elif not overwrite and (folder / TABLE).exists():
            raise ValueError(f"output: {folder} holds a {TABLE} without a {MANIFEST} that says of what; {_ADVICE}")

    def _before(self) -> dict | None:
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_text())
            before = found["identity"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"output: {path} is damaged ({type(error).__name__}); {_ADVICE}") from error
        changed = [_difference(key, before.get(key), value) for key, value in self.identity.items() if before.get(key) != value]
        if changed:
            raise ValueError(f"output: {self.folder} holds scores of another {'; another '.join(changed)}; {_ADVICE}")
        return found

    def keep(self, whole: set[int]) -> None:
        """Begins: only these rows stay of what was there."""
        self.rows = {i: row for i, row in self.rows.items() if i in whole}
        self._places = {i: place for i, place in self._places.items() if i in whole}
        if self.folder is None:
            self._file = tempfile.TemporaryFile()
            return
        self.table.replace(list(self.rows.values()))
        kept, end = {}, 0
        with writing(self.pooling) as temporary, open(temporary, "wb") as new:
            if self._places:
                with open(self.pooling, "rb") as old:
                    for i, (place, length) in self._places.items():
                        old.seek(place)
                        new.write(_HEAD.pack(i, length) + old.read(length))
                        kept[i] = end + _HEAD.size, length
                        end += _HEAD.size + length
        self._places = kept
        self._begun()
        self._file = open(self.pooling, "a+b")

    def extras(self, index: int) -> Extras:
        """What pooling needs of a sample; {} where that is nothing."""
        if index not in self._places:
            return {}
        place, length = self._places[index]
        self._file.seek(place)
        with np.load(io.BytesIO(self._file.read(length)), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def warn(self, lines: list[str]) -> None:
        """What the first predictions made somebody suspect; kept, since a run that goes on does not see them again."""
        self.warnings = lines
        self._begun()

    def _begun(self) -> None:
        if self.folder is not None:
            about = dict(status="begun", identity=self.identity, warnings=self.warnings)
            write_text_atomically(self.folder / MANIFEST, json.dumps(about, indent=2) + "\n")

    def add(self, index: int, row: Mapping[str, object], extras: Extras) -> None:
        """One sample's; what is pooled first, so that a row is never without it."""
        self.rows[index] = {column: _text(row.get(column, "")) for column in self.columns}
        if extras:
            record = _packed(extras)
            try:
                end = self._file.seek(0, os.SEEK_END)
                self._file.write(_HEAD.pack(index, len(record)) + record)
                self._file.flush()
            except OSError as error:
                raise OutputError(error.errno, error.strerror or str(error), str(self.folder or "pooling.bin")) from error
            self._places[index] = end + _HEAD.size, len(record)
        if self.folder is None:
            return
        self.table.append([self.rows[index]])

    def finish(self, results: dict, order: Sequence[int]) -> None:
        """The results, and the rows in the samples' order."""
        self.rows = {i: self.rows[i] for i in order if i in self.rows}
        self._file.close()
        if self.folder is not None:
            self.table.replace(list(self.rows.values()))
            write_text_atomically(self.folder / MANIFEST, json.dumps({**results, "warnings": self.warnings}, indent=2) + "\n")


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(value)
    return str(value)


def _difference(key: str, before: object, now: object) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [k for k in now if before.get(k) != now[k]]
        key = f"{key} ({', '.join(inner)})"
        return key
    return f"{key} ({before}, now {now})"


def _by_number(table: Rows) -> dict[int, dict[str, str]]:
    """{sample: its row}. Raises ValueError for a row that nobody can have written here."""
    found: dict[int, dict[str, str]] = {}
    for line, row in enumerate(table.read(), 2):
        try:
            if None in row or None in row.values():
                raise ValueError(f"expected {len(table.columns)} cells")
            for column, cell in row.items():
                if column not in _WORDS and cell:
                    float(cell)
            number = int(row["index"])
            if number in found:
                raise ValueError(f"sample {number} has a row already")
        except ValueError as error:
            raise ValueError(f"output: {table.path}, line {line} is damaged ({error}); {_ADVICE}") from None
        found[number] = row
    return found


def _packed(extras: Extras) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **extras)
    return out.getvalue()


def _records(path: Path) -> dict[int, tuple[int, int]]:
    """Where whole records lie: the last may have been cut short."""
    found: dict[int, tuple[int, int]] = {}
    try:
        size, file = path.stat().st_size, open(path, "rb")
    except FileNotFoundError:
        return found
    with file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            index, length = _HEAD.unpack(head)
            place = file.tell()
            if place + length > size:
                break
            found[index] = place, length
            file.seek(place + length)
    return found
