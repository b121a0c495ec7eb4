"""Study 4: how many labelled images does a probe need? Skill over the pairs in the bank, at a fixed number of steps."""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL, STYLEGAN2, Cell, Row, Study
from ._page import table
from ._plots import curves
from ._rank import Case, _lines, share_verdict
from ._registry import register_study
from ._verdict import Verdict

_FEW, _KEPT = 250, 0.8
_GENERATORS = (STYLEGAN2, "sd-scenes")


class Labels(Study):
    name = "labels"
    question = "how many labelled images does a probe need?"
    finding = f"As few as 250 labelled images are enough ({PAPER}, abstract)."
    rule = (f"with {_FEW} pairs the skill is at least {_KEPT:.0%} of that with the most pairs, at the same number of steps, "
            "for every generator and intrinsic, by intervals.")

    def cells(self, small: bool) -> list[Cell]:
        if small:
            budget = {k: v for k, v in SMALL.items() if k != "samples"}
            return [Cell(dict(generator=_GENERATORS[0], intrinsic="normal", samples=n, **budget)) for n in (16, 50, 250, 500)]
        return [Cell(dict(generator=g, intrinsic=i, samples=n)) for g in _GENERATORS for i in ("normal", "depth")
                for n in (50, 100, 250, 500, 1000, 2000, 4000, 8000, 16000)]

    def plot(self, rows: Sequence[Row]) -> bytes:
        return curves(_lines(rows, "samples"), "samples", f"labelled images (the paper's few: {_FEW})", marks=(_FEW,), base=10)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        cases = []
        for intrinsic, lines in _lines(rows, "samples").items():
            for generator, own in lines.items():
                few, most = next((p for p in own if p.at["samples"] == _FEW), None), own[-1]
                gone = [text for text, here in ((f"{_FEW} pairs", few is not None),
                                                (f"more than {_FEW}", most.at["samples"] > _FEW)) if not here]
                cases.append(Case(f"{intrinsic} of {generator}", few, most, f"with {_FEW}", f"with {most.at['samples']:,}",
                                  " and ".join(gone)))
        return share_verdict(cases, _KEPT, f"{_FEW} pairs and at more")

    def tables(self, rows: Sequence[Row]) -> str:
        return table(["generator", "intrinsic", "pairs", "skill"],
                     [(g, i, f"{p.at['samples']:,}", p) for i, lines in _lines(rows, "samples").items()
                      for g, own in lines.items() for p in own])


register_study(Labels())
