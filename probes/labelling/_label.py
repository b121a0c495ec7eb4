"""`label`: what a teacher says about images, computed once and kept as files that anybody can use.

    images or data ─▶ decoded in threads ─▶ batches of one size ─▶ teacher ─▶ NAME-INTRINSIC.npy, a row of labels.csv
                                                                   labels.json: whose, of what, in which unit and frame

Files appear whole or not at all, and a row after its files, so a run that was killed goes on where it was and ends with the
same files. The folder is a teacher again, "labels:FOLDER", and with the images in it a dataset, "maps:FOLDER".
"""
from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators._device import chosen
from generators._files import file_sha256
from generators._names import unknown

from .._console import Reporter
from .._files import writing
from .._intrinsics import Intrinsic, get_intrinsic
from .._parallel import (
    Batch,
    Held,
    Ordered,
    Unreadable,
    at_once,
    batches,
    chunks,
    prefetch,
    sample_bytes,
    threads_for,
)
from .._rows import check_names, holding
from ..data import Data, Sample, get_data
from ..data._base import layout_of
from ..data._folder import Images
from ..images import FORMATS, write_map
from ..images._made import map_files
from ..images._png import write_png
from ..teachers import Teacher, default_teacher, get_teacher
from ..teachers._base import Exact
from ..teachers._labels import ENDINGS, digest, file_of
from ._folder import Folder, describe

LABEL_FORMATS = tuple(ENDINGS)         # those that hold the values; png is for the eye
UNITS = {"metric": "m", "relative": "relative", "disparity": "disparity"}      # of depth, by what it means


@dataclass(frozen=True)
class Labelled:
    """What `label` did.

    Args:
        folder: of the labels
        written, kept: how many images were labelled now, and before
        failed: one line for each image that was left out
    """

    folder: Path
    written: int
    kept: int
    failed: tuple[str, ...]


def label(images: Any, teacher: str | Teacher = "auto", intrinsic: str | Sequence[str] = "normal",
          output: str | Path = "labels", formats: Sequence[str] = ("npy",), first: int = 0, count: int | None = None,
          with_images: bool = False, batch: int | None = None, threads: int | None = None, device: str = "auto",
          overwrite: bool = False, quiet: bool = False) -> Labelled:
    """Labels images with a teacher's maps, at the images' own sizes.

    Args:
        images: a folder, a pattern, a list of image files, or data as `probes.fit` takes it ("scenes", "diode:PATH,split=val")
        teacher: its name, or itself; "exact" writes the maps that data knows; by default the one for the images' world
        intrinsic: one or several: a list, or "normal,depth"
        output: folder; what it holds of the same teacher and images is kept
        formats: of `probes.images.FORMATS`; at least one that holds the values
        first, count: which of the data's images; by default all there are
        with_images: write the images too, 16-bit PNG, so that the folder is a dataset by itself
        batch: images of one size that the teacher is given at once; by default its own, on a processor fewer large ones
        threads: that decode; by default as many as there are processors
        device: where the teacher runs
        overwrite: discard what `output` holds
        quiet: say nothing

    Returns a Labelled. Images that cannot be read, and those the teacher refuses, are left out and told.

    Raises UnknownNameError for names that do not exist; ValueError where the folder holds labels of another teacher or of other
    images, or maps that are not the ones that were written, and where the teacher says what is no map; OutputError where a file
    cannot be written.
    """
    wanted = _wanted(intrinsic)
    _check_formats(formats)
    device = str(chosen(device))
    data = open_images(images)
    teacher = default_teacher(data.world) if teacher == "auto" else teacher
    teacher = get_teacher(teacher, wanted[0].name, data).to(device)
    for about in wanted[1:]:
        get_teacher(teacher, about.name, data)
    numbers, reporter = select(data, first, count), Reporter(quiet)
    names = [data.sample_name(i) for i in numbers]
    check_names(names, data.name)
    if with_images:
        _check_apart(data, numbers, Path(output))
    work = _Work(data, teacher, wanted, formats, with_images, dict(zip(numbers, names, strict=True)), device)
    threads = threads_for(data, threads)
    with holding(Path(output), "label"):
        folder = Folder(Path(output), describe(data, teacher, wanted, formats, UNITS), overwrite, names)
        _check_kept(folder, data, numbers, work, threads)
        folder.begin()
        with reporter.bar(f"{', '.join(i.name for i in wanted)} by {teacher.name}") as update:
            written, failed = _run(work, folder, numbers, batch, threads, update)
        folder.finish()
    kept = sum(work.done(folder, i) for i in numbers) - written
    if kept:
        reporter.say(f"note: the labels of {kept} of {len(numbers)} images are kept, they were in {output} already")
    return Labelled(Path(output), written, kept, tuple(failed))


