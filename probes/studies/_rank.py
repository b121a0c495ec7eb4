"""Study 3: how small may the adapter be? Skill over the rank of W_u W_l."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ._base import PAPER, SMALL, STYLEGAN2, Cell, Row, Study
from ._page import count, table
from ._plots import INTRINSICS, curves
from ._points import Point, points, values
from ._registry import register_study
from ._verdict import Verdict, decide

_KEPT, _ENOUGH = 0.9, 8      # the paper's default rank is 8: without it the best at any rank is not known
_GENERATORS = (STYLEGAN2, "sd-scenes")


class Rank(Study):
    name = "rank"
    question = "how small may the adapter be?"
    finding = f"Rank 2, 0.04 % of Stable Diffusion's parameters, is enough ({PAPER}, abstract); the default is rank 8."
    rule = (f"at rank 2 the skill is at least {_KEPT:.0%} of the best at any rank, for every generator and intrinsic, by "
            "intervals.")

    def cells(self, small: bool) -> list[Cell]:
        if small:
            return [Cell(dict(generator=_GENERATORS[0], intrinsic="normal", rank=r, **SMALL)) for r in (1, 2, 8, 32)]
        return [Cell(dict(generator=g, intrinsic=i, rank=r)) for g in _GENERATORS for i in ("normal", "depth")
                for r in (1, 2, 4, 8, 16, 32, 64)]

    def plot(self, rows: Sequence[Row]) -> bytes:
        return curves(_lines(rows, "rank"), "rank", "rank of the LoRA (the paper's: 2 and 8)", marks=(2, 8))

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        cases = []
        for intrinsic, lines in _lines(rows, "rank").items():
            for generator, own in lines.items():
                at, best = {p.at["rank"]: p for p in own}, max(own, key=lambda p: p.value)
                needed = {"rank 2": 2 in at, f"rank {_ENOUGH} or above": max(at) >= _ENOUGH}
                gone = [text for text, here in needed.items() if not here]
                cases.append(Case(f"{intrinsic} of {generator}", at.get(2), best, "at rank 2", f"at {best.at['rank']}",
                                  " and ".join(gone)))
        return share_verdict(cases, _KEPT, f"rank 2 and at rank {_ENOUGH} or above")

    def tables(self, rows: Sequence[Row]) -> str:
        return table(["generator", "intrinsic", "rank", "parameters", "skill"],
                     [(g, i, p.at["rank"], count(p.median("parameters")), p) for i, lines in _lines(rows, "rank").items()
                      for g, own in lines.items() for p in own])


def _lines(rows: Sequence[Row], column: str) -> dict[str, dict[str, list[Point]]]:
    """{intrinsic: {generator: points by that column}}."""
    found = {}
    for intrinsic in values(rows, "intrinsic", INTRINSICS):
        own = [r for r in rows if r["intrinsic"] == intrinsic]
        found[intrinsic] = {g: points([r for r in own if r["generator"] == g], column) for g in values(own, "generator")}
    return found


@dataclass(frozen=True)
class Case:
    """The few beside the many: one generator and intrinsic.

    Args:
        name: of the case
        few, many: skill with little, and the skill it is held against
        at_few, at_many: what they are, in words
        gone: what is missing for a comparison, or nothing
    """

    name: str
    few: Point | None
    many: Point
    at_few: str
    at_many: str
    gone: str = ""


def share_verdict(cases: Sequence[Case], kept: float, needed: str) -> Verdict:
    """Reproduced where every share few / many is at least `kept`, its interval too: from the low end of the one over the high
    end of the other to the reverse. One that straddles `kept` is not tested."""
    held, lost, dropped = [], [], []
    for case in cases:
        few, many = case.few, case.many
        if case.gone or few is None:
            dropped.append(f"{case.name} (no fit of {case.gone})")
            continue
        line = f"{case.name}: {few} {case.at_few}, {many} {case.at_many}"
        if many.value <= 0:
            dropped.append(f"{line}, neither above 0")
        elif few is many:
            held.append(line)
        elif few.high < kept * many.low:
            lost.append(line)
        elif few.low >= kept * many.high:
            held.append(line)
        else:
            dropped.append(f"{line}, whose share's interval straddles {kept:.0%}")
    return decide(held, lost, dropped, f"no generator has a skill above 0 at {needed} that tells.")


register_study(Rank())
