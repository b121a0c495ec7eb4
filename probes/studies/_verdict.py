"""Verdicts of rules that say "for every": one lost case refutes, one that could not be tested leaves it open.

Two questions, kept apart: what the rows say of the rule (`decide`, used by the studies), and whether all the rows that the
rule speaks of are there (`judge`, used by the page).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._base import Cell, Row, Study


@dataclass(frozen=True)
class Verdict:
    """What the rows say of the paper's finding, by a rule that was fixed before they were there."""

    kind: Literal["reproduced", "not reproduced", "not testable here"]
    reason: str


@dataclass(frozen=True)
class Asked:
    """What a page has to know of the run beside its rows.

    Args:
        cells: the whole grid with its seeds, not only those that `--only` chose
        small: whether it is the small grid
        command: as it can be typed again
    """

    cells: Sequence[Cell]
    small: bool = False
    command: str = ""

    def there(self, done: Sequence[Row]) -> int:
        """Cells of the grid that are among the finished rows."""
        keys = {r["key"] for r in done}
        return sum(cell.key in keys for cell in self.cells)

    def extent(self, done: Sequence[Row]) -> str:
        """"3 of 8 cells; small"."""
        return f"{self.there(done)} of {len(self.cells)} cells" + ("; small" if self.small else "")


def decide(held: Sequence[str], lost: Sequence[str], dropped: Sequence[str], none: str, found: str = "",
           against: str = "") -> Verdict:
    """The verdict on a rule for every case.

    Args:
        held, lost: cases that were tested
        dropped: cases that the rule speaks of and the rows cannot test, each with why
        none: what is missing where no case could be tested
        found, against: what is said before the held ones, and before the lost ones
    """
    left = f" Not tested: {'; '.join(dropped)}." if dropped else ""
    if lost:
        return Verdict("not reproduced", f"{against}{'; '.join(lost)}.{left}")
    if not held:
        return Verdict("not testable here", none + left)
    if dropped:
        return Verdict("not testable here", f"the rule is about every case, and it holds only where it could be tested: "
                       f"{'; '.join(held)}.{left}")
    return Verdict("reproduced", f"{found}{'; '.join(held)}.")


def judge(study: Study, done: Sequence[Row], asked: Asked | None) -> Verdict:
    """The study's verdict on finished rows. "Reproduced" is for a whole grid: of an incomplete or a small one the rule may
    hold, which is no more than that. A small one, whose fits are short, refutes nothing either, nor does an incomplete one
    where a study compares over its whole grid.

    Without `asked` the rows are taken to be all there are.
    """
    if not done:
        verdict = Verdict("not testable here", "no fit is finished yet.")
        return verdict if asked is None else Verdict(verdict.kind, f"{verdict.reason} ({asked.extent(done)})")
    verdict = study.verdict(done)
    if asked is None:
        return verdict
    missing, extent = asked.there(done) < len(asked.cells), asked.extent(done)
    if not missing and not asked.small:
        return verdict
    if verdict.kind == "reproduced" or verdict.kind == "not reproduced" and (asked.small or study.as_a_whole):
        first = "the rule holds so far" if verdict.kind == "reproduced" else "the rule does not hold so far"
        lacks = "needs every cell of the grid" if missing else "needs the full grid"
        return Verdict("not testable here", f"({extent}) {first}, and {lacks}: {verdict.reason}")
    return Verdict(verdict.kind, f"({extent}) {verdict.reason}")