def open_images(images: Any) -> Data:
    """Data of what a user names: data itself, its name or KIND:PATH, or image files of any number. Raises what `get_data` and
    `gather` do."""
    if isinstance(images, Data):
        return images
    if isinstance(images, (list, tuple)):
        if len(images) != 1:
            return Images(images)
        images = images[0]
    path = Path(images).expanduser()
    if path.exists():
        return Images(images) if layout_of(path) in (None, "images") else get_data(images)
    return Images(images) if glob.has_magic(str(images)) and ":" not in str(images) else get_data(images)


def select(data: Data, first: int, count: int | None) -> list[int]:
    """Numbers of images of `data`. Raises ValueError where there are none such."""
    if data.count is None and count is None:
        raise ValueError(f"count: the images of {data.name} have no end; say how many with --count")
    if count is not None and count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    numbers = range(first, first + count if count is not None else max(first + 1, data.count))
    data.check((numbers[0], numbers[-1]))
    return list(numbers)


def _wanted(intrinsic: str | Sequence[str]) -> list[Intrinsic]:
    names = [part.strip() for part in intrinsic.split(",")] if isinstance(intrinsic, str) else list(intrinsic)
    if not names:
        raise ValueError("intrinsic: expected at least one, for instance normal")
    return [get_intrinsic(name) for name in dict.fromkeys(names)]


