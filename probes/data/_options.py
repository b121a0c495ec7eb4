"""Options that follow a path, KIND:PATH,OPTION=VALUE: they come as text, and as themselves from Python.

In such a name a comma within a path or a value is written %2C, and a percent sign %25.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from generators._names import unknown

from .._depth import MEANINGS

DEPTHS = tuple(dict.fromkeys(MEANINGS.values()))        # what depth may mean: metric, relative, disparity


def encoded(text: str) -> str:
    """A path or value as it stands in a name."""
    return text.replace("%", "%25").replace(",", "%2C")


def decoded(text: str) -> str:
    """What `encoded` was given."""
    return text.replace("%2C", ",").replace("%2c", ",").replace("%25", "%")


def place_of(text: str) -> Path:
    """The path that is meant: decoded, or, where only that exists, as it stands."""
    path, plain = Path(decoded(text)).expanduser(), Path(text).expanduser()
    return plain if not path.exists() and plain.exists() else path


def named(kind: str, place: str | Path, **options: object) -> str:
    """KIND:PATH,OPTION=VALUE,… that `probes.data.get_data` opens again; options that are None were not given."""
    given = (f"{key}={encoded(str(value))}" for key, value in sorted(options.items()) if value is not None)
    return ",".join([f"{kind}:{encoded(str(place))}", *given])


def existing(path: str | Path) -> Path:
    """The absolute path of what is there. Raises ValueError where nothing is."""
    place = Path(path).expanduser().resolve()
    if not place.exists():
        raise ValueError(f"data: there is no {place}; check the path")
    return place


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


def depth_meaning(value: str | None) -> str | None:
    """metric, relative or disparity, or None where nothing was said. Raises UnknownNameError."""
    return None if value is None else choice("depth_meaning", value, DEPTHS)
