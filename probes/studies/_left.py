"""Study 9: what is left of a probe's skill after each control?

The controls, from the cheapest to the one that tells most:

    latent     ridge regression from the latent code            in the probe's own row, as are the next two
    rgb        an affine map of the picture's own colours
    shuffled   the same fit on targets of other pictures
    pixels     a network of the LoRA's size on the picture      a fit: what the picture shows
    random     the same fit on fresh weights, its own images    a fit: what the adapter alone learns
    crossed    trained latents and targets, fresh network       a fit: that, and what the latents say
"""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL, STYLEGAN2, Cell, Row, Study
from ._page import table
from ._plots import INTRINSICS, nothing, waterfall
from ._registry import register_study
from ._standing import AVERAGE, CONTROLS, PROBE, Standing, expected, standings
from ._verdict import Verdict, decide

GENERATORS = (STYLEGAN2, "stylegan-xl-scenes", "vqgan-scenes", "sd-scenes")
_ORDER = ("stylegan2-scenes", *GENERATORS)      # of what is shown, the larger fits of zoo/results among it
_IN_ROW = ("latent", "rgb", "shuffled")


class Controls(Study):
    name = "controls"
    question = "what is left of a probe's skill after each control?"
    finding = ("GANs, autoregressive and diffusion models know normals, depth, albedo and shading of what they draw: a small "
               f"LoRA recovers them through the same head ({PAPER}, abstract). Its control is one network that was never "
               "trained, Stable Diffusion's U-Net.")
    rule = ("(ours; the paper has none) for every generator and intrinsic, what is left above every control, the average "
            "picture among them, has its whole interval above 0. One whose interval contains 0 is open, and so is one whose "
            "controls were not all run, unless one of them is clearly better.")
    tags = ("control", *(f"control_{name}_{end}" for name in _IN_ROW for end in ("low", "high")))

    def cells(self, small: bool) -> list[Cell]:
        cells = []
        for generator in GENERATORS[:1] if small else GENERATORS:
            for intrinsic in INTRINSICS[:1] if small else INTRINSICS:
                about = dict(generator=generator, intrinsic=intrinsic, **(SMALL if small else {}))
                if generator.startswith("sd-"):         # its images have exact maps
                    about["teacher"] = "exact"
                cells.append(Cell(dict(about, controls=list(_IN_ROW)), dict(control=PROBE)))
                for control in expected(generator):
                    if control not in _IN_ROW:
                        how = dict(method=control) if control == "pixels" else dict(weights=control)
                        cells.append(Cell(dict(about, controls=[], **how), dict(control=control)))
        return cells

    def plot(self, rows: Sequence[Row]) -> bytes:
        found = [s for s in standings(rows, _ORDER) if s.probe is not None]
        return waterfall(found, CONTROLS) if found else nothing("no probe was fitted yet,\nonly controls")

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        cases: dict[str, list[str]] = {"held": [], "lost": [], "dropped": []}
        for standing in standings(rows, _ORDER):
            case, text = _judged(standing)
            cases[case].append(f"{standing.intrinsic} of {standing.generator} {text}")
        verdict = decide(**cases, none="no probe has all its controls, or is better than the average picture.",
                         found="Left above every control: ", against="Nothing is left of ")
        if cases["lost"] and cases["held"]:
            return Verdict(verdict.kind, f"{verdict.reason} Left above every control: {'; '.join(cases['held'])}.")
        return verdict

    def tables(self, rows: Sequence[Row]) -> str:
        found = standings(rows, _ORDER)
        words = {"held": "yes", "lost": "no", "dropped": "open"}
        skills = table(["generator", "intrinsic", "probe", *CONTROLS, "left above every control", "knows"],
                       [(s.generator, s.intrinsic, s.probe, *(s.controls.get(c) for c in CONTROLS), _least(s),
                         words[_judged(s)[0]]) for s in found])
        each = table(["generator", "intrinsic", *CONTROLS],
                     [(s.generator, s.intrinsic, *(s.above(c) for c in CONTROLS)) for s in found])
        return "\n\n".join([
            "Skill of the probe and of its controls:", skills, "What is left of it above each control:", each,
            "`latent`: ridge regression from the latent code. `rgb`: an affine map of the picture's own colours at every "
            "pixel. `pixels`: a small network of the LoRA's size that sees the picture and nothing else. `shuffled`: the same "
            "LoRA, taught with maps of other pictures. `random`: the same LoRA on fresh weights, which draw images of their "
            "own. `crossed`: the trained generator's latents and targets, a fresh network behind them; of a generator that is "
            "driven by images it is `random`, and stands there.",
            "*Left* is 1 − error of the probe / error of the control, from skills: (s − c) / (1 − c), where c is no less than "
            "the average picture's 0. Its interval takes the worst ends of both and so is wide, since their errors on the same "
            "images go together. Any other dash was not run." + _pointwise(found)])


def _judged(standing: Standing) -> tuple[str, str]:
    """(held, lost or dropped; what is said of it)."""
    left, gone = standing.left, f"not run: {', '.join(standing.missing)}"
    if left is None:
        return "dropped", "(no probe)"
    if left.control != AVERAGE and left.high <= 0:
        return "lost", f"({left} above {left.control})"
    if standing.missing:
        return "dropped", f"({gone})"
    if left.value <= 0 and left.control == AVERAGE:
        return "dropped", f"({standing.probe}, neither it nor a control above 0)"
    if left.low <= 0:
        return "dropped", f"({left} above {left.control}, an interval that contains 0)"
    return "held", f"{left} (the strongest: {left.control})"


def _pointwise(found: Sequence[Standing]) -> str:
    """Which controls have no interval over images, in words."""
    bare = [c for c in _IN_ROW if any(c in s.controls and s.controls[c].rows[0].get(f"control_{c}_low") is None for s in found)]
    return f" {', '.join(f'`{c}`' for c in bare)}: with an interval over seeds only." if bare else ""


def _least(standing: Standing) -> str | None:
    return f"{standing.left} ({standing.left.control})" if standing.left else None


register_study(Controls())
