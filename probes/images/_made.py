"""Which files of a folder are maps that a probe made of photographs: its maps-INTRINSIC.json tell."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ._write import FORMATS

_FIRST = {"npy": ".npy", "exr": ".exr", "png16": "-16bit.png", "png": ".png"}


def made_of_photographs() -> Callable[[Path], bool]:
    """`skip` for `gather`: whether a file is such a map, or what tells of them. It reads each folder's manifests once."""
    known = cache(_written)
    return lambda path: path.name in known(path.parent)


def map_files(target: str, formats: Iterable[str]) -> list[str]:
    """Names of the files of a map, from its name without an ending."""
    return [target + ending for name in formats for ending in (_FIRST[name], *(["-16bit.json"] if name == "png16" else []))]


def read_manifest(path: Path) -> dict:
    """A manifest, or {} where there is none that can be read; of its photographs those that make sense."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    photographs = found.get("photographs")
    told = photographs.items() if isinstance(photographs, dict) else ()
    return {**found, "photographs": {target: about for target, about in told if _makes_sense(about)}}


def _makes_sense(about: Any) -> bool:
    formats = about.get("formats") if isinstance(about, dict) else None
    return isinstance(formats, list) and set(map(str, formats)) <= set(FORMATS)


def _written(folder: Path) -> set[str]:
    """Names of the files in a folder that its manifests say are maps, or are to become maps, and of those themselves."""
    manifests = list(folder.glob("maps-*.json"))
    return {path.name for path in manifests} | {
        name for path in manifests for target, about in read_manifest(path).get("photographs", {}).items()
        for name in map_files(target, about["formats"])}
