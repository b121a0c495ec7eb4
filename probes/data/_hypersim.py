"""Hypersim: path-traced rooms with every map exact (Roberts et al., ICCV 2021, arXiv 2011.02523).

    PATH/ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg              8 bits, 1024×768
                           scene_cam_XX_final_hdf5/frame.IIII.color.hdf5                  linear radiance
                                                   frame.IIII.diffuse_reflectance.hdf5
                                                   frame.IIII.diffuse_illumination.hdf5   color = the product + a residual
                           scene_cam_XX_geometry_hdf5/frame.IIII.depth_meters.hdf5        distance along the ray, metres
                                                      frame.IIII.normal_cam.hdf5          OpenGL's camera frame
    PATH/metadata_images_split_scene_v1.csv       the official splits, by scene; needed for split=train, val, test
    PATH/metadata_camera_parameters.csv           each scene's camera, used where it is there

Every file holds one array, "dataset". What becomes of them:

    image     the preview, or, with image=hdf5 or where there is none, the release's own tone mapping of `color`: exposed so
              that the 90th percentile of brightness (0.3 R + 0.59 G + 0.11 B) lands on 0.8 after the exponent 1/2.2
    depth     z = distance × |z of the ray|: README, "Lossless high-dynamic range images", and issue 9 of the repository
    normal    (x, -y, -z), as published: the geometry's, without bump maps
    albedo    diffuse_reflectance, sRGB-encoded; surfaces without a diffuse part (mirrors, glass) are black
    shading   diffuse_illumination, its channels' mean, divided by its 99th percentile and clipped, sRGB-encoded: radiance has
              no white point, and no image tells its exposure

The camera has 60° across, so fx = fy = 512 / tan 30° = 886.81 at 1024×768; scenes with a tilted lens differ, as
metadata_camera_parameters.csv tells (its M_cam_from_uv takes (u, v, 1), v upwards, both in [-1, 1], to the ray).

Frames of one scene show the same rooms: whole scenes are held out of a fit, and the frames are numbered accordingly
(`_held_out`).
"""
from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..images import ImageError, read_image
from ._hdf5 import read_hdf5, shape_of
from ._map_files import physical, same_size
from ._options import choice, existing, named
from ._photographs import Photographs
from ._pictures import picture_size
from ._sample import Camera, Sample
from .colour import linear_to_srgb

SPLITS_CSV, CAMERAS_CSV = "metadata_images_split_scene_v1.csv", "metadata_camera_parameters.csv"
_MAPS = {"normal": ("geometry_hdf5", "normal_cam"), "depth": ("geometry_hdf5", "depth_meters"),
         "albedo": ("final_hdf5", "diffuse_reflectance"), "shading": ("final_hdf5", "diffuse_illumination")}
_SEEN = ("geometry_hdf5", "render_entity_id")      # -1 where a pixel sees nothing
_SCENE, _CAMERA = re.compile(r"ai_\d{3}_\d{3}"), re.compile(r"scene_(cam_\d+)_final_(preview|hdf5)")
_FRAME = re.compile(r"frame\.(\d{4})\.(tonemap\.jpg|color\.hdf5)")
_HALF_WIDTH = float(np.tan(np.pi / 6))
_PERCENTILE = 99
LAYOUT = ("expected the official layout: PATH/ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg and "
          "scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5, …")


