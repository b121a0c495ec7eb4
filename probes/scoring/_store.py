"""Scores on disk while they come: a row a sample, what pooled figures need beside it, and whose they are.

    scores.json    what is scored, on what, by which protocols; from the beginning, and with the results at the end
    samples.csv    a row for each sample: every metric, its valid pixels, or why it was left out
    pooling.bin    histograms of samples, for medians over the pixels of all: (number, length, compressed .npz) each
"""
from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .._files import OutputError, write_bytes_atomically, write_text_atomically
from .._rows import Rows

Extras = dict[str, np.ndarray]
MANIFEST, TABLE, POOLING = "scores.json", "samples.csv", "pooling.bin"
_HEAD = struct.Struct("<II")
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
        self.extras: dict[int, Extras] = {}
        self.warnings: list[str] | None = None
        self.columns = list(columns)
        if folder is None:
            return
        self.table, self.pooling = Rows(folder / TABLE, columns), folder / POOLING
        before = None if overwrite else self._before()
        if before is not None:
            self.warnings = before.get("warnings")
            self.rows = {int(row["index"]): row for row in self.table.read()}
            self.extras = _read_extras(self.pooling)
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
        self.extras = {i: extras for i, extras in self.extras.items() if i in whole}
        if self.folder is None:
            return
        self.table.replace(list(self.rows.values()))
        write_bytes_atomically(self.pooling, b"".join(_packed(i, extras) for i, extras in self.extras.items()))
        self._begun()

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
            self.extras[index] = extras
        if self.folder is None:
            return
        if extras:
            try:
                with open(self.pooling, "ab") as file:
                    file.write(_packed(index, extras))
            except OSError as error:
                raise OutputError(error.errno, error.strerror or str(error), str(self.pooling)) from error
        self.table.append([self.rows[index]])

    def finish(self, results: dict, order: Sequence[int]) -> None:
        """The results, and the rows in the samples' order."""
        self.rows = {i: self.rows[i] for i in order if i in self.rows}
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


def _packed(index: int, extras: Extras) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **extras)
    return _HEAD.pack(index, len(out.getvalue())) + out.getvalue()


def _read_extras(path: Path) -> dict[int, Extras]:
    """Whole records only: the last may have been cut short."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    found, place = {}, 0
    while place + _HEAD.size <= len(data):
        index, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        if place + length > len(data):
            break
        with np.load(io.BytesIO(data[place:place + length]), allow_pickle=False) as arrays:
            found[index] = {name: arrays[name] for name in arrays.files}
        place += length
    return found
