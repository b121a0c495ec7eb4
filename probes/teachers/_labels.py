"""Labels that `probes label` wrote, as a teacher: what an expensive network said once is read, not computed again.

A folder of labels holds labels.json, which says whose they are and what they mean, NAME-INTRINSIC.npy for each, and
labels.csv, a row for every image and intrinsic with the digests of the image that was looked at and of the map's files.
Labels go by the name of an image in its data and by those digests: an image that nobody labelled, or that is another by now,
and a map that is not the one that was written, are refused, never guessed.
"""
from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators._files import file_sha256

from ..data import Data, Photographs, Sample, resize_map
from ..data._map_files import read_map
from ..images._file import suffixes
from ._base import Teacher

KIND, MANIFEST, TABLE = "labels", "labels.json", "labels.csv"
VERSION = 2         # of the folder; 1 had no digests of maps
COLUMNS = ("name", "intrinsic", "height", "width", "image", "map")
ENDINGS = {"npy": ".npy", "exr": ".exr", "png16": "-16bit.png"}     # formats that hold the values, best first


def file_of(data: Data, index: int) -> Path | None:
    """The image file that shows image `index` and nothing else, or None where images come otherwise."""
    if not isinstance(data, Photographs):
        return None
    path = next(iter(data.files(index)), None)
    return path if path is not None and path.suffix.lower() in suffixes() else None


def digest(data: Data, index: int, sample: Sample | None = None) -> str:
    """What tells that an image is still the same: "file:" and the sha256 of its file, or, where it has none of its own,
    "pixels:" and that of its values. Not of the values for all: decoders of JPEG differ in the last digit."""
    path = file_of(data, index)
    if path is not None:
        return f"file:{file_sha256(path)}"
    image = (sample or data.sample(index)).image
    return f"pixels:{hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()}"


def packed(digests: Mapping[str, str]) -> str:
    """{format: sha256 of its file} as a cell of the column map: "npy:… exr:…"."""
    return " ".join(f"{form}:{digests[form]}" for form in ENDINGS if form in digests)


def unpacked(cell: str) -> dict[str, str]:
    """What `packed` packed."""
    return dict(part.split(":", 1) for part in cell.split() if ":" in part)


def read_manifest(folder: Path) -> dict:
    """labels.json. Raises ValueError where there is none, or none that can be read."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text())
        if found["format"] != "probes-labels" or found["version"] != VERSION:
            raise ValueError(f"it is {found['format']} {found['version']}, expected probes-labels {VERSION}")
        missing = {"name", "version", "fingerprint", "licence"} - set(found["teacher"])
        if missing:
            raise ValueError(f"it does not tell the teacher's {', '.join(sorted(missing))}")
        dict(found["intrinsics"])
    except FileNotFoundError:
        raise ValueError(f"labels: {folder} is no folder of labels ({MANIFEST} is missing); give one that `probes label` wrote"
                         ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"labels: {path} is damaged ({error!r}); label the images again") from error
    return found


def resolved(teacher: Any) -> Any:
    """A teacher's name: of a folder of labels that is here as `Labels.name` has it, any other as it is."""
    kind, _, folder = teacher.partition(":") if isinstance(teacher, str) else ("", "", "")
    place = Path(folder).expanduser()
    return f"{KIND}:{place.resolve()}" if kind == KIND and (place / MANIFEST).is_file() else teacher


