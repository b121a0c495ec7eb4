"""`fit`: a photograph of any size as a network takes it, and the way back to the photograph's own size.

A latent-diffusion network works on sides that are multiples of 8 and knows best the size it was trained on (512 px for
Stable Diffusion 1.5). What is done about that decides what comes out, so it is one of three named policies. Resampling
is antialiased, on sRGB-encoded values, with pixel areas aligned (half-pixel centres), as Pillow's is.
"""
from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from generators._names import unknown

from ._photo import ImageError, Photo

POLICIES = {
    "resize": "the shorter side becomes `size`, the aspect stays, to the nearest multiple; size=None keeps the size",
    "square": "size × size whatever the aspect, as the paper's evaluation does",
    "native": "the size stays; reflected pixels fill up to the multiple at the right and at the bottom; `size` is not used",
}
# kind -> (filter, range or "unit" for unit vectors); every other kind: ("bilinear", None). A linear filter cannot overshoot.
_KINDS = {"normal": ("bilinear", "unit"), "depth": ("bilinear", None), "albedo": ("bicubic", (0.0, 1.0)),
          "shading": ("bicubic", (0.0, 1.0)), "image": ("bicubic", (-1.0, 1.0))}
_MOST = 1 << 25         # pixels: 5793 × 5793, far beyond what a latent-diffusion network has memory for
_FACING = (0.0, 0.0, -1.0)  # what faces the camera: where normals cancel out, the least wrong direction


@dataclass(frozen=True, eq=False)
class Fitted:
    """A photograph as the network sees it.

    Args:
        pixels: float32 [3, h, w] in [-1, 1], both sides multiples of what was asked
        inner: (h, w) of the part that shows the photograph, at the top left; the rest is padding
        original: (H, W) of the photograph
        policy: how it was done
        name: the photograph's
    """

    pixels: Tensor
    inner: tuple[int, int]
    original: tuple[int, int]
    policy: str
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of what the network sees."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def restore(self, values: Tensor, kind: str) -> Tensor:
        """A map of what the network saw -> the map of the photograph.

        Args:
            values: [1, C, h, w], of `size`, on any device. NaN spreads to every pixel that it is interpolated to
            kind: "normal": [x, y, z], interpolated and brought back to unit length; "depth": interpolated linearly, so
                that no value lies outside those around it; "albedo", "shading": [0, 1], cubic and clamped; "image":
                [-1, 1], cubic and clamped; any other name: linear, as it is

        Returns float32 [1, C, H, W] on the same device; never a view of `values`. Raises ValueError for another shape.
        """
        if values.ndim != 4 or len(values) != 1 or tuple(values.shape[2:]) != self.size:
            raise ValueError(f"values: expected a map [1, C, {self.size[0]}, {self.size[1]}] of {self.name} as it was fitted, "
                             f"got shape {list(values.shape)}")
        mode, ends = _KINDS.get(kind, ("bilinear", None))
        if ends == "unit" and values.shape[1] != 3:
            raise ValueError(f"values: normals have 3 channels, got shape {list(values.shape)}")
        shown = values[..., :self.inner[0], :self.inner[1]].float()
        if self.inner == self.original:
            out = shown.clone(memory_format=torch.contiguous_format)
        else:
            out = _resample(shown, self.original, mode)
        if ends == "unit":
            return _unit_(out)
        return out if ends is None else out.clamp_(*ends)


def fit(photo: Photo, multiple: int = 8, size: int | None = 512, policy: str = "resize") -> Fitted:
    """Brings a photograph to a size that a network takes.

    Args:
        photo: of `read_image`
        multiple: of which both sides shall be: 8 for Stable Diffusion's VAE; more where its U-Net needs even grids
        size: of the shorter side, or of both for "square"; one that is no multiple becomes the nearest
        policy: "resize", "square" or "native": see POLICIES

    Raises ValueError for numbers that make no sense, UnknownNameError for another policy, ImageError for a photograph that
    would come out with more than 33 million pixels, as a long and thin one does.
    """
    used = size_used(size, multiple, policy)
    height, width = photo.size
    if policy == "native":
        _check_area(photo, _up(height, multiple), _up(width, multiple), "pass policy='resize' with a size")
        pixels, inner = _reflect(photo.pixels, _up(height, multiple), _up(width, multiple)), (height, width)
    else:
        if policy == "square":
            inner = (used, used)
        else:
            # Multiplied first: the shorter side is then `size` itself, and rounds alike whatever the photograph.
            sides = (height, width) if size is None else (side * int(size) / min(height, width) for side in photo.size)
            inner = tuple(_nearest(side, multiple) for side in sides)
        advice = {"square": "pass a smaller size", "resize": "pass a smaller size, or policy='square'"}[policy]
        _check_area(photo, *inner, advice)
        pixels = photo.pixels
        if inner != photo.size:
            pixels = _resample(pixels[None], inner, "bicubic")[0].clamp_(-1, 1)
    return Fitted(pixels, inner, photo.size, policy, photo.name)


def size_used(size: int | None, multiple: int, policy: str) -> int | None:
    """What `fit` makes of `size`: the nearest multiple, or None where each photograph decides. Raises what `fit` raises for its
    arguments."""
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES)
    if not _positive(multiple):
        raise ValueError(f"multiple: expected a whole number of at least 1, got {multiple!r}")
    if size is not None and (not _positive(size) or size < multiple):
        raise ValueError(f"size: expected a whole number of at least {multiple}, or None, got {size!r}; try size=512")
    if policy == "square" and size is None:
        raise ValueError("size: policy 'square' needs one; try size=512")
    return None if size is None or policy == "native" else _nearest(size, multiple)


def _nearest(side: float, multiple: int) -> int:
    return max(multiple, int(side / multiple + 0.5) * multiple)


def _check_area(photo: Photo, height: int, width: int, advice: str) -> None:
    if height * width > _MOST:
        raise ImageError(f"{photo.name}: its {photo.size[0]}×{photo.size[1]} pixels would become {height}×{width}, expected at "
                         f"most {_MOST:,} in all; {advice}, or crop it")


def _positive(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _resample(values: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(values, size, mode=mode, align_corners=False, antialias=True)


def _reflect(pixels: Tensor, height: int, width: int) -> Tensor:
    """Grows [C, H, W] to the right and down by mirrored pixels, the edge not repeated, as often as it takes."""
    for dim, side in ((1, height), (2, width)):
        have = pixels.shape[dim]
        if side > have:
            back = torch.arange(have, side) % (2 * have - 2)
            pixels = torch.cat([pixels, pixels.index_select(dim, torch.minimum(back, 2 * have - 2 - back))], dim)
    return pixels


def _unit_(normals: Tensor) -> Tensor:
    """Normalises [1, 3, H, W] in place; vectors that cancelled out face the camera."""
    length = torch.linalg.vector_norm(normals, dim=1, keepdim=True)
    lost = length < 1e-4
    normals /= length.clamp_min_(1e-4)
    if lost.any():
        normals.copy_(torch.where(lost, normals.new_tensor(_FACING)[:, None, None], normals))
    return normals
