"""A folder of images with maps beside them, named as `probes predict` and `probes label` write them.

    PATH/photo.jpg                       or PATH/images/photo.jpg
    PATH/photo-normal.npy                or PATH/maps/…, or another folder: maps:PATH,maps=FOLDER
        .npy          float [C, H, W] or [H, W, C]; NaN, depths of 0 and vectors of length 0 are holes
        .exr          OpenEXR
        -16bit.png    with the .json that `probes` writes beside it, or its text
        .png, .jpg    albedo and shading as they are; normals, (n + 1) / 2, only with frame=…, depth only with depth_scale=…,
                      since the .png that `probes` writes of these is a picture to look at
    PATH/photo-mask.png                  optional: not zero where the maps have a value

Depth is in metres, unless the labels.json or maps-depth.json beside it, what `probes` wrote into the file, or depth_meaning=
says that it is "relative" or "disparity", known up to a scale and a shift; depth_scale is the code, or number, of one metre.
Normals are in Omnidata's frame unless frame= says otherwise (one of `probes.frames.FRAMES`).
"""
from __future__ import annotations

from pathlib import Path

from .._intrinsics import intrinsics
from ..images import ImageError, gather, stems
from ._map_files import ENDINGS
from ._options import existing, named
from ._paired import Pair, Paired

_PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_MASKS = (".npy", ".png")


class Beside(Paired):
    """Images in the order of their names.

    Args:
        path: the folder
        maps: of the maps, where they are not in the folder itself or its subfolder `maps`
        frame: of the normals: one of `probes.frames.FRAMES`
        depth_scale: what one metre is in the depth files
        depth_meaning: metric, relative or disparity, where nothing beside the maps or in them says it
    """

    def __init__(self, path: str | Path, maps: str | Path | None = None, frame: str | None = None,
                 depth_scale: str | float | None = None, depth_meaning: str | None = None):
        path = existing(path)
        if not path.is_dir():
            raise ValueError(f"data: {path} is no folder; expected one with images and their maps")
        places = [path, path / "maps"] if maps is None else [Path(maps).expanduser().resolve()]
        if maps is not None and not places[0].is_dir():
            raise ValueError(f"maps: there is no folder {places[0]}; check the path")
        pictures = {name for name, told in (("normal", frame), ("depth", depth_scale)) if told is not None}
        pairs = _pairs(path, places, pictures)
        name = named("maps", path, maps=None if maps is None else places[0], frame=frame, depth_scale=depth_scale,
                     depth_meaning=depth_meaning)
        super().__init__(name, pairs, frame, depth_scale, depth_meaning, places)
        if not self.found:
            example = f"{pairs[0].name}-normal.npy, {pairs[0].name}-depth.exr, {pairs[0].name}-albedo.png"
            raise ValueError(f"data: no map beside the {self.count} images of {path}; expected names like {example}, in it or "
                             "in its subfolder maps; pictures (.png) of normals need frame=, of depth depth_scale=")


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
    photographs = _photographs(gather(folder), set(intrinsics()))
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
