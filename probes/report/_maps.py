"""Physical maps made readable: intrinsic -> float [N, 3, H, W] in [-1, 1], the range of every image here.

    normal   (x, -y, -z) as red, green, blue: floors are green, walls that face the camera blue, what faces right red
    depth    magma, near bright, far dark: over log depth where it is in metres, else over what there is
    albedo, shading    as they are
    error    viridis from 0 (dark) upwards, one range for the whole batch
    other    grey or RGB, stretched over their range

A range belongs to one sample and comes from `like`, so that teacher, probe and ground truth of a row can share it.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._quantiles import quantiles

_INVALID = -0.55  # the grey of pixels without a value


def display(name: str, map: Any, like: Any = None, high: float | None = None, meaning: str = "") -> Tensor:
    """An intrinsic's maps as pictures.

    Args:
        name: normal, depth, albedo, shading, error, or a registered intrinsic's name
        map: float [N, C, H, W], tensor or array. normal: unit vectors, x right, y down, z forward; depth: see `meaning`;
            albedo (3) and shading (1 channel): [0, 1]; error: at least 0, one channel
        like: map, or list of maps, [N, C, *, *] that set the range of depth and of registered intrinsics, sample by
            sample; default the map itself. Give every column of a row the same `like`, commonly the teacher's map
        high: the value at the top of the error's colours; default its 99th percentile over the batch
        meaning: of depth: "metric" (the default), "relative" or "disparity" (see `probes.Intrinsic.meaning`)

    Returns:
        float32 [N, 3, H, W] in [-1, 1] on the CPU; pixels that are NaN or infinite are dark grey.

    Raises ValueError for a shape that does not fit.
    """
    value = _tensor(map, name)
    bad = ~value.isfinite().all(1, keepdim=True)
    value = value.nan_to_num(0.0, 0.0, 0.0)
    expected = {"normal": (3,), "depth": (1,), "albedo": (3,), "shading": (1, 3), "error": (1,)}.get(name, (1, 3))
    if value.shape[1] not in expected:
        channels = " or ".join(str(c) for c in expected)
        raise ValueError(f"map: {name} has {channels} channel(s), got shape {list(value.shape)}")
    if name == "normal":
        picture = value * value.new_tensor([1.0, -1.0, -1.0])[:, None, None]
    elif name == "depth":
        log = meaning not in ("relative", "disparity")
        low, top = _range([value.masked_fill(bad, torch.nan)] if like is None else _list(like, name), log)
        position = ((value.clamp_min(1e-6).log() if log else value) - low) / (top - low)
        picture = _coloured(position if meaning == "disparity" else 1 - position, "magma", 0.12, 0.98)
    elif name in ("albedo", "shading"):
        picture = value * 2 - 1
    elif name == "error":
        picture = _coloured(value / (high or error_range(map)), "viridis")
    else:
        low, top = _range([value.masked_fill(bad, torch.nan)] if like is None else _list(like, name))
        picture = (value - low) / (top - low) * 2 - 1
    picture = picture.clamp(-1, 1).expand(-1, 3, -1, -1)
    return torch.where(bad, picture.new_tensor(_INVALID), picture)


def error_range(map: Any) -> float:
    """The default `high` of error maps, a number fit for a caption: their 99th percentile, two digits, rounded up."""
    value = _tensor(map, "error")
    value = value[value.isfinite()]
    top = float(quantiles(value[None], (0.99,))[0]) if value.numel() else 0.0
    if top <= 0:
        return 1.0
    digit = 10.0 ** (np.floor(np.log10(top)) - 1)
    return float(f"{np.ceil(round(top / digit, 6)) * digit:.2g}")


def _tensor(map: Any, name: str) -> Tensor:
    value = torch.as_tensor(np.asarray(map) if not isinstance(map, Tensor) else map).detach().float().cpu()
    if value.ndim != 4:
        raise ValueError(f"map: expected {name} maps [N, C, H, W], got shape {list(value.shape)}")
    return value


def _list(like: Any, name: str) -> list[Tensor]:
    return [_tensor(m, name) for m in (like if isinstance(like, (list, tuple)) else [like])]


def _range(maps: Sequence[Tensor], log: bool = False) -> tuple[Tensor, Tensor]:
    """[N, 1, 1, 1] ends: per sample, the 0.5th and 99.5th percentile of all maps' finite pixels."""
    ends = []
    for sample in zip(*maps, strict=True):
        value = torch.cat([m.flatten() for m in sample])
        value = value[value.isfinite()]
        if log:
            value = value[value > 0].log()
        low, top = quantiles(value[None], (0.005, 0.995)) if value.numel() else (0.0, 1.0)
        ends.append((float(low), float(top)))
    low, top = torch.tensor(ends)[:, :, None, None, None].unbind(1)
    flat = top - low < 1e-6  # a constant map lands in the middle
    return torch.where(flat, low - 0.5, low), torch.where(flat, low + 0.5, top)


@lru_cache(maxsize=4)
def _colours(name: str) -> Tensor:
    from matplotlib import colormaps  # a third of a second

    return torch.tensor(colormaps[name](np.linspace(0, 1, 256))[:, :3], dtype=torch.float32)


def _coloured(position: Tensor, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    """[N, 1, H, W] in [0, 1] -> [N, 3, H, W] in [-1, 1] through a stretch of a matplotlib colour map."""
    index = ((position.clamp(0, 1) * (high - low) + low) * 255).round().long()
    return _colours(name)[index[:, 0]].movedim(-1, 1) * 2 - 1
