"""Maps with holes at another size: only pixels that have a value say what a pixel of the result is.

NaN in any channel means that a pixel has no value. Resampling it as a number would spread over its neighbours; here every
pixel of the result is the mean of the valid pixels that the antialiased filter reaches, weighted by that filter, and has
no value itself where fewer than half of that weight is valid.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 0.5     # share of a pixel's weight that must be valid


def valid(values: Tensor) -> Tensor:
    """Where a map [..., C, H, W] has a value: bool [..., 1, H, W]."""
    return torch.isfinite(values).all(-3, keepdim=True)


def resize_map(values: Tensor, size: tuple[int, int], intrinsic: str) -> Tensor:
    """A map [C, H, W] -> [C, h, w], bilinear and antialiased over its valid pixels.

    Args:
        values: float, NaN where there is no value
        size: (h, w)
        intrinsic: "normal" is brought back to unit length; vectors that cancel out become NaN
    """
    if tuple(values.shape[1:]) == tuple(size):
        return values.clone()
    known = valid(values)
    mean = _resample(torch.where(known, values, 0.0), size)
    if not known.all():
        weight = _resample(known.to(values.dtype), size)
        mean = torch.where(weight >= LEAST, mean / weight.clamp_min(LEAST), torch.nan)
    if intrinsic == "normal":
        length = mean.norm(dim=0, keepdim=True)
        mean = torch.where(length > 1e-4, mean / length.clamp_min(1e-4), torch.nan)
    return mean


def _resample(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
