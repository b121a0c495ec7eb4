"""What every dataset of files shares: images of any size with maps beside them, read one at a time."""
from __future__ import annotations

import hashlib
import json
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..images import ImageError, Photo, fit
from ..images._file import check_file
from ._base import Data
from ._held_out import held_out_first
from ._resize import resize_map
from ._sample import Sample

_BLOCK = 1 << 16        # bytes of a large file that are read at each place, for its fingerprint
_PLACES = 16            # in a large file
_NAMED = 4              # files that cannot be read, in a message
_WHOLE = 8 << 20        # files up to so many bytes are read whole


class Photographs(Data):
    """Numbered files. A reader sets `name` (as `_options.named` puts it), `count`, `exact` and `masked`, and says how one of
    them is read; nothing is kept in memory, so a dataset may be larger than it. One whose images come in scans or scenes
    orders them with `arrange`."""

    world = "photographs"
    _held: int | None = None
    _groups: Sequence[str] = ()

    @abstractmethod
    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        """Reads image `index` and these maps of it. Raises ImageError where a file cannot be read."""

    @abstractmethod
    def files(self, index: int) -> list[Path]:
        """All files of image `index`: the image's first."""

    @abstractmethod
    def identity(self) -> dict:
        """What decides, beside the bytes of the files, what images and maps are: options that choose, scale, turn or convert
        them. Whatever JSON holds; {} where there is nothing such."""

    def maps(self, index: int, intrinsics: Sequence[str]) -> dict[str, Tensor]:
        """These maps of image `index`, at its own size. A reader that can, reads them without decoding the image."""
        return self.sample(index, intrinsics).maps

    def arrange(self, names: Sequence[str], groups: Sequence[str], kinds: Sequence[str]) -> list[int]:
        """The order in which the images are numbered so that whole groups are held out (see `_held_out`); notes how many.
        Call it once, with what is known of the images in whatever order."""
        order, self._held = held_out_first(names, groups, kinds)
        self._groups = [groups[i] for i in order]
        return order

    def group(self, index: int) -> str:
        return self._groups[index] if self._groups else super().group(index)

    @property
    def grouped(self) -> bool:
        """Whether whole groups are held out, not the first images."""
        return len(set(self._groups)) > 1

    @property
    def first_training_index(self) -> int:
        return super().first_training_index if self._held is None else self._held

    @property
    def pictures(self) -> Sequence[Path]:
        """Image files of a person's own, which may be none: what `check_training` looks at."""
        return ()

    def check_training(self) -> None:
        """Raises ValueError also where a file is no image by its first bytes: a second for 100,000 of them, which does not see
        what is damaged farther in."""
        super().check_training()
        reasons = {}
        for path in self.pictures:
            try:
                check_file(path, str(path))
            except ImageError as error:
                reasons[path] = str(error)
        if not reasons:
            return
        first, *others = reasons
        more = ", ".join(path.name for path in others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
        raise ValueError(f"data: {len(reasons)} of the {self.count} images of {self.name} cannot be read: {reasons[first]}"
                         f"{f' (nor can {more})' if others else ''}; remove or replace them, and fit then; {self._advice}")

    @property
    def _advice(self) -> str:
        return f"`probes data check {shlex.quote(self.name)} --full` reads all of them whole, to find what is damaged"

    @contextmanager
    def _advising(self) -> Iterator[None]:
        try:
            yield
        except ImageError as error:
            raise ImageError(f"{error}; {self._advice}") from error

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        with self._advising():
            return torch.stack([self._square(self.sample(i), size) for i in indices])

    def truth(self, indices: Sequence[int], size: int, intrinsic: str) -> Tensor:
        self.require((intrinsic,))
        with self._advising():
            return torch.stack([resize_map(self.maps(i, (intrinsic,))[intrinsic], (size, size), intrinsic) for i in indices])

    def options(self, intrinsic: str) -> dict:
        if intrinsic != "depth":
            return {}
        return dict(encoding="inverse" if self.meaning("depth") == "disparity" else "percentile")    # no range in common

    @staticmethod
    def _square(sample: Sample, size: int) -> Tensor:
        return fit(Photo(sample.image, sample.name), size=size, policy="square").pixels

    @property
    def story(self) -> dict:
        """`identity`, and what the maps are taken for."""
        return dict(reader=type(self).__name__, options=self.identity(), meaning={key: self.meaning(key) for key in self.exact})

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the reader's options, what the maps mean, and every file's name, size and bytes: all of them up to 8 MiB
        a file; of larger ones sixteen blocks of 64 KiB, the first, the last and the rest evenly between, since reading all of
        a large dataset would take hours. A change to such a file that falls between two blocks and leaves its size goes
        unnoticed."""
        digest = hashlib.sha256(json.dumps(self.story, sort_keys=True).encode())
        seen: set[Path] = set()                     # one file may hold all images
        for i in range(self.count):
            digest.update(self.sample_name(i).encode())
            for path in self.files(i):
                if path not in seen:
                    seen.add(path)
                    _update(digest, path)
        return digest.hexdigest()


def _update(digest, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name} {size}".encode())
    with open(path, "rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return
        for place in range(_PLACES):
            file.seek((size - _BLOCK) * place // (_PLACES - 1))
            digest.update(file.read(_BLOCK))
