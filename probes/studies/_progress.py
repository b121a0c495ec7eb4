"""How far a study is: one line on a terminal, nothing elsewhere."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from ._base import Cell, Row


class Progress:
    """Fits done of all, and the time left by the seconds that fits like the missing ones took, shared among as many as ran at
    once so far.

    Args:
        study: its name
        missing: cells to run now
        total: cells asked for
        rows: of earlier runs, whose seconds count too
        quiet: say nothing
        clock: seconds, of which only differences matter
    """

    def __init__(self, study: str, missing: Sequence[Cell], total: int, rows: Sequence[Row], quiet: bool = False,
                 console: Console | None = None, clock: Callable[[], float] = monotonic):
        console = console or Console(highlight=False)
        self.missing, self.total, self.failed = {cell.key: cell for cell in missing}, total, 0
        self.seconds = [(_kind(r), r["wall_seconds"]) for r in rows if r["wall_seconds"] and r["status"] == "ok"]
        self._clock, self._begun, self._spent = clock, clock(), 0.0
        shown = not quiet and console.is_terminal and bool(missing)
        columns = (TextColumn(study), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self._bar = Bar(*columns, console=console, transient=True, refresh_per_second=2) if shown else None

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=self.total - len(self.missing), note=self.note)
        return self

    def __exit__(self, *exc) -> None:
        if self._bar:
            self._bar.stop()

    def done(self, row: Row) -> None:
        """Counts a row."""
        self.missing.pop(row["key"], None)
        self.failed += row["status"] != "ok"
        self._spent += row.get("wall_seconds") or 0.0       # a fit whose process was lost has none
        if row["status"] == "ok":
            self.seconds.append((_kind(row), row["wall_seconds"]))
        if self._bar:
            self._bar.update(self._task, completed=self.total - len(self.missing), note=self.note)

    @property
    def left(self) -> float | None:
        """Seconds; None before any fit is known."""
        if not self.seconds:
            return None
        overall, known = median(s for _, s in self.seconds), {}
        for kind, seconds in self.seconds:
            known.setdefault(kind, []).append(seconds)
        alone = sum(median(known.get(_kind(cell.labels), [overall])) for cell in self.missing.values())
        return alone / self._at_once

    @property
    def _at_once(self) -> float:
        """Seconds of fits per second of the clock, which an engine that runs several at once brings above 1."""
        elapsed = self._clock() - self._begun
        return max(1.0, self._spent / elapsed) if elapsed > 0 else 1.0

    @property
    def note(self) -> str:
        left = self.left
        words = [] if left is None else [f"{left / 3600:.1f} h left" if left > 5400 else f"{left / 60:.0f} min left"
                                         if left > 90 else f"{left:.0f} s left"]
        return " · ".join([*words, *([f"{self.failed} failed"] if self.failed else [])])


def _kind(labels: dict) -> tuple:
    """Fits that take about equally long."""
    return str(labels.get("generator")).partition("@")[0], labels.get("method") or "lora"
