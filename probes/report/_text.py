"""Numbers and plain sentences that the table and the page share."""
from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ._schema import Estimate, MetricResult, Metrics, ProbeInfo

NONE = "–"
_WHAT = {"normal": "surface normals", "depth": "depth", "albedo": "albedo", "shading": "shading"}
_MEANING = {
    "normal": "A surface normal is the direction a surface faces.",
    "depth": "Depth is how far away what is seen in a pixel lies.",
    "albedo": "Albedo is the colour of a surface without the light that falls on it.",
    "shading": "Shading is the light on a surface without the surface's own colour.",
}
CONTROLS = {
    "random": "the same architecture with fresh weights, probed for its own images: what an adapter can do with a "
              "network that has learnt nothing",
    "crossed": "trained latents and the same targets, but a synthesis network with fresh weights: what the adapter "
               "itself can learn; the fairest comparison",
    "latent": "ridge regression from the latent code w, without any network: what the code says linearly",
    "rgb": "an affine map of the picture's RGB, pixel by pixel: what the colours give away",
    "shuffled": "the same fit on targets that belong to other pictures: what it makes of pairs that have nothing to say",
}
_GIVEN = {  # the same where the generator is given its images
    "random": "fresh weights in the adapted part, the same images and targets: what the adapter itself can learn; the fairest "
              "comparison",
    "latent": "ridge regression from the image's latent, without any network: what the code says linearly",
}


def control_text(name: str, probe: ProbeInfo) -> str:
    """What a control is."""
    return (_GIVEN if given(probe) else {}).get(name) or CONTROLS.get(name, "a control of this run")


