"""Frames of surface normals: which way the axes point, conversions between those in use, and a check that a map is in its own.

A normal is a unit vector perpendicular to the surface, in camera coordinates. Papers and files disagree on the signs of
the axes, and no file says which were meant; every frame here is `omnidata`'s with some axes negated:

| frame | x | y | z | a wall that faces the camera | a floor | used by |
| --- | --- | --- | --- | --- | --- | --- |
| omnidata | right | down | forward | (0, 0, -1) | (0, -1, 0) | Omnidata-v2 (decoded 2x - 1), and everything in this project |
| opengl | right | up | backward | (0, 0, 1) | (0, 1, 0) | DIODE's raw files, Marigold, Hypersim's camera normals |
| dsine | left | up | backward | (0, 0, 1) | (0, 1, 0) | DSINE, Lotus, Bae et al. 2021: `omnidata` negated |
| 2d3ds | right | down | backward | (0, 0, 1) | (0, -1, 0) | 2D-3D-S and the files of the Omnidata starter set; left-handed |
| pytorch3d | left | up | forward | (0, 0, -1) | (0, 1, 0) | PyTorch3D's cameras |

    normals = Normals(values, "opengl").to("omnidata")
    report = self_check(normals)                    # warns when surfaces face away, or floors do not look up
    normals = from_depth(depth, camera)             # of the back-projected surface
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol as Shape

import torch
from torch import Tensor

from generators._names import unknown

FRAMES: dict[str, tuple[int, int, int]] = {      # signs of (x, y, z) against omnidata's
    "omnidata": (1, 1, 1),
    "opengl": (1, -1, -1),
    "dsine": (-1, -1, -1),
    "2d3ds": (1, 1, -1),
    "pytorch3d": (-1, -1, 1),
}


class Pinhole(Shape):
    """Focal lengths and principal point in pixels, half-pixel centres: the top left pixel's is (0.5, 0.5)."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, eq=False)
class Normals:
    """Unit vectors with the frame they are in.

    Args:
        values: float [3, H, W] or [N, 3, H, W]; NaN where there is no value
        frame: one of FRAMES

    Raises ValueError for another shape, UnknownNameError for another frame.
    """

    values: Tensor
    frame: str = "omnidata"

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise unknown("frame", self.frame, FRAMES)
        if self.values.ndim not in (3, 4) or self.values.shape[-3] != 3 or not self.values.is_floating_point():
            raise ValueError(f"normals: expected float [3, H, W] or [N, 3, H, W], got {self.values.dtype} "
                             f"{list(self.values.shape)}; images with the channels last need permute(2, 0, 1) first")

    def to(self, frame: str) -> Normals:
        """The same vectors in another frame."""
        if frame not in FRAMES:
            raise unknown("frame", frame, FRAMES)
        return Normals(self._signed(*(a * b for a, b in zip(FRAMES[self.frame], FRAMES[frame], strict=True))), frame)

    def flip_horizontal(self) -> Normals:
        """Of the mirrored image: columns in reverse, and x negated."""
        return replace(self, values=replace(self, values=self.values.flip(-1))._signed(-1, 1, 1))

    def resize(self, size: tuple[int, int]) -> Normals:
        """At another size (h, w): means of valid pixels, brought back to unit length."""
        from .data._resize import resize_map

        one = self.values.ndim == 3
        maps = [resize_map(x, size, "normal") for x in (self.values[None] if one else self.values)]
        return replace(self, values=maps[0] if one else torch.stack(maps))

    def as_rgb(self) -> Tensor:
        """(n + 1) / 2 in [0, 1], mid-grey where there is no value; the colours depend on the frame."""
        return torch.nan_to_num((self.values + 1) / 2, nan=0.5).clamp(0, 1)

    @classmethod
    def from_rgb(cls, rgb: Tensor, frame: str) -> Normals:
        """From values in [0, 1]: 2x - 1, brought to unit length.

        Vectors shorter than 1/2 (mid-grey, as files mark what they do not know) become NaN.
        Raises ValueError for values outside [0, 1].
        """
        known = rgb[torch.isfinite(rgb)]
        if known.numel() and not (known.min() >= 0 and known.max() <= 1):
            raise ValueError(f"rgb: expected values in [0, 1], got {known.min():.4g} … {known.max():.4g}; "
                             "divide 8-bit values by 255")
        vectors = cls(rgb * 2 - 1, frame).values
        length = vectors.norm(dim=-3, keepdim=True)
        return cls(torch.where(length >= 0.5, vectors / length.clamp_min(0.5), torch.nan), frame)

    def _signed(self, x: int, y: int, z: int) -> Tensor:
        return self.values * self.values.new_tensor((x, y, z)).view(3, 1, 1)


