"""Study 1: do better generators know more? Skill over the Fréchet distance, within families and pooled."""
from __future__ import annotations

from collections.abc import Sequence

import generators

from ._base import PAPER, SMALL, SMALL_DIFFUSION, Cell, Row, Study, Verdict
from ._page import table
from ._plots import INTRINSICS, scatter
from ._points import Point, points, values
from ._registry import register_study
from ._statistics import FEWEST, Correlation, pearson, spearman

_SMALL = ("stylegan2-scenes@16k", "stylegan2-scenes@64k", "stylegan2-scenes@256k", "stylegan2-scenes", "sd-scenes@64k",
          "sd-scenes")
POOLED = "all families"


class Fid(Study):
    name = "fid"
    question = "do generators that draw better images know more about the scenes in them?"
    finding = ("Across generators, image quality and the accuracy of the recovered intrinsics are positively correlated "
               f"({PAPER}, abstract and control experiments).")
    rule = (f"for every intrinsic with at least {FEWEST} generators, Spearman's ρ between Fréchet distance and skill, pooled "
            "over families, has its whole 95 % interval below 0, and no family with that many levels has ρ above 0.")

    def cells(self, small: bool) -> list[Cell]:
        if small:
            return [Cell(dict(generator=name, intrinsic="normal", **(SMALL_DIFFUSION if name.startswith("sd-") else SMALL)))
                    for name in _SMALL]
        embedded = [e.name for e in generators.catalog().values() if e.kind == "embedded"]
        return [Cell(dict(generator=name, intrinsic=intrinsic)) for intrinsic in INTRINSICS for name in embedded]

    def plot(self, rows: Sequence[Row]) -> bytes:
        rows = _placed(rows) or rows
        found = _levels(rows)
        panels = {i: {f: p for f, p in families.items() if f != POOLED} for i, families in found.items()}
        titles = {i: f"{i}, ρ = {correlate(families[POOLED])[0].value:+.2f}".replace("-", "−")
                  for i, families in found.items()}
        return scatter(panels, f"Fréchet distance ({_detector(rows)})", titles)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        tested, against = [], []
        for intrinsic, families in _levels(_placed(rows)).items():
            rho = {family: correlate(found)[0] for family, found in families.items() if len(found) >= FEWEST}
            if POOLED not in rho:
                continue
            rising = [family for family, r in rho.items() if family != POOLED and r.value > 0]
            tested.append(f"{intrinsic} ρ = {rho[POOLED]}")
            if not rho[POOLED].high < 0 or rising:
                against.append(intrinsic + (f" (in {', '.join(rising)} it rises with the distance)" if rising else ""))
        if not tested:
            return Verdict("not testable here", f"fewer than {FEWEST} generators have both a Fréchet distance and a skill.")
        said = "; ".join(tested) + "."
        if against:
            return Verdict("not reproduced", f"The rule does not hold for {', '.join(against)}: {said}")
        return Verdict("reproduced", f"The lower the distance, the higher the skill: {said}")

    def tables(self, rows: Sequence[Row]) -> str:
        rows = _placed(rows)
        if not rows:
            return "No generator of these rows has a Fréchet distance."
        lines = [(intrinsic, family, *correlate(found)) for intrinsic, families in _levels(rows).items()
                 for family, found in families.items()]
        ends = points(rows, "generator", "frechet", "intrinsic")
        names = values(rows, "intrinsic", INTRINSICS)
        each = []
        for distance, name in sorted({(p.at["frechet"], p.at["generator"]) for p in ends}):
            own = {p.at["intrinsic"]: p for p in ends if p.at["generator"] == name}
            each.append([name, f"{distance:.3g}", *(own.get(i) for i in names)])
        samples = values(rows, "frechet_samples")
        return "\n\n".join([
            "Correlation of Fréchet distance and skill (below 0: better generators know more), with 95 % bootstrap intervals "
            "over generators:", table(["intrinsic", "over", "Spearman ρ", "Pearson r (log distance)"], lines),
            "Skill of each generator:", table(["generator", "Fréchet distance", *names], each),
            f"Detector: {_detector(rows)}; {', '.join(map(str, samples))} samples. A pooled coefficient compares architectures "
            "too, and those differ in what a probe can adapt; the families' own do not."])


def _placed(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r["frechet"] is not None]


def _detector(rows: Sequence[Row]) -> str:
    return ", ".join(d.partition(",")[0] for d in values(rows, "detector")) or "none"


def _levels(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, Point]]]]:
    """{intrinsic: {family, and all of them: [(Fréchet distance, skill of a generator over its seeds)]}}."""
    found: dict[str, dict[str, list[tuple[float, Point]]]] = {}
    for intrinsic in values(rows, "intrinsic", INTRINSICS):
        families = found.setdefault(intrinsic, {})
        own = [r for r in rows if r["intrinsic"] == intrinsic]
        for p in points(own, "family", "generator", "frechet"):
            if p.at["frechet"] is not None:
                families.setdefault(p.at["family"], []).append((p.at["frechet"], p))
        families[POOLED] = [pair for pairs in list(families.values()) for pair in pairs]
    return found


def correlate(found: Sequence[tuple[float, Point]]) -> tuple[Correlation, Correlation]:
    """(Spearman's ρ, Pearson's r with the logarithm of the distance) over generators."""
    import math

    distance, skill = [x for x, _ in found], [p.value for _, p in found]
    return spearman(distance, skill), pearson([math.log(x) for x in distance], skill)


register_study(Fid())