def finite(value: Any) -> float | None:
    """A number, or None for whatever is not one: null, NaN, infinities, absent."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None


def interval(ci95: Any) -> tuple[float, float] | None:
    if not isinstance(ci95, (list, tuple)) or len(ci95) != 2:
        return None
    low, high = map(finite, ci95)
    return None if low is None or high is None else (low, high)


def fixed(value: Any, decimals: int = 2) -> str:
    """Rounded, with a true minus sign and no minus zero."""
    value = finite(value)
    if value is None:
        return NONE
    text = f"{value:,.{decimals}f}"
    return (text[1:] if not any(c in "123456789" for c in text) and value < 0 else text).replace("-", "−")


def half_width(estimate: Any, key: str = "value", ci: str = "ci95") -> float | None:
    """The larger side of the interval: what may stand behind a ±."""
    value, ends = finite((estimate or {}).get(key)), interval((estimate or {}).get(ci))
    return None if value is None or ends is None else max(ends[1] - value, value - ends[0])


def decimals(metric: MetricResult) -> int:
    """As many as the interval justifies, for every number of a metric alike; three digits where there is none."""
    half, value = half_width(metric), finite(metric.get("value"))
    if half:
        wanted = -math.floor(math.log10(half) + 1e-9)
    elif value:
        wanted = 2 - math.floor(math.log10(abs(value)))
    else:
        wanted = 2
    return min(4, max(wanted, 1 if metric.get("unit") == "°" else 0, 0))


def with_unit(text: str, unit: str | None) -> str:
    if text == NONE or not unit:
        return text
    return f"{text}{unit}" if unit == "°" else f"{text}\u00a0{unit}"


def estimate(value: Estimate | None, places: int, unit: str = "") -> str:
    return with_unit(fixed((value or {}).get("value"), places), unit)


def range_text(ci95: Any, places: int = 2) -> str:
    """"[0.61, 0.65]", or nothing."""
    ends = interval(ci95)
    return "" if ends is None else f"[{fixed(ends[0], places)}, {fixed(ends[1], places)}]"


def primary(metrics: Metrics) -> MetricResult:
    """The metric the protocol is judged by. Raises ValueError when metrics.json does not hold it."""
    name = metrics.get("primary")
    if name not in metrics.get("metrics", {}):
        raise ValueError(f"metrics: primary is {name!r}, but there are only {sorted(metrics.get('metrics', {}))}")
    return metrics["metrics"][name]


def control_names(metrics: Metrics) -> list[str]:
    """Every control of any metric, in the order in which they come."""
    return list(dict.fromkeys(name for m in metrics["metrics"].values() for name in m.get("controls") or {}))


def generator_name(probe: ProbeInfo) -> str:
    """The catalog's name; of a checkpoint only the file's name, for a folder says nothing to a reader."""
    return re.split(r"[/\\]", probe["generator"]["name"])[-1]


def what(intrinsic: str) -> str:
    return _WHAT.get(intrinsic, intrinsic)


def meaning(intrinsic: str) -> str:
    return _MEANING.get(intrinsic, "")


def method_text(probe: ProbeInfo) -> str:
    """"a rank-8 LoRA (31,232 parameters, 2.7 % of the generator)"."""
    method = probe["method"]
    name = {"lora": f"a rank-{method.get('rank')} LoRA", "linear": "a linear probe", "full": "full fine-tuning",
            "offset": "a learnt offset of the latent", "token": "a learnt prompt", "prompt": "the prompt alone",
            "sdedit": "the image redrawn as the prompt says (SDEdit)", "edit": "the image edited as it was told to be",
            "visii": "a learnt instruction", "pixels": "a network that sees the picture alone",
            "encoder": "an encoder of images that sees the picture alone"}.get(method["name"], method["name"])
    count, whole = finite(method.get("parameters")), finite(probe["generator"].get("parameters"))
    if not count:
        return name
    share = f", {percent(count / whole)} of the generator" if whole else ""
    return f"{name} ({count:,.0f} parameters{share})"


def how_it_was_made(probe: ProbeInfo) -> str:
    """What was trained and what was not, in two sentences that follow "The generator was frozen."."""
    method, maps = probe["method"]["name"], what(probe["intrinsic"]["name"])
    told = {
        "full": f"Then all of its drawing part was trained to emit {maps}: how far that goes bounds what smaller adapters can "
                "do, and much of it may be learnt rather than known.",
        "linear": f"A linear map of its features at every pixel was trained to say {maps}: it shows what the features hold "
                  "linearly, not what the generator can emit.",
        "pixels": f"A small network that sees nothing but the finished picture was trained to say {maps}: what it can say is "
                  "in the picture, whoever drew it.",
        "encoder": f"Its finished picture went through an encoder that was trained without labels, with a small LoRA and one "
                   f"linear layer taught to say {maps}: what such a network, and not the generator, knows.",
        "prompt": "Nothing was trained; it was only told what to draw.",
        "sdedit": "Nothing was trained; the image was half drowned in noise and denoised as the prompt says.",
        "edit": "Nothing was trained; it was told what to turn the image into.",
        "visii": f"The words of an instruction were learnt that turns the image into {maps}, and nothing else.",
    }
    adapter = (f"A tiny adapter was trained so that the generator emits {maps} where it used to draw an image, and nothing "
               "else was trained. What the adapter cannot have learnt by itself was in the generator already.")
    return told.get(method, adapter)


def percent(fraction: float) -> str:
    """Two digits: "2.7 %", "0.046 %", "100 %"."""
    value = 100 * fraction
    places = 0 if value >= 10 else max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{places}f}\u00a0%"


def summary(probe: ProbeInfo, metrics: Metrics) -> str:
    """The result in three sentences, for a reader who knows nothing of it."""
    metric, places = primary(metrics), decimals(primary(metrics))
    unit, label = metric.get("unit", ""), metric["label"]
    verb = "with" if metric.get("better") != "higher" else "reaching"
    whose = "the images it is given" if given(probe) else "its own images"
    text = (f"With {method_text(probe)} {generator_name(probe)} emits {what(probe['intrinsic']['name'])} of {whose} {verb} "
            f"{estimate(metric, places, unit)} {label} against {judge(probe, metrics)}; predicting the average picture gives "
            f"{estimate(metric.get('trivial'), places, unit)}.")
    if finite(metric.get("skill")) is not None:
        text += f" Skill {fixed(metric['skill'])} {range_text(metric.get('skill_ci95'))}".rstrip() + "."
    return text


def given(probe: ProbeInfo) -> dict | None:
    """Where the images came from, for a generator that is driven by them; None for one that draws its own."""
    return probe.get("data")


def _elsewhere(probe: ProbeInfo) -> bool:
    """Whether the images are no rendered rooms, which is what teachers' errors were measured on."""
    return ((given(probe) or {}).get("world") or probe["generator"].get("world") or "scenes") != "scenes"


def judge_name(metrics: Metrics) -> str:
    """Who was scored against, by name; figures of before have that in front of a version only."""
    return (metrics.get("judge") or {}).get("name") or (metrics.get("against") or "").partition(" ")[0]


def judge(probe: ProbeInfo | None, metrics: Metrics) -> str:
    """What was scored against."""
    name = judge_name(metrics)
    if name == "exact":
        return "exact ground truth"
    return "the teacher" if not name or probe is None or name == probe["teacher"]["name"] else f"teacher {name}"


