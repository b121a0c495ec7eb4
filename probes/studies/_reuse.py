"""Rows that other folders have already: the same fits asked for by another study, or by this one on another machine."""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ._base import Cell, Row, Study, StudyError
from ._folder import CONTROLS, Folder, columns
from ._registry import get_study


def reused(folders: Iterable[str | Path], study: Study, cells: Sequence[Cell]) -> dict[Path, list[Row]]:
    """{folder: rows of `cells`, as `study` would write them}, from folders of studies; each cell's from the first that has it.

    A row is taken where the fit's arguments are the same, it ended well, and it has the controls that the cell asks for. A
    study that runs every fit in a process of its own takes only rows of one that does so too. The Fréchet distance is not
    taken: that is of the detector of whoever asks.

    Raises StudyError for a folder that holds no study, or one of another version.
    """
    wanted, found = {cell.key: cell for cell in cells}, {}
    for folder in map(Path, folders):
        other, request = _opened(folder, study)
        there = Folder(folder, other)
        rows = {row["key"]: row for row in there.rows(mend=False) if row["status"] == "ok"}
        theirs = {} if study.isolated and not other.isolated else _cells(other, request, rows.values())
        given = [(theirs[key], row) for key, row in rows.items() if key in theirs]
        found[folder] = []
        for cell in list(wanted.values()):
            for same, row in given:
                if same.measured == cell.measured and _needed(study, cell) <= set(columns(other)) & _known(same):
                    found[folder].append(_taken(study, cell, row))
                    del wanted[cell.key]
                    break
    return found


def _opened(folder: Path, asking: Study) -> tuple[Study, dict]:
    try:
        about = json.loads((folder / "study.json").read_text())
        name, version, request = about["name"], about["version"], about["request"]
        small, options = bool(request["small"]), dict(request["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"reuse: {folder} holds no study (no study.json that can be read); give the folder that has the "
                         "study.json beside its rows.csv") from error
    study = asking if name == asking.name else get_study(name)
    if study.version != version:
        raise StudyError(f"reuse: {folder} was made by version {version} of {name}, this software has version {study.version}, "
                         "whose rows mean something else; leave it out")
    return study, dict(small=small, options=options)


def _cells(study: Study, request: dict, rows: Iterable[Row]) -> dict[str, Cell]:
    """{key: cell} of the grid that a folder was begun with, for every seed that it has rows of."""
    seeds = 1 + max((row["seed"] for row in rows), default=0)
    cells = [cell.with_options(request["options"]).at_seed(seed) for seed in range(seeds)
             for cell in study.cells(request["small"])]
    return {cell.key: cell for cell in cells}


def _controls(cell: Cell) -> set[str]:
    from inspect import signature

    from .._fit import fit

    return set(cell.fit.get("controls", signature(fit).parameters["controls"].default))


def _needed(study: Study, cell: Cell) -> set[str]:
    """The columns of the controls that a cell asks for."""
    return {c for c in columns(study) for name in _controls(cell) if c == f"control_{name}" or c.startswith(f"control_{name}_")}


def _known(cell: Cell) -> set[str]:
    """All columns that the controls of a cell could fill."""
    return {f"control_{name}{end}" for name in _controls(cell) for end in ("", "_low", "_high")}


def _taken(study: Study, cell: Cell, row: Row) -> Row:
    """The row under the cell's own key and tags, without what it does not ask for."""
    controls, known, wanted = tuple(f"control_{name}" for name in CONTROLS), columns(study), _needed(study, cell)
    left = {*study.tags, "frechet", "detector", "frechet_samples"}
    own = {k: v for k, v in row.items() if (k in wanted if k.startswith(controls) else k in known and k not in left)}
    return {**own, **cell.tags, "key": cell.key, "study": study.name}
