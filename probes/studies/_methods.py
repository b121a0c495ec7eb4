"""Study 6: is LoRA the right instrument? Skill, speed and memory of every method on the same pairs: the paper's Table 4."""
from __future__ import annotations

from collections.abc import Sequence

from ._base import PAPER, SMALL, STYLEGAN2, Cell, Row, Study
from ._page import count, table
from ._plots import dots
from ._points import Point, points, values
from ._registry import register_study
from ._verdict import Verdict, decide

_EVERYWHERE, _TEXT = ("lora", "linear", "full", "offset", "pixels"), ("token", "prompt", "sdedit")
_STRENGTHS = (0.25, 0.75, 1.0)            # of SDEdit beside its default, a half
_ENCODERS = ("pretrained", "random")      # of the scenes world, and its control
_ORDER = (*_EVERYWHERE, "encoder", "encoder, random", *_TEXT, *(f"sdedit, strength {s:g}" for s in _STRENGTHS))
_GENERATORS = (STYLEGAN2, "vqgan-scenes", "sd-scenes")


class Methods(Study):
    name = "methods"
    question = "is a LoRA the right instrument, beside a linear probe, full fine-tuning and others?"
    finding = (f"The paper sets LoRA beside a linear probe on frozen features and full fine-tuning ({PAPER}, Table 4), and "
               "prefers it: better than the one, at a small part of the parameters of the other.")
    rule = ("for every generator and intrinsic, LoRA's interval lies wholly above the linear probe's; a linear probe below "
            "the average picture was not trained long enough, and its case is not tested.")
    version = 3
    tags = ("strength", "encoder")
    isolated = True

    def cells(self, small: bool) -> list[Cell]:
        if small:
            return [Cell(dict(generator=STYLEGAN2, intrinsic="normal", method=m, **SMALL)) for m in _EVERYWHERE]
        return [cell for g in _GENERATORS for i in ("normal", "depth") for cell in (
            *(Cell(dict(generator=g, intrinsic=i, method=m)) for m in _EVERYWHERE + _TEXT * g.startswith("sd-")),
            *(Cell(dict(generator=g, intrinsic=i, method="sdedit", method_options=dict(strength=s)), dict(strength=s))
              for s in _STRENGTHS if g.startswith("sd-")),
            *(Cell(dict(generator=g, intrinsic=i, method="encoder", method_options=dict(model="scenes", weights=w)),
                   dict(encoder=w)) for w in _ENCODERS))]

    def plot(self, rows: Sequence[Row]) -> bytes:
        panels = {}
        for generator in values(rows, "generator", _GENERATORS):
            entries: dict[str, dict[str, Point]] = {}
            for intrinsic, found in _methods(rows, generator).items():
                for p in found:
                    entries.setdefault(p.at["method"], {})[intrinsic] = p
            panels[generator] = sorted(entries.items(), key=lambda item: _place(item[0]))
        return dots(panels)

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        held, lost, dropped = [], [], []
        for generator in values(rows, "generator", _GENERATORS):
            for intrinsic, found in _methods(rows, generator).items():
                at, name = {p.at["method"]: p for p in found}, f"{intrinsic} of {generator}"
                if gone := [m for m in ("lora", "linear") if m not in at]:
                    dropped.append(f"{name} (no fit of {' and '.join(gone)})")
                    continue
                lora, linear, full = at["lora"], at["linear"], at.get("full")
                line = f"{name}: LoRA {lora}, linear {linear}" + (f", full {full}" if full else "")
                # One that is worse than the average picture was not trained long enough to be compared with.
                if linear.value <= 0:
                    dropped.append(f"{line}, the linear probe not above 0")
                else:
                    (held if lora.low > linear.high else lost).append(line)
        return decide(held, lost, dropped, "no generator has both a LoRA and a linear probe that is better than the average "
                      "picture.")

    def tables(self, rows: Sequence[Row]) -> str:
        lines = []
        for generator in values(rows, "generator", _GENERATORS):
            for intrinsic, found in _methods(rows, generator).items():
                for p in sorted(found, key=lambda p: _place(p.at["method"])):
                    speed, memory = p.median("steps_per_second"), p.median("peak_memory_mib")
                    lines.append((generator, intrinsic, p.at["method"], count(p.median("parameters")), p,
                                  None if speed is None else f"{speed:.3g}", None if memory is None else f"{memory:,.0f}"))
        return "\n\n".join([
            table(["generator", "intrinsic", "method", "parameters", "skill", "steps/s", "peak MiB"], lines),
            "Every fit ran in a process of its own. Peak memory is while it trained: on a CPU the process's, with its "
            "libraries; on a GPU what was allocated there. Of a method that trains nothing it is the process's, over all of "
            "it. `pixels` sees the drawn picture only and has as many parameters as the LoRA: what it reaches, the picture "
            "shows. `encoder` sees the picture only, too, through a network that learnt from pictures alone; `encoder, random` "
            "is the same on weights that did not."])


def _methods(rows: Sequence[Row], generator: str) -> dict[str, list[Point]]:
    own = [{**r, "method": _named(r)} for r in rows if r["generator"] == generator]
    return {i: points([r for r in own if r["intrinsic"] == i], "method") for i in values(own, "intrinsic", ("normal", "depth"))}


def _named(row: Row) -> str:
    """The method, SDEdit's strength where it is another than its default, and that an encoder is not trained."""
    more = "" if row.get("strength") is None else f", strength {row['strength']:g}"
    return row["method"] + more + (f", {row['encoder']}" if row.get("encoder") not in (None, "pretrained") else "")


def _place(method: str) -> int:
    return _ORDER.index(method) if method in _ORDER else len(_ORDER)


register_study(Methods())
