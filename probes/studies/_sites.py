"""Study 5: where does the adapter have to sit? Skill by the set of sites."""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL, STYLEGAN2, Cell, Row, Study
from ._page import count, table
from ._plots import dots
from ._points import Point, points, values
from ._registry import register_study
from ._verdict import Verdict, decide

_AFFINE = ("affine", "affine-convs", *(f"affine@{r}" for r in (4, 8, 16, 32, 64)))
_SCOPES = {STYLEGAN2: _AFFINE, "vqgan-scenes": ("decoder-attention", "decoder"),
           "sd-scenes": ("all", "self", "cross", "down", "mid", "up")}
_UNSURE = 0.05      # a skill this much above the paper's, within intervals, leaves open which is better
_PAPERS = {STYLEGAN2: "affine", "vqgan-scenes": "decoder-attention", "sd-scenes": "all"}


class Sites(Study):
    name = "sites"
    question = "where does the adapter have to sit?"
    finding = ("The paper adapts all affine layers of a StyleGAN, the decoder's attention of a VQGAN, and self- and "
               f"cross-attention of Stable Diffusion's U-Net ({PAPER}, section 3).")
    rule = ("of every generator with at least three scopes, no other scope's interval lies wholly above that of the paper's, "
            "on any intrinsic; one that is more than 0.05 above it within the intervals leaves it open.")

    def cells(self, small: bool) -> list[Cell]:
        if small:
            return [Cell(dict(generator=STYLEGAN2, intrinsic="normal", scope=s, **SMALL))
                    for s in ("affine", "affine-convs", "affine@8", "affine@32", "affine@64")]
        return [Cell(dict(generator=g, intrinsic=i, scope=s)) for g, scopes in _SCOPES.items() for i in ("normal", "depth")
                for s in scopes]

    def plot(self, rows: Sequence[Row]) -> bytes:
        panels = {}
        for generator in values(rows, "generator", tuple(_SCOPES)):
            entries: dict[str, dict[str, Point]] = {}
            for intrinsic, found in _scopes(rows, generator).items():
                for p in found:
                    entries.setdefault(p.at["scope"], {})[intrinsic] = p
            ordered = sorted(entries.items(), key=lambda item: _place(generator, item[0]))
            panels[generator] = [(f"{s} (paper)" if s == _PAPERS.get(generator) else s, m) for s, m in ordered]
        return dots(panels)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        held, better, dropped = [], [], []
        for generator in values(rows, "generator", tuple(_SCOPES)):
            for intrinsic, found in _scopes(rows, generator).items():
                at, name = {p.at["scope"]: p for p in found}, f"{intrinsic} of {generator}"
                own = at.pop(_PAPERS.get(generator), None)
                if own is None or len(at) < 2:
                    # The rule leaves generators out that have two scopes in the grid.
                    if own is None or len(_SCOPES.get(generator, ())) > 2:
                        few = "fewer than three scopes" if own else "no fit of the paper's scope"
                        dropped.append(f"{name} ({few})")
                    continue
                above = [f"{s} {p}" for s, p in at.items() if p.low > own.high]
                unsure = [f"{s} {p}" for s, p in at.items() if p.value - own.value > _UNSURE and p.low <= own.high]
                if above:
                    better.append(f"{name} {own}, against {', '.join(above)}")
                elif all(p.value <= 0 for p in (own, *at.values())):
                    dropped.append(f"{name} {own}, no scope above 0")
                elif own.value <= 0:
                    dropped.append(f"{name} {own}, not above 0, and no other scope clearly better")
                elif unsure:
                    dropped.append(f"{name} {own}, whose interval does not tell it from {', '.join(unsure)}")
                else:
                    held.append(f"{name} {own}")
        return decide(held, better, dropped, "no generator has the paper's scope and at least two others.",
                      "No other set of sites does clearly better: ", "Other sites do better: ")

    def tables(self, rows: Sequence[Row]) -> str:
        lines = []
        for generator in values(rows, "generator", tuple(_SCOPES)):
            for intrinsic, found in _scopes(rows, generator).items():
                lines += [(generator, intrinsic, p.at["scope"], count(p.median("parameters")), p)
                          for p in sorted(found, key=lambda p: _place(generator, p.at["scope"]))]
        return table(["generator", "intrinsic", "scope", "parameters", "skill"], lines)


def _scopes(rows: Sequence[Row], generator: str) -> dict[str, list[Point]]:
    own = [r for r in rows if r["generator"] == generator]
    return {i: points([r for r in own if r["intrinsic"] == i], "scope") for i in values(own, "intrinsic", ("normal", "depth"))}


def _place(generator: str, scope: str) -> int:
    known = _SCOPES.get(generator, ())
    return known.index(scope) if scope in known else len(known)


register_study(Sites())
