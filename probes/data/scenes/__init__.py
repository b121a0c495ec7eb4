"""A world with exact ground truth: furnished rooms, ray cast (image, albedo, shading, normal, depth).

    maps = render(range(8), size=64)      # scene k is the same whatever the batch, size or device
    maps["normal"]                        # [8, 3, 64, 64]
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ._captions import captions
from ._render import chunk_size, render_arrays
from ._sample import DEPTH_RANGE, sample

__all__ = ["DEPTH_RANGE", "captions", "render", "sample"]


@torch.no_grad()
def render(seeds: Sequence[int], size: int = 64, device: str | torch.device = "cpu",
           compile: bool = False) -> dict[str, Tensor]:
    """Renders the scenes of `seeds` at `size`×`size` pixels.

    `compile=True` fuses the ray caster with torch.compile: half a minute once, then about five times the rate on a
    CPU, so it pays from some thousand scenes on. `benchmarks/scenes.py` measures both.

    Returns float32 tensors, batch first, linear light:
        image    [N, 3, H, W] in [0, 1]; exactly albedo × shading
        albedo   [N, 3, H, W] in [0, 1], diffuse reflectance
        shading  [N, 1, H, W] in [0, 1], achromatic
        normal   [N, 3, H, W] unit vectors in the camera frame: x right, y down, z forward, towards the viewer
                 (a wall that faces the camera is (0, 0, -1), a floor (0, -1, 0))
        depth    [N, 1, H, W] z-depth in metres

    Raises ValueError for a size below 8 or an empty list of seeds.
    """
    seeds = list(seeds)
    if size < 8:
        raise ValueError(f"size: expected at least 8 pixels, got {size}")
    if not seeds:
        raise ValueError("seeds: expected at least one scene seed, got none; try render(range(8))")
    scenes = {k: torch.from_numpy(v).to(device) for k, v in sample(seeds).items()}
    step = chunk_size(size, fused=compile) if torch.device(device).type == "cpu" else len(seeds)
    if compile:  # one static shape: the last chunk is filled up
        scenes = {k: torch.cat([v, v[-1:].expand(-len(seeds) % step, *v.shape[1:])]) for k, v in scenes.items()}
    cast = _compiled() if compile else render_arrays
    parts = [cast({k: v[i:i + step] for k, v in scenes.items()}, size) for i in range(0, len(seeds), step)]
    return {k: torch.cat([p[k] for p in parts])[:len(seeds)] for k in parts[0]}


@lru_cache(maxsize=1)
def _compiled():
    return torch.compile(render_arrays, dynamic=False)
