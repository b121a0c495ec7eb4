"""Images with their maps in files of their own: what a folder with maps beside it and a manifest have in common."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ..images import ImageError, read_image
from ._map_files import check_frame, facts_of, read_map, read_mask, same_size
from ._options import depth_meaning, depth_unit
from ._photographs import Photographs
from ._pictures import picture_size
from ._sample import Camera, Sample
from ._told import told


@dataclass(frozen=True)
class Pair:
    """One image.

    Args:
        name: unique
        image: its file
        maps: intrinsic -> file
        mask: a file that is not zero where maps have a value
        camera: where it is known
        group: what it must not be parted from; "" where nobody says
    """

    name: str
    image: Path
    maps: dict[str, Path] = field(default_factory=dict)
    mask: Path | None = None
    camera: Camera | None = None
    group: str = ""


class Paired(Photographs):
    """Numbered pairs. `exact` holds the intrinsics that every image has a map of, `found` how many have each. The order is the
    one given, unless groups are told (see `_held_out`).

    Args:
        name: as `_options.named` puts it
        pairs: at least one
        frame, depth_scale, depth_meaning: see `probes.data._beside.Beside`
        places: where manifests may lie that tell who made the maps; by default the folders of the maps

    Raises ValueError where `depth_meaning` is not what a manifest says.
    """

    masked = True

    def __init__(self, name: str, pairs: Sequence[Pair], frame: str | None = None, depth_scale: str | float | None = None,
                 depth_meaning_: str | None = None, places: Iterable[Path] | None = None):
        self.name, self.pairs, self.count = name, list(pairs), len(pairs)
        if any(pair.group for pair in self.pairs):
            names, groups = [pair.name for pair in self.pairs], [pair.group or pair.name for pair in self.pairs]
            self.pairs = [self.pairs[i] for i in self.arrange(names, groups, [""] * self.count)]
        self._frame, self._unit = frame, depth_unit(depth_scale)
        if frame is not None:
            check_frame(frame)
        intrinsics = dict.fromkeys(key for pair in self.pairs for key in pair.maps)
        self.found = {key: sum(key in pair.maps for pair in self.pairs) for key in intrinsics}
        self.exact = tuple(key for key, count in self.found.items() if count == self.count)
        if places is None:
            places = dict.fromkeys(path.parent for pair in self.pairs for path in pair.maps.values())
        said = told(places, intrinsics)
        self.made_by = ", ".join(dict.fromkeys(one.made_by for one in said.values() if one.made_by))
        self._given = depth_meaning(depth_meaning_)
        if "depth" in said:
            if self._given not in (None, said["depth"].meaning):
                raise ValueError(f"depth_meaning: {said['depth'].path} says that the depth is {said['depth'].meaning}, got "
                                 f"{self._given}; leave it out, or remove that file if it tells of other maps")
            self._given = said["depth"].meaning

    def meaning(self, intrinsic: str) -> str:
        return self._depth if intrinsic == "depth" else ""

    @cached_property
    def _depth(self) -> str:
        """As it was told, or as the first file says of itself; else metres. Every other file must agree when it is read."""
        first = next((pair.maps["depth"] for pair in self.pairs if "depth" in pair.maps), None)
        if self._given is not None or first is None:
            return self._given or "metric"
        try:
            facts = facts_of(first)
        except ImageError:              # is named when it is read
            return "metric"
        return facts.meaning or "metric" if facts is not None and facts.intrinsic in ("", "depth") else "metric"

    def identity(self) -> dict:
        return dict(frame=self._frame, unit=self._unit, made_by=self.made_by)

    def sample_name(self, index: int) -> str:
        return self.pairs[index].name

    def files(self, index: int) -> list[Path]:
        pair = self.pairs[index]
        codes = [path for path in pair.maps.values() if path.name.endswith("-16bit.png")]
        said = [path for path in (code.with_suffix(".json") for code in codes) if path.is_file()]
        return [pair.image, *pair.maps.values(), *said, *([pair.mask] if pair.mask else [])]

    @property
    def pictures(self) -> list[Path]:
        return [pair.image for pair in self.pairs]

    def maps(self, index: int, intrinsics: Sequence[str]) -> dict[str, Tensor]:
        self.require(intrinsics)
        pair = self.pairs[index]
        mask = read_mask(pair.mask) if pair.mask and intrinsics else None
        maps = {key: read_map(pair.maps[key], key, self._frame, self._unit, mask, self.meaning(key)) for key in intrinsics}
        if maps:
            same_size(maps, picture_size(pair.image, str(pair.image)), str(pair.image))
        return maps

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        pair, maps = self.pairs[index], self.maps(index, intrinsics)
        image = read_image(pair.image).pixels
        same_size(maps, image.shape[1:], str(pair.image))
        return Sample(pair.name, image, maps, pair.camera)
