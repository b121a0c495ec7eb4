"""A folder of photographs as data, resized as the paper does: straight to a square."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..images import gather, read_image, stems
from ._photographs import Photographs
from ._sample import Sample


def recognises(path: Path) -> bool:
    """Whether it is a folder at all: what other layouts do not know is taken for photographs."""
    return path.is_dir()


class ImageFolder(Photographs):
    """The images of a folder in the order of their names. Raises ValueError if there are fewer than ten."""

    def __init__(self, folder: str | Path):
        self.name = str(Path(folder).resolve())
        self.paths = gather(folder)
        if len(self.paths) < 10:
            raise ValueError(f"data: {folder} holds {len(self.paths)} images; a probe needs at least 10, a fifth of which are "
                             "held out to score it")
        self.count = len(self.paths)
        self._names = stems(self.paths)

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        self.require(intrinsics)
        return Sample(self._names[index], read_image(self.paths[index]).pixels)

    def sample_name(self, index: int) -> str:
        return self._names[index]

    def files(self, index: int) -> list[Path]:
        return [Path(self.paths[index])]
