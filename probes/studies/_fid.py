"""Study 1: do better generators know more? Skill over the Fréchet distance, within families and pooled."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import generators

from ._base import PAPER, SMALL, SMALL_DIFFUSION, STYLEGAN2, Cell, Row, Study
from ._page import table
from ._plots import INTRINSICS, nothing, scatter
from ._points import Point, points, values
from ._registry import register_study
from ._statistics import FEWEST, Correlation, pearson, spearman, within
from ._verdict import Verdict, decide

_SMALL = ("stylegan2-scenes@16k", "stylegan2-scenes@64k", "stylegan2-scenes@256k", STYLEGAN2, "sd-scenes@64k",
          "sd-scenes")
POOLED = "all families"
_ENOUGH, _SURE = 6, 0.05        # of five generators in perfect order, p is 2 / 120


class Fid(Study):
    name = "fid"
    question = "do generators that draw better images know more about the scenes in them?"
    finding = ("Across generators, image quality and the accuracy of the recovered intrinsics are positively correlated "
               f"({PAPER}, abstract and control experiments).")
    rule = (f"for every intrinsic, with at least {_ENOUGH} generators and distances of one detector and number of samples, "
            "Spearman's ρ between Fréchet distance and skill, pooled over families, has its whole 95 % interval below 0 and a "
            f"permutation p below {_SURE}, and no family with at least {FEWEST} levels has ρ above 0.")
    as_a_whole = True

    def cells(self, small: bool) -> list[Cell]:
        if small:
            return [Cell(dict(generator=name, intrinsic="normal", **(SMALL_DIFFUSION if name.startswith("sd-") else SMALL)))
                    for name in _SMALL]
        embedded = [e.name for e in generators.catalog().values() if e.kind == "embedded"]
        return [Cell(dict(generator=name, intrinsic=intrinsic)) for intrinsic in INTRINSICS for name in embedded]

    def plot(self, rows: Sequence[Row]) -> bytes:
        rows = _placed(rows)
        if not rows:
            return nothing("no generator of these rows\nhas a Fréchet distance")
        found = _levels(rows)
        panels = {i: {f: p for f, p in families.items() if f != POOLED} for i, families in found.items()}
        pooled = {i: correlate(families[POOLED])[0].value for i, families in found.items()}
        titles = {i: i if math.isnan(rho) else f"{i}, ρ = {rho:+.2f}".replace("-", "−") for i, rho in pooled.items()}
        return scatter(panels, f"Fréchet distance ({_detector(rows)}): better to the left", titles)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        if len(kinds := _measures(rows)) > 1:
            return Verdict("not testable here", "the distances are not of one kind, and those of different detectors or "
                           f"numbers of samples cannot be compared: {'; '.join(map(_kind, kinds))}.")
        held, lost, dropped = [], [], []
        levels = _levels(_placed(rows))
        for intrinsic in values(rows, "intrinsic", INTRINSICS):
            families = levels.get(intrinsic, {POOLED: []})
            rho = {family: correlate(found)[0] for family, found in families.items() if len(found) >= FEWEST}
            pooled = rho.get(POOLED)
            if pooled is None or pooled.n < _ENOUGH or math.isnan(pooled.value):
                dropped.append(f"{intrinsic} (n = {len(families[POOLED])})")
                continue
            rising = [family for family, r in rho.items() if family != POOLED and r.value > 0]
            line = f"{intrinsic} ρ = {pooled}" + (f" (in {', '.join(rising)} it rises with the distance)" if rising else "")
            (held if pooled.high < 0 and pooled.p < _SURE and not rising else lost).append(line)
        if bare := values([r for r in rows if not _known(r)], "generator"):
            dropped.append(f"{', '.join(bare)} (no Fréchet distance by this detector)")
        verdict = decide(held, lost, dropped, f"fewer than {_ENOUGH} generators have both a Fréchet distance and a skill.",
                         "The lower the distance, the higher the skill: ", "The rule does not hold for ")
        if lost and held:
            return Verdict(verdict.kind, f"{verdict.reason} It holds for {'; '.join(held)}.")
        return verdict

    def tables(self, rows: Sequence[Row]) -> str:
        kinds, rows = _measures(rows), _placed(rows)
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
        others = f" Left out, as not comparable with these: {'; '.join(map(_kind, kinds[1:]))}." if kinds[1:] else ""
        left_out = values(rows, "family")
        standing = [(intrinsic, _within(families), *(_without(families, family) for family in left_out))
                    for intrinsic, families in _levels(rows).items()]
        return "\n\n".join([
            "Correlation of Fréchet distance and skill (below 0: better generators know more), with 95 % bootstrap intervals "
            "over generators and a permutation p:",
            table(["intrinsic", "over", "Spearman ρ", "Pearson r (log distance)"], lines),
            "What hangs on one family, and what is left of it where families are compared with themselves alone (Kendall's τ "
            "over pairs within families; p over pairings within them):",
            table(["intrinsic", "τ within families", *(f"pooled ρ without {family}" for family in left_out)], standing),
            "Skill of each generator:", table(["generator", "Fréchet distance", *names], each),
            f"Detector: {_kind(kinds[0])}.{others} A pooled coefficient compares architectures "
            "too, and those differ in what a probe can adapt; the families' own do not."])


def _measures(rows: Sequence[Row]) -> list[tuple]:
    """(detector, samples) of the distances there are, the most frequent first."""
    found = Counter((r["detector"], r["frechet_samples"]) for r in rows if _known(r))
    return sorted(found, key=lambda kind: (-found[kind], str(kind)))


def _kind(measure: tuple) -> str:
    return f"{str(measure[0]).partition(',')[0]}, {measure[1]} samples"


def _placed(rows: Sequence[Row]) -> list[Row]:
    """Rows with a distance of the most frequent kind: only those of one kind can be compared."""
    kinds = _measures(rows)
    return [r for r in rows if _known(r) and (r["detector"], r["frechet_samples"]) == kinds[0]]


def _known(row: Row) -> bool:
    return row["frechet"] is not None and math.isfinite(row["frechet"])


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


def _families(levels: dict[str, list]) -> list[str]:
    return sorted(family for family in levels if family != POOLED)


def _within(levels: dict[str, list[tuple[float, Point]]]) -> Correlation:
    return within([([x for x, _ in levels[f]], [p.value for _, p in levels[f]]) for f in _families(levels)])


def _without(levels: dict[str, list[tuple[float, Point]]], family: str) -> Correlation:
    """Pooled, but for one family."""
    return correlate([pair for other in _families(levels) if other != family for pair in levels[other]])[0]


def correlate(found: Sequence[tuple[float, Point]]) -> tuple[Correlation, Correlation]:
    """(Spearman's ρ, Pearson's r with the logarithm of the distance) over generators; the latter of positive distances."""
    positive = [(math.log(x), p.value) for x, p in found if x > 0]
    return (spearman([x for x, _ in found], [p.value for _, p in found]),
            pearson([x for x, _ in positive], [v for _, v in positive]))


register_study(Fid())
