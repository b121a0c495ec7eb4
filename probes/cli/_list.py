"""`probes list`: what there is by name."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from generators._names import unknown

_SHORT = re.compile(r".+?(?=;| \(|$)")          # a licence without what is said behind it


def list_(what: Literal["generators", "intrinsics", "teachers", "data", "methods", "protocols", "studies"],
          names: Sequence[str] = ()) -> None:
    """Lists what there is by name.

    Args:
        what: generators, intrinsics, teachers, data, methods, protocols or studies
        names: these alone; of generators then also their source and the whole of their licence

    Raises:
        UnknownNameError: there is no such name
    """
    from rich.console import Console
    from rich.table import Table

    rows = _ROWS[what]()
    known = {name for row in rows for name in (row[0], row[0].partition("/")[0])}         # a protocol without its version too
    if missing := [name for name in names if name not in known]:
        raise unknown(what.removesuffix("s") if what != "studies" else "study", missing[0], [row[0] for row in rows])
    if names and what == "generators":
        return _print_generators(names)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in _COLUMNS[what]:
        table.add_column(column, no_wrap=width, overflow="fold")
    for row in rows:
        if not names or row[0] in names or row[0].partition("/")[0] in names:
            table.add_row(*row)
    Console(highlight=False).print(table)


def _print_generators(names: Sequence[str]) -> None:
    from generators import catalog

    for name in names:
        e = catalog()[name]
        facts = dict(family=e.family, size=f"{e.resolution} px", kind=e.kind, draws=e.world, about=e.description,
                     licence=e.license, source=e.source)
        print("\n".join([name, *(f"  {fact:<8}{value}" for fact, value in facts.items())]))


def _generators():
    from generators import catalog

    return [(e.name, e.family, f"{e.resolution} px", e.kind, f"{e.description}; {_SHORT.match(e.license)[0]}")
            for e in catalog().values()]


def _intrinsics():
    from .._intrinsics import intrinsics

    return [(i.name, str(i.channels), i.description) for i in intrinsics().values()]


def _teachers():
    from ..teachers import teachers

    return list(teachers().items())


def _data():
    from ..data import known_data

    return list(known_data().items())


def _methods():
    import adapters

    return [(m.name, m.description) for m in adapters.methods().values()]


def _protocols():
    from ..metrics import protocols

    return [(str(p), ", ".join(p.metrics), p.description) for p in protocols().values()]


def _studies():
    from ..studies import studies

    return [(s.name, s.question) for s in studies().values()]


_ROWS: dict[str, Callable] = dict(generators=_generators, intrinsics=_intrinsics, teachers=_teachers, data=_data,
                                  methods=_methods, protocols=_protocols, studies=_studies)
_COLUMNS = dict(
    generators=[("name", True), ("family", True), ("size", True), ("kind", True), ("about; licence", False)],
    intrinsics=[("name", True), ("channels", True), ("unit and frame", False)],
    teachers=[("name", True), ("about", False)], data=[("name", True), ("about", False)],
    methods=[("name", True), ("about", False)],
    studies=[("name", True), ("question", False)],
    protocols=[("name", True), ("metrics", False), ("definition", False)])
