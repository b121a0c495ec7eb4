"""The regions of a paradigm: cells and layered polygons and ellipses, antialiased, for a whole batch at once.

Coordinates run over [-1, 1] along the shorter side, x right and y down. Every image bends its own coordinates a little, so
that edges are curves; a region's signed distance is negative inside, in the same unit. P is the number of pixels.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class Draw:
    """Random numbers for a batch of `n` images of `size` = (height, width), from one generator."""

    def __init__(self, n: int, size: tuple[int, int], rng: torch.Generator):
        self.n, self.size, self.rng = n, size, rng
        self.pixel = 2 / min(size)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[n, *shape]."""
        return torch.rand(self.n, *shape, generator=self.rng) * (high - low) + low

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return (self.uniform(*shape) * math.log(high / low) + math.log(low)).exp()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.rng)

    def chance(self, probability: float, *shape: int) -> Tensor:
        return self.uniform(*shape) < probability

    def whole(self, high: int, *shape: int) -> Tensor:
        """Integers below `high`."""
        return torch.randint(high, (self.n, *shape), generator=self.rng)

    def direction(self, *shape: int) -> Tensor:
        """Unit vectors of the plane [n, *shape, 2]."""
        angle = self.uniform(*shape, high=2 * math.pi)
        return torch.stack((angle.cos(), angle.sin()), -1)

    def field(self, grid: int, channels: int = 1) -> Tensor:
        """Smooth noise of about unit deviation [n, channels, P], `grid` bumps along the shorter side."""
        shape = [max(2, round(grid * s / min(self.size))) for s in self.size]
        coarse = torch.randn(self.n, channels, *shape, generator=self.rng)
        return F.interpolate(coarse, self.size, mode="bicubic", align_corners=False).flatten(2)


def coordinates(draw: Draw) -> Tensor:
    """The bent coordinates [n, 2, P]; a third of the images keep straight ones."""
    height, width = draw.size
    y, x = (((torch.arange(s) + 0.5) - s / 2) * draw.pixel for s in (height, width))
    grid = torch.stack((x.repeat(height), y.repeat_interleave(width)))
    bend = draw.uniform(1, 1, high=0.09) * ~draw.chance(0.33, 1, 1)
    return grid + bend * draw.field(4, 2)


def coverage(distance: Tensor, pixel: float) -> Tensor:
    """Signed distance -> how much of a pixel is inside, [0, 1]."""
    return (0.5 - distance / pixel).clamp(0, 1)


@dataclass
class Cells:
    """A plane cut into cells: the nearest cell, the next one, and how much of the pixel the nearest covers, all [n, P]."""

    first: Tensor
    second: Tensor
    share: Tensor

    def paint(self, values: Tensor) -> Tensor:
        """Values of the cells [n, K, C] -> [n, C, P]."""
        channels = values.shape[-1]
        a, b = (values.gather(1, i[..., None].expand(-1, -1, channels)).transpose(1, 2) for i in (self.first, self.second))
        return torch.lerp(b, a, self.share[:, None])


def voronoi(draw: Draw, at: Tensor, most: int) -> Cells:
    """Between one and `most` cells around random sites, stretched at random (so some are bands)."""
    count = draw.log_uniform(low=1, high=most + 0.99).long()
    sites = draw.uniform(most, 2, low=-1.2, high=1.2)
    stretch = draw.log_uniform(1, low=1, high=4) ** 0.5
    turn = draw.direction()[:, :, None]                     # [n, 2, 1]
    axes = torch.stack((torch.cat((turn[:, 0], -turn[:, 1]), 1), torch.cat((turn[:, 1], turn[:, 0]), 1)), 1)
    axes = axes * torch.stack((stretch, 1 / stretch), 1)
    s = sites @ axes.transpose(1, 2)
    site = -2 * s @ axes
    # squared distance, but for what all sites share
    away = affine(site[..., 0], site[..., 1], s.square().sum(-1), at)
    away = away.masked_fill((torch.arange(most) >= count[:, None])[..., None], 1e4)
    near, index = away.topk(2, dim=1, largest=False)
    between = (s.gather(1, index[:, :1].transpose(1, 2).expand(-1, -1, 2))
               - s.gather(1, index[:, 1].unsqueeze(-1).expand(-1, -1, 2))).norm(dim=-1)
    distance = (near[:, 1] - near[:, 0]) / (2 * between).clamp_min(1e-3)
    return Cells(index[:, 0], index[:, 1], (0.5 + distance / draw.pixel).clamp(0, 1))


def affine(a: Tensor, b: Tensor, c: Tensor, at: Tensor) -> Tensor:
    """a x + b y + c of [n, ...] coefficients at [n, 2, P] -> [n, ..., P]; several times faster than a product of matrices
    three wide."""
    x, y = (v.reshape(len(at), *[1] * (a.dim() - 1), -1) for v in at.unbind(1))
    return torch.addcmul(c[..., None], a[..., None], x).addcmul_(b[..., None], y)


@dataclass
class Layers:
    """Regions laid one over the other: signed distance [n, M, P] and coordinates inside, [n, M, 2, P], about [-1, 1]."""

    distance: Tensor
    inside: Tensor


