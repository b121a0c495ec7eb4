"""How long work shows itself: one bar a stage on a terminal, plain lines elsewhere, nothing when quiet."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task):  # type: ignore[override]
        from rich.text import Text

        return Text(f"{task.speed or 0:.3g}/s {task.fields['note']}", style="dim")


class Reporter:
    """Progress of one command. `quiet=True` says nothing."""

    def __init__(self, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=False)
        self.quiet = quiet

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[int, int, str], None]]:
        """Yields `update(done, total, note)`. The first call, which may be at any point, starts the bar."""
        if self.quiet or not self.console.is_terminal:
            yield self._lines(what)
            return
        columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), _Rate(),
                   TimeRemainingColumn(compact=True))
        with Progress(*columns, console=self.console, refresh_per_second=4) as progress:
            task = None

            def update(done: int, total: int, note: str = "") -> None:
                nonlocal task
                if task is None:            # rich times from the first update on that adds something, whatever that is
                    task = progress.add_task(what, total=total, completed=done - 1, note=note)
                progress.update(task, completed=done, note=note)

            yield update

    def _lines(self, what: str) -> Callable[[int, int, str], None]:
        began, last = None, time.monotonic()

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal began, last
            now = time.monotonic()
            began = began or (now, done)            # what was done before the first call took nobody knows how long
            if done == total or now - last > 15:
                rate = (done - began[1]) / (now - began[0]) if done > began[1] and now > began[0] else None
                speed = "" if rate is None else f", {rate:.3g}/s"
                left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
                self.say(f"{what}: {done}/{total}{note and ' '}{note}{speed}{left}")
                last = now

        return update