def from_depth(depth: Tensor, camera: Pinhole, step: int = 1, threshold: float = 0.05) -> Normals:
    """Normals of the surface that a depth map shows, in the frame `omnidata`.

    The inverse depth w = 1/Z of a plane is linear in the pixel (u, v): n·P = -c with P = Z·((u - cx)/fx, (v - cy)/fy, 1) gives

        n ∝ -(fx ∂w/∂u, fy ∂w/∂v, w - (u - cx) ∂w/∂u - (v - cy) ∂w/∂v)

    which is exact on planes, at any slant, and always faces the camera. Along each axis the slope is a central difference, or
    the one-sided one that bends less where a crease or an edge lies on the other side.

    Args:
        depth: float [1, H, W], z-depth; the unit cancels, zero, negative and NaN are no value
        camera: fx, fy, cx, cy in pixels of this map, half-pixel centres
        step: pixels between the samples of a difference; more is smoother, for depth from a sensor or from stereo
        threshold: a pixel where even the smoother side's second difference of w is above this share of w lies on a depth
            discontinuity and gets NaN; 0.05 by default

    Returns [3, H, W]; NaN also where neighbours without depth leave no slope. Raises ValueError for other shapes.
    """
    if depth.ndim != 3 or depth.shape[0] != 1:
        raise ValueError(f"depth: expected [1, H, W], got {list(depth.shape)}; take one map at a time, each with its camera")
    z = depth[0].double()
    w = torch.where(torch.isfinite(z) & (z > 0), 1 / z, torch.nan)
    du, dv = (_slope(w, dim, step, threshold) for dim in (1, 0))
    u = (torch.arange(w.shape[1], dtype=w.dtype, device=w.device) + 0.5 - camera.cx)[None]
    v = (torch.arange(w.shape[0], dtype=w.dtype, device=w.device) + 0.5 - camera.cy)[:, None]
    vector = -torch.stack([camera.fx * du, camera.fy * dv, w - u * du - v * dv])
    return Normals((vector / vector.norm(dim=0)).to(torch.promote_types(depth.dtype, torch.float32)))


def _slope(w: Tensor, dim: int, step: int, threshold: float) -> Tensor:
    """∂w along an axis, a pixel: the difference that bends least, the central one where it is among the better."""
    def at(k: int) -> Tensor:
        moved = torch.full_like(w, torch.nan)
        length = max(w.shape[dim] - abs(k), 0)
        moved.narrow(dim, max(-k, 0), length).copy_(w.narrow(dim, max(k, 0), length))
        return moved

    far_left, left, right, far_right = (at(k * step) for k in (-2, -1, 1, 2))
    slopes = torch.stack([(right - left) / 2, w - left, right - w]) / step
    bends = torch.stack([left - 2 * w + right, far_left - 2 * left + w, w - 2 * right + far_right]).abs().nan_to_num(torch.inf)
    sides = bends[1:].amin(0)
    central = bends[0] <= 2 * sides
    best = torch.where(central, 0, bends[1:].argmin(0) + 1)
    chosen, bend = slopes.gather(0, best[None])[0], torch.where(central, bends[0], sides)
    return torch.where(bend <= threshold * w, chosen, torch.nan)


