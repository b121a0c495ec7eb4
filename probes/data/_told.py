"""Who made the maps in a folder, as `probes label` (labels.json) and `probes predict` (maps-INTRINSIC.json) tell there."""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .._depth import MEANINGS, OPTIONS

_EXACT = "exact"        # the name under which `probes label` writes what data knows: no teacher's word


@dataclass(frozen=True)
class Told:
    """What the manifests say of an intrinsic's maps: `made_by` is the teacher or probe, "" for exact maps; `meaning` that of
    a depth, "" for other intrinsics; `path` the manifest."""

    made_by: str
    meaning: str
    path: Path


def told(places: Iterable[Path], intrinsics: Iterable[str]) -> dict[str, Told]:
    """{intrinsic: what is said of it}, for those of which something is. A folder's own maps-INTRINSIC.json comes before its
    labels.json. Raises ValueError for a damaged manifest, and where two folders say different things."""
    found: dict[str, Told] = {}
    for place in places:
        for name in intrinsics:
            said = _of_probe(place / f"maps-{name}.json", name) or _of_labels(place / "labels.json", name)
            before = found.setdefault(name, said) if said is not None else None
            if before is not None and (before.made_by, before.meaning) != (said.made_by, said.meaning):
                raise ValueError(f"data: {before.path} says that {name} is by {before.made_by or 'nobody'} {before.meaning}, "
                                 f"{said.path} that it is by {said.made_by or 'nobody'} {said.meaning}; keep them apart")
    return found


def _of_probe(path: Path, intrinsic: str) -> Told | None:
    found = _json(path)
    if found is None:
        return None
    try:
        if found["intrinsic"] != intrinsic:
            raise ValueError(f"it tells of {found['intrinsic']}")
        encoding = found["options"].get("encoding", OPTIONS["encoding"])
        return Told(f"a probe of {intrinsic}", MEANINGS.get(encoding, "metric") if intrinsic == "depth" else "", path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _of_labels(path: Path, intrinsic: str) -> Told | None:
    found = _json(path)
    if found is None:
        return None
    try:
        about = found["intrinsics"].get(intrinsic)
        if about is None:
            return None
        teacher = found["teacher"]
        by = "" if teacher["name"] == _EXACT else f"{teacher['name']} {teacher['version']}"
        return Told(by, about.get("meaning", "metric") if intrinsic == "depth" else "", path)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"data: {path} is damaged ({error!r}); make the maps again, or remove it if they are measurements of "
                      "your own")
