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
        name = cell.fit["generator"]
        options = {k: v for k, v in (cell.fit.get("generator_options") or {}).items() if k not in cell.sampled_by}
        options["weights"] = row["weights"]
        which = json.dumps([name, options], sort_keys=True)
        if which not in now:
            now[which] = _fingerprint(name, options)
        if now[which] not in (None, then):
            found[row["key"]] = name, (then, now[which])
    return found


def _fingerprint(name: str, options: dict) -> str | None:
    try:
        return generators.load(name, device="cpu", **options).fingerprint
    except (ValueError, OSError, RuntimeError):
        return None
