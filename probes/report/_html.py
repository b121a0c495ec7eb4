"""report.html: one file that explains a run to a stranger. No script, no request to anywhere."""
from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import write_text_atomically
from ._charts import histogram, loss_chart, skill_chart
from ._facts import facts
from ._markup import Markup, join, tag
from ._schema import Metrics, ProbeInfo
from ._style import CSS
from ._text import (
    control_names,
    control_text,
    decimals,
    estimate,
    exact_errors,
    finite,
    fit_command,
    fixed,
    generator_name,
    half_width,
    how_it_was_made,
    how_wrong,
    judge,
    meaning,
    percent,
    primary,
    range_text,
    summary,
    verdict,
    what,
    with_unit,
)

_DONE = {"finished", "complete", "completed", "done", "ok"}


def write_report(path: str | Path, probe: ProbeInfo, metrics: Metrics, rows: Sequence[Mapping[str, Any]] = (),
                 sheet_png: bytes | None = None, curve: Sequence[tuple[int, float]] = (),
                 command: str | None = None) -> Path:
    """Writes the page, whole or not at all.

    Args:
        path: commonly RUN/report.html
        probe: the contents of probe.json
        metrics: the contents of metrics.json
        rows: of samples.csv, for the histogram
        sheet_png: what `sheet` returned, embedded
        curve: (step, training loss)
        command: what reproduces the run; default `probes fit` with every argument of probe["request"]

    Everything that is missing, null or NaN is left out or shown as a dash. Raises OutputError when the page cannot
    be written, ValueError when metrics["primary"] is not among metrics["metrics"].
    """
    intrinsic, generator = probe["intrinsic"]["name"], generator_name(probe)
    title = f"{what(intrinsic)[:1].upper()}{what(intrinsic)[1:]} in {generator}"
    status = str(probe["training"].get("status") or "unknown")
    warning = None if status in _DONE else tag(
        "p", f"The training did not finish (status: {status}); read the numbers with that in mind.", class_="warn")
    body = tag("main",
               tag("header", tag("p", "What the generator knows · a report by probes", class_="eyebrow"),
                   tag("h1", title), tag("p", summary(probe, metrics), class_="lead"), tag("p", verdict(metrics, probe)),
                   warning, _tiles(probe, metrics)),
               _figure(probe, sheet_png), _meaning(probe, metrics), _beside_controls(probe, metrics), _all_metrics(metrics),
               _charts(rows, metrics, curve),
               tag("section", tag("h2", "How it was made"), facts(probe, metrics)),
               tag("section", tag("h2", "Make it again"),
                   _scroll(tag("pre", tag("code", command or fit_command(probe["request"]))), "Command"),
                   tag("p", "The same seeds, fingerprints and versions give the same result up to floating-point "
                       "differences between machines.", class_="soft")))
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("title", f"{title} · probes"), tag("style", Markup(CSS)))
    return write_text_atomically(path, f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n")


def _tiles(probe: ProbeInfo, metrics: Metrics) -> Markup:
    metric, places = primary(metrics), decimals(primary(metrics))
    unit = metric.get("unit", "")

    def tile(label: str, value: str, below: str, own: bool = False) -> Markup:
        return tag("div", tag("dt", label), tag("dd", value, tag("small", below)), class_="own" if own else None)

    def spread(value: Any) -> str:
        half = half_width(value)
        return "" if half is None else f"± {fixed(half, places)}{unit if unit == '°' else ''}"

    n, parameters = finite(metric.get("n")), finite(probe["method"].get("parameters"))
    whole = finite(probe["generator"].get("parameters"))
    return tag("dl",
               tile("Probe, " + metric["label"], estimate(metric, places, unit), spread(metric), own=True),
               tile("Average picture", estimate(metric.get("trivial"), places, unit),
                    spread(metric.get("trivial"))),
               tile("Skill", fixed(metric.get("skill")), range_text(metric.get("skill_ci95"))),
               tile("Trained parameters", f"{parameters:,.0f}" if parameters else "–",
                    (f"{percent(parameters / whole)} of the generator; " if parameters and whole else "")
                    + (f"scored on {n:,.0f} images" if n else "")),
               class_="tiles")


def _figure(probe: ProbeInfo, sheet_png: bytes | None) -> Markup | None:
    if not sheet_png:
        return None
    width, height = struct.unpack(">II", sheet_png[16:24])  # the PNG's IHDR
    name = probe["intrinsic"]["name"]
    colours = {"normal": "Floors are green, walls that face the camera blue, what faces right is red.",
               "depth": "Near is bright, far is dark; one row shares one range."}.get(name, "")
    image = tag("img", src=f"data:image/png;base64,{base64.b64encode(sheet_png).decode()}", width=width, height=height,
                alt=f"Contact sheet, one row a sample: the image, the {what(name)} it was scored against, and the probe's.",
                class_="sheet", style=f"width: max({round(width * 0.45)}px, min(100%, {width}px))")
    return tag("section", tag("h2", "What it sees"),
               tag("figure", _scroll(image, "Contact sheet"),
                   tag("figcaption", "Each row is one image that the probe was not trained on, what it was scored "
                       f"against, and what the generator itself emits with the probe on. {colours}")))


def _meaning(probe: ProbeInfo, metrics: Metrics) -> Markup:
    name = probe["intrinsic"]["name"]
    lines, remark = exact_errors(probe["teacher"], name)
    if probe["teacher"]["name"] == "exact":
        teacher = "Here it was no network, but the exact maps of the data."
    elif lines:
        listed = ", ".join(f"{value} {label}" for label, value in lines)
        teacher = f"Against exact ground truth it scores {listed} itself{f' ({remark})' if remark else ''}."
    else:
        teacher = "How far the teacher is from exact ground truth is not known here."
    other = metrics.get("judge")
    if other and other["name"] not in ("exact", probe["teacher"]["name"]):
        teacher += f" It was scored against another: {how_wrong(other, name, elsewhere=True)}."
    return tag(
        "section", tag("h2", "What the numbers mean"),
        tag("p", meaning(name), " The generator was frozen. ", how_it_was_made(probe)),
        tag("p", tag("strong", "Skill"), " is 1 − error ÷ error of the trivial predictor, the average picture of the "
            f"training targets. 0 knows nothing beyond that picture, 1 agrees with {judge(probe, metrics)} everywhere. "
            "Brackets and ± are 95 % intervals over images."),
        tag("p", tag("strong", "The teacher"), " says what the probe is trained to say. A network's word is pseudo "
            "ground truth. ", teacher))


def _beside_controls(probe: ProbeInfo, metrics: Metrics) -> Markup | None:
    names, chart = control_names(metrics), skill_chart(metrics)
    if not names and chart is None:
        return None
    explained = [(tag("dt", name), tag("dd", control_text(name, probe))) for name in names]
    return tag("section", tag("h2", "Beside the controls"),
               tag("div", tag("figure", tag("h3", "Skill"), chart) if chart else None,
                   tag("div", tag("p", "A control shows what can be had without the generator's knowledge.")
                       if names else tag("p", "No control was run."),
                       tag("dl", explained, class_="controls") if names else None), class_="charts"))


def _all_metrics(metrics: Metrics) -> Markup:
    names = control_names(metrics)
    head = tag("tr", tag("th", "Metric", scope="col"),
               [tag("th", name, scope="col") for name in ("probe", "skill", "trivial", *names)])
    body = []
    for metric in sorted(metrics["metrics"].values(), key=lambda m: m is not primary(metrics)):
        places, controls = decimals(metric), metric.get("controls") or {}
        note = f"{metric['unit']}, " if metric.get("unit") else ""
        cells = [_cell(metric, places, None, "own"),
                 tag("td", fixed(metric.get("skill")), _small(range_text(metric.get("skill_ci95")))),
                 _cell(metric.get("trivial"), places, None),
                 *(_cell(controls.get(name), places, (controls.get(name) or {}).get("skill")) for name in names)]
        body.append(tag("tr", tag("th", metric["label"], _small(f"{note}{metric.get('better', 'lower')} is better"),
                                  scope="row"), cells))
    table = tag("table", tag("thead", head), tag("tbody", body))
    return tag("section", tag("h2", "All metrics"), _scroll(table, "All metrics"),
               tag("p", f"Protocol {metrics['protocol']}; trivial is the average picture. Under a control "
                   "stands its own skill: a control that draws other images has another trivial error.", class_="soft"))


def _cell(value: Any, places: int, skill: Any, kind: str | None = None) -> Markup:
    half = half_width(value)
    return tag("td", estimate(value, places), _small("" if half is None else f"±{fixed(half, places)}"),
               _small(f"skill {fixed(skill)}") if finite(skill) is not None else None, class_=kind)


def _small(text: str) -> Markup | None:
    return tag("small", text) if text else None


def _charts(rows: Sequence[Mapping[str, Any]], metrics: Metrics, curve: Sequence[tuple[int, float]]) -> Markup | None:
    charts = [("Image by image", histogram(rows, metrics), _spread(rows, metrics)),
              ("Training", loss_chart(curve), "Training loss, on a logarithmic scale, over optimiser steps.")]
    figures = [tag("figure", tag("h3", heading), chart, tag("figcaption", caption))
               for heading, chart, caption in charts if chart is not None]
    return tag("section", tag("h2", "Spread and training"), tag("div", figures, class_="charts")) if figures else None


def _spread(rows: Sequence[Mapping[str, Any]], metrics: Metrics) -> str:
    """What the histogram shows, and which image to look at for the worst case."""
    metric, places = primary(metrics), decimals(primary(metrics))
    scored = [(value, row.get("seed")) for row in rows if (value := finite(row.get(metrics["primary"]))) is not None]
    if not scored:
        return ""
    unit = metric.get("unit", "")
    value, seed = (min if metric.get("better") == "higher" else max)(scored, key=lambda pair: pair[0])
    return (f"Across: {metric['label']}{f' ({unit})' if unit else ''} of one image; height: share of the "
            f"{len(scored):,} images. The worst is seed {seed} with {with_unit(fixed(value, places), unit)}.")


def _scroll(content: Markup, label: str) -> Markup:
    """A container that scrolls by itself, reachable by keyboard, so that the page never does sideways."""
    return tag("div", join(content), class_="scroll", tabindex=0, role="region", aria_label=label)