@dataclass(frozen=True)
class FrameReport:
    """What `self_check` saw.

    Attributes:
        frame: the declared one
        pixels: with a value
        facing: share of them that face the ray they are seen along; 1 in the right frame
        up: in [-1, 1]: above zero, low pixels look up and high ones down; with depth: y goes with its slope
        right: in [-1, 1]: above zero, left pixels look right and right ones left; with depth: x goes with its slope
        unit: share of vectors whose length is within 2 % of 1
        shares: {frame: the `facing` that declaring it would have given}
        ok: nothing speaks against the declared frame
        likely: the known frame that fits best; None where none does
        text: a warning in one sentence; "" where all is well
    """

    frame: str
    pixels: int
    facing: float
    up: float
    right: float
    unit: float
    shares: dict[str, float]
    ok: bool
    likely: str | None
    text: str


FACING = 0.9            # least share of pixels facing their rays: teachers err near silhouettes, 8-bit files a little
MARGIN = 0.03           # frames whose shares are this close are not told apart by it
CLEAR = 0.05            # how far `up` and `right` must be from zero to count, seen in the picture alone
CLEAR_DEPTH = 0.3       # and where depth tells
FIELD_OF_VIEW = 60.0    # degrees along the longer side, where the camera is not known
_PATTERNS = tuple(product((1, -1), repeat=3))


def self_check(normals: Normals, camera: Pinhole | None = None, depth: Tensor | None = None) -> FrameReport:
    """Whether normals are in the frame that they are said to be in.

    A surface that is seen faces the ray it is seen along: n · ray < 0. Of the eight ways to sign the axes, in most pictures
    with walls and a floor one only has that at every pixel. Where several do (a wall seen head-on fits four), what is low
    should look up: floors do, in pictures taken upright. One object seen from outside, a face say, may have that the other way
    round: there, give depth, whose slopes tell y and x in any picture. Several maps at once tell more than one.

    Args:
        normals: [3, H, W] or [N, 3, H, W], in their declared frame
        camera: of these maps; a field of view of 60° along the longer side where it is not given
        depth: float [1, H, W] or [N, 1, H, W], z-depth of the same pixels, in any unit

    Raises ValueError where no pixel has a value, or depth has another shape.
    """
    n = normals.to("omnidata").values
    n = n[None] if n.ndim == 3 else n
    known = torch.isfinite(n).all(1)
    if not known.any():
        raise ValueError("normals: no pixel has a value; check the mask")
    length = n.norm(dim=1)[known]
    unit = float(((length - 1).abs() < 0.02).float().mean())
    up, right = (_lean(n[:, i], known, 2 - i) if depth is None else _agreement(n[:, i], depth, 2 - i) for i in (1, 0))
    facing = _facing(n, known, camera)
    shares = {name: facing[_relative(normals.frame, name)] for name in FRAMES}
    report = FrameReport(normals.frame, int(known.sum()), facing[1, 1, 1], up, right, unit, shares, True, normals.frame, "")
    if unit < 0.9:
        positive = bool(normals.values.nan_to_num(0).min() >= 0)
        advice = "they look like RGB that was not decoded: use Normals.from_rgb" if positive else "normalise them first"
        return replace(report, ok=False, likely=None,
                       text=f"normals: only {unit:.0%} of the vectors have unit length; {advice}")
    return _judged(report, facing, CLEAR if depth is None else CLEAR_DEPTH, depth is not None)


def _relative(declared: str, other: str) -> tuple[int, ...]:
    """Signs to put on vectors converted from `declared`, had they been in `other`."""
    return tuple(a * b for a, b in zip(FRAMES[declared], FRAMES[other], strict=True))


