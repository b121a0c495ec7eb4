"""What can be scored: a probe on photographs, a teacher, or a folder of predictions that somebody made elsewhere.

Each says what it predicts for samples of one size, at that size, and everything that decides it, for the record.
"""
from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators._files import file_sha256
from generators._names import UnknownNameError, unknown

from .. import _depth
from .._bank import batch_size
from .._intrinsics import Intrinsic
from .._parallel import Unreadable
from .._photos import _made_by
from .._probe import Probe, load
from ..data import Data, Photographs, Sample
from ..data._map_files import ENDINGS, find_map, read_map
from ..frames import FRAMES, Normals
from ..images import Photo, fit
from ..metrics._base import MEANINGS
from ..teachers import Teacher, get_teacher
from ..teachers._base import Exact
from ..teachers._labels import MANIFEST, read_manifest

_THREADS = 4        # that hash


class Source(ABC):
    """Something that predicts.

    Attributes:
        name: in tables
        kind: "probe", "teacher" or "folder"
        intrinsic: what it predicts
        meaning: of its depth; "" for other intrinsics
        batch: samples it is best given at once
    """

    name: str
    kind: str
    intrinsic: Intrinsic
    meaning: str
    batch: int = 8

    @abstractmethod
    def about(self) -> dict:
        """All that decides what it predicts, for scores.json."""

    def load(self, index: int, sample: Sample) -> Any:
        """What can be done for a sample in a thread of its own; an Unreadable where it cannot be predicted."""
        return None

    @abstractmethod
    def predict(self, indices: Sequence[int], samples: Sequence[Sample], loaded: Sequence[Any]) -> list[Tensor]:
        """Physical maps [C, H, W] of samples of one size, at that size. Raises ValueError for what it cannot look at."""


class FromProbe(Source):
    """A probe on a generator that is driven by images, as `probe.predict(images=…)` sees them."""

    kind = "probe"

    def __init__(self, probe: Probe, name: str, size: int | None, policy: str):
        if probe.generator.driven_by != "images":
            raise ValueError(f"data: {probe.generator.name} draws its own images and looks at no others; score it on them with "
                             "`probes evaluate RUN` without --data and --protocol")
        self.probe, self.name, self.size, self.policy = probe, name, size, policy
        self.intrinsic, self.meaning = probe.intrinsic, probe.intrinsic.meaning
        self.batch = batch_size(probe.generator)

    def about(self) -> dict:
        made = _made_by(self.probe, self.size, self.policy)
        return dict(kind=self.kind, name=self.name, **made, teacher=self.probe.record["teacher"]["name"])

    @torch.inference_mode()
    def predict(self, indices: Sequence[int], samples: Sequence[Sample], loaded: Sequence[Any]) -> list[Tensor]:
        generator = self.probe.generator
        size = generator.resolution if self.size is None else self.size
        fitted = [fit(Photo(s.image, s.name), generator.multiple, size, self.policy) for s in samples]
        state = generator.prepare(generator.encode(torch.stack([f.pixels for f in fitted])))
        values = self.intrinsic.to_map(self.probe.emit(state))
        return [f.restore(values[n:n + 1], self.intrinsic.name)[0] for n, f in enumerate(fitted)]


class FromTeacher(Source):
    """A teacher, as a predictor beside the probes it teaches."""

    kind = "teacher"

    def __init__(self, teacher: Teacher, intrinsic: Intrinsic, device: str):
        if isinstance(teacher, Exact):
            raise ValueError("source: exact is what the data knows, which is the truth here; name a teacher that looks at "
                             "images")
        self.teacher, self.name = teacher.to(device), teacher.name
        self.intrinsic, self.meaning, self.batch = intrinsic, teacher.meaning(intrinsic.name), teacher.batch

    def about(self) -> dict:
        t = self.teacher
        return dict(kind=self.kind, name=t.name, version=t.version, fingerprint=t.fingerprint, licence=t.licence)

    @torch.inference_mode()
    def predict(self, indices: Sequence[int], samples: Sequence[Sample], loaded: Sequence[Any]) -> list[Tensor]:
        image = torch.stack([s.image for s in samples])
        return list(self.teacher.label_indexed(image, self.intrinsic.name, indices).float().cpu())


