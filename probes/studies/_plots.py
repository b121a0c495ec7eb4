"""The four pictures studies are made of: curves, dots, what is left above controls, and a scatter of generators. Read at a
phone's width.

Colours are Okabe and Ito's, which colour-blind people tell apart (Wong 2011, Nature Methods 8, 441); markers differ too.
Every point has its interval.
"""
from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from ._points import Point, two

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ._standing import Standing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INTRINSICS = ("normal", "depth", "albedo", "shading")
_WIDTH, _DPI = 4.8, 160
_STYLE = {"font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
          "legend.fontsize": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
          "grid.color": "#e3e6e8", "grid.linewidth": 0.8, "axes.axisbelow": True, "font.family": "DejaVu Sans",
          "axes.edgecolor": "#59616a", "legend.frameon": False, "errorbar.capsize": 2.5, "lines.markersize": 5.5}
FLOOR = -0.35       # skills below are drawn at the edge, with their figure


def _png(draw: Callable[[Figure], None], height: float) -> bytes:
    """Draws with a figure of its own: nothing global, no window."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure((_WIDTH, height), dpi=_DPI, layout="constrained")
        draw(figure)
        figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _look(i: int) -> dict[str, Any]:
    return dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])


def _interval(p: Point, floor: float = -float("inf")) -> tuple[float, float, float]:
    """(value, below, above), within what the axis shows."""
    value = max(p.value, floor)
    return value, max(value - max(p.low, floor), 0.0), max(max(p.high, floor) - value, 0.0)


def _legend(figure: Figure, shown: Mapping[str, Any]) -> None:
    handles, labels = list(shown.values()), list(shown)
    if len(labels) > 1:
        columns = 3 if max(map(len, labels)) < 12 else 2 if max(map(len, labels)) < 24 else 1
        # Above: below it would share its place with the axes' common label.
        figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, len(labels)))


def _shown(grid: Sequence[Axes]) -> dict[str, Any]:
    """{label: what it looks like} over all panels."""
    return {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}


def _panels(figure: Figure, count: int) -> list[Axes]:
    across = min(2, count)
    grid = figure.subplots(ceil(count / across), across, squeeze=False, sharey=True, sharex=True).ravel()
    for unused in grid[count:]:
        unused.set_visible(False)
    return list(grid[:count])


def curves(panels: Mapping[str, Mapping[str, Sequence[Point]]], x: str, label: str, marks: Sequence[float] = (),
           base: int = 2, levels: Mapping[str, Point] | None = None, level: str = "") -> bytes:
    """Skill over a number, one panel a key, one line a group.

    Args:
        panels: {title: {group: points}}
        x: the column along the axis, logarithmic
        label: of that axis
        marks: numbers that the paper names, as dashed lines
        base: of the logarithm
        levels: {title: point} of panels that have a level line, such as a single step's
        level: what that is
    """
    groups = list(dict.fromkeys(g for lines in panels.values() for g in lines))

    def draw(figure: Figure) -> None:
        grid = _panels(figure, len(panels))
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            axes.set_xscale("log", base=base)
            for group, found in lines.items():
                at = [p.at[x] for p in found]
                look = _look(groups.index(group))
                axes.fill_between(at, [p.low for p in found], [p.high for p in found], color=look["color"], alpha=0.18, lw=0)
                axes.plot(at, [p.value for p in found], label=group, lw=1.6, **look)
            for mark in marks:
                axes.axvline(mark, color="#59616a", lw=1, ls="--")
            if (p := (levels or {}).get(title)) is not None:
                axes.axhspan(p.low, p.high, color="#59616a", alpha=0.18, lw=0)
                axes.axhline(p.value, color="#59616a", lw=1.4, ls=":", label=level)
            ticks = sorted({p.at[x] for found in lines.values() for p in found})
            axes.set_xticks(ticks[::max(1, ceil(len(ticks) / 6))], minor=False)
            axes.set_xticks([], minor=True)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1000 else f"{value / 1000:g}k")
            axes.set_title(f"{title}\n{groups[0]}" if len(groups) == 1 else title)       # side by side, one line is too long
        figure.supxlabel(label, fontsize=10)
        figure.supylabel("skill", fontsize=10)
        _legend(figure, _shown(grid))

    return _png(draw, (2.7 if len(panels) < 3 else 4.6) + 0.18 * len(groups) + 0.6)


def dots(panels: Mapping[str, Sequence[tuple[str, Mapping[str, Point | float]]]], label: str = "skill") -> bytes:
    """Skills side by side: one panel a key, one line an entry, one mark a series; a bare number has no interval.

    Skills far below zero are drawn at the left edge with their figure beside them.
    """
    series = list(dict.fromkeys(s for entries in panels.values() for _, marks in entries for s in marks))
    lines = sum(len(entries) for entries in panels.values())

    def draw(figure: Figure) -> None:
        heights = [len(entries) + 0.6 for entries in panels.values()]
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights).ravel()
        for axes, (title, entries) in zip(grid, panels.items(), strict=True):
            beyond = [0] * len(entries)
            for i, name in enumerate(series):
                shift = (i - (len(series) - 1) / 2) * min(0.16, 0.7 / len(series))
                place = [(k + shift, marks[name]) for k, (_, marks) in enumerate(entries) if name in marks]
                for k, mark in [(k, marks[name]) for k, (_, marks) in enumerate(entries) if name in marks]:
                    value = mark.value if isinstance(mark, Point) else mark
                    if value < FLOOR:
                        axes.annotate(f"{value:.1f}".replace("-", "−"), (FLOOR, k + shift), (6 + 24 * beyond[k], 0), fontsize=8,
                                      textcoords="offset points", va="center", color=COLOURS[i % len(COLOURS)])
                        beyond[k] += 1
                drawn = [_interval(m, FLOOR) if isinstance(m, Point) else (max(m, FLOOR), 0.0, 0.0) for _, m in place]
                axes.errorbar([v for v, _, _ in drawn], [k for k, _ in place], xerr=[[a for _, a, _ in drawn],
                              [b for _, _, b in drawn]], ls="none", lw=1.4, label=name, **_look(i))
            axes.axvline(0, color="#59616a", lw=1)
            axes.set_yticks(range(len(entries)), [text for text, _ in entries])
            axes.set_ylim(len(entries) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            if title:
                axes.set_title(title, loc="left")
        grid[-1].set_xlabel(label if len(series) > 1 else f"{label}, {series[0]}")
        _legend(figure, _shown(grid))

    return _png(draw, 1.2 + lines * max(0.34, 0.13 * len(series)) + 0.4 * len(panels) + 0.2 * ceil(len(series) / 2))


def waterfall(found: Sequence[Standing], order: Sequence[str]) -> bytes:
    """A probe among its controls: one panel a generator, one line an intrinsic, which read from left to right say what the
    strongest control reaches (grey) and what is left above it (coloured; hatched where the control is the better one).

    Args:
        found: with a probe each. Levels of one generator share a panel, where the level stands beside the intrinsic.
        order: of the controls; each has its look by its place there
    """
    names = [name for name in order if any(name in s.controls for s in found)]
    never = [name for name in order if all(name in s.missing for s in found)]
    panels: dict[str, list[Standing]] = {s.generator.partition("@")[0]: [] for s in found}
    for standing in sorted(found, key=lambda s: (*INTRINSICS, s.intrinsic).index(s.intrinsic)):
        panels[standing.generator.partition("@")[0]].append(standing)

    def draw(figure: Figure) -> None:
        from matplotlib.patches import Patch

        heights = [len(lines) + 0.55 for lines in panels.values()]
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights).ravel()
        shown: dict[str, Any] = {}
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for k, standing in enumerate(lines):
                _waterline(axes, k, standing, names, order, never, shown)
            axes.axvline(0, color="#59616a", lw=1)
            labels = [f"{s.intrinsic}\n@{level}" if (level := s.generator.partition("@")[2]) else s.intrinsic for s in lines]
            axes.set_yticks(range(len(lines)), labels)
            axes.set_ylim(len(lines) - 0.45, -0.55)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.set_title(title, loc="left", fontweight="bold")
        low = min(_interval(p, FLOOR)[0] for s in found for p in (s.probe, *s.controls.values()))
        grid[0].set_xlim(min(low, 0) - 0.06, 1)
        grid[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        note = f"\nnot run anywhere: {', '.join(never)}" if never else ""
        grid[-1].set_xlabel(f"skill: 0 the average picture, 1 no error{note}")
        bars = {"left above every control": Patch(color=COLOURS[0], alpha=0.55),
                "reached by the strongest": Patch(color=_REACHED),
                "a control is better": Patch(facecolor="#fbe3d6", edgecolor=COLOURS[1], hatch="////")}
        marks = {name: shown[name] for name in ("probe", *names)}
        figure.legend([*bars.values(), *marks.values()], [*bars, *marks], loc="outside upper left", ncols=3, columnspacing=1.0,
                      handletextpad=0.5)

    return _png(draw, 1.75 + 0.62 * len(found) + 0.42 * len(panels))


_REACHED = "#d5dade"


def _waterline(axes: Axes, k: int, standing: Standing, names: Sequence[str], order: Sequence[str], never: Sequence[str],
               shown: dict[str, Any]) -> None:
    """One line: the bars, the controls' marks one below the other, the probe's across them, and the figure beside."""
    probe, left = standing.probe, standing.left
    value, bar = max(probe.value, FLOOR), max([0.0, *(p.value for p in standing.controls.values())])
    axes.barh(k, min(bar, max(value, 0)), height=0.74, color=_REACHED, lw=0)
    if left.value > 0:
        axes.barh(k, value - bar, left=bar, height=0.74, color=COLOURS[0], alpha=0.55, lw=0)
    else:
        axes.barh(k, bar - value, left=value, height=0.74, facecolor="#fbe3d6", edgecolor=COLOURS[1], hatch="////", lw=0)
    for i, name in enumerate(names):
        if name in standing.controls:
            y = k + (i - (len(names) - 1) / 2) * 0.66 / max(len(names) - 1, 1)
            shown[name] = _mark(axes, standing.controls[name], y, label=name, markersize=4.5, lw=1.2,
                                **_look(order.index(name) + 1))
    axes.plot([value, value], [k - 0.37, k + 0.37], color=COLOURS[0], lw=2.4, solid_capstyle="butt")
    shown["probe"] = _mark(axes, probe, k, 40, label="probe", markersize=6.5, lw=1.6, **_look(0))
    strength = "black" if left.low > 0 else COLOURS[1] if left.high <= 0 else "#59616a"
    aside = [(f"left {two(left.value)}", dict(fontsize=9.5, fontweight="bold", color=strength)),
             (f"[{two(left.low)}, {two(left.high)}]", dict(fontsize=8, color="#3a4148")),
             (f"above {left.control}", dict(fontsize=8, color="#3a4148"))]
    if gone := [name for name in standing.missing if name not in never]:
        aside.append((f"not run: {', '.join(gone[:2])}{' …' * (len(gone) > 2)}", dict(fontsize=7, color="#59616a")))
    for (text, look), down in zip(aside, (14, 3, -7, -17), strict=False):
        axes.annotate(text, (1, k), (5, down), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
                      annotation_clip=False, **look)


def _mark(axes: Axes, p: Point, y: float, aside: float = 6, **look: Any) -> Any:
    """A level mark with its interval; at the left edge, with its figure, where the axis does not reach it."""
    value, below, above = _interval(p, FLOOR)
    if p.value < FLOOR:
        axes.annotate(two(p.value), (FLOOR, y), (aside, 0), fontsize=7.5, textcoords="offset points", va="center",
                      color=look["color"], bbox=dict(facecolor="white", edgecolor="none", alpha=0.85, pad=0.4))
    return axes.errorbar([value], [y], xerr=[[below], [above]], ls="none", markeredgecolor="white", markeredgewidth=0.5, **look)


def nothing(text: str) -> bytes:
    """A picture of no points, which says why."""
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)

    return _png(draw, 2.4)


def scatter(panels: Mapping[str, Mapping[str, Sequence[tuple[float, Point]]]], label: str, titles: Mapping[str, str]) -> bytes:
    """Skill over a positive figure of the generator, logarithmic: one panel a key, one series a family, joined in order.

    Args:
        panels: {key: {family: (figure, point)}}
        label: of the figure
        titles: of the panels
    """
    families = list(dict.fromkeys(f for lines in panels.values() for f in lines))

    def draw(figure: Figure) -> None:
        grid = _panels(figure, len(panels))
        handles: dict[str, Any] = {}
        reach = [x for lines in panels.values() for found in lines.values() for x, _ in found if x > 0] or [1]  # a shared axis
        for axes, (key, lines) in zip(grid, panels.items(), strict=True):
            axes.set_xscale("log")
            for family, found in lines.items():
                found = sorted((pair for pair in found if pair[0] > 0), key=lambda pair: pair[0])
                look, drawn = _look(families.index(family)), [_interval(p, FLOOR) for _, p in found]
                axes.plot([x for x, _ in found], [v for v, _, _ in drawn], color=look["color"], lw=0.8, alpha=0.6)
                handles[family] = axes.errorbar(
                    [x for x, _ in found], [v for v, _, _ in drawn], yerr=[[a for _, a, _ in drawn], [b for _, _, b in drawn]],
                    ls="none", lw=1.4, label=family, **look)
                for (x, p), (v, _, _) in zip(found, drawn, strict=True):
                    if p.value < FLOOR:
                        axes.annotate(f"{p.value:.1f}".replace("-", "−"), (x, v), (0, 6), textcoords="offset points",
                                      ha="center", fontsize=8, color=look["color"])
            axes.axhline(0, color="#59616a", lw=1)
            axes.set_xticks([t for t in (f * 10.0 ** e for e in range(-2, 5) for f in (1, 2, 5))
                             if min(reach) * 0.8 <= t <= max(reach) * 1.25])
            axes.set_xticks([], minor=True)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_title(titles[key])
        figure.supxlabel(label, fontsize=10)
        figure.supylabel("skill", fontsize=10)
        _legend(figure, handles)

    return _png(draw, 3.4 if len(panels) < 3 else 5.4)