def layers(draw: Draw, at: Tensor, count: int, smallest: float = 0.05, largest: float = 1.2, thin: float = 0.25) -> Layers:
    """`count` ellipses, rectangles and convex polygons of up to six sides; a share `thin` of them are strips of a pixel or
    a few."""
    m, sides = count, 6
    centre = draw.uniform(m, 2, low=-1.15, high=1.15)
    radius = draw.log_uniform(m, low=smallest, high=largest)
    aspect = draw.log_uniform(m, low=0.3, high=1.0)
    strips = draw.chance(thin, m)
    narrow = draw.log_uniform(m, low=0.6, high=3.0) * draw.pixel
    half = torch.stack((radius, torch.where(strips, narrow.minimum(radius), radius * aspect)), -1)    # [n, m, 2]
    turn = draw.direction(m)
    upright = draw.chance(0.35, m, 1)
    turn = torch.where(upright, torch.tensor([1.0, 0.0]), turn)
    across = torch.stack((-turn[..., 1], turn[..., 0]), -1)
    axes = torch.stack((turn, across), -2) / half[..., None]                                          # [n, m, 2, 2]
    shift = -(axes @ centre[..., None])                                                               # [n, m, 2, 1]
    inside = affine(axes[..., 0], axes[..., 1], shift[..., 0], at)
    radii = inside[:, :, 0].square().addcmul_(inside[:, :, 1], inside[:, :, 1]).clamp_min_(1e-6).sqrt_()
    ellipse = (radii - 1) * half.amin(-1)[..., None]
    # a rectangle is a polygon whose six sides lie in four directions
    angle = ((torch.arange(sides) + draw.uniform(m, sides, low=-0.35, high=0.35)) / sides + draw.uniform(m, 1)) * 2 * math.pi
    normals = torch.stack((angle.cos(), angle.sin()), -1)                                             # of the local frame
    reach = draw.uniform(m, sides, low=0.5, high=1.0)
    box = (draw.chance(0.5, m) | strips)[..., None]
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1], [1, 0], [0, 1]])
    normals, reach = torch.where(box[..., None], square, normals), torch.where(box, 1.0, reach)
    # in the local frame, then to picture units: the side's plane over the length of its gradient
    planes = torch.cat((normals @ axes, normals @ shift - reach[..., None]), -1)
    planes = planes / planes[..., :2].norm(dim=-1, keepdim=True)
    polygon = affine(*planes[:, :, 0].unbind(-1), at)
    for side in range(1, sides):
        torch.maximum(polygon, affine(*planes[:, :, side].unbind(-1), at), out=polygon)
    round_ = (draw.chance(0.4, m) & ~strips)[..., None]
    return Layers(torch.where(round_, ellipse, polygon), inside)


def patterns(draw: Draw, at: Tensor, count: int) -> Tensor:
    """Textures between two colours, [n, count, P] in [0, 1]: stripes, checks, dots, speckle, planks, marks like script.

    Half of them lie on a plane that recedes, as a tiled floor does.
    """
    n, k = draw.n, count
    angle = draw.uniform(k, high=2 * math.pi)
    turn = torch.stack((torch.stack((angle.cos(), -angle.sin()), -1), torch.stack((angle.sin(), angle.cos()), -1)), -2)
    frequency = draw.log_uniform(k, 1, 1, low=1.0, high=0.22 / draw.pixel)
    uv = affine(turn[..., 0], turn[..., 1], torch.zeros(n, k, 2), at)
    recede = draw.direction(k) * (draw.uniform(k, 1, high=0.6) * draw.chance(0.5, k, 1))
    depth = affine(recede[..., 0], recede[..., 1], torch.ones(n, k), at)[:, :, None].clamp_min(0.2)
    uv = uv / depth * frequency + draw.uniform(k, 2, 1, high=8)
    grid = uv.reshape(n * k * 2, 1, *draw.size)
    width = (F.pad(grid.diff(dim=3), (0, 1, 0, 0), "replicate").abs()
             + F.pad(grid.diff(dim=2), (0, 0, 0, 1), "replicate").abs()).reshape(n, k, 2, -1)
    duty = draw.uniform(k, 1, 1, low=0.25, high=0.75)
    wave = 0.5 + (duty / 2 - (uv.frac() - 0.5).abs()) / width.clamp_min(1e-4)
    wave = torch.where(width < 0.7, wave, duty).clamp(0, 1)             # finer than a pixel: its mean
    a, b = wave.unbind(2)
    table = torch.rand(n * k, 1, 32, 32, generator=draw.rng)
    spots = F.grid_sample(table, (uv / 8 - 0.5).frac().mul(2).sub(1).permute(0, 1, 3, 2).reshape(n * k, *draw.size, 2),
                          padding_mode="reflection", align_corners=True).reshape(n, k, -1)
    speckle, marks = ((spots - 0.5) * 3 + 0.5).clamp(0, 1), ((spots - 0.55) * 6).clamp(0, 1) * a
    board = (uv[:, :, 0] + 0.5).floor()                                # every board its own shade, as in a wooden floor
    planks = torch.lerp((board * 12.9898).sin().mul(43758.5453).frac().abs(), b, 0.15 * draw.uniform(k, 1))
    kind = draw.whole(6, k, 1)
    out = torch.where(kind == 0, a, a + b - 2 * a * b)
    out = torch.where(kind == 2, a * b, out)
    out = torch.where(kind == 3, speckle, out)
    out = torch.where(kind == 4, marks, out)
    return torch.where(kind == 5, planks, out)
