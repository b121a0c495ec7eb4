"""Distance along a pixel's ray, and depth along the camera's axis: a wall that faces the camera has one depth, many distances.

    z = d / sqrt(1 + ((u - cx) / fx)² + ((v - cy) / fy)²)

with (u, v) the pixel's centre. `flatness` tells which of the two a map holds: of a plane, 1/z is a linear function of (u, v)
(n·(x, y, 1) z = const), 1/d is not.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ._sample import Camera


def rays(camera: Camera, height: int, width: int) -> Tensor:
    """[3, H, W]: x right, y down, z = 1 of every pixel's centre."""
    x = (torch.arange(width) + 0.5 - camera.cx) / camera.fx
    y = (torch.arange(height) + 0.5 - camera.cy) / camera.fy
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)])


def ray_to_z(distance: Tensor, camera: Camera) -> Tensor:
    """Distance from the optical centre [1, H, W] -> z-depth, in the same unit."""
    return distance / rays(camera, *distance.shape[1:]).norm(dim=0, keepdim=True)


def flatness(depth: Tensor, camera: Camera) -> tuple[float, float]:
    """How curved a map [1, H, W] makes the scene, if it is (z-depth, distance along the ray): the most frequent second
    difference of 1/z across an eighth of the image, as a share of 1/z. Flat things give 0, whatever else is in the picture.
    NaN where fewer than a hundred differences are known."""
    return _bend(1 / depth), _bend(1 / ray_to_z(depth, camera))


def _bend(inverse: Tensor) -> float:
    inverse = inverse[:, ::max(1, inverse.shape[1] // 256), ::max(1, inverse.shape[2] // 256)]      # plenty, and quick to sort
    step = max(2, min(inverse.shape[1:]) // 8)
    across = _second(inverse, step)
    down = _second(inverse.transpose(1, 2), step)
    return (_mode(across) + _mode(down)) / 2


def _second(inverse: Tensor, step: int) -> Tensor:
    middle = inverse[..., step:-step]
    change = (inverse[..., 2 * step:] + inverse[..., :-2 * step] - 2 * middle) / middle
    return change[torch.isfinite(change)]


def _mode(values: Tensor) -> float:
    """The middle of the shortest interval that holds a quarter of the values: edges of things, however many on one side, do
    not move it as they move the median."""
    if len(values) < 100:
        return float("nan")
    ordered, quarter = values.sort().values, len(values) // 4
    start = int((ordered[quarter:] - ordered[:-quarter]).argmin())
    return float(ordered[start] + ordered[start + quarter]) / 2
