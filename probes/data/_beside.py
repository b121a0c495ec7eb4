"""A folder of images with maps beside them, named as `probes predict` and `probes label` write them.

    PATH/photo.jpg                       or PATH/images/photo.jpg
    PATH/photo-normal.npy                or PATH/maps/…, or another folder: maps:PATH,maps=FOLDER
        .npy          float [C, H, W] or [H, W, C]; NaN, depths of 0 and vectors of length 0 are holes
        .exr          OpenEXR
        -16bit.png    with the .json that `probes` writes beside it, or its text
        .png, .jpg    albedo and shading as they are; normals, (n + 1) / 2, only with frame=…, depth only with depth_scale=…,
                      since the .png that `probes` writes of these is a picture to look at
    PATH/photo-mask.png                  optional: white where the maps have a value

Depth is in metres, unless the labels.json or maps-depth.json beside it says that whoever made it knew no metres; depth_scale is
the code, or number, of one metre. Normals are in Omnidata's frame unless frame= says otherwise.
"""
from __future__ import annotations

import json
from pathlib import Path

from .._depth import MEANINGS, OPTIONS
from .._intrinsics import intrinsics
from ..images import ImageError, gather, stems
from ._map_files import ENDINGS
from ._paired import Pair, Paired

_PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_MASKS = (".npy", ".png")


class Beside(Paired):
    """Images in the order of their names.

    Args:
        path: the folder
        maps: of the maps, where they are not in the folder itself or its subfolder `maps`
        frame: of the normals: omnidata, opengl or dsine
        depth_scale: what one metre is in the depth files
    """

    def __init__(self, path: str | Path, maps: str | Path | None = None, frame: str | None = None,
                 depth_scale: str | float | None = None):
        path = Path(path).expanduser().resolve()
        if not path.is_dir():
            raise ValueError(f"data: {path} is no folder; expected one with images and their maps")
        places = [path, path / "maps"] if maps is None else [Path(maps).expanduser().resolve()]
        if maps is not None and not places[0].is_dir():
            raise ValueError(f"maps: there is no folder {places[0]}; check the path")
        pictures = {name for name, told in (("normal", frame), ("depth", depth_scale)) if told is not None}
        pairs = _pairs(path, places, pictures)
        super().__init__(str(path) if maps is None else f"{path}, maps {places[0]}", pairs, frame, depth_scale)
        self._told = _told(places)
        self.made_by = self._told.get("made_by", "")
        if not self.found:
            example = f"{pairs[0].name}-normal.npy, {pairs[0].name}-depth.exr, {pairs[0].name}-albedo.png"
            raise ValueError(f"data: no map beside the {self.count} images of {path}; expected names like {example}, in it or "
                             "in its subfolder maps; pictures (.png) of normals need frame=, of depth depth_scale=")


    def meaning(self, intrinsic: str) -> str:
        return self._told.get("depth", "metric") if intrinsic == "depth" else ""


def _told(places: list[Path]) -> dict[str, str]:
    """What the manifests of `probes label` and `probes predict` say: who made the maps, and what the depth means."""
    for place in places:
        for path in [place / "labels.json", *sorted(place.glob("maps-*.json"))]:
            try:
                found = json.loads(path.read_text())
                if path.name == "labels.json":
                    depth = found["intrinsics"].get("depth", {}).get("meaning", "metric")
                    return dict(made_by=f"{found['teacher']['name']} {found['teacher']['version']}", depth=depth)
                encoding = found["options"].get("encoding", OPTIONS["encoding"])
                return dict(made_by=f"a probe of {found['intrinsic']}", depth=MEANINGS.get(encoding, "metric"))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"data: {path} is damaged ({error!r}); make the maps again, or remove it if they are "
                                 "measurements of your own") from error
    return {}


def recognises(path: Path) -> bool:
    """Whether a folder holds an image with a map beside it."""
    if not path.is_dir():
        return False
    try:
        return any(pair.maps for pair in _pairs(path, [path, path / "maps"], set()))
    except ImageError:
        return False


def _pairs(path: Path, places: list[Path], pictures: set[str]) -> list[Pair]:
    folder = path / "images" if (path / "images").is_dir() else path
    photographs = _photographs([file for file in gather(folder)], set(intrinsics()))
    there = {file.name: file for place in reversed(places) if place.is_dir() for file in place.iterdir()}
    pairs = []
    for image, stem in zip(photographs, stems(photographs), strict=True):
        maps = {}
        for name in intrinsics():
            plain = _PICTURES if name not in ("normal", "depth") or name in pictures else ()
            endings = [ending for ending in (*ENDINGS, *plain) if f"{stem}-{name}{ending}" in there]
            if endings:
                maps[name] = there[f"{stem}-{name}{endings[0]}"]
        mask = next((there[f"{stem}-mask{ending}"] for ending in _MASKS if f"{stem}-mask{ending}" in there), None)
        pairs.append(Pair(stem, image, maps, mask))
    return pairs


def _photographs(files: list[Path], names: set[str]) -> list[Path]:
    """Those that are not the map, or the picture of the map, of another."""
    known = {file.stem for file in files} | {file.name for file in files}

    def is_map(file: Path) -> bool:
        stem, _, last = file.stem.removesuffix("-16bit").rpartition("-")
        return last in names | {"mask"} and stem in known

    return [file for file in files if not is_map(file)]
