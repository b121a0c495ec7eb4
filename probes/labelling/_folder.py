"""The folder that `label` fills: labels.json, which says whose labels they are and what they mean, and labels.csv."""
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .._files import write_text_atomically
from .._intrinsics import Intrinsic
from .._rows import Rows
from ..data import Data, Photographs
from ..teachers import Teacher
from ..teachers._labels import COLUMNS, MANIFEST, TABLE, VERSION, packed, read_manifest, unpacked

_ADVICE = "choose another folder with --output, or discard what it holds with --overwrite true"
_ENDINGS = (".npy", ".exr", "-16bit.json", "-16bit.png", ".png")        # of all that `write_map` writes


def describe(data: Data, teacher: Teacher, intrinsics: Sequence[Intrinsic], formats: Sequence[str],
             units: Mapping[str, str]) -> dict:
    """The contents of labels.json. Files are known by their digests, in the rows; data that is computed by its fingerprint."""
    from .. import __version__

    maps = {}
    for about in intrinsics:
        meaning = teacher.meaning(about.name)
        maps[about.name] = dict(description=about.description, channels=about.channels, options=teacher.options(about.name),
                                meaning=meaning, unit=units.get(meaning, ""))
        if errors := teacher.exact_errors(about.name):
            maps[about.name]["exact_errors"] = errors
        if about.name == "normal":
            maps[about.name]["frame"] = "omnidata"
    return dict(format="probes-labels", version=VERSION, software=f"probes {__version__}",
                teacher=dict(name=teacher.name, version=teacher.version, fingerprint=teacher.fingerprint,
                             licence=teacher.licence, source=teacher.source),
                data=dict(name=data.name, world=data.world,
                          fingerprint=None if isinstance(data, Photographs) else data.fingerprint),
                masked=teacher.masked, formats=list(formats), intrinsics=maps)


def _encoding(about: dict) -> dict:
    """What decides how a map reads."""
    return {key: value for key, value in about.items() if key != "exact_errors"}


class Folder:
    """Labels on disk.

    Args:
        path: of the folder
        about: of `describe`; what is there already of the same teacher and data is gone on with
        overwrite: discard what is there instead
        names: of the images that are to be labelled

    `rows`: {(name, intrinsic): row}, what the folder vouches for. Raises ValueError where the folder holds labels of another
    teacher, or maps of an intrinsic that is labelled for the first time: nobody vouches for those.
    """

    def __init__(self, path: Path, about: dict, overwrite: bool, names: Iterable[str] = ()):
        self.path, self.about, self.table, self.names = path, about, Rows(path / TABLE, COLUMNS), list(names)
        self.overwrite = overwrite
        before = None
        if not overwrite and (path / MANIFEST).exists():
            before = read_manifest(path)
            self._compare(before)
            self.about = {**about, "intrinsics": {**before["intrinsics"], **about["intrinsics"]}}
        self.before = before
        self.rows: dict[tuple[str, str], dict] = {}
        if before is not None:
            self.rows = {(row["name"], row["intrinsic"]): row for row in self.table.read() if row["map"]}
        self._check_strays(set() if before is None else set(before["intrinsics"]))

    def _check_strays(self, known: set[str]) -> None:
        """Raises ValueError where maps lie about of an intrinsic that no manifest lists: they would pass for the teacher's."""
        own = set(self._discarded()) if self.overwrite else set()
        for name in sorted(set(self.about["intrinsics"]) - known):
            stray = next((p for p in self._maps_of(name) if p not in own), None)
            if stray is None:
                continue
            advice = f"move it, or choose another folder with --output; {TABLE} does not name it, so it is not discarded"
            raise ValueError(f"output: {self.path} holds maps of {name} ({stray.relative_to(self.path)}) without a {MANIFEST} "
                             f"that says whose they are; {advice if self.overwrite else _ADVICE}")

    def _maps_of(self, intrinsic: str) -> Iterator[Path]:
        for ending in _ENDINGS:
            found = (p for p in sorted(self.path.rglob(f"*-{intrinsic}{ending}")) if p.is_file())
            yield from (p for p in found if p.relative_to(self.path).parts[0] != "images")

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
            if known is not None and _encoding(json.loads(json.dumps(about))) != _encoding(known):
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
        """Removes the labels, and only them."""
        for path in self._discarded():
            path.unlink(missing_ok=True)
        (self.path / TABLE).unlink(missing_ok=True)

    def _discarded(self) -> Iterator[Path]:
        """Where maps may lie that a row names, or that this run is to write."""
        try:
            read_manifest(self.path)
            pairs = [(row["name"], row["intrinsic"]) for row in self.table.read()]
        except ValueError:
            pairs = []
        for name, intrinsic in dict.fromkeys([*pairs, *((n, i) for n in self.names for i in self.about["intrinsics"])]):
            for path in (self.path / f"{name}-{intrinsic}{ending}" for ending in _ENDINGS):
                if path.resolve().is_relative_to(self.path.resolve()):
                    yield path

    def digests(self, name: str, intrinsic: str) -> dict[str, str]:
        """{format: sha256 of the map's file} that a row vouches for; {} where there is none."""
        row = self.rows.get((name, intrinsic))
        return {} if row is None else unpacked(row["map"])

    def image(self, name: str) -> str | None:
        """The digest of an image as it was labelled; None where it was not."""
        return next((row["image"] for i in self.about["intrinsics"] if (row := self.rows.get((name, i))) is not None), None)

    def add(self, name: str, intrinsic: str, size: tuple[int, int], image: str, digests: Mapping[str, str]) -> None:
        """Vouches for files of a map, which are there by now."""
        before = self.digests(name, intrinsic)
        row = dict(name=name, intrinsic=intrinsic, height=size[0], width=size[1], image=image,
                   map=packed({**before, **digests}))
        if not before or row["map"] != packed(before):
            self.table.append([row])
            self.rows[name, intrinsic] = row

    def finish(self) -> None:
        self.about["images"] = len({name for name, _ in self.rows})
        write_text_atomically(self.path / MANIFEST, json.dumps(self.about, indent=2) + "\n")