class Hypersim(Photographs):
    """Frames of one split or of all, those of held-out scenes first.

    Args:
        path: folder of the scenes
        split: train, val, test, or all that is there
        image: auto (the preview where it is there), preview or hdf5
    """

    masked = True

    def __init__(self, path: str | Path, split: str = "all", image: str = "auto"):
        self.root = existing(path)
        self.name = named("hypersim", self.root, split=None if split == "all" else split,
                          image=None if image == "auto" else image)
        choice("split", split, ("all", "train", "val", "test"))
        choice("image", image, ("auto", "preview", "hdf5"))
        wanted = {"auto": ("preview", "hdf5"), "preview": ("preview",), "hdf5": ("hdf5",)}[image]
        frames, there = _frames(self.root, wanted)
        if not frames:
            raise ValueError(f"data: {self.root} has no frame of Hypersim ({' or '.join(wanted)}); {LAYOUT}")
        self.splits = {"all": len(frames)}
        official = _official(self.root, required=split != "all")
        if official is not None:
            parts = {frame: official.get(frame, "") for frame in frames}
            self.splits = {name: sum(part == name for part in parts.values()) for name in ("train", "val", "test")}
            if split != "all":
                frames = [frame for frame in frames if parts[frame] == split]
                if not frames:
                    there_too = ", ".join(f"{name} ({count})" for name, count in self.splits.items() if count) or "none"
                    raise ValueError(f"split: none of the scenes in {self.root} is of {split}; there are {there_too}")
        names = ["/".join((scene, camera, str(number))) for scene, camera, number in frames]
        frames = [frames[i] for i in self.arrange(names, [frame[0] for frame in frames], [""] * len(frames))]
        self._frames, self._wanted = frames, wanted
        self.count = len(frames)
        self.found = {name: sum(_place(*frame, *_MAPS[name]) in there for frame in frames) for name in _MAPS}
        self.exact = tuple(name for name, count in self.found.items() if count == self.count)
        self._cameras = _cameras(self.root)

    def sample_name(self, index: int) -> str:
        scene, camera, number = self._frames[index]
        return f"{scene}/{camera}/{number:04d}"

    def files(self, index: int) -> list[Path]:
        frame = self._frames[index]
        image, seen = self._image_file(frame), self.root / _place(*frame, *_SEEN)
        exposed = [seen] if image.suffix == ".hdf5" and seen.is_file() else []
        return [image, *(self.root / _place(*frame, *_MAPS[name]) for name in self.exact), *exposed]

    def identity(self) -> dict:
        scenes = {frame[0] for frame in self._frames}
        return dict(image=list(self._wanted),
                    cameras={scene: matrix.tolist() for scene, matrix in sorted(self._cameras.items()) if scene in scenes})

    def maps(self, index: int, intrinsics: Sequence[str]) -> dict[str, Tensor]:
        self.require(intrinsics)
        frame = self._frames[index]
        maps = {name: self._map(frame, name) for name in intrinsics}
        if maps:
            path = self._image_file(frame)
            size = shape_of(path, "dataset")[:2] if path.suffix == ".hdf5" else picture_size(path, str(path))
            same_size(maps, size, str(path))
        return maps

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        maps, frame = self.maps(index, intrinsics), self._frames[index]
        path = self._image_file(frame)
        image = self._tonemapped(frame, path) if path.suffix == ".hdf5" else read_image(path).pixels
        height, width = image.shape[1:]
        return Sample(self.sample_name(index), image, maps, _pinhole(self._matrix(frame, height, width), width, height))

    def _matrix(self, frame: tuple[str, str, int], height: int, width: int) -> np.ndarray:
        known = self._cameras.get(frame[0])
        return np.diag([_HALF_WIDTH, _HALF_WIDTH * height / width, -1.0]) if known is None else known

    def _image_file(self, frame: tuple[str, str, int]) -> Path:
        places = {"preview": ("final_preview", "tonemap", "jpg"), "hdf5": ("final_hdf5", "color", "hdf5")}
        paths = [self.root / _place(*frame, *places[kind]) for kind in self._wanted]
        return next((path for path in paths if path.is_file()), paths[0])

    def _map(self, frame: tuple[str, str, int], name: str) -> Tensor:
        path = self.root / _place(*frame, *_MAPS[name])
        values = read_hdf5(path, "dataset")
        if name == "shading":
            values = values.astype(np.float32).mean(-1, keepdims=True) if values.ndim == 3 else values
        map = physical(values, name, str(path), "opengl")
        if name == "depth":
            return map * _axis(self._matrix(frame, *map.shape[1:]), *map.shape[1:])
        if name == "albedo":
            return linear_to_srgb(map.clamp(0, 1))
        if name == "shading":
            known = map[torch.isfinite(map)].numpy()
            white = float(np.percentile(known, _PERCENTILE)) if known.size else 0.0
            return linear_to_srgb((map / white).clamp(0, 1)) if white > 0 else map.clamp(0, 1)
        return map

    def _tonemapped(self, frame: tuple[str, str, int], path: Path) -> Tensor:
        """The release's tone mapping; pixels that see nothing (entity -1, where that file is there) do not set the exposure."""
        colour = read_hdf5(path, "dataset").astype(np.float32)
        if colour.ndim != 3 or colour.shape[2] != 3:
            raise ImageError(f"{path}: an array of shape {list(colour.shape)}; expected [H, W, 3]")
        colour = np.nan_to_num(colour, posinf=0, neginf=0)
        bright = colour @ np.array([0.3, 0.59, 0.11], np.float32)
        entity = self.root / _place(*frame, *_SEEN)
        if entity.is_file() and (seen := read_hdf5(entity, "dataset") != -1).shape == bright.shape and seen.any():
            bright = bright[seen]
        level = float(np.percentile(bright, 90))
        exposure = 0.8 ** 2.2 / level if level > 1e-4 else 0.0
        shown = np.clip(np.maximum(colour * exposure, 0) ** (1 / 2.2), 0, 1)
        return torch.from_numpy(shown.transpose(2, 0, 1) * 2 - 1).contiguous()


