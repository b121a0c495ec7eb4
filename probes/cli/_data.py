"""`probes data check`: what a dataset holds, on one screen and in one picture."""
from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

    from ..data._check import Checked


def data(action: Literal["check"], source: str, samples: int = 8, output: str = "data-check.png", full: bool = False,
         seed: int = 0) -> None:
    """Looks at a dataset before anyone trains on it: counts, ranges, masks, the frame of normals, a picture.

    Args:
        action: check
        source: a folder or file whose layout is recognised, KIND:PATH,OPTION=VALUE,…, or a name: see `probes list data`
        samples: how many images are looked at, chosen at random
        output: .png to look at: each of these images with its maps
        full: read every image and map once, to find those that are damaged
        seed: of the choice
    """
    from rich.console import Console

    from .._console import Reporter
    from ..data import get_data
    from ..data._check import check, panel

    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    images = get_data(source)
    reporter = Reporter()
    if full:
        with reporter.bar("reading") as update:
            found = check(images, samples, full, seed, update)
    else:
        found = check(images, samples, full, seed)
    console = Console(highlight=False)
    for line in _heading(found):
        console.print(line, markup=False, soft_wrap=True)
    if found.channels:
        console.print(_table(found))
    for line in found.facts:
        console.print(f"ok     {line}", markup=False, soft_wrap=True)
    for line in (*getattr(images, "notes", ()), *found.hints):
        console.print(f"look   {line}", markup=False, soft_wrap=True, style="yellow")
    if found.unreadable:
        looked = images.count if full else len(found.read) + len(found.unreadable)
        console.print(f"look   {len(found.unreadable)} of the {looked} images looked at cannot be used:", style="yellow")
        for line in found.unreadable[:5]:
            console.print(f"       {line}", markup=False, soft_wrap=True)
        if len(found.unreadable) > 5:
            console.print(f"       … and {len(found.unreadable) - 5} more")
    if not found.read:
        raise ValueError(f"source: nothing of {images.name} can be used; {found.unreadable[0]}")
    panel(found, output)
    console.print(f"{output}: {len(found.read)} of them, each with its maps", markup=False, soft_wrap=True)


def _heading(found: Checked) -> list[str]:
    data = found.data
    count = "without end" if data.count is None else f"{data.count:,} image{'s' * (data.count != 1)}"
    lines = [f"{data.name}: {count} of {data.world}" + (f", {data.missing:,} more on the official list are not there"
                                                       if getattr(data, "missing", 0) else "")]
    for label, parts in (("splits", getattr(data, "splits", None)), ("parts", getattr(data, "parts", None))):
        if parts and len(parts) > 1:
            lines.append(f"{label}: " + ", ".join(f"{name} {number:,}" for name, number in parts.items()))
    if getattr(data, "grouped", False):
        held = data.first_training_index
        groups = [len({data.group(i) for i in part}) for part in (range(held), range(data.count))]
        lines.append(f"a fit holds out the first {held:,}: {groups[0]} of {groups[1]} scans or scenes, whole")
    sizes = [f"{width}×{height} ({number})" for (height, width), number in found.sizes.most_common(4)]
    if sizes:
        more = f", {len(found.sizes) - 4} other sizes" if len(found.sizes) > 4 else ""
        lines.append(f"sizes of the {len(found.read)} looked at: {', '.join(sizes)}{more}")
    for name, number in getattr(data, "found", {}).items():
        if 0 < number < data.count:
            lines.append(f"{name}: {number:,} of {data.count:,} images have it; it can be used where all do")
    if not data.exact:
        lines.append("no map is known of every image: these are images only")
    return lines


def _table(found: Checked) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("map", no_wrap=True)
    for label in ("min", "1 %", "median", "99 %", "max", "valid"):
        table.add_column(label, justify="right", no_wrap=True)
    for label, facts in found.channels.items():
        share = f"{facts.valid:.1%}" if facts.valid in (0, 1) or 0.001 < facts.valid < 0.999 else f"{facts.valid:.3%}"
        table.add_row(label, *(f"{value:.3g}" for value in facts.values), share)
    return table
