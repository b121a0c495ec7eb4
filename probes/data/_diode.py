"""DIODE: photographs with laser-scanned depth and normals, indoors and outdoors (Vasiljevic et al., arXiv 1908.00463).

    PATH/{train,val}/{indoors,outdoor}/scene_00019/scan_00183/00019_00183_indoors_000_010.png         1024×768
                                                              …_depth.npy        float32 [H, W, 1], metres, 0.6 … 350
                                                              …_depth_mask.npy   [H, W], 1 where the sensor returned
                                                              …_normal.npy       float [H, W, 3], an archive of its own
    PATH/diode_meta.json     the official list {split: {scenes: {scene: {scan: [name, …]}}}}, used where it is there

Images of one scan overlap, crops of one panorama among them: whole scans are held out of a fit, indoors and outdoors alike, and
the images are numbered accordingly (`_held_out`).

The validation split, on which the paper scores real images, is 771 images: 325 indoors and 446 outdoors.

Normals are stored in OpenGL's frame (x right, y up, z towards the viewer), a zero vector where there is none.
The development kit gives the camera, fx 886.81, fy 927.06, cx 512, cy 384 at 1024×768 (intrinsics.txt), and calls depth.npy
depth, without saying whether along the axis or along the ray. It is read as z-depth, as the published evaluations on DIODE
take it; with distance=ray it is converted, and `probes data check` says which of the two makes flat things flat.
"""
from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from ..images import read_image
from ._map_files import physical, read_npy, same_size
from ._options import choice, existing, named
from ._photographs import Photographs
from ._pictures import picture_size
from ._rays import ray_to_z
from ._sample import Camera, Sample

SPLITS = ("train", "val", "test")
SCENES = {"all": ("indoors", "outdoor"), "indoors": ("indoors",), "outdoor": ("outdoor",)}
LAYOUT = ("expected the official layout: PATH/val/indoors/scene_00019/scan_00183/NAME.png with NAME_depth.npy, "
          "NAME_depth_mask.npy and NAME_normal.npy beside it, PATH/val/outdoor/… likewise")
_CAMERA = (886.81, 927.06, 512.0, 384.0, 1024, 768)


class Diode(Photographs):
    """Images of one split, of the official list or all that are there, those of held-out scans first.

    Args:
        path: the folder that holds `train` and `val`, or one of these
        split: train or val; by default val where it is there
        scenes: all, indoors or outdoor
        distance: z or ray: what depth.npy holds
    """

    masked = True

    def __init__(self, path: str | Path, split: str | None = None, scenes: str = "all", distance: str = "z"):
        path = existing(path)
        self.name = named("diode", path, split=split, scenes=None if scenes == "all" else scenes,
                          distance=None if distance == "z" else distance)
        root, split = _root(path, split)
        choice("scenes", scenes, SCENES)
        self._ray = choice("distance", distance, ("z", "ray")) == "ray"
        self.root, self.split = root, split
        kinds = [kind for kind in SCENES[scenes] if (root / split / kind).is_dir()]
        if not kinds:
            raise ValueError(f"data: {root / split} has no folder {' or '.join(SCENES[scenes])}; {LAYOUT}")
        files = {kind: _tree(root / split / kind, root) for kind in kinds}
        there = set().union(*files.values())
        listed = _listed(root, split, kinds)
        candidates = sorted(name[:-4] for name in there if name.endswith(".png")) if listed is None else listed
        names = [name for name in candidates if name + ".png" in there]
        parents = [name.rpartition("/")[0] for name in names]
        self._names = [names[i] for i in self.arrange(names, parents, [parent.split("/")[1] for parent in parents])]
        self.missing = len(candidates) - len(self._names)
        self.count = len(self._names)
        if not self.count:
            raise ValueError(f"data: no image under {root / split} ({', '.join(kinds)}); {LAYOUT}")
        self._masks = {name for name in self._names if name + "_depth_mask.npy" in there}
        self.found = {"depth": sum(name + "_depth.npy" in there for name in self._names),
                      "normal": sum(name + "_normal.npy" in there for name in self._names)}
        self.exact = tuple(name for name in ("normal", "depth") if self.found[name] == self.count)
        self.parts = {kind: sum(name.startswith(f"{split}/{kind}/") for name in self._names) for kind in kinds}

    @cached_property
    def splits(self) -> dict[str, int]:
        """Images of each split that is there."""
        return {split: sum(name.endswith(".png") for name in _tree(self.root / split, self.root))
                for split in SPLITS if (self.root / split).is_dir()}

    def sample_name(self, index: int) -> str:
        return self._names[index]

    def files(self, index: int) -> list[Path]:
        stem = self.root / self._names[index]
        endings = [".png", *(f"_{name}.npy" for name in self.exact)]
        return [Path(f"{stem}{ending}") for ending in [*endings, *["_depth_mask.npy"] * (self._names[index] in self._masks)]]

    def identity(self) -> dict:
        return dict(distance="ray" if self._ray else "z")

    def maps(self, index: int, intrinsics: Sequence[str]) -> dict[str, Tensor]:
        self.require(intrinsics)
        name = self._names[index]
        stem = str(self.root / name)
        mask = read_npy(Path(f"{stem}_depth_mask.npy")) if intrinsics and name in self._masks else None
        maps = {}
        for intrinsic in intrinsics:
            path = Path(f"{stem}_{intrinsic}.npy")
            maps[intrinsic] = physical(read_npy(path), intrinsic, str(path), "opengl", mask=mask)
        if maps:
            same_size(maps, picture_size(Path(f"{stem}.png"), f"{stem}.png"), stem)
        if self._ray and "depth" in maps:
            maps["depth"] = ray_to_z(maps["depth"], _camera(*maps["depth"].shape[:0:-1]))
        return maps

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        maps = self.maps(index, intrinsics)
        image = read_image(f"{self.root / self._names[index]}.png").pixels
        return Sample(self._names[index], image, maps, _camera(image.shape[2], image.shape[1]))