class FromFolder(Source):
    """Predictions that lie in a folder: NAME-INTRINSIC.npy, .exr or -16bit.png for the sample NAME of the data; or NAME alone,
    or either without the folders in NAME where that is unambiguous.

    Raises ValueError where there is none for any sample, or the meaning of a depth is not known.
    """

    kind = "folder"

    def __init__(self, folder: Path, intrinsic: Intrinsic, names: Mapping[int, str], meaning: str | None, frame: str | None,
                 unit: float | None):
        self.folder, self.name, self.intrinsic, self.frame, self.unit = folder, str(folder), intrinsic, frame, unit
        if frame is not None and intrinsic.name != "normal":
            raise ValueError(f"frame: {intrinsic.name} has no frame, only normals do; leave --frame out")
        if frame is not None and frame not in FRAMES:
            raise unknown("frame", frame, FRAMES)
        self.meaning = _meaning(folder, meaning) if intrinsic.name == "depth" else ""
        short = [name.rpartition("/")[2] for name in names.values()]
        unique = len(set(short)) == len(short)
        self.paths: dict[int, Path] = {}
        for index, name in names.items():
            stems = [name, *([name.rpartition("/")[2]] if unique else [])]
            found = (find_map(folder / stem) for s in stems for stem in (f"{s}-{intrinsic.name}", s))
            path = next((path for path in found if path is not None), None)
            if path is not None:
                self.paths[index] = path
        if not self.paths:
            first = next(iter(names.values()))
            raise ValueError(f"source: {folder} holds no prediction of {intrinsic.name} for any of the {len(names)} samples; "
                             f"expected {first}-{intrinsic.name}{ENDINGS[0]} ({', '.join(ENDINGS[1:])}) and so on")

    def about(self) -> dict:
        digest = hashlib.sha256()
        with ThreadPoolExecutor(_THREADS) as pool:
            for (index, path), found in zip(self.paths.items(), pool.map(file_sha256, self.paths.values()), strict=True):
                digest.update(f"{index} {path.relative_to(self.folder)} {found}".encode())
        frame = (self.frame or "omnidata") if self.intrinsic.name == "normal" else None
        return dict(kind=self.kind, name=self.name, fingerprint=digest.hexdigest(), files=len(self.paths), frame=frame,
                    unit=self.unit)

    def load(self, index: int, sample: Sample) -> Tensor | Unreadable:
        if index not in self.paths:
            return Unreadable(f"there is no prediction of it in {self.folder}", "no prediction")
        values = read_map(self.paths[index], self.intrinsic.name, unit=self.unit, meaning=self.meaning)
        if self.frame is not None:
            values = Normals(values, self.frame).to("omnidata").values
        if values.shape[1:] != sample.image.shape[1:]:
            return Unreadable(f"{self.paths[index]} is {values.shape[2]}×{values.shape[1]} pixels, the image "
                              f"{sample.size[1]}×{sample.size[0]}; predictions are scored at the image's own size", "size")
        return values

    def predict(self, indices: Sequence[int], samples: Sequence[Sample], loaded: Sequence[Any]) -> list[Tensor]:
        return list(loaded)


def check_apart(source: Source, data: Data, names: Mapping[int, str]) -> None:
    """Raises ValueError where a teacher, or a folder of maps, is compared with itself."""
    makers = data.made_by.split(", ") if data.made_by else []
    if isinstance(source, FromTeacher) and {source.teacher.version, f"{source.name} {source.teacher.version}"} & set(makers):
        raise ValueError(f"data: the maps of {data.name} are labels of {data.made_by}, which is what is to be scored; nobody "
                         "is judged by their own word: give data whose maps are measured, or another source")
    if isinstance(source, FromFolder) and isinstance(data, Photographs):
        same = next((p for i, p in source.paths.items() if p.resolve() in {f.resolve() for f in data.files(i)}), None)
        if same is not None:
            raise ValueError(f"source: {same} is the map of {data.name} itself; expected predictions, in a folder of their own")


def _meaning(folder: Path, given: str | None) -> str:
    """What the depth in a folder is, as it was told, or as what made it says."""
    if given is not None:
        if given not in MEANINGS:
            raise ValueError(f"meaning: expected {', '.join(MEANINGS)}, got {given!r}")
        return given
    try:
        if (folder / MANIFEST).is_file():
            return str(read_manifest(folder)["intrinsics"]["depth"]["meaning"])
        return _depth.MEANINGS[json.loads((folder / "maps-depth.json").read_text())["options"]["encoding"]]
    except (FileNotFoundError, KeyError, ValueError, TypeError):
        raise ValueError(f"meaning: nothing in {folder} says what its depth is; give --meaning metric (metres), relative (up "
                         "to a scale and a shift) or disparity (inverse depth, likewise)") from None


def run_of(source: Any) -> Path | None:
    """The run folder that a source is, or None."""
    if isinstance(source, (str, Path)) and (path := Path(source).expanduser()).is_dir():
        return path if (path / "probe.json").is_file() else None
    return None


def as_probe(source: Any, device: str) -> Probe | None:
    """The probe that a source is, loaded, or None."""
    if isinstance(source, Probe):
        return source
    folder = run_of(source)
    return None if folder is None else load(folder, device=device)


def get_source(source: Any, intrinsic: str | None, data: Data) -> Teacher:
    """The teacher that a source is. Raises UnknownNameError where it is none."""
    try:
        return get_teacher(source, intrinsic, data)
    except UnknownNameError as error:
        raise UnknownNameError(f"source: {source} is no folder, neither of a run nor of predictions, and no teacher either; "
                               f"{str(error).partition('; ')[2]}") from None


def open_source(source: Any, probe: Probe | None, intrinsic: Intrinsic, data: Data, names: Mapping[int, str], *,
                size: int | None, policy: str, meaning: str | None, frame: str | None, unit: float | None,
                device: str) -> Source:
    """A probe, a run folder, a teacher, its name, or a folder of predictions. Raises UnknownNameError for anything else."""
    if probe is not None:
        found: Source = FromProbe(probe, str(source) if isinstance(source, (str, Path)) else probe.generator.name, size, policy)
    elif isinstance(source, (str, Path)) and (path := Path(source).expanduser()).is_dir():
        return FromFolder(path, intrinsic, names, meaning, frame, unit)
    else:
        found = FromTeacher(get_source(source, intrinsic.name, data), intrinsic, device)
    told = {"frame": frame, "meaning": meaning, "unit": unit}
    if wrong := [name for name, value in told.items() if value is not None]:
        raise ValueError(f"{wrong[0]}: a {found.kind} says it itself; --{wrong[0]} is for a folder of predictions")
    return found
