"""What every dataset of files shares: images of any size with maps beside them, read one at a time."""
from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..images import Photo, fit
from ._base import Data
from ._resize import resize_map
from ._sample import Sample

_ENDS = 1 << 16     # bytes at either end of a file that its fingerprint reads


class Photographs(Data):
    """Numbered files. A reader sets `count`, `exact` and `masked`, and says how one of them is read; nothing is kept in
    memory, so a dataset may be larger than it."""

    world = "photographs"

    @abstractmethod
    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        """Reads image `index` and these maps of it. Raises ImageError where a file cannot be read."""

    @abstractmethod
    def files(self, index: int) -> list[Path]:
        """All files of image `index`: the image's first."""

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        return torch.stack([self._square(self.sample(i), size) for i in indices])

    def truth(self, indices: Sequence[int], size: int, intrinsic: str) -> Tensor:
        self.require((intrinsic,))
        return torch.stack([resize_map(self.sample(i, (intrinsic,)).maps[intrinsic], (size, size), intrinsic) for i in indices])

    def options(self, intrinsic: str) -> dict:
        return dict(encoding="percentile") if intrinsic == "depth" else {}       # photographs have no range in common

    @staticmethod
    def _square(sample: Sample, size: int) -> Tensor:
        return fit(Photo(sample.image, sample.name), size=size, policy="square").pixels

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every file's place, size, and first and last 64 KiB: reading all of a large dataset would take hours,
        and compressed files that differ differ there."""
        digest = hashlib.sha256(type(self).__name__.encode())
        for i in range(self.count):
            digest.update(self.sample_name(i).encode())
            for path in self.files(i):
                size = path.stat().st_size
                digest.update(f"{path.name} {size}".encode())
                with open(path, "rb") as file:
                    digest.update(file.read(_ENDS))
                    if size > _ENDS:
                        file.seek(max(_ENDS, size - _ENDS))
                        digest.update(file.read())
        return digest.hexdigest()