def recognises(path: Path) -> bool:
    """Whether a folder holds scenes of Hypersim."""
    return path.is_dir() and any(_SCENE.fullmatch(scene.name) and (scene / "images").is_dir() for scene in path.glob("ai_*"))


def _place(scene: str, camera: str, number: int, folder: str, what: str, ending: str = "hdf5") -> str:
    return f"{scene}/images/scene_{camera}_{folder}/frame.{number:04d}.{what}.{ending}"


def _frames(root: Path, wanted: tuple[str, ...]) -> tuple[list[tuple[str, str, int]], set[str]]:
    """(frames with an image of a wanted kind, all files below root/ai_*/images); each folder is listed once."""
    frames, there = set(), set()
    if not root.is_dir():
        raise ValueError(f"data: there is no folder {root}; {LAYOUT}")
    for scene in sorted(root.glob("ai_*")):
        if not _SCENE.fullmatch(scene.name):
            continue
        for folder in scene.glob("images/scene_cam_*"):
            kind = _CAMERA.fullmatch(folder.name)
            for file in folder.iterdir():
                there.add(f"{scene.name}/images/{folder.name}/{file.name}")
                frame = _FRAME.fullmatch(file.name) if kind and kind[2] in wanted else None
                if frame:
                    frames.add((scene.name, kind[1], int(frame[1])))
    return sorted(frames), there


def _table(root: Path, name: str, columns: tuple[str, ...]) -> list[dict[str, str]] | None:
    path = root / name
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file))
    if lacking := [column for column in columns if not rows or column not in rows[0]]:
        raise ValueError(f"data: {path} lacks the column {lacking[0]}; expected the release's file; download it again")
    return rows


def _official(root: Path, required: bool) -> dict[tuple[str, str, int], str] | None:
    rows = _table(root, SPLITS_CSV, ("scene_name", "camera_name", "frame_id", "split_partition_name"))
    if rows is None and required:
        raise ValueError(f"split: {root / SPLITS_CSV} is not there, which says which frames are whose; copy it from the "
                         "release's repository (evermotion_dataset/analysis), or choose split=all")
    try:
        return rows and {(row["scene_name"], row["camera_name"], int(row["frame_id"])): row["split_partition_name"]
                         for row in rows}
    except ValueError as error:
        raise ValueError(f"data: {root / SPLITS_CSV} is damaged ({error}); download it again") from error


def _cameras(root: Path) -> dict[str, np.ndarray]:
    """Scene -> M_cam_from_uv [3, 3]."""
    names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    rows = _table(root, CAMERAS_CSV, ("scene_name", *names)) or []
    return {row["scene_name"]: np.array([float(row[name]) for name in names]).reshape(3, 3) for row in rows if row[names[0]]}


def _axis(matrix: np.ndarray, height: int, width: int) -> Tensor:
    """[1, H, W]: the share of a pixel's distance that lies along the camera's axis."""
    u = ((np.arange(width) + 0.5) / width * 2 - 1)[None].repeat(height, 0)
    v = (1 - (np.arange(height) + 0.5) / height * 2)[:, None].repeat(width, 1)
    ray = np.einsum("ij,jhw->ihw", matrix, np.stack([u, v, np.ones_like(u)]))
    return torch.from_numpy((np.abs(ray[2]) / np.linalg.norm(ray, axis=0)).astype(np.float32))[None]


def _pinhole(matrix: np.ndarray, width: int, height: int) -> Camera | None:
    """The camera in pixels; None where a tilted lens makes it no plain pinhole."""
    m = matrix / -matrix[2, 2] if matrix[2, 2] else matrix
    if not np.allclose([m[0, 1], m[1, 0], m[2, 0], m[2, 1], m[2, 2] + 1], 0, atol=1e-6) or not m[0, 0] or not m[1, 1]:
        return None
    # x = m00 u + m02 and y up = m11 v + m12, with u = 2 px / W - 1 and v = 1 - 2 py / H
    return Camera(*(float(x) for x in (width / 2 / m[0, 0], height / 2 / m[1, 1], width / 2 * (1 - m[0, 2] / m[0, 0]),
                                       height / 2 * (1 + m[1, 2] / m[1, 1]))))