def verdict(metrics: Metrics, probe: ProbeInfo | None = None) -> str:
    """What the controls allow to be concluded; intervals decide, not the bare numbers.

    Where the generator draws its own images, so does `random`: its targets and its average picture are others than the
    probe's, its skill stands in the table and decides nothing here. Where images are given, it has the same.
    """
    metric = primary(metrics)
    skill, own = finite(metric.get("skill")), interval(metric.get("skill_ci95"))
    if skill is None:
        return "No skill is defined for this metric, so nothing is concluded here."
    if (own[0] if own else skill) <= 0:
        return "The probe is no better than the average picture: no knowledge is shown."
    other = () if probe and given(probe) else ("random",)
    known = {k: c for k, c in (metric.get("controls") or {}).items() if finite(c.get("skill")) is not None and k not in other}
    if not known:
        return ("The probe is better than the average picture. No control on its own targets was run, so how much of that "
                "the generator knew, and how much the adapter learnt, stays open.")

    def top(control: Any) -> float:
        ends = interval(control.get("skill_ci95"))
        return ends[1] if ends else control["skill"]

    rivals = [name for name, control in known.items() if top(control) >= (own[0] if own else skill)]
    if rivals:
        return (f"The probe is not clearly above {_and(rivals)}: by this measurement alone, what it says need not have "
                "been in the generator.")
    best = max(known, key=lambda name: known[name]["skill"])
    above = best if len(known) == 1 else f"every control. The best of them is {best}"
    at = f"The probe is clearly above {above}, at skill {fixed(known[best]['skill'])}"
    if known[best]["skill"] <= 0:
        return f"{at}, no better than the average picture."
    gap = round(skill, 2) - round(known[best]["skill"], 2)  # of the numbers as they are printed
    return f"{at}; the difference, {fixed(gap)}, is what no control explains."


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def exact_errors(teacher: Mapping[str, Any], intrinsic: str) -> tuple[list[tuple[str, str]], str]:
    """A teacher's errors against exact ground truth as (label, number), and a remark on where they were measured.

    Entries that name another intrinsic ("depth RMS (m)" beside a normal probe) are left out.
    """
    errors = teacher.get("exact_errors") or {}
    others = set(_WHAT) - {intrinsic}
    lines, remarks = [], []
    for key, value in errors.items():
        if isinstance(value, str):
            remarks.append(value)
        elif key.replace("_", " ").split(" ")[0] not in others and finite(value) is not None:
            label, unit = key.replace("_", " ").removeprefix(intrinsic).strip().replace("delta", "δ") or "error", ""
            for name, short in (("(degrees)", "°"), ("(m)", "m"), ("(°)", "°")):
                if label.endswith(name):
                    label, unit = label.removesuffix(name).strip(), short
            lines.append((label, with_unit(f"{value:.3g}", unit)))
    return lines, "; ".join(remarks)


def teacher_error(teacher: Mapping[str, Any], intrinsic: str) -> str:
    """The first of these errors in words, "5.14° mean angular error"; empty where nobody has measured any."""
    lines, _ = exact_errors(teacher, intrinsic)
    return f"{lines[0][1]} {lines[0][0]}" if lines else ""


def how_wrong(teacher: Mapping[str, Any], intrinsic: str, elsewhere: bool = False) -> str:
    """A teacher with its error: "teacher scenes 1, 5.14° mean angular error against exact ground truth"; of one that is asked
    `elsewhere` than it was measured, with where that was."""
    error, (_, remark) = teacher_error(teacher, intrinsic), exact_errors(teacher, intrinsic)
    where = f" ({remark.partition(';')[0]})" if remark and elsewhere else ""
    return (f"teacher {teacher['name']} {teacher['version']}, "
            + (f"{error} against exact ground truth{where}" if error else "no exact error known"))


def teacher_line(probe: ProbeInfo | None, metrics: Metrics) -> str:
    """Who was asked, how wrong that teacher is, by which protocol, on how many images."""
    parts, elsewhere = [], False
    if probe:
        intrinsic, elsewhere = probe["intrinsic"]["name"], _elsewhere(probe)
        exact = probe["teacher"]["name"] == "exact"
        parts.append("taught by exact ground truth" if exact else how_wrong(probe["teacher"], intrinsic, elsewhere))
    if judge(probe, metrics) != "the teacher":
        other = metrics.get("judge")
        known = probe and other and other["name"] != "exact"
        parts.append(f"scored against {how_wrong(other, intrinsic, elsewhere) if known else judge(probe, metrics)}")
    parts.append(f"protocol {metrics['protocol']}")
    n = finite(primary(metrics).get("n"))
    seeds = metrics.get("seeds") or []
    span = f", seeds {seeds[0]}–{seeds[0] + seeds[1] - 1}" if len(seeds) == 2 and seeds[1] else ""
    parts.append(f"n = {n:,.0f}{span}" if n else "n unknown")
    return "; ".join(parts)


def fit_command(request: dict[str, Any]) -> str:
    """`probes fit` with every argument spelled out, one a line, ready for a shell.

    Options in a dict have no flag; they come first, as comments, so that nothing is kept back.
    """
    comments, lines = [], ["probes fit"]
    for key, value in request.items():
        if value is None or value == {}:
            continue
        if isinstance(value, dict):
            said = ", ".join(f"{k} = {v}" for k, v in value.items())
            comments.append(" ".join(f"# {key}: {said}".split()) + "\n")
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"--{key} {shlex.quote(text)}")
    return "".join(comments) + " \\\n    ".join(lines)


def duration(seconds: Any) -> str:
    value = finite(seconds)
    if value is None:
        return NONE
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"
