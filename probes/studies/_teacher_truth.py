"""Study 8: is a teacher's word as good as the truth? Taught by either, scored on exact ground truth."""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL_DIFFUSION, Cell, Row, Study
from ._page import table
from ._plots import INTRINSICS, dots
from ._points import Point, points, values
from ._registry import register_study
from ._verdict import Verdict, decide

_LOSS = 0.05


class TeacherTruth(Study):
    name = "teacher-truth"
    question = "does a probe that a network taught know less than one that the exact maps taught?"
    finding = (f"The paper teaches by the pseudo ground truth of other networks throughout ({PAPER}, section 3), and so "
               "takes it to be enough; generated images have no other.")
    rule = (f"for every intrinsic, scored on exact maps, the skill of the probe that the teacher taught is at most {_LOSS} "
            "below that of the one that the truth taught.")

    def cells(self, small: bool) -> list[Cell]:
        budget = dict(SMALL_DIFFUSION) if small else {}
        return [Cell(dict(generator="sd-scenes", intrinsic=i, teacher=t, against="exact", controls=["latent", "rgb"], **budget))
                for i in (INTRINSICS[:2] if small else INTRINSICS) for t in ("scenes", "exact")]

    def plot(self, rows: Sequence[Row]) -> bytes:
        entries = []
        for intrinsic, at in _taught(rows).items():
            named = {"taught by the truth": at.get("exact"), "taught by the teacher": at.get("scenes")}
            entries.append((intrinsic, {n: p for n, p in named.items() if p is not None}))
        return dots({"": entries}, "skill, scored on exact maps")

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        held, lost, dropped = [], [], []
        for intrinsic, at in _taught(rows).items():
            if "exact" not in at or "scenes" not in at:
                dropped.append(f"{intrinsic} (taught one way only)")
                continue
            taught, truth = at["scenes"], at["exact"]
            line = f"{intrinsic}: {taught} by the teacher, {truth} by the truth"
            loss = truth.value - taught.value
            if truth.low <= 0 and not (taught.value <= 0 < truth.value and loss > _LOSS):
                dropped.append(f"{line}, not clearly above 0")      # two probes that know nothing know equally much
            else:
                (held if loss <= _LOSS and taught.value > 0 else lost).append(line)
        return decide(held, lost, dropped, "no intrinsic was taught both ways with a skill clearly above 0.")

    def tables(self, rows: Sequence[Row]) -> str:
        lines = [(i, at.get("scenes"), at.get("exact"), next(iter(at.values())).median("control_latent"),
                  next(iter(at.values())).median("control_rgb")) for i, at in _taught(rows).items()]
        return table(["intrinsic", "taught by the teacher", "by the truth", "latent", "rgb"], lines)


def _taught(rows: Sequence[Row]) -> dict[str, dict[str, Point]]:
    return {i: {p.at["teacher"]: p for p in points([r for r in rows if r["intrinsic"] == i], "teacher")}
            for i in values(rows, "intrinsic", INTRINSICS)}


register_study(TeacherTruth())
