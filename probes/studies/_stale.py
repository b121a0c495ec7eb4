"""Rows that were fitted on a generator which is another now under the same name: its checkpoint or its code changed."""
from __future__ import annotations

import json
from collections.abc import Sequence

import generators

from ._base import Cell, Row


def stale(rows: Sequence[Row], cells: Sequence[Cell]) -> dict[str, tuple[str, tuple[str, str]]]:
    """{key: (generator, (fingerprint then, now))} of the cells' finished rows whose generator is another now.

    Untrained networks are left out, which are drawn from the architecture of the trained one, and so are generators that
    cannot be loaded at this moment: their rows are all there is.
    """
    asked, now, found = {cell.key: cell for cell in cells}, {}, {}
    for row in rows:
        cell, then = asked.get(row["key"]), row["fingerprint"]
        if cell is None or row["status"] != "ok" or not then or row["weights"] != "pretrained":
            continue
        name, options = cell.fit["generator"], dict(cell.fit.get("generator_options") or {})
        which = json.dumps([name, options], sort_keys=True)
        if which not in now:
            now[which] = _fingerprint(name, options)
        if now[which] not in (None, then):
            found[row["key"]] = name, (then, now[which])
    return found


def _fingerprint(name: str, options: dict) -> str | None:
    try:
        return generators.load(name, "pretrained", "cpu", **options).fingerprint
    except (ValueError, OSError, RuntimeError):
        return None
