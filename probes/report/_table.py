"""The result in the terminal, readable at 80 columns, without colour and through a pipe."""
from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from ._schema import Estimate, MetricResult, Metrics, ProbeInfo
from ._text import NONE, control_names, decimals, estimate, finite, fixed, half_width, primary, teacher_line


def result_table(metrics: Metrics, probe: ProbeInfo | None = None) -> Table:
    """One row a metric, the protocol's primary one first: probe, controls, trivial predictor, and the probe's skill.

    Under each number stands its 95 % interval as ±; under the primary metric, the skill of every control, since a
    control on other images has another trivial error. Below the table: teacher, its error, protocol, n. The controls
    of a metric that has none, NaN and null show as a dash.

    Args:
        metrics: the contents of metrics.json
        probe: the contents of probe.json, for the line about the teacher
    """
    first = primary(metrics)
    controls = control_names(metrics)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, collapse_padding=True,
                  caption=Text(teacher_line(probe, metrics)), caption_justify="left", caption_style="dim")
    table.add_column("metric", min_width=14)
    for name in ("probe", *controls, "trivial", "skill"):
        table.add_column(Text(name), justify="right", no_wrap=True, style="bold" if name == "probe" else "")
    ordered = sorted(metrics["metrics"].values(), key=lambda metric: metric is not first)
    for i, metric in enumerate(ordered):
        if i:
            table.add_row()
        places, own = decimals(metric), metric.get("controls") or {}
        cells = [_cell(metric, places), *(_cell(own.get(name), places) for name in controls),
                 _cell(metric.get("trivial"), places), _cell(metric, 2, "skill", "skill_ci95")]
        table.add_row(Text(_label(metric)), *map(Text, cells))
        if metric is first and any(finite(c.get("skill")) is not None for c in own.values()):
            skills = [fixed((own.get(name) or {}).get("skill")) for name in controls]
            table.add_row(Text("  skill of controls", style="dim"), "", *map(Text, skills), "", "")
    return table


def _label(metric: MetricResult) -> str:
    unit = f"{metric['unit']}, " if metric.get("unit") else ""
    return f"{metric['label']}\n{unit}{metric.get('better', 'lower')} is better"


def _cell(value: Estimate | None, places: int, key: str = "value", ci: str = "ci95") -> str:
    if finite((value or {}).get(key)) is None:
        return NONE
    half = half_width(value, key, ci)
    number = estimate(value, places) if key == "value" else fixed(value[key], places)
    return number if half is None else f"{number}\n±{fixed(half, places)}"
