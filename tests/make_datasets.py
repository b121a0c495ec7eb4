"""Datasets in their true layouts, tiny: one scene whose maps are known exactly, written as each of them stores it.

The scene is a room seen by a pinhole camera that looks down a little: a floor, a wall ahead, and so z-depth, distance and
normals in closed form.
"""
from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from probes.data import Camera

H, W = 24, 32
PITCH = np.radians(15)
DOWN, AHEAD = np.array([0, np.cos(PITCH), np.sin(PITCH)]), np.array([0, -np.sin(PITCH), np.cos(PITCH)])     # camera frame


def camera(width: int = W, height: int = H) -> Camera:
    """60° across, as Hypersim's."""
    f = width / 2 / np.tan(np.pi / 6)
    return Camera(f, f, width / 2, height / 2)


def rays(of: Camera, width: int = W, height: int = H) -> np.ndarray:
    """[H, W, 3], z = 1."""
    x = (np.arange(width) + 0.5 - of.cx) / of.fx
    y = (np.arange(height) + 0.5 - of.cy) / of.fy
    return np.stack([*np.meshgrid(x, y), np.ones((height, width))], -1)


def room(of: Camera | None = None, width: int = W, height: int = H, wall: float = 4.0, floor: float = 1.0):
    """(image uint8 [H, W, 3], z-depth float32 [H, W], normals float32 [H, W, 3] in our frame)."""
    ray = rays(of or camera(width, height), width, height)
    down = np.where(ray @ DOWN > 1e-6, floor / np.maximum(ray @ DOWN, 1e-6), np.inf)
    ahead = wall / (ray @ AHEAD)
    depth = np.minimum(down, ahead)
    low = down < ahead
    normal = np.where(low[..., None], -DOWN, -AHEAD)
    across = np.broadcast_to(60 * np.arange(width) / width + 90, (height, width))
    image = np.stack([np.where(low, 180, 90), np.full((height, width), 120), across], -1)
    return image.astype(np.uint8), depth.astype(np.float32), normal.astype(np.float32)


def opengl(normal: np.ndarray) -> np.ndarray:
    return normal * np.array([1, -1, -1], np.float32)


def diode_camera(width: int = W, height: int = H) -> Camera:
    return Camera(886.81 * width / 1024, 927.06 * height / 768, width / 2, height / 2)


def diode(root: Path, names=(("indoors", "00019_00183_indoors_000_010"), ("indoors", "00019_00183_indoors_010_010"),
                             ("outdoor", "00022_00193_outdoor_000_010")), split: str = "val", normals: bool = True,
          depths: bool = True, meta: bool = False, ray: bool = False) -> list[str]:
    """Pixel (0, 0) is masked; pixel (0, 1) has a zero normal."""
    image, depth, normal = room(diode_camera())
    tree, stems = {}, []
    for kind, name in names:
        scene, scan = f"scene_{name[:5]}", f"scan_{name[6:11]}"
        folder = root / split / kind / scene / scan
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
        mask = np.ones((H, W), np.float32)
        mask[0, 0] = 0
        if depths:
            stored = depth * np.linalg.norm(rays(diode_camera()), axis=-1).astype(np.float32) if ray else depth
            np.save(folder / f"{name}_depth.npy", stored[..., None] * mask[..., None])
            np.save(folder / f"{name}_depth_mask.npy", mask)
        if normals:
            stored = opengl(normal)
            stored[0, 1] = 0
            np.save(folder / f"{name}_normal.npy", stored)
        tree.setdefault(kind, {}).setdefault(scene, {}).setdefault(scan, []).append(name)
        stems.append(f"{split}/{kind}/{scene}/{scan}/{name}")
    if meta:
        (root / "diode_meta.json").write_text(json.dumps({split: tree}))
    return stems


