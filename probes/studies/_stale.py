"""Rows that were fitted on a generator which is another now under the same name: its checkpoint or its code changed."""
from __future__ import annotations

import json
from collections.abc import Sequence

import generators

from ._base import Cell, Row


def stale(rows: Sequence[Row], cells: Sequence[Cell]) -> dict[str, tuple[str, tuple[str, str]]]:
    """{key: (generator, (fingerprint then, now))} of the cells' finished rows whose generator is another now.

    An untrained network is another if its architecture is, a crossed one also if the trained generator is, whose latents and
    targets it has. Generators that cannot be loaded at this moment are left out: their rows are all there is.
    """
    asked, now, found = {cell.key: cell for cell in cells}, {}, {}
    for row in rows:
        cell, then = asked.get(row["key"]), row["fingerprint"]
        if cell is None or row["status"] != "ok" or not then:
            continue
        if (is_now := _now(row, cell, now)) not in (None, then):
            found[row["key"]] = cell.fit["generator"], (then, is_now)
    return found


def same_generator(row: Row, cell: Cell, now: dict[str, str | None] | None = None) -> bool:
    """Whether a row's generator is the one that the cell would be fitted on; what was found out is kept in `now`."""
    return row["fingerprint"] is not None and row["fingerprint"] == _now(row, cell, {} if now is None else now)


def _now(row: Row, cell: Cell, known: dict[str, str | None]) -> str | None:
    """The fingerprint that a row's generator has; None where it cannot be loaded."""
    name = cell.fit["generator"]
    options = {k: v for k, v in (cell.fit.get("generator_options") or {}).items() if k not in cell.sampled_by}
    options["weights"] = row["weights"]
    which = json.dumps([name, options], sort_keys=True)
    if which not in known:
        known[which] = _fingerprint(name, options)
    return known[which]


def _fingerprint(name: str, options: dict) -> str | None:
    try:
        return generators.load(name, device="cpu", **options).fingerprint
    except (ValueError, OSError, RuntimeError):
        return None
