"""Study 2: what is left of a skill above networks that were never trained, and above what latent and picture give away?"""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL, STYLEGAN2, Cell, Row, Study
from ._page import table
from ._plots import INTRINSICS, dots
from ._points import Point, points, two, values
from ._registry import register_study
from ._verdict import Verdict, decide

_BEST = (STYLEGAN2, "stylegan-xl-scenes", "vqgan-scenes", "sd-scenes")
_CLOSED = ("latent", "rgb")
_GEOMETRY = ("normal", "depth")         # of albedo and shading the picture shows too much


class Random(Study):
    name = "random"
    question = "does an untrained network, adapted the same way, emit intrinsics too?"
    finding = (f"No: the same LoRA on a randomly initialised network fails to recover them ({PAPER}, control experiments; "
               "shown for the U-Net of Stable Diffusion).")
    rule = ("for normals and depth, the trained generator's interval lies wholly above those of its random and its crossed "
            "control, for every generator.")
    version = 2
    tags = ("network",)

    def cells(self, small: bool) -> list[Cell]:
        generators = _BEST[:1] if small else _BEST
        cells = []
        for name in generators:
            about = dict(generator=name, **(SMALL if small else {}))
            if name.startswith("sd-"):          # its images have exact maps
                about["teacher"] = "exact"
            for network in ("pretrained", *_untrained(name)):
                controls = list(_CLOSED) if network == "pretrained" else []
                cells += [Cell(dict(about, intrinsic=i, weights=network, controls=controls), dict(network=network))
                          for i in (("normal", "albedo") if small else INTRINSICS)]
        return cells

    def plot(self, rows: Sequence[Row]) -> bytes:
        panels: dict[str, list] = {}
        for (generator, intrinsic), marks in _settings(rows).items():
            named = {"trained": marks.get("pretrained"), **{n: marks.get(n) for n in ("random", "crossed", *_CLOSED)}}
            panels.setdefault(generator, []).append((intrinsic, {n: m for n, m in named.items() if m is not None}))
        return dots(panels)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        held, lost, dropped, best = [], [], [], []
        for (generator, intrinsic), marks in _settings(rows).items():
            if intrinsic not in _GEOMETRY:
                continue
            name = f"{intrinsic} of {generator}"
            if gone := [n for n in ("pretrained", *_untrained(generator)) if n not in marks]:
                dropped.append(f"{name} (no fit of {' and '.join(gone)})")
                continue
            own, rivals = marks["pretrained"], [marks[n] for n in _untrained(generator)]
            highest = max(p.value for p in rivals)
            if own.value <= 0 and highest <= 0:
                dropped.append(f"{name} ({own}, no network above 0)")
                continue
            best.append(highest)
            (held if own.low > max(p.high for p in rivals) and own.value > 0 else lost).append(name)
        verdict = decide(held, lost, dropped, "no generator has both its own skill and those of all its untrained networks.",
                         "The trained network is above every untrained one on ",
                         "The trained network's interval is not wholly above every untrained one's on ")
        if verdict.kind == "not reproduced" and held:
            return Verdict(verdict.kind, f"{verdict.reason} Not so on {'; '.join(held)}.")
        if verdict.kind == "reproduced":
            return Verdict(verdict.kind, f"{verdict.reason} The best untrained one reaches {two(max(best))}; what is left "
                           "above all controls is in the table.")
        return verdict

    def tables(self, rows: Sequence[Row]) -> str:
        lines = []
        for (generator, intrinsic), marks in _settings(rows).items():
            own = marks.get("pretrained")
            bar = max([0.0, *(m.value if isinstance(m, Point) else m for n, m in marks.items() if n != "pretrained")])
            whole = all(n in marks for n in (*_untrained(generator), *_CLOSED))
            left = own.value - bar if own is not None and whole else None      # above all only if all are there
            lines.append([generator, intrinsic, own, marks.get("random"), marks.get("crossed"), marks.get("latent"),
                          marks.get("rgb"), left])
        return "\n\n".join([
            table(["generator", "intrinsic", "trained", "random", "crossed", "latent", "rgb", "left above all"], lines),
            "`random`: fresh weights, its own images. `crossed`: the trained generator's latents and targets, a fresh network "
            "behind them. `latent`: ridge regression from the latent code. `rgb`: an affine map of the picture's own colours. "
            "*Left above all*: the trained skill less the best of these and of the average picture (0); "
            "a dash where one of them is missing."])


def _untrained(generator: str) -> tuple[str, ...]:
    """The untrained networks of the grid. Where images come from outside, the crossed one is the random one."""
    return ("random",) if generator.startswith("sd-") else ("random", "crossed")


def _settings(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Point | float]]:
    """{(generator, intrinsic): {network or closed-form control: skill}}."""
    found: dict[tuple[str, str], dict[str, Point | float]] = {}
    for intrinsic in values(rows, "intrinsic", INTRINSICS):
        own = [r for r in rows if r["intrinsic"] == intrinsic]
        for p in points(own, "generator", "network"):
            marks = found.setdefault((p.at["generator"], intrinsic), {})
            marks[p.at["network"]] = p
            if p.at["network"] == "pretrained":
                marks |= {n: v for n in _CLOSED if (v := p.median(f"control_{n}")) is not None}
    return dict(sorted(found.items(), key=lambda item: (_BEST + (item[0][0],)).index(item[0][0])))


register_study(Random())
