"""Images with their maps in files of their own: what a folder with maps beside it and a manifest have in common."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..images import read_image
from ._map_files import check_frame, read_map, read_mask, same_size
from ._options import depth_unit
from ._photographs import Photographs
from ._sample import Camera, Sample


@dataclass(frozen=True)
class Pair:
    """One image.

    Args:
        name: unique
        image: its file
        maps: intrinsic -> file
        mask: a file that is not zero where maps have a value
        camera: where it is known
    """

    name: str
    image: Path
    maps: dict[str, Path] = field(default_factory=dict)
    mask: Path | None = None
    camera: Camera | None = None


class Paired(Photographs):
    """Numbered pairs. `exact` holds the intrinsics that every image has a map of, `found` how many have each."""

    masked = True

    def __init__(self, name: str, pairs: Sequence[Pair], frame: str | None = None, depth_scale: str | float | None = None):
        self.name, self.pairs, self.count = name, list(pairs), len(pairs)
        self._frame, self._unit = frame, depth_unit(depth_scale)
        if frame is not None:
            check_frame(frame)
        intrinsics = dict.fromkeys(key for pair in self.pairs for key in pair.maps)
        self.found = {key: sum(key in pair.maps for pair in self.pairs) for key in intrinsics}
        self.exact = tuple(key for key, count in self.found.items() if count == self.count)

    def sample_name(self, index: int) -> str:
        return self.pairs[index].name

    def files(self, index: int) -> list[Path]:
        pair = self.pairs[index]
        return [pair.image, *pair.maps.values(), *([pair.mask] if pair.mask else [])]

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        self.require(intrinsics)
        pair = self.pairs[index]
        image = read_image(pair.image).pixels
        mask = read_mask(pair.mask) if pair.mask and intrinsics else None
        maps = {key: read_map(pair.maps[key], key, self._frame, self._unit, mask, self.meaning(key)) for key in intrinsics}
        same_size(maps, image, str(pair.image))
        return Sample(pair.name, image, maps, pair.camera)
