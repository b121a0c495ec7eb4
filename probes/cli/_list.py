"""`probes list`: what there is by name."""
from __future__ import annotations

from collections.abc import Callable
from typing import Literal


def list_(what: Literal["generators", "intrinsics", "teachers", "data", "methods", "protocols", "studies"]) -> None:
    """Lists what there is by name.

    Args:
        what: generators, intrinsics, teachers, data, methods, protocols or studies
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in _COLUMNS[what]:
        table.add_column(column, no_wrap=width, overflow="fold")
    for row in _ROWS[what]():
        table.add_row(*row)
    Console(highlight=False).print(table)


def _generators():
    from generators import catalog

    return [(e.name, e.family, f"{e.resolution} px", e.kind, f"{e.description}; {e.license.split(' (')[0]}")
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