def nyu(root: Path, count: int = 6, splits: bool = True, scenes: list[str] | None = None) -> Path:
    """Frame i's depth is the room's + i metres; its raw depth lacks pixel (2, 3); scenes are stored as MATLAB stores cells."""
    import h5py
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    image, depth, _ = room()
    path = root / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:       # as MATLAB 7.3 does: its text comes first
        file["images"] = np.stack([np.clip(image.astype(int) + i, 0, 255) for i in range(count)]).astype(np.uint8).transpose(
            0, 3, 2, 1)
        depths = np.stack([depth + i for i in range(count)]).astype(np.float32)
        file["depths"] = depths.transpose(0, 2, 1)
        depths[:, 2, 3] = 0
        file["rawDepths"] = depths.transpose(0, 2, 1)
        if scenes is not None:
            for i, scene in enumerate(scenes):
                file[f"#refs#/{i}"] = np.array([[ord(letter)] for letter in scene], np.uint16)
            cells = file.create_dataset("scenes", (1, count), dtype=h5py.ref_dtype)
            cells[0] = [file[f"#refs#/{i}"].ref for i in range(count)]
    if splits:
        savemat(root / "splits.mat", {"trainNdxs": np.array([[2], [4], [6]], np.uint16),
                                      "testNdxs": np.array([[1], [3], [5]], np.uint16)})
    return path


def hypersim(root: Path, scenes=("ai_001_001", "ai_001_002"), frames: int = 2, splits: bool = True,
             cameras: dict[str, np.ndarray] | None = None, preview: bool = True) -> None:
    """Albedo (linear) is 0.25, 0.5, 0.75; illumination rises to the right, pixel (0, 0) sees nothing."""
    import h5py

    image, depth, normal = room()
    rows = []
    for scene in scenes:
        base = root / scene / "images"
        for folder in ("final_preview", "final_hdf5", "geometry_hdf5"):
            (base / f"scene_cam_00_{folder}").mkdir(parents=True, exist_ok=True)
        distance = depth * np.linalg.norm(rays(camera()), axis=-1)
        distance[0, 0] = np.nan
        reflectance = np.broadcast_to(np.array([0.25, 0.5, 0.75], np.float16), (H, W, 3))
        light = np.broadcast_to((np.arange(W) + 1)[None, :, None] / W * 20, (H, W, 3)).astype(np.float16)
        for i in range(frames):
            write = {"geometry_hdf5": {"depth_meters": distance.astype(np.float16),
                                       "normal_cam": opengl(normal).astype(np.float16),
                                       "render_entity_id": np.where(np.isnan(distance), -1, 1).astype(np.int32)},
                     "final_hdf5": {"color": (reflectance * light).astype(np.float16), "diffuse_reflectance": reflectance,
                                    "diffuse_illumination": light}}
            for folder, arrays in write.items():
                for name, array in arrays.items():
                    with h5py.File(base / f"scene_cam_00_{folder}" / f"frame.{i:04d}.{name}.hdf5", "w") as file:
                        file["dataset"] = array
            if preview:
                Image.fromarray(image).save(base / "scene_cam_00_final_preview" / f"frame.{i:04d}.tonemap.jpg", quality=95)
            rows.append([scene, "cam_00", i, "True", "", "test" if scene == scenes[-1] else "train"])
    if splits:
        with open(root / "metadata_images_split_scene_v1.csv", "w", newline="") as file:
            csv.writer(file).writerows([["scene_name", "camera_name", "frame_id", "included_in_public_release",
                                         "exclude_reason", "split_partition_name"], *rows])
    if cameras is not None:
        with open(root / "metadata_camera_parameters.csv", "w", newline="") as file:
            names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
            csv.writer(file).writerows([["scene_name", *names], *([scene, *m.ravel()] for scene, m in cameras.items())])


def number_of(data, name: str) -> int:
    """Of the image called so: held-out groups come first, so names, not places, say which is which."""
    return [data.sample_name(i) for i in range(data.count)].index(name)


def beside(root: Path, count: int = 3, formats: tuple[str, ...] = ("npy",)) -> tuple[np.ndarray, np.ndarray]:
    """photo0.png … with maps of normal and depth, as `write_map` writes them; returns (depth, normals)."""
    from probes.images import write_map

    image, depth, normal = room()
    root.mkdir(parents=True, exist_ok=True)
    depth = depth.copy()
    depth[5, 6] = np.nan
    for i in range(count):
        Image.fromarray(image).save(root / f"photo{i}.png")
        write_map(root / f"photo{i}-normal", normal.transpose(2, 0, 1), "normal", formats)
        write_map(root / f"photo{i}-depth", depth[None], "depth", formats)
    return depth, normal
