"""Which teachers there are, by name; nothing of one is imported before it is used."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from generators._names import unknown

from ..data import Data
from . import _catalog
from ._base import EXACT, UNSAID, Exact, Teacher, Unsaid

_FACTORIES: dict[str, Callable[[], Teacher]] = {}
_KINDS: dict[str, Callable[[str, Data | None], Teacher]] = {}
_ABOUT: dict[str, str] = {}
_DEFAULTS = {"scenes": "scenes", "photographs": "paradigms"}


def register_teacher(name: str, factory: Callable[[], Teacher], about: str = "") -> None:
    """Makes a teacher known by its name; `factory()` builds it when it is first used."""
    if name in _FACTORIES:
        raise ValueError(f"teacher: {name!r} is already registered")
    _FACTORIES[name], _ABOUT[name] = factory, about


def register_teacher_kind(kind: str, factory: Callable[[str, Data | None], Teacher], about: str = "") -> None:
    """Makes KIND:ARGUMENT a teacher, whose name must be that: `factory(argument, data)` builds it, `data` being the images it
    is to label where they have numbers."""
    if kind in _KINDS:
        raise ValueError(f"teacher: the kind {kind!r} is already registered")
    _KINDS[kind], _ABOUT[f"{kind}:…"] = factory, about


def get_teacher(teacher: str | Teacher, intrinsic: str | None = None, data: Data | None = None) -> Teacher:
    """By name, as KIND:ARGUMENT, or the teacher itself; "exact" is what `data` knows. Raises UnknownNameError, or ValueError if
    it cannot label `intrinsic`."""
    if isinstance(teacher, Unsaid) or teacher == Unsaid.name:
        raise ValueError(UNSAID)
    if teacher == EXACT:
        teacher = Exact(data)
    elif isinstance(teacher, str):
        kind, colon, argument = teacher.partition(":")
        if teacher in _FACTORIES:
            teacher = _FACTORIES[teacher]()
        elif colon and argument and kind in _KINDS:
            teacher = _KINDS[kind](argument, data)
        else:
            raise unknown("teacher", teacher, teachers())
    if intrinsic is not None and intrinsic not in teacher.intrinsics:
        raise ValueError(f"teacher: {teacher.name} cannot label {intrinsic}, only {', '.join(teacher.intrinsics)}; "
                         "choose another with --teacher (`probes list teachers`), or register one with "
                         "probes.register_teacher")
    return teacher


def default_teacher(world: str) -> str:
    """The teacher that `teacher="auto"` means for generators of a world. Raises ValueError if there is none."""
    if world not in _DEFAULTS:
        raise ValueError(f"teacher: there is no default for a generator that draws {world}; name one with --teacher (`probes "
                         "list teachers`), or register one with probes.register_teacher")
    return _DEFAULTS[world]


def teachers() -> dict[str, str]:
    """{name: one line about it} of every registered teacher."""
    return {**_ABOUT, EXACT: "no teacher: the exact maps of data that has them"}


def _built(module: str, name: str) -> Teacher:
    return getattr(import_module(module, __package__), name)()


def _labels(folder: str, data: Data | None) -> Teacher:
    from ._labels import Labels

    return Labels(folder, data)


register_teacher_kind("labels", _labels, "what `probes label` wrote, read instead of computed: labels:FOLDER")
register_teacher("scenes", partial(_built, "._scenes", "ScenesTeacher"),
                 "normal, depth, albedo, shading of rendered rooms; trained on exact maps")
register_teacher("paradigms", partial(_built, ".paradigms", "ParadigmsTeacher"),
                 "albedo, shading of photographs; a network trained on drawn paradigms alone, and a soft Retinex inside it")
register_teacher("retinex", partial(_built, "._retinex", "RetinexTeacher"),
                 "albedo, shading of photographs by colour Retinex; classical, no weights")
_catalog.register(register_teacher, register_teacher_kind)
