"""What is left of a probe's skill above its controls: the share of a control's error that the probe does away with.

    left = 1 − error of the probe / error of the control = (s − c) / (1 − c)      with s, c their skills

The two are one figure where probe and control have the same images and so the same average picture, which all but `random`
have; that one draws images of its own, and the form in skills is what makes it comparable. A control below the average
picture is not worth more than that picture, whose skill is 0 and above which the skill itself is left.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ._plots import INTRINSICS
from ._points import Point, points, two, values

CONTROLS = ("latent", "rgb", "pixels", "shuffled", "random", "crossed")
AVERAGE = "average picture"
PROBE = "probe"


@dataclass(frozen=True)
class Left:
    """What is left above a control: 1 all, 0 nothing; below 0 the control is better.

    Args:
        control: which
        value: of the medians over seeds
        low, high: from the lowest end of the probe over the highest of the control to the reverse
    """

    control: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{two(self.value)} [{two(self.low)}, {two(self.high)}]"


def left_above(control: str, probe: Point, rival: Point | None) -> Left:
    """Of the probe's skill above that of a control; above the average picture where `rival` is None."""
    if rival is None:
        return Left(control, probe.value, probe.low, probe.high)
    return Left(control, _share(probe.value, rival.value), _share(probe.low, rival.high), _share(probe.high, rival.low))


def _share(skill: float, control: float) -> float:
    control = max(control, 0.0)
    return (skill - control) / max(1 - control, 1e-6)


@dataclass(frozen=True)
class Standing:
    """A probe among its controls, on one generator and intrinsic.

    Args:
        generator, intrinsic: which
        probe: its skill; None where it was not fitted
        controls: {control: skill} of those that were run
        missing: controls that were not
    """

    generator: str
    intrinsic: str
    probe: Point | None
    controls: dict[str, Point]
    missing: tuple[str, ...]

    def above(self, control: str) -> Left | None:
        """What is left above one control; None where either was not run."""
        if self.probe is None or control != AVERAGE and control not in self.controls:
            return None
        return left_above(control, self.probe, self.controls.get(control))

    @property
    def left(self) -> Left | None:
        """What is left above every control that was run, the average picture among them: the least over them of the value and
        of either end. Named after the control with the least value, the strongest."""
        if self.probe is None:
            return None
        every = [self.above(name) for name in (AVERAGE, *self.controls)]
        least = min(every, key=lambda found: found.value)
        return Left(least.control, least.value, min(e.low for e in every), min(e.high for e in every))


def expected(generator: str) -> tuple[str, ...]:
    """The controls of a generator. Where images come from outside, the crossed one is the random one."""
    return CONTROLS[:-1] if generator.startswith("sd-") else CONTROLS


def standings(rows: Sequence[dict], order: Sequence[str] = ()) -> list[Standing]:
    """One for each generator and intrinsic of finished rows, generators in the given order.

    A control is a row of its own (column `control`) or stands in the probe's (columns `control_NAME`), there without an
    interval over images unless `control_NAME_low` and `control_NAME_high` say it; a row of its own comes first.
    """
    found = []
    for generator in values(rows, "generator", order):
        for intrinsic in values(rows, "intrinsic", INTRINSICS):
            own = [r for r in rows if (r["generator"], r["intrinsic"]) == (generator, intrinsic)]
            if not own:
                continue
            at = {p.at["control"]: p for p in points(own, "control")}
            probe, controls = at.get(PROBE), {}
            for name in CONTROLS:
                beside = at.get(name) or (_within(probe, name) if probe else None)
                if beside is not None:
                    controls[name] = beside
            gone = tuple(name for name in expected(generator) if name not in controls)
            found.append(Standing(generator, intrinsic, probe, controls, gone))
    return found


def _within(probe: Point, name: str) -> Point | None:
    """A control in the rows of the probe, over their seeds."""
    column = f"control_{name}"
    rows = [r for r in probe.rows if r.get(column) is not None]
    if not rows:
        return None
    ends = [[r[column] if r.get(f"{column}_{end}") is None else r[f"{column}_{end}"] for r in rows] for end in ("low", "high")]
    return Point({"control": name}, median(r[column] for r in rows), min(ends[0]), max(ends[1]), len(rows), tuple(rows))
