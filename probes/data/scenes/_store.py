"""Rendered scenes on disk: one memory-mapped .npy per map, compact, written once and then shared by every recipe."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..colour import linear_to_srgb
from . import render

# name -> (channels, dtype, stored from, read to); images are sRGB-encoded, as a generator draws them
_MAPS: dict[str, tuple[int, type, Callable, Callable]] = {
    "image": (3, np.uint8, lambda x: linear_to_srgb(x) * 255 + 0.5, lambda x: x / 255),
    "albedo": (3, np.uint8, lambda x: linear_to_srgb(x) * 255 + 0.5, lambda x: x / 255),
    "shading": (1, np.uint8, lambda x: linear_to_srgb(x) * 255 + 0.5, lambda x: x / 255),
    "normal": (3, np.int8, lambda x: (x * 127).round(), lambda x: x / 127),
    "depth": (1, np.float16, lambda x: x, lambda x: x),
}


def write_store(folder: str | Path, first_seed: int, count: int, size: int = 64,
                progress: Callable[[int], None] | None = None) -> Path:
    """Renders scenes first_seed … first_seed+count-1 into `folder`; a finished store of the same request is kept."""
    folder = Path(folder)
    request = dict(first_seed=first_seed, count=count, size=size, version=1)
    manifest = folder / "manifest.json"
    if manifest.exists():
        if json.loads(manifest.read_text()) == request:
            return folder
        raise FileExistsError(f"folder: {folder} holds another store ({manifest.read_text().strip()}); "
                              "choose another folder or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count, c, size, size))
              for name, (c, dtype, _, _) in _MAPS.items()}
    block = 512
    for i in range(0, count, block):
        maps = render(range(first_seed + i, first_seed + min(i + block, count)), size, compile=count >= 4000)
        for name, (_, dtype, encode, _) in _MAPS.items():
            arrays[name][i:i + block] = encode(maps[name]).numpy().astype(dtype)
        if progress:
            progress(min(i + block, count))
    for array in arrays.values():
        array.flush()
    manifest.write_text(json.dumps(request))
    return folder


class Store:
    """Reads a store: `store.batch("normal", indices)` -> float32 [N, C, H, W] in ascending order of the indices; images,
    albedo and shading sRGB-encoded in [0, 1]."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "manifest.json").exists():
            raise FileNotFoundError(f"folder: {folder} is no finished scene store; write it with "
                                    f"`python -m zoo.render_scenes --out {folder}`")
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _MAPS}

    def __len__(self) -> int:
        return self.manifest["count"]

    def batch(self, name: str, indices: np.ndarray) -> np.ndarray:
        return _MAPS[name][3](self.arrays[name][np.sort(indices)].astype(np.float32))
