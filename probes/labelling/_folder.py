"""The folder that `label` fills: labels.json, which says whose labels they are and what they mean, and labels.csv."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .._files import write_text_atomically
from .._intrinsics import Intrinsic
from .._rows import Rows
from ..data import Data, Photographs
from ..teachers import Teacher
from ..teachers._labels import COLUMNS, MANIFEST, TABLE, read_manifest

_ADVICE = "choose another folder with --output, or discard what it holds with --overwrite true"


def describe(data: Data, teacher: Teacher, intrinsics: Sequence[Intrinsic], formats: Sequence[str],
             units: Mapping[str, str]) -> dict:
    """The contents of labels.json. Files are known by their digests, in the rows; data that is computed by its fingerprint."""
    from .. import __version__

    maps = {}
    for about in intrinsics:
        meaning = teacher.meaning(about.name)
        maps[about.name] = dict(description=about.description, channels=about.channels, options=teacher.options(about.name),
                                meaning=meaning, unit=units.get(meaning, ""))
        if about.name == "normal":
            maps[about.name]["frame"] = "omnidata"
    return dict(format="probes-labels", version=1, software=f"probes {__version__}",
                teacher=dict(name=teacher.name, version=teacher.version, fingerprint=teacher.fingerprint,
                             licence=teacher.licence, source=teacher.source),
                data=dict(name=data.name, world=data.world,
                          fingerprint=None if isinstance(data, Photographs) else data.fingerprint),
                masked=teacher.masked, formats=list(formats), intrinsics=maps)


class Folder:
    """Labels on disk.

    Args:
        path: of the folder
        about: of `describe`; what is there already of the same teacher and data is gone on with
        overwrite: discard what is there instead

    Raises ValueError where the folder holds labels of another teacher, or files of labels that nobody vouches for.
    """

    def __init__(self, path: Path, about: dict, overwrite: bool):
        self.path, self.about, self.table = path, about, Rows(path / TABLE, COLUMNS)
        self.overwrite = overwrite
        before = None
        if not overwrite and (path / MANIFEST).exists():
            before = read_manifest(path)
            self._compare(before)
            self.about = {**about, "intrinsics": {**before["intrinsics"], **about["intrinsics"]}}
        elif not overwrite:
            stray = next((p for name in about["intrinsics"] for p in sorted(path.rglob(f"*-{name}.*"))), None)
            if stray is not None:
                raise ValueError(f"output: {path} holds maps ({stray.name}) without a {MANIFEST} that says whose they are; "
                                 f"{_ADVICE}")
        self.before = before
        self.rows: dict[str, dict] = {} if before is None else {row["name"]: row for row in self.table.read() if row["image"]}

    def _compare(self, before: dict) -> None:
        then, now = before["teacher"], self.about["teacher"]
        changed = [f"teacher {part} {then.get(part)!r}, now {now[part]!r}" for part in ("name", "version")
                   if then.get(part) != now[part]]
        if not changed and then.get("fingerprint") != now["fingerprint"]:
            changed = [f"another {now['name']} of the same version, whose fingerprint differs"]
        stored = before["data"].get("fingerprint")
        if stored != self.about["data"]["fingerprint"]:
            changed.append(f"data {before['data'].get('name')}, now {self.about['data']['name']}")
        for name, about in self.about["intrinsics"].items():
            known = before["intrinsics"].get(name)
            if known is not None and json.loads(json.dumps(about)) != known:
                changed.append(f"another encoding or unit of {name}")
        if changed:
            raise ValueError(f"output: {self.path} holds labels of {'; '.join(changed)}; {_ADVICE}")

    def begin(self) -> None:
        """Says whose labels are to come before the first is there, and removes what would be taken for one of them."""
        if self.overwrite:
            self._clear()
        elif self.before is not None:
            self.table.replace(list(self.rows.values()))            # without a row that was cut short
        write_text_atomically(self.path / MANIFEST, json.dumps(self.about, indent=2) + "\n")

    def _clear(self) -> None:
        """Removes the labels, and only them: maps of this folder's intrinsics that a row or this run names."""
        try:
            intrinsics = set(read_manifest(self.path)["intrinsics"])
            names = [row["name"] for row in self.table.read()]
        except ValueError:
            intrinsics, names = set(), []
        endings = (".npy", ".exr", "-16bit.json", "-16bit.png", ".png")
        for name in names:
            for path in (self.path / f"{name}-{i}{ending}" for i in intrinsics for ending in endings):
                if path.resolve().is_relative_to(self.path.resolve()):
                    path.unlink(missing_ok=True)
        (self.path / TABLE).unlink(missing_ok=True)

    def add(self, name: str, size: tuple[int, int], image: str) -> None:
        """Vouches for the labels of an image, whose files are there by now."""
        row = dict(name=name, height=size[0], width=size[1], image=image)
        self.table.append([row])
        self.rows[name] = row

    def finish(self) -> None:
        self.about["images"] = len(self.rows)
        write_text_atomically(self.path / MANIFEST, json.dumps(self.about, indent=2) + "\n")


