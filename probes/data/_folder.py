"""Photographs as data, and nothing known about them; fits see them as the paper does, resized straight to a square."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..images import gather, read_image, stems
from ._photographs import Photographs
from ._sample import Sample


class Images(Photographs):
    """Image files in the order given, a folder's by their names: what `probes.images.gather` takes, of which nothing is held
    out. Raises ImageError where there is none, ValueError for images that are no files."""

    def __init__(self, items: Any):
        self.paths = gather(items)
        wrong = next((item for item in self.paths if not isinstance(item, Path)), None)
        if wrong is not None:
            raise ValueError(f"images: expected files, got {type(wrong).__name__}; save it first, or call the teacher itself: "
                             "teacher.label(image, intrinsic)")
        self.name = str(Path(items).resolve()) if isinstance(items, (str, Path)) else f"{len(self.paths)} images"
        self.count, self._names = len(self.paths), stems(self.paths)

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        self.require(intrinsics)
        return Sample(self._names[index], read_image(self.paths[index]).pixels)

    def sample_name(self, index: int) -> str:
        return self._names[index]

    def files(self, index: int) -> list[Path]:
        return [self.paths[index]]


class ImageFolder(Images):
    """A folder to fit on, a fifth of which is held out. Raises ValueError if there are fewer than ten images."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        if self.count < 10:
            raise ValueError(f"data: {folder} holds {self.count} images; a probe needs at least 10, a fifth of which are "
                             "held out to score it")


def recognises(path: Path) -> bool:
    """Whether it is a folder at all: what other layouts do not know is taken for photographs."""
    return path.is_dir()
