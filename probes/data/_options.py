"""Options that follow a path, KIND:PATH,OPTION=VALUE: they come as text, and as themselves from Python."""
from __future__ import annotations

from collections.abc import Iterable

from generators._names import unknown


def choice(name: str, value: str, known: Iterable[str]) -> str:
    """The value, if it is known. Raises UnknownNameError with the nearest of `known`."""
    known = list(known)
    if value not in known:
        raise unknown(name, value, known)
    return value


def flag(name: str, value: str | bool) -> bool:
    """true or false. Raises ValueError for anything else."""
    if isinstance(value, bool):
        return value
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value.lower() == "true"


def number(name: str, value: str | float, least: float = 0.0) -> float:
    """A finite number above `least`. Raises ValueError for anything else."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if not least < result < float("inf"):
        raise ValueError(f"{name}: expected a number above {least:g}, got {value!r}")
    return result


def depth_unit(depth_scale: str | float | None) -> float | None:
    """Metres a code, from the code of one metre (256 for KITTI, 5000 for TUM, 1000 for millimetres)."""
    return None if depth_scale is None else 1 / number("depth_scale", depth_scale)
