"""A study's folder: what was asked for, and one row a fit, safe on disk before the next begins.

    study.json    name, version, request, software
    rows.csv      one line a fit; appended whole, so that a kill can tear the last line only
    plot.png, README.md    made from rows.csv alone
    fits/KEY/     run folders of fits that are not done
"""
from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from .._files import OutputError, write_text_atomically
from ._base import Row, Study, StudyError

CONTROLS = ("latent", "rgb", "random", "crossed", "shuffled")
_BEFORE = ("key", "study", "status", "failure")
_AFTER = ("generator", "level", "family", "weights", "intrinsic", "teacher", "teacher_error", "against", "method", "rank",
          "scope", "samples", "steps", "seed", "protocol", "metric", "n", "error", "error_low", "error_high", "trivial",
          "skill", "skill_low", "skill_high", *(f"control_{name}" for name in CONTROLS), "frechet", "detector",
          "frechet_samples", "parameters", "seconds", "steps_per_second", "peak_memory_mib", "wall_seconds", "fingerprint",
          "teacher_fingerprint", "versions", "hardware")
_TEXT = {"key", "study", "status", "failure", "generator", "level", "family", "weights", "intrinsic", "teacher",
         "teacher_error", "against", "method", "scope", "protocol", "metric", "detector", "fingerprint",
         "teacher_fingerprint", "versions", "hardware"}
_ADDED = ("teacher_error", "teacher_fingerprint")        # a folder of before is read without them
TIMING = ("seconds", "steps_per_second", "peak_memory_mib", "wall_seconds")


def columns(study: Study) -> list[str]:
    """Of a study's rows.csv."""
    return [*_BEFORE, *(t for t in study.tags if t not in _AFTER), *_AFTER]


class Folder:
    """The folder of one study, opened by `open_folder`."""

    def __init__(self, path: Path, study: Study):
        self.path, self.study, self.columns = path, study, columns(study)
        self.fits, self._file = path / "fits", path / "rows.csv"

    def rows(self, mend: bool = True) -> list[Row]:
        """Every row that was written whole. A last line that a kill tore is left out, and cut off where the file is to be
        mended, which is for whoever has claimed the folder.

        Raises StudyError where another line is damaged, where two are of the same fit, or the columns are not this version's.
        """
        if not self._file.exists():
            return []
        raw = self._file.read_bytes()
        whole = raw[:raw.rfind(b"\n") + 1]
        if whole != raw and mend:
            write_text_atomically(self._file, whole.decode(errors="replace"))
        lines = list(csv.reader(io.StringIO(whole.decode(errors="replace"))))
        if not lines:
            return []
        later = [name for name in _ADDED if name not in lines[0]]
        if later and lines[0] == [name for name in self.columns if name not in later]:
            for name in later:
                at = self.columns.index(name)
                lines = [[*line[:at], "" if i else name, *line[at:]] for i, line in enumerate(lines)]
            if mend:
                write_text_atomically(self._file, b"".join(map(_line, lines)).decode())
        if lines[0] != self.columns:
            raise StudyError(f"out: {self._file} has other columns than version {self.study.version} of this study writes; "
                             "choose another folder with --out, or move that one away")
        for number, line in enumerate(lines[1:], 2):
            if len(line) != len(self.columns) or len(line[0]) != 64:
                raise StudyError(f"out: line {number} of {self._file} is damaged; remove it, and its fit runs again")
        first: dict[str, int] = {}
        for number, line in enumerate(lines[1:], 2):
            if first.setdefault(line[0], number) != number:
                raise StudyError(f"out: lines {first[line[0]]} and {number} of {self._file} are of the same fit; remove one of "
                                 "them")
        return [{name: _parsed(name, text) for name, text in zip(self.columns, line, strict=True)} for line in lines[1:]]

    def append(self, row: Row) -> None:
        """Writes a row, on disk when this returns. Raises OutputError where it cannot be; the rows before it are kept."""
        try:
            with open(self._file, "ab") as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    file.write((_line(self.columns) if not end else b"") + self._as_line(row))
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), str(self._file)) from error

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replaces all rows, whole or not at all."""
        text = _line(self.columns) + b"".join(self._as_line(row) for row in rows)
        write_text_atomically(self._file, text.decode())

    def _as_line(self, row: Row) -> bytes:
        return _line([_written(row.get(name)) for name in self.columns])


def open_folder(path: str | Path, study: Study, request: dict) -> Folder:
    """The folder of a study, new or begun.

    Args:
        path: of the folder; made if it is not there
        study: which
        request: what decides the rows beside the grid; a folder begun with another is refused

    Raises StudyError if the folder holds another study, version or request, or something that is no study.
    """
    folder, about = Folder(Path(path), study), Path(path) / "study.json"
    advice = "choose another folder with --out, or move that one away"
    if about.exists():
        try:
            found = json.loads(about.read_text())
            name, version, then = found["name"], found["version"], found["request"]
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"out: {about} is no study's; {advice}") from error
        if name != study.name:
            raise StudyError(f"out: {path} holds the study {name!r}, not {study.name!r}; {advice}")
        if version != study.version:
            raise StudyError(f"out: {path} was made by version {version} of {name}, this software has version {study.version}, "
                             f"whose rows mean something else; {advice}")
        if changed := sorted(k for k in request.keys() | then.keys() if request.get(k) != then.get(k)):
            raise StudyError(f"out: {path} was begun with another {', '.join(changed)} ({then.get(changed[0])!r} then, "
                             f"{request.get(changed[0])!r} now); {advice}")
        return folder
    if folder._file.exists():
        raise StudyError(f"out: {path} has rows but no study.json, so nobody knows whose; {advice}")
    write_text_atomically(about, json.dumps(dict(format="probes-study", name=study.name, version=study.version,
                                                 request=request, software=_software()), indent=2) + "\n")
    return folder


def _software() -> dict:
    import torch

    from .. import __version__

    return dict(probes=__version__, torch=torch.__version__, python=platform.python_version())


def _line(values: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _written(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())            # a line is a row


def _parsed(name: str, text: str) -> object:
    if text == "":
        return None
    if name in _TEXT:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