def _check_formats(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise unknown("formats", name, FORMATS)
    if not set(formats) & set(LABEL_FORMATS):
        raise ValueError(f"formats: {', '.join(formats) or 'none'} does not hold the values; add one of "
                         f"{', '.join(LABEL_FORMATS)}")


def _check_kept(folder: Folder, data: Data, numbers: Sequence[int], work: _Work, threads: int) -> None:
    """Raises ValueError where labels that would be kept are of other images, or of images that have changed."""
    if not folder.rows:
        return
    there = [i for i in numbers if folder.image(work.names[i]) is not None]
    if not there:
        raise ValueError(f"output: {folder.path} holds labels of other images ({next(iter(folder.rows))[0]}, for one), none of "
                         f"{data.name}; choose another folder with --output, or discard them with --overwrite true")
    changed = [i for i, found in prefetch(there, lambda i: digest(data, i), threads)
               if not isinstance(found, Unreadable) and found != folder.image(work.names[i])]
    if changed:
        raise ValueError(f"output: {len(changed)} of the images have changed since they were labelled in {folder.path}, "
                         f"{work.names[changed[0]]} for one; choose another folder with --output, or label all again with "
                         "--overwrite true")
    altered = [path for _, path in prefetch(there, lambda i: work.altered(folder, i), threads) if isinstance(path, Path)]
    if altered:
        raise ValueError(f"output: {len(altered)} of the maps in {folder.path} are not the ones that were written, "
                         f"{altered[0].name} for one; move them away to have them labelled again, or choose another folder "
                         "with --output")


def _check_apart(data: Data, numbers: Sequence[int], output: Path) -> None:
    """Raises ValueError where the images lie in the folder that is to hold copies of them."""
    folder = output.expanduser().resolve()
    for path in (file_of(data, i) for i in numbers):
        if path is not None and path.resolve().is_relative_to(folder):
            raise ValueError(f"with_images: the images lie in {output} already ({path.name}, for one); leave it out, or choose "
                             "another folder with --output")


@dataclass(frozen=True)
class _Work:
    data: Data
    teacher: Teacher
    intrinsics: list[Intrinsic]
    formats: Sequence[str]
    with_images: bool
    names: dict[int, str]
    device: str

    def files(self, folder: Folder, index: int, about: Intrinsic, form: str) -> list[Path]:
        """The files of a map in one format."""
        return [folder.path / name for name in map_files(f"{self.names[index]}-{about.name}", [form])]

    def targets(self, folder: Folder, index: int) -> Iterator[Path]:
        for about in self.intrinsics:
            for form in self.formats:
                yield from self.files(folder, index, about, form)
        if self.with_images:
            yield folder.path / "images" / f"{self.names[index]}.png"

    def done(self, folder: Folder, index: int) -> bool:
        vouched = set(self.formats) & set(ENDINGS)
        known = (folder.digests(self.names[index], about.name) for about in self.intrinsics)
        return all(vouched <= set(k) for k in known) and all(path.exists() for path in self.targets(folder, index))

    def altered(self, folder: Folder, index: int) -> Path | None:
        """A map that is there and is not the one a row vouches for."""
        for about in self.intrinsics:
            for form, known in folder.digests(self.names[index], about.name).items():
                path = folder.path / f"{self.names[index]}-{about.name}{ENDINGS[form]}"
                if path.is_file() and file_sha256(path) != known:
                    return path
        return None

    def read(self, index: int) -> tuple[Sample, str]:
        exact = [i.name for i in self.intrinsics] if isinstance(self.teacher, Exact) else []
        sample = self.data.sample(index, exact)
        return sample, digest(self.data, index, sample)

    @torch.inference_mode()
    def label(self, group: Batch) -> list[dict[str, Tensor]]:
        """The maps of each image of a batch."""
        samples = [sample for sample, _ in group.results]
        if isinstance(self.teacher, Exact):
            return [sample.maps for sample in samples]
        image, found = torch.stack([sample.image for sample in samples]), []
        for about in self.intrinsics:
            values = self.teacher.label_indexed(image, about.name, group.items).float().cpu()
            expected = [len(image), about.channels, *image.shape[2:]]
            if list(values.shape) != expected:
                raise TypeError(f"teacher: {self.teacher.name} gave {about.name} of shape {list(values.shape)}; expected "
                                f"{expected}")
            found.append(values)
        return [{about.name: values[n] for about, values in zip(self.intrinsics, found, strict=True)}
                for n in range(len(samples))]

    def write(self, folder: Folder, index: int, sample: Sample, image: str, maps: dict[str, Tensor], failed: list[str]) -> None:
        """Writes an image's labels, and only then vouches for them; what a format cannot hold is told in `failed`."""
        try:
            self._write(folder, index, sample, image, maps)
        except ValueError as error:
            failed.append(f"{self.names[index]}: {error}")

    def _write(self, folder: Folder, index: int, sample: Sample, image: str, maps: dict[str, Tensor]) -> None:
        name = self.names[index]
        digests = {}
        for about in self.intrinsics:
            unit, stem = UNITS.get(self.teacher.meaning(about.name)), folder.path / f"{name}-{about.name}"
            # What a row vouches for stays: on a graphics card the same network may give other last digits.
            formats = [form for form in self.formats if form not in folder.digests(name, about.name)
                       or not all(path.exists() for path in self.files(folder, index, about, form))]
            write_map(stem, maps[about.name], about.name, formats, unit)
            digests[about.name] = {form: file_sha256(stem.with_name(stem.name + ending)) for form, ending in ENDINGS.items()
                                   if form in formats}
        if self.with_images:
            _write_image(folder.path / "images" / f"{name}.png", sample.image)
        for intrinsic, found in digests.items():
            folder.add(name, intrinsic, sample.size, image, found)


def _run(work: _Work, folder: Folder, numbers: Sequence[int], batch: int | None, threads: int,
         update: Callable[[int, int, str], None]) -> tuple[int, list[str]]:
    done = {i for i in numbers if work.done(folder, i)}
    most = work.teacher.batch if batch is None else batch
    together = at_once(most, work.device) if batch is None else batch
    parts = [part for part in chunks(numbers, most) if not done.issuperset(part)]
    total, count = len(numbers), len(numbers) - sum(map(len, parts))
    failed: list[str] = []
    held = Held()
    with Ordered(2 * most, held) as finish:
        groups = batches(parts, work.read, together, threads, lambda read: read[0].size, lambda read: sample_bytes(read[0]),
                         held)
        for group in groups:
            count += len(group.items)
            reason = group.results[0].reason if isinstance(group.results[0], Unreadable) else None
            if reason is None and done.issuperset(group.items):
                continue
            if reason is None:
                try:
                    found = work.label(group)
                except ValueError as error:             # the teacher's word on images of this size
                    reason = str(error)
            if reason is not None:
                failed += [f"{work.names[i]}: {reason}" for i in group.items]
            else:
                for i, (sample, image), maps in zip(group.items, group.results, found, strict=True):
                    empty = [name for name, values in maps.items() if not torch.isfinite(values).all(0).any()]
                    if empty:
                        failed.append(f"{work.names[i]}: {work.teacher.name} has no {empty[0]} for any pixel of it")
                    elif i not in done:
                        size = sample_bytes(sample) + sum(4 * values.numel() for values in maps.values())
                        finish.put(work.write, folder, i, sample, image, maps, failed, cost=size)
            update(count, total, work.names[group.items[-1]])
    return sum(work.done(folder, i) for i in numbers) - len(done), failed


def _write_image(path: Path, image: Tensor) -> None:
    codes = ((image.double() + 1) * (65535 / 2)).round().clamp(0, 65535).permute(1, 2, 0).numpy().astype(np.uint16)
    with writing(path) as temporary, open(temporary, "wb") as file:
        write_png(file, (codes[row:row + 128] for row in range(0, len(codes), 128)), *codes.shape[:2], 3, 16)
