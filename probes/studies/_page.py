"""A study's page: the question, what the paper found, the verdict, the plot, the tables, how it was made. From rows alone."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ._points import two

if TYPE_CHECKING:
    from ._base import Row, Study
    from ._verdict import Asked, Verdict

_SHOWN = 10         # failures


def compose(study: Study, rows: Sequence[Row], done: Sequence[Row], verdict: Verdict, asked: Asked | None = None) -> str:
    """The Markdown of README.md. `done` are the rows that count, `rows` all of them."""
    seeds = len({r["seed"] for r in done})
    few = 0 < seeds < study.seeds[1]
    look = [f"*A first look, from {seeds} seed{'s' * (seeds > 1)}; {study.seeds[1]} are the rule.*"] if few else []
    parts = [f"# {study.name}: {study.question}", f"**What the paper reports.** {study.finding}",
             f"**Verdict here: {verdict.kind}.** {verdict.reason}", *look, f"*Rule:* {study.rule}"]
    if done:
        parts += ["![what was measured](plot.png)", study.tables(done)]
    parts += ["## How", _how(study, rows, done, asked)]
    failed = sorted((r for r in rows if r["status"] != "ok"), key=lambda r: r["key"])
    if failed:
        lines = [f"- {_called(r)}: {r['failure']}" for r in failed[:_SHOWN]]
        more = [f"- and {len(failed) - _SHOWN} more, in rows.csv"] if len(failed) > _SHOWN else []
        parts += ["## Failed", "\n".join([*lines, *more]),
                  "The same command, with the same `--out`, and `--retry true` tries them again."]
    return "\n\n".join(parts) + "\n"


def _how(study: Study, rows: Sequence[Row], done: Sequence[Row], asked: Asked | None) -> str:
    text = (f"`{_command(study, asked)}` (version {study.version}); "
            + (f"{asked.extent(done)}; " if asked else "") + f"{len(done)} fits"
            + (f", {len(rows) - len(done)} failed or without a skill" if len(rows) > len(done) else "") + ".")
    if done:
        text += (f" Pairs {_span(done, 'samples')}, optimiser steps {_span(done, 'steps')}, seeds {_span(done, 'seed')}, "
                 f"scored on {_span(done, 'n')} unseen images, protocol {_listed(done, 'protocol')}, taught by "
                 f"{taught(done)}, scored against {_listed(done, 'against')}. Made with "
                 f"{_listed(done, 'versions', '; ')} on {_listed(done, 'hardware', '; ')}.")
    return text + ("\n\nSkill is 1 − error / error of the average picture: 0 knows nothing beyond that, 1 makes no error. A "
                   "figure is the median over seeds; its interval reaches from the lowest to the highest end of the seeds' "
                   "own 95 % intervals, which are over images. Every fit is a row of rows.csv.")


def taught(rows: Iterable[Row]) -> str:
    """Who taught, and how wrong each is: "exact and by scenes (whose own errors against exact maps are: normal 5.14° …)"."""
    said, rows = [], list(rows)
    for teacher in sorted({r["teacher"] for r in rows if r["teacher"]}):
        errors = {r["intrinsic"]: r["teacher_error"] for r in rows if r["teacher"] == teacher and r["teacher_error"]}
        listed = ", ".join(f"{intrinsic} {error}" for intrinsic, error in errors.items())
        said.append(teacher + (f" (whose own errors against exact maps are: {listed})" if listed else ""))
    return " and by ".join(said) or "–"


def _command(study: Study, asked: Asked | None) -> str:
    return asked.command if asked and asked.command else f"probes study {study.name}"


def _span(rows: Sequence[Row], column: str) -> str:
    found = sorted({r[column] for r in rows if r[column] is not None})
    if not found:
        return "–"
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _listed(rows: Sequence[Row], column: str, between: str = ", ") -> str:
    return between.join(sorted({str(r[column]) for r in rows if r[column] is not None})) or "–"


def _called(row: Row) -> str:
    named = [str(row[c]) for c in ("generator", "weights", "intrinsic", "method") if row.get(c) not in (None, "pretrained")]
    return f"{' '.join(named)}, seed {row['seed']}"


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None becomes a dash, a float two digits."""
    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return two(value) if isinstance(value, float) else str(value).replace("|", "\\|")

    rows = [[cell(v) for v in line] for line in lines]
    return "\n".join(["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |",
                      *("| " + " | ".join(row) + " |" for row in rows)])


def count(value: float | None) -> str:
    """A large number as people read it: 25.6k, 1.13M."""
    if value is None:
        return "–"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
