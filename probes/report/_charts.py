"""Three charts as inline SVG, coloured by the page's style sheet so that they follow light and dark mode.

They are drawn 340 units wide, about what a phone leaves them, so that their text stays at 12 pixels there.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._markup import Markup, join, tag
from ._schema import Metrics
from ._text import finite, fixed, interval, primary, range_text

_WIDTH = 340


def skill_chart(metrics: Metrics) -> Markup | None:
    """Bars of skill for the probe and its controls, with 95 % intervals; None where no skill is defined."""
    metric = primary(metrics)
    entries = [("probe", metric), *(metric.get("controls") or {}).items()]
    bars = [(name, finite(e.get("skill")), interval(e.get("skill_ci95"))) for name, e in entries]
    bars = [bar for bar in bars if bar[1] is not None]
    if finite(metric.get("skill")) is None:
        return None
    ends = [x for _, skill, ci in bars for x in (skill, *(ci or ()))]
    low, high = min(0.0, max(-1.0, min(ends))), max(0.2, min(1.0, max(ends)))
    left, right, row, top = min(140, 20 + 7 * max(len(bar[0]) for bar in bars)), 48, 32, 8
    to_x = _linear(low, high, left, _WIDTH - right)
    bottom = top + row * len(bars)
    parts = []
    for tick in _ticks(low, high):
        x = to_x(tick)
        parts += [_line(x, top, x, bottom, "zero" if tick == 0 else "grid"),
                  _text(x, bottom + 18, fixed(tick, 1) if tick else "0", "middle", "axis")]
    for i, (name, skill, ci) in enumerate(bars):
        y = top + row * (i + 0.5)
        a, b = sorted((to_x(0), to_x(max(low, min(high, skill)))))
        kind = "probe" if i == 0 else "control"
        parts += [_text(left - 8, y + 4, name, "end", "strong" if i == 0 else None),
                  tag("rect", x=_f(a), y=_f(y - 9), width=_f(max(b - a, 1)), height=18, rx=2, class_=kind)]
        end = b
        if ci:
            lo, hi = (to_x(max(low, min(high, x))) for x in ci)
            end = max(b, hi)
            parts += [_line(lo, y, hi, y, "whisker"), *(_line(x, y - 4, x, y + 4, "whisker") for x in (lo, hi))]
        parts.append(_text(end + 7, y + 4, fixed(skill), "start", "strong" if i == 0 else None))
    parts.append(_text((left + _WIDTH - right) / 2, bottom + 36, "skill (0 = average picture, 1 = no error)",
                       "middle", "axis"))
    said = "; ".join(f"{name} {fixed(skill)} {range_text(ci)}".rstrip() for name, skill, ci in bars)
    return _svg(bottom + 42, f"Bar chart of skill with 95 % intervals: {said}", parts)


def histogram(rows: Sequence[Mapping[str, Any]], metrics: Metrics) -> Markup | None:
    """How the primary metric spreads over samples, probe against trivial predictor; None without rows."""
    name, metric = metrics["primary"], primary(metrics)
    own, trivial = (np.array([v for row in rows if (v := finite(row.get(key))) is not None])
                    for key in (name, f"trivial_{name}"))
    if not len(own):
        return None
    both = np.concatenate([own, trivial])
    low, high = (0.0 if both.min() >= 0 else float(both.min())), float(both.max())
    high = high if high > low else low + 1
    step = _step(low, high, 24)
    edges = np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step
    left, right, top, bottom = 14, 14, 34, 170
    to_x = _linear(edges[0], edges[-1], left, _WIDTH - right)
    counts = {kind: np.histogram(v.clip(edges[0], edges[-1]), edges)[0] / max(len(v), 1)
              for kind, v in (("probe", own), ("trivial", trivial))}
    to_y = _linear(0, max(c.max() for c in counts.values()) * 1.05, bottom, top)
    parts = []
    for tick in _ticks(edges[0], edges[-1]):
        parts += [_line(to_x(tick), bottom, to_x(tick), bottom + 4, "zero"),
                  _text(to_x(tick), bottom + 18, f"{tick:g}".replace("-", "−"), "middle", "axis")]
    width = to_x(edges[1]) - to_x(edges[0])
    for x, y in zip(edges[:-1], counts["probe"], strict=True):
        if y:
            parts.append(tag("rect", x=_f(to_x(x) + 0.5), y=_f(to_y(y)), width=_f(width - 1),
                             height=_f(bottom - to_y(y)), class_="probe"))
    if len(trivial):
        outline = [f"M{_f(to_x(edges[0]))},{bottom}"]
        for x, after, y in zip(edges[:-1], edges[1:], counts["trivial"], strict=True):
            outline.append(f"L{_f(to_x(x))},{_f(to_y(y))}L{_f(to_x(after))},{_f(to_y(y))}")
        parts.append(tag("path", d="".join(outline) + f"L{_f(to_x(edges[-1]))},{bottom}", class_="trivial-line"))
    parts.append(_line(left, bottom, _WIDTH - right, bottom, "zero"))
    parts += [tag("rect", x=left, y=8, width=12, height=12, rx=2, class_="probe"), _text(left + 18, 18, "probe"),
              tag("path", d=f"M{left + 76},14h18", class_="trivial-line"), _text(left + 100, 18, "average picture")]
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    beside = f"; average picture: median {np.median(trivial):.3g}" if len(trivial) else ""
    worst = own.min() if metric.get("better") == "higher" else own.max()
    return _svg(bottom + 24, f"Histogram of {metric['label']}{unit} over {len(own)} images. Probe: median "
                f"{np.median(own):.3g}, worst {worst:.3g}{beside}", parts)


def loss_chart(curve: Sequence[tuple[int, float]]) -> Markup | None:
    """Training loss over steps, logarithmic: the values pale, their running median strong; None without points."""
    points = [(float(s), float(v)) for s, v in curve if finite(v) is not None and v > 0]
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return None
    steps, values = np.array(points).T
    half = len(values) // 60  # none for a short curve
    median = np.array([np.median(values[max(0, i - half):i + half + 1]) for i in range(len(values))])
    low, high = np.log10(np.percentile(values, 0.2)), np.log10(values.max())
    low, high = (low - 0.05, high + 0.05) if high - low < 0.1 else (low, high)
    left, right, top, bottom = 46, 14, 12, 170
    to_x = _linear(steps[0], steps[-1], left, _WIDTH - right)
    to_y = _linear(low, high, bottom, top)
    parts = []
    for tick in _log_ticks(10 ** low, 10 ** high):
        y = to_y(math.log10(tick))
        parts += [_line(left, y, _WIDTH - right, y, "grid"), _text(left - 6, y + 4, f"{tick:g}", "end", "axis")]
    for tick in _ticks(steps[0], steps[-1]):
        parts.append(_text(to_x(tick), bottom + 18, f"{tick:,.0f}", "middle", "axis"))
    parts.append(_line(left, bottom, _WIDTH - right, bottom, "zero"))
    for series, kind in ((values, "raw-line"), (median, "probe-line")):
        keep = range(0, len(series), max(1, len(series) // 400))
        d = "L".join(f"{_f(to_x(steps[i]))},{_f(to_y(np.clip(np.log10(series[i]), low, high)))}" for i in keep)
        parts.append(tag("path", d=f"M{d}", class_=kind))
    return _svg(bottom + 24, f"Training loss, logarithmic: from {median[0]:.3g} at step {steps[0]:,.0f} to "
                f"{median[-1]:.3g} at step {steps[-1]:,.0f}", parts)


def _svg(height: float, said: str, parts: list[Markup]) -> Markup:
    return tag("svg", tag("title", said), join(*parts), viewBox=f"0 0 {_WIDTH} {_f(height)}", role="img",
               class_="chart")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", x1=_f(x1), y1=_f(y1), x2=_f(x2), y2=_f(y2), class_=kind)


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str | None = None) -> Markup:
    return tag("text", text, x=_f(x), y=_f(y), text_anchor=anchor, class_=kind)


def _f(x: float) -> str:
    return f"{float(x):.1f}".removesuffix(".0")


def _linear(low: float, high: float, start: float, end: float):
    return lambda x: start + (x - low) / (high - low) * (end - start)


def _step(low: float, high: float, at_most: int) -> float:
    """1, 2 or 5 times a power of ten, so that low … high holds at most so many steps."""
    least = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high, 6)
    return [round(i * step, 10) + 0.0 for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 × powers of ten; only the powers over more than two decades."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1,) if high / low > 200 else (1, 2, 5)
    return [t for p in powers for d in digits if low <= (t := d * 10.0 ** p) <= high]