class Labels(Teacher):
    """What a teacher said about the images of `data`, from a folder.

    Args:
        folder: that `probes label` wrote
        data: the same images, by the same names

    Raises ValueError for another folder, and without data.
    """

    def __init__(self, folder: str | Path, data: Data | None):
        self.folder, self.data = Path(folder).expanduser().resolve(), data
        self.name = f"{KIND}:{self.folder}"          # a record is read from anywhere
        if data is None:
            raise ValueError(f"teacher: {self.name} knows images by their names, and a generator that draws its own has none; "
                             "name the teacher itself, or give data")
        self.manifest = read_manifest(self.folder)
        about = self.manifest["teacher"]
        self.version, self.licence = f"{about['name']} {about['version']}", about["licence"]
        self.source = about.get("source", "")
        self.intrinsics, self.worlds = tuple(self.manifest["intrinsics"]), (data.world,)
        self.masked = bool(self.manifest.get("masked"))

    @cached_property
    def rows(self) -> dict[tuple[str, str], dict[str, str]]:
        """{(name of an image, intrinsic): its row of labels.csv}."""
        try:
            with open(self.folder / TABLE, newline="") as file:
                return {(row["name"], row["intrinsic"]): row for row in csv.DictReader(file) if row.get("map")}
        except (FileNotFoundError, KeyError) as error:
            raise ValueError(f"labels: {self.folder / TABLE} is missing or damaged; label the images again") from error

    def exact_errors(self, intrinsic: str) -> dict[str, float | str] | None:
        """Those of the teacher that gave the labels, where its folder tells them."""
        return self.manifest["intrinsics"][intrinsic].get("exact_errors")

    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        raise TypeError(f"teacher: {self.name} goes by an image's number, not by its pixels; use label_indexed")

    def label_indexed(self, image: Tensor, intrinsic: str, indices: Sequence[int]) -> Tensor:
        """The stored maps of these images, resized to `image`'s size over their valid pixels. Raises ValueError for images that
        were not labelled, and for those that have changed since."""
        size = image.shape[-2], image.shape[-1]
        return torch.stack([resize_map(self._stored(i, intrinsic), size, intrinsic) for i in indices])

    def _stored(self, index: int, intrinsic: str) -> Tensor:
        name = self.data.sample_name(index)
        path = self._path(name, intrinsic)
        if path is None:
            raise ValueError(self._missing(name, intrinsic))
        row = self.rows[name, intrinsic]
        if digest(self.data, index) != row["image"]:
            raise ValueError(f"labels: image {name} of {self.data.name} is not the one that was labelled in {self.folder}: it "
                             "has changed since; bring it back, or label the images again")
        if file_sha256(path) not in unpacked(row["map"]).values():
            raise ValueError(f"labels: {path} is not the map that {self.version} gave: it has changed since; remove it and "
                             "label the image again")
        return read_map(path, intrinsic, meaning=self.meaning(intrinsic))

    def _path(self, name: str, intrinsic: str) -> Path | None:
        """The best of the files that a row vouches for, if it is there."""
        row = self.rows.get((name, intrinsic))
        known = {} if row is None else unpacked(row["map"])
        paths = (self.folder / f"{name}-{intrinsic}{ending}" for form, ending in ENDINGS.items() if form in known)
        return next((path for path in paths if path.is_file()), None)

    def _missing(self, name: str, intrinsic: str) -> str:
        again = "label them with `probes label`, which goes on where it was left"
        if self.data.count is None:
            return f"labels: image {name} of {self.data.name} has no {intrinsic} in {self.folder}; {again} (--first, --count)"
        names = [self.data.sample_name(i) for i in range(self.data.count)]
        count = sum(self._path(n, intrinsic) is None for n in names)
        if count == len(names):
            return (f"labels: {self.folder} knows none of the {count} images of {self.data.name}, for instance {name}; it was "
                    f"made for {self.manifest['data']['name']}; give that data, or label these")
        return (f"labels: {count} of the {len(names)} images of {self.data.name} have no {intrinsic} in {self.folder}, {name} "
                f"for one; {again}")

    def options(self, intrinsic: str) -> dict:
        return dict(self.manifest["intrinsics"][intrinsic].get("options", {}))

    def meaning(self, intrinsic: str) -> str:
        return str(self.manifest["intrinsics"][intrinsic].get("meaning", ""))

    @cached_property
    def fingerprint(self) -> str:
        """Of the teacher that made them, and of every map there is: labels at the images' own size differ from what the teacher
        gives at a fit's size, and labels that are added or altered are other labels."""
        found = hashlib.sha256(f"labels {VERSION} {self.manifest['teacher']['fingerprint']}".encode())
        for (name, intrinsic), row in sorted(self.rows.items()):
            found.update(f"\n{name} {intrinsic} {row['map']}".encode())
        return found.hexdigest()
