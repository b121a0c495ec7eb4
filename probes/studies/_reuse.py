"""Rows that other folders have already: the same fits asked for by another study, or by this one on another machine."""
from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators import UnknownNameError

from .._settings import CHECKPOINTS
from ._base import Cell, Row, Study, StudyError, defaults
from ._folder import CONTROLS, Folder, columns
from ._registry import get_study
from ._stale import Known, same


@dataclass(frozen=True)
class Source:
    """A folder of a study, whose rows may be taken over.

    Args:
        path, study: of the folder
        given: its fits that ended well, with their rows
    """

    path: Path
    study: Study
    given: Sequence[tuple[Cell, Row]]


def sources(folders: Iterable[str | Path], asking: Study) -> list[Source]:
    """Reads folders of studies. Raises StudyError for one that holds no study, a study or version that is not known here, or
    damaged rows."""
    return [_source(Path(folder), asking) for folder in folders]


def reused(found: Sequence[Source], study: Study, cells: Sequence[Cell]) -> dict[Path, list[Row]]:
    """{folder: rows of `cells`, as `study` would write them}; each cell's is from the first folder that has it.

    A row is taken where the fit's arguments are the same and name nothing that may be another thing under the same name (see
    `_certain`), its generator and teacher are those that are here, and it has the controls that the cell asks for. A study
    that runs every fit in a process of its own takes only rows of one that does so too. The Fréchet distance is not taken:
    that is of the detector of whoever asks.
    """
    taken: dict[Path, list[Row]] = {}
    known: Known = {}
    wanted = {cell.key: cell for cell in cells if _certain(cell)}
    for source in found:
        own = taken.setdefault(source.path, [])
        if study.isolated and not source.study.isolated:
            continue
        for cell in list(wanted.values()):
            needed = _needed(study, cell)
            for other, row in source.given:
                if (other.measured == cell.measured and needed <= set(columns(source.study)) & _known(other)
                        and same(row, cell, known)):
                    own.append(_taken(study, cell, row))
                    del wanted[cell.key]
                    break
    return taken


def _source(folder: Path, asking: Study) -> Source:
    try:
        about = json.loads((folder / "study.json").read_text())
        name, version, request = about["name"], about["version"], about["request"]
        small, options = bool(request["small"]), dict(request["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"reuse: {folder} holds no study (no study.json that can be read); give the folder that has the "
                         "study.json beside its rows.csv") from error
    try:
        study = asking if name == asking.name else get_study(name)
    except UnknownNameError as error:
        raise StudyError(f"reuse: {folder} holds the study {name!r}, which nobody registered here; leave it out") from error
    if study.version != version:
        raise StudyError(f"reuse: {folder} was made by version {version} of {name}, this software has version {study.version}, "
                         "whose rows mean something else; leave it out")
    try:
        rows = {row["key"]: row for row in Folder(folder, study).rows(mend=False) if row["status"] == "ok"}
    except StudyError as error:
        raise StudyError(f"reuse: {str(error).removeprefix('out: ').partition('; ')[0]}; leave it out") from error
    seeds = 1 + max((row["seed"] for row in rows.values()), default=0)
    cells = [cell.with_options(options).at_seed(seed) for seed in range(seeds) for cell in study.cells(small)]
    return Source(folder, study, [(cell, rows[cell.key]) for cell in cells if cell.key in rows])


def _certain(cell: Cell) -> bool:
    """Whether the arguments alone say which fit it is: images are the package's own, and nothing names a file. (The generator
    may be one: rows have its fingerprint.)"""
    fit = {k: v for k, v in cell.fit.items() if k != "generator"}
    return fit.get("data", "auto") in ("auto", "scenes") and not any(map(_names_a_file, _texts(fit)))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)


def _names_a_file(text: str) -> bool:
    return "/" in text or os.sep in text or text.lower().endswith(CHECKPOINTS)


def _controls(cell: Cell) -> set[str]:
    return set(cell.fit.get("controls", defaults()["controls"]))


def _needed(study: Study, cell: Cell) -> set[str]:
    """The columns of the controls that a cell asks for."""
    return {c for c in columns(study) for name in _controls(cell) if c == f"control_{name}" or c.startswith(f"control_{name}_")}


def _known(cell: Cell) -> set[str]:
    """All columns that the controls of a cell could fill."""
    return {f"control_{name}{end}" for name in _controls(cell) for end in ("", "_low", "_high")}


def _taken(study: Study, cell: Cell, row: Row) -> Row:
    """The row under the cell's own key and tags, without what it does not ask for."""
    controls, known, wanted = tuple(f"control_{name}" for name in CONTROLS), columns(study), _needed(study, cell)
    left = {*study.tags, "frechet", "detector", "frechet_samples", "wall_seconds"}      # of its controls too, and elsewhere
    own = {k: v for k, v in row.items() if (k in wanted if k.startswith(controls) else k in known and k not in left)}
    return {**own, **cell.tags, "key": cell.key, "study": study.name, "wall_seconds": None}
