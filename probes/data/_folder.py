"""Photographs as data, and nothing known about them; fits see them as the paper does, resized straight to a square."""
from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..images import gather, read_image, stems
from ..images._made import made_of_photographs
from ._base import layout_of
from ._options import existing, named
from ._photographs import Photographs
from ._sample import Sample


class Images(Photographs):
    """Image files in the order given, a folder's by their names: what `probes.images.gather` takes, of which nothing is held
    out; without the maps that a probe left beside them. Raises ImageError where there is none, ValueError for images that are
    no files."""

    def __init__(self, items: Any):
        self.paths = gather(items, skip=made_of_photographs(), named=False)
        wrong = next((item for item in self.paths if not isinstance(item, Path)), None)
        if wrong is not None:
            raise ValueError(f"images: expected files, got {type(wrong).__name__}; save it first, or call the teacher itself: "
                             "teacher.label(image, intrinsic)")
        self.name = str(Path(items).expanduser().resolve()) if isinstance(items, (str, Path)) else f"{len(self.paths)} images"
        self.count, self._names = len(self.paths), stems(self.paths)

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        self.require(intrinsics)
        return Sample(self._names[index], read_image(self.paths[index]).pixels)

    def sample_name(self, index: int) -> str:
        return self._names[index]

    def files(self, index: int) -> list[Path]:
        return [self.paths[index]]

    @property
    def pictures(self) -> list[Path]:
        return self.paths

    def identity(self) -> dict:
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all files' bytes, in order: runs of the first version know their images by it."""
        digest = hashlib.sha256()
        for path in self.paths:
            with open(path, "rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
        return digest.hexdigest()


class ImageFolder(Images):
    """A folder to fit on, a fifth of which is held out: the first by name. It is called by its path alone, unless another
    layout would recognise itself there."""

    def __init__(self, folder: str | Path):
        pattern = glob.has_magic(str(folder)) and not Path(folder).expanduser().exists()
        super().__init__(folder if pattern else existing(folder))
        if pattern or layout_of(Path(self.name)) != "images":
            self.name = named("images", self.name)


def recognises(path: Path) -> bool:
    """Whether it is a folder at all: what other layouts do not know is taken for photographs."""
    return path.is_dir()