def _facing(n: Tensor, known: Tensor, camera: Pinhole | None) -> dict[tuple[int, ...], float]:
    """Share of pixels whose normal faces its ray, under each signing of the axes."""
    height, width = n.shape[2:]
    focal = max(height, width) / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
    fx, fy, cx, cy = (focal, focal, width / 2, height / 2) if camera is None else (camera.fx, camera.fy, camera.cx, camera.cy)
    x = n[:, 0] * ((torch.arange(width, device=n.device) + 0.5 - cx) / fx)
    y = n[:, 1] * ((torch.arange(height, device=n.device) + 0.5 - cy) / fy)[:, None]
    x, y, z = x[known], y[known], n[:, 2][known]
    return {(a, b, c): float((a * x + b * y + c * z < 0).float().mean()) for a, b, c in _PATTERNS}


def _lean(component: Tensor, known: Tensor, dim: int) -> float:
    """Half of what a component is larger by in the first third of an axis than in the last, over pixels with a value."""
    third = max(component.shape[dim] // 3, 1)
    ends = []
    for start in (0, component.shape[dim] - third):
        there = component.narrow(dim, start, third)[known.narrow(dim, start, third)]
        if not there.numel():
            return 0.0
        ends.append(float(there.mean()))
    return (ends[0] - ends[1]) / 2


def _agreement(component: Tensor, depth: Tensor, dim: int) -> float:
    """-Σ n ∂w / Σ |n ∂w| with w = 1/Z, away from depth edges: 1 where each pixel leans the way its depth recedes."""
    z = depth if depth.ndim == 4 else depth[None]
    if z.shape != (len(component), 1, *component.shape[1:]):
        raise ValueError(f"depth: expected [N, 1, H, W] of the normals' size {list(component.shape)}, got {list(depth.shape)}")
    w = torch.where(z[:, 0] > 0, 1 / z[:, 0], torch.nan).double()
    length = w.shape[dim] - 2
    change, here = w.narrow(dim, 2, length) - w.narrow(dim, 0, length), w.narrow(dim, 1, length)
    weighed = component.narrow(dim, 1, length) * change
    weighed = weighed[torch.isfinite(weighed) & (change.abs() < 0.1 * here)]
    total = float(weighed.abs().sum())
    return -float(weighed.sum()) / total if total else 0.0


def _judged(report: FrameReport, facing: dict[tuple[int, ...], float], clear: float, by_depth: bool) -> FrameReport:
    """Signings that leave (nearly) all pixels facing their rays, and that the votes do not contradict, are what it may be."""
    best = max(facing.values())
    possible = [s for s in _PATTERNS if facing[s] >= max(FACING, best - MARGIN)]
    if not possible:
        return replace(report, ok=False, likely=None, text=(
            f"normals: in the declared frame {report.frame} {report.facing:.0%} of pixels face the ray they are seen along, "
            f"and {best:.0%} however the axes are signed; they are perhaps in world coordinates, or their channels in another "
            "order"))
    agreeing = [s for s in possible if s[1] * report.up > -clear and (not by_depth or s[0] * report.right > -clear)]
    fits = agreeing or possible
    if (1, 1, 1) in fits:
        return report
    named = [name for name in FRAMES if _relative(report.frame, name) in fits]
    # Left pixels tend to look right, a weak sign: it only orders frames that all else leaves equal.
    named.sort(key=lambda name: -_relative(report.frame, name)[0] * report.right)
    wrong = (f"only {report.facing:.0%} of the pixels face the ray they are seen along" if (1, 1, 1) not in possible else
             "they lean against the slope of their depth" if by_depth else "they do not look up where floors are")
    if named:
        guess = f"they look like {' or '.join(named)}: declare that frame"
    else:
        axes = [a for a, sign in zip("xyz", max(fits, key=facing.__getitem__), strict=True) if sign < 0]
        guess = f"no known frame fits: {' and '.join(axes)} may be negated"
        guess += ", as in a mirrored picture" if axes == ["x"] else ""
    doubt = "" if by_depth or (1, 1, 1) not in possible else " (unless single objects are seen from outside: check with depth)"
    return replace(report, ok=False, likely=named[0] if named else None,
                   text=f"normals: in the declared frame {report.frame} {wrong}; {guess}{doubt}")
