"""NYU Depth v2, the labelled part: 1449 Kinect frames of rooms (Silberman et al., ECCV 2012).

    nyu_depth_v2_labeled.mat     HDF5 (MATLAB 7.3): images uint8 [1449, 3, 640, 480], depths and rawDepths float32
                                 [1449, 640, 480], z-depth in metres aligned with the image; MATLAB's order, so W before H
                                 scenes, cell array of names like kitchen_0003b
    splits.mat                   beside it: trainNdxs (795) and testNdxs (654), counted from 1

`depths` has its holes filled by colourisation; in `rawDepths` they are 0. The camera is the toolbox's of the colour image
(camera_params.m: fx 518.85790, fy 519.46961, cx 325.58245, cy 253.73617), whose pixels are counted from 1 at their centre, so
that half a pixel is taken off here. The images keep their white frame; the crops of protocols leave it out. Frames of
one scene (its recordings a, b, … together) are held out of a fit together, where the file names them, and the frames are
numbered accordingly (`_held_out`).
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..images import ImageError, read_image
from ._hdf5 import read_hdf5, read_strings, shape_of
from ._map_files import physical, same_size
from ._options import choice, existing, named
from ._photographs import Photographs
from ._sample import Camera, Sample

CAMERA = Camera(518.85790, 519.46961, 325.58245 - 0.5, 253.73617 - 0.5)
DEPTHS = {"filled": "depths", "raw": "rawDepths"}
_INDICES = {"train": "trainNdxs", "test": "testNdxs"}


class Nyu(Photographs):
    """Frames of one split, those of held-out scenes first; without names of scenes, in the official order.

    Args:
        path: nyu_depth_v2_labeled.mat, or the folder it lies in
        split: test, train or all; all but `all` need splits.mat beside it
        depth: filled, or raw with holes
    """

    exact = ("depth",)

    def __init__(self, path: str | Path, split: str = "test", depth: str = "filled"):
        choice("split", split, ("test", "train", "all"))
        self._dataset = DEPTHS[choice("depth", depth, DEPTHS)]
        self.masked = depth == "raw"
        path = existing(path)
        self.name = named("nyu", path, split=None if split == "test" else split, depth=None if depth == "filled" else depth)
        self.path = path / "nyu_depth_v2_labeled.mat" if path.is_dir() else path
        shapes = {name: shape_of(self.path, name) for name in ("images", self._dataset)}
        images, depths = shapes["images"], shapes[self._dataset]
        if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]):
            raise ValueError(f"data: {self.path} holds images {list(images)} and {self._dataset} {list(depths)}; expected "
                             "[N, 3, W, H] and [N, W, H] of nyu_depth_v2_labeled.mat")
        self._indices = _indices(self.path, split, images[0])
        self.count = len(self._indices)
        self.found = {"depth": self.count}
        scenes = read_strings(self.path, "scenes", images[0])
        if scenes is not None:
            groups = [re.sub(r"(?<=\d)[a-z]$", "", scenes[i]) or str(i) for i in self._indices]
            order = self.arrange([str(i) for i in self._indices], groups, [""] * self.count)
            self._indices = self._indices[order]
        self.splits = {name: len(_indices(self.path, name, images[0])) for name in _INDICES
                       if (self.path.parent / "splits.mat").is_file()} or {"all": images[0]}

    def sample_name(self, index: int) -> str:
        return f"{self._indices[index] + 1:04d}"        # as the test lists of the literature count

    def files(self, index: int) -> list[Path]:
        return [self.path]

    def identity(self) -> dict:
        return dict(depth=self._dataset)

    def maps(self, index: int, intrinsics: Sequence[str]) -> dict[str, Tensor]:
        self.require(intrinsics)
        frame = int(self._indices[index])
        return {key: physical(read_hdf5(self.path, self._dataset, frame).T, key, self._told(frame)) for key in intrinsics}

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        maps, frame = self.maps(index, intrinsics), int(self._indices[index])
        codes = np.ascontiguousarray(read_hdf5(self.path, "images", frame).transpose(2, 1, 0))
        image = read_image(codes, self._told(frame)).pixels
        same_size(maps, image.shape[1:], self._told(frame))
        x, y = image.shape[2] / 640, image.shape[1] / 480
        return Sample(self.sample_name(index), image, maps,
                      Camera(CAMERA.fx * x, CAMERA.fy * y, CAMERA.cx * x, CAMERA.cy * y))

    def _told(self, frame: int) -> str:
        return f"{self.path}, frame {frame + 1}"


def recognises(path: Path) -> bool:
    """Whether a path is the labelled file, or the folder it lies in."""
    return path.name == "nyu_depth_v2_labeled.mat" or (path / "nyu_depth_v2_labeled.mat").is_file()


def _indices(path: Path, split: str, count: int) -> np.ndarray:
    """Frames of a split, from 0."""
    if split == "all":
        return np.arange(count)
    beside = path.parent / "splits.mat"
    if not beside.is_file():
        raise ValueError(f"split: {beside} is not there, which says which frames are {split}; download it beside the .mat, or "
                         "choose split=all")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError("data: splits.mat is read by scipy; `pip install 'probes[data]'`") from None
    try:
        found = loadmat(str(beside), variable_names=list(_INDICES.values()))[_INDICES[split]]
        indices = np.asarray(found).ravel().astype(np.int64) - 1
    except Exception as error:      # of a damaged file scipy raises whatever its parser meets
        raise ImageError(f"{beside}: not the official splits ({type(error).__name__}: {error}); expected trainNdxs and "
                         "testNdxs; download it again") from error
    if not len(indices) or indices.min() < 0 or indices.max() >= count:
        raise ImageError(f"{beside}: its {split} frames do not fit {path.name}, which has {count}; expected the two of one "
                         "download")
    return indices
