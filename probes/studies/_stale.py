"""Rows of a generator or teacher that is another now under the same name: its checkpoint, its weights or its code changed."""
from __future__ import annotations

import json
from collections.abc import Sequence

import generators

from ..teachers import get_teacher
from ..teachers._base import EXACT
from ._base import Cell, Row

Known = dict[str, str | None]        # what names stood for, as far as it was looked up


def stale(rows: Sequence[Row], cells: Sequence[Cell]) -> dict[str, tuple[str, tuple[str, str]]]:
    """{key: ("generator NAME" or "teacher NAME", (fingerprint then, now))} of the cells' finished rows where that changed.

    An untrained network is another if its architecture is, a crossed one also if the trained generator is, whose latents and
    targets it has. What cannot be loaded at this moment is left out, and so are rows of before teachers' fingerprints were
    kept: they are all there is.
    """
    asked, known, found = {cell.key: cell for cell in cells}, {}, {}
    for row in rows:
        cell = asked.get(row["key"])
        if cell is None or row["status"] != "ok":
            continue
        for what, then, now in _compared(row, cell, known):
            if then and now not in (None, then):
                found.setdefault(row["key"], (what, (then, now)))
    return found


def same(row: Row, cell: Cell, known: Known) -> bool:
    """Whether a row's generator and teacher are those that the cell would be fitted on."""
    (_, generator, generator_now), (_, teacher, teacher_now) = _compared(row, cell, known)
    return generator is not None and generator == generator_now and (not teacher or teacher == teacher_now)


def _compared(row: Row, cell: Cell, known: Known) -> list[tuple[str, str | None, str | None]]:
    """[(what, its fingerprint in the row, and now)], of the generator and the teacher; None for one that cannot be loaded."""
    name, teacher, then = cell.fit["generator"], row.get("teacher"), row.get("teacher_fingerprint")
    options = {k: v for k, v in (cell.fit.get("generator_options") or {}).items() if k not in cell.sampled_by}
    options["weights"] = row["weights"]
    which, labels = json.dumps([name, options], sort_keys=True), f"teacher {teacher}"
    if row["fingerprint"] and which not in known:
        known[which] = _fingerprint(name, options)
    if then and teacher != EXACT and labels not in known:
        known[labels] = _teacher_fingerprint(teacher)
    return [(f"generator {name}", row["fingerprint"], known.get(which)),
            (labels, then, then if teacher == EXACT else known.get(labels))]         # exact maps are the data's


def _fingerprint(name: str, options: dict) -> str | None:
    try:
        return generators.load(name, device="cpu", **options).fingerprint
    except (ValueError, OSError, RuntimeError):
        return None


def _teacher_fingerprint(name: str) -> str | None:
    try:
        return get_teacher(name).fingerprint
    except (ValueError, OSError, RuntimeError, ImportError):
        return None
