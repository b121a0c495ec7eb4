"""Study 3: how small may the adapter be? Skill over the rank of W_u W_l."""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL, Cell, Row, Study, Verdict
from ._page import count, table
from ._plots import INTRINSICS, curves
from ._points import Point, points, values
from ._registry import register_study

_KEPT = 0.9
_GENERATORS = ("stylegan2-scenes", "sd-scenes")


class Rank(Study):
    name = "rank"
    question = "how small may the adapter be?"
    finding = f"Rank 2, 0.04 % of Stable Diffusion's parameters, is enough ({PAPER}, abstract); the default is rank 8."
    rule = f"at rank 2 the skill is at least {_KEPT:.0%} of the best at any rank, for every generator and intrinsic."

    def cells(self, small: bool) -> list[Cell]:
        if small:
            return [Cell(dict(generator=_GENERATORS[0], intrinsic="normal", rank=r, **SMALL)) for r in (1, 2, 8, 32)]
        return [Cell(dict(generator=g, intrinsic=i, rank=r)) for g in _GENERATORS for i in ("normal", "depth")
                for r in (1, 2, 4, 8, 16, 32, 64)]

    def plot(self, rows: Sequence[Row]) -> bytes:
        return curves(_lines(rows, "rank"), "rank", "rank of the LoRA (the paper's: 2 and 8)", marks=(2, 8))

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        found = []
        for intrinsic, lines in _lines(rows, "rank").items():
            for generator, own in lines.items():
                at = {p.at["rank"]: p for p in own}
                best = max(own, key=lambda p: p.value)
                if 2 in at and len(at) > 1 and best.value > 0:
                    found.append((at[2].value / best.value, f"{intrinsic} of {generator}: {at[2].value:.2f} at rank 2, "
                                  f"{best.value:.2f} at {best.at['rank']}"))
        return share_verdict(found, _KEPT, "rank 2 and another rank")

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


def share_verdict(found: Sequence[tuple[float, str]], kept: float, needed: str) -> Verdict:
    """Reproduced where every share of the best skill is at least `kept`."""
    if not found:
        return Verdict("not testable here", f"no generator has a skill above 0 at {needed}.")
    if short := [text for share, text in found if share < kept]:
        return Verdict("not reproduced", "; ".join(short) + ".")
    return Verdict("reproduced", "; ".join(text for _, text in found) + ".")


register_study(Rank())