def recognises(path: Path) -> bool:
    """Whether a folder is DIODE's, or one of its splits."""
    return path.is_dir() and any(any(folder.glob("scene_*/scan_*")) for base in (path, *(path / s for s in SPLITS))
                                 for folder in (base / kind for kind in SCENES["all"]))


def _root(path: Path, split: str | None) -> tuple[Path, str]:
    if split is not None:
        choice("split", split, SPLITS)
    there = [name for name in SPLITS if (path / name).is_dir()]
    if not there and any((path / kind).is_dir() for kind in SCENES["all"]):     # the split itself was given
        if split not in (None, path.name):
            raise ValueError(f"split: {path} is the split {path.name}, got {split}; give the folder above it")
        return path.parent, path.name
    if not there:
        raise ValueError(f"data: {path} is not DIODE's; {LAYOUT}")
    split = split or ("val" if "val" in there else there[0])
    if split not in there:
        raise ValueError(f"split: {path} holds {', '.join(there)}, not {split}; download it, or choose split={there[0]}")
    return path, split


def _tree(folder: Path, root: Path) -> set[str]:
    """Every file below a folder, relative to the root, with "/"."""
    found = set()
    for place, _, files in os.walk(folder):
        base = Path(place).relative_to(root).as_posix()
        found.update(f"{base}/{file}" for file in files)
    return found


def _listed(root: Path, split: str, kinds: list[str]) -> list[str] | None:
    """The names of the official list; None where it is not there, or does not tell of this split."""
    path = next((p for p in (root / "diode_meta.json", root / split / "diode_meta.json") if p.is_file()), None)
    if path is None:
        return None
    try:
        tree = json.loads(path.read_text())[split]
        return [f"{split}/{kind}/{scene}/{scan}/{name}" for kind in kinds for scene, scans in tree.get(kind, {}).items()
                for scan, names in scans.items() for name in names]
    except KeyError:
        return None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"data: {path} is not the official list ({type(error).__name__}: {error}); expected split → scenes → "
                         "scene → scan → [names]; download it again, or remove it: the folders are read without it") from error


def _camera(width: int, height: int) -> Camera:
    fx, fy, cx, cy, full_width, full_height = _CAMERA
    x, y = np.divide((width, height), (full_width, full_height)).tolist()
    return Camera(fx * x, fy * y, cx * x, cy * y)
