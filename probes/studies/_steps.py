"""Study 7: what do sampling steps and guidance do for multi-step diffusion (the paper's AUG)?

Training knows neither, so all settings of a seed are one fit, scored once each.
"""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL_DIFFUSION, Cell, Row, Study
from ._page import table
from ._plots import curves
from ._points import Point, points, values
from ._registry import register_study
from ._verdict import Verdict, decide

_SINGLE = "single step"


class Steps(Study):
    name = "steps"
    question = "what do sampling steps and guidance do for multi-step diffusion (AUG)?"
    finding = ("The multi-step variant, which samples in 25 steps of DPM-Solver++ at guidance 3 and is trained about twice "
               f"as long, is offered as the more accurate one ({PAPER}, section 4.3; 30,000 against 15,000 optimiser steps).")
    rule = "at 25 steps and guidance 3 the skill's interval lies wholly above the single step's, on every intrinsic."
    tags = ("mode", "sampling_steps", "guidance")

    def cells(self, small: bool) -> list[Cell]:
        budget, intrinsics = (dict(SMALL_DIFFUSION), ("normal",)) if small else ({}, ("normal", "depth"))
        grid = [(5, 1.0), (5, 3.0), (25, 3.0)] if small else [(s, g) for g in (1.0, 2.0, 3.0, 5.0) for s in (2, 5, 10, 25, 50)]
        cells = []
        for intrinsic in intrinsics:
            about = dict(generator="sd-scenes", intrinsic=intrinsic, teacher="exact", controls=[], **budget)
            cells.append(Cell(dict(about, generator_options=dict(mode="single")),
                              dict(mode="single", sampling_steps=1, guidance=None)))
            cells += [Cell(dict(about, generator_options=dict(mode="multi", conv_in="doubled", steps=s, guidance=g)),
                           dict(mode="multi", sampling_steps=s, guidance=g), sampled_by=("steps", "guidance")) for s, g in grid]
        return cells

    def plot(self, rows: Sequence[Row]) -> bytes:
        found = _settings(rows)
        single = {i: own for i, (own, _) in found.items() if own is not None}
        return curves({i: lines for i, (_, lines) in found.items()}, "sampling_steps", "sampling steps (the paper's: 25)",
                      marks=(25,), levels=single, level=_SINGLE)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        held, lost, dropped = [], [], []
        for intrinsic, (single, lines) in _settings(rows).items():
            own = next((p for p in lines.get("guidance 3", ()) if p.at["sampling_steps"] == 25), None)
            if single is None or own is None:
                dropped.append(f"{intrinsic} (no fit of {'the single step' if single is None else '25 steps at guidance 3'})")
                continue
            line = f"{intrinsic}: {own} in 25 steps, {single} in one"
            if own.value <= 0 and single.value <= 0:        # neither was trained long enough to be compared
                dropped.append(f"{line}, neither above 0")
            else:
                (held if own.low > single.high and own.value > 0 else lost).append(line)
        same = "; both had the same number of optimiser steps"
        return decide(held, [*lost[:-1], lost[-1] + same] if lost else [], dropped,
                      "the single step and 25 steps at guidance 3, one of them with a skill above 0, are not among the rows.")

    def tables(self, rows: Sequence[Row]) -> str:
        lines = []
        for intrinsic, (single, groups) in _settings(rows).items():
            if single is not None:
                lines.append((intrinsic, _SINGLE, None, single))
            lines += [(intrinsic, p.at["sampling_steps"], group.removeprefix("guidance "), p) for group, own in groups.items()
                      for p in own]
        return "\n\n".join([table(["intrinsic", "sampling steps", "guidance", "skill"], lines),
                            "The U-Net's second half of input channels starts as half of its own (`conv_in=doubled`): there is "
                            "no InstructPix2Pix of this world, whose weights the paper uses."])


def _settings(rows: Sequence[Row]) -> dict[str, tuple[Point | None, dict[str, list[Point]]]]:
    """{intrinsic: (the single step, {guidance: multi-step by steps})}."""
    found = {}
    for intrinsic in values(rows, "intrinsic", ("normal", "depth")):
        own = [r for r in rows if r["intrinsic"] == intrinsic]
        multi = [r for r in own if r["mode"] == "multi"]
        lines = {f"guidance {g:g}": points([r for r in multi if r["guidance"] == g], "sampling_steps")
                 for g in values(multi, "guidance")}
        found[intrinsic] = next(iter(points([r for r in own if r["mode"] == "single"], "mode")), None), lines
    return found


register_study(Steps())
