"""Rows of several seeds as one point: the median of their skills, and an interval that covers each seed's own."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Point:
    """Skill of one setting.

    Args:
        at: the columns that name the setting
        value: median over its seeds
        low, high: from the lowest to the highest end of the seeds' 95 % intervals, which are over images
        seeds: how many
        rows: they themselves
    """

    at: dict[str, Any]
    value: float
    low: float
    high: float
    seeds: int
    rows: tuple[dict, ...]

    def __str__(self) -> str:
        return f"{two(self.value)} [{two(self.low)}, {two(self.high)}]"

    def median(self, column: str) -> float | None:
        """Of another column, over the seeds that have it."""
        known = [r[column] for r in self.rows if r.get(column) is not None]
        return median(known) if known else None


def two(value: float) -> str:
    """Two digits, a true minus, and no negative zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def points(rows: Sequence[dict], *by: str) -> list[Point]:
    """One point for each setting of the columns `by`, in the order of their values."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in by), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: [(isinstance(v, str), -1 if v is None else v) for v in item[0]])
    return [Point(dict(zip(by, at, strict=True)), median(r["skill"] for r in group),
                  min(_end(r, "skill_low") for r in group), max(_end(r, "skill_high") for r in group), len(group), tuple(group))
            for at, group in ordered]


def _end(row: dict, column: str) -> float:
    end = row[column]
    return row["skill"] if end is None or not isfinite(end) else end


def values(rows: Sequence[dict], column: str, order: Sequence[str] = ()) -> list:
    """Those of a column that occur: first in the given order, then the rest sorted."""
    found = {r[column] for r in rows if r[column] is not None}
    return [v for v in order if v in found] + sorted(found - set(order))
