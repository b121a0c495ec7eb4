"""Paradigms: an albedo and a shading that belong to nothing, multiplied in linear light and photographed badly.

Regions that change the albedo alone (marks, tiles), the shading alone (creases, shadows) and both (one thing before another)
all occur: an edge says neither by itself.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.colour import linear_to_srgb
from ._albedo import colours, shades, textured
from ._shading import bulge, facets, lit
from ._shapes import Draw, coordinates, coverage, layers, patterns, voronoi

CELLS, FACETS, LAYERS, PATTERNS = 14, 5, 10, 3


@dataclass
class Paradigms:
    """A batch of them, linear light but for the image.

    Attributes:
        image: float [N, 3, H, W] in [0, 1], sRGB-encoded, blurred, noisy and clipped: what the network sees
        albedo: [N, 3, H, W] in (0, 1)
        shading: [N, 3, H, W], positive; beyond 1 where the exposure clips
    """

    image: Tensor
    albedo: Tensor
    shading: Tensor

    @property
    def product(self) -> Tensor:
        """albedo × shading, linear, before the camera: [N, 3, H, W]."""
        return self.albedo * self.shading


def sample_paradigms(n: int, size: int | tuple[int, int], rng: torch.Generator) -> Paradigms:
    """n paradigms of size × size pixels, or of (height, width). The same generator state gives the same paradigms."""
    size = (size, size) if isinstance(size, int) else size
    painted = Draw((n + 1) // 2, size, rng)
    albedo, shading = (x.reshape(painted.n, 3, *size) for x in _paint(painted))
    # every albedo comes a second time, under another's light and mirrored: painting is what takes the time
    albedo, shading = torch.cat((albedo, albedo.flip(3)))[:n], torch.cat((shading, shading.roll(1, 0)))[:n]
    draw = Draw(n, size, rng)
    light = albedo * shading
    bright = light.amax(1).flatten(1)[:, ::5].quantile(0.98, dim=1)          # a fifth of the pixels says it
    shading = shading * (draw.log_uniform(low=0.4, high=1.3) / bright)[:, None, None, None]
    return Paradigms(photograph(draw, albedo * shading), albedo, shading)


def _paint(draw: Draw) -> tuple[Tensor, Tensor]:
    """Albedo and shading [n, 3, P] each."""
    n, at = draw.n, coordinates(draw)
    texture = patterns(draw, at, PATTERNS)
    ground, relief = voronoi(draw, at, CELLS), voronoi(draw, at, FACETS)
    first, second = colours(draw, CELLS + LAYERS), colours(draw, CELLS + LAYERS)
    # in some images the colours change where the facets do, as from wall to wall
    together = draw.chance(0.55, 1, 1)
    second = shades(draw, first, second)
    a = torch.where(together, relief.paint(first[:, :FACETS]), ground.paint(first[:, :CELLS]))
    patterned = draw.chance(0.5, CELLS, 1).float()
    b = torch.where(together, relief.paint(torch.lerp(first, second, patterned_like(patterned, first))[:, :FACETS]),
                    ground.paint(torch.lerp(first[:, :CELLS], second[:, :CELLS], patterned)))
    albedo = textured(draw, a, b, texture[:, :1])
    normals = relief.paint(facets(draw, FACETS))
    normals = normals + draw.uniform(1, 1, high=0.5) * torch.cat((draw.field(2, 2), torch.zeros(n, 1, at.shape[-1])), 1)
    occlusion = torch.ones(n, 1, at.shape[-1])

    stack = layers(draw, at, LAYERS)
    number = draw.whole(LAYERS + 1)                                         # how many of them an image has
    paints = draw.chance(0.8, LAYERS)                                       # changes the albedo
    solid = draw.chance(0.4, LAYERS) & draw.chance(0.8, 1)                  # changes the normals
    plain = facets(draw, LAYERS)
    bend = draw.uniform(LAYERS, 2) * draw.chance(0.6, LAYERS, 2) * 1.25
    dark = draw.uniform(LAYERS, high=0.8) * solid
    reach = draw.log_uniform(LAYERS, low=0.03, high=0.3)
    pick = draw.whole(PATTERNS * 3, LAYERS)
    for i in range(LAYERS):
        here = (i < number)[:, None, None]
        distance = stack.distance[:, i:i + 1]
        cover = coverage(distance, draw.pixel) * here
        near = (-distance.clamp_min(0) / reach[:, i, None, None]).exp() * (1 - cover) * here
        occlusion = torch.lerp(occlusion * (1 - dark[:, i, None, None] * near), torch.ones(()), cover * solid[:, i, None, None])
        which = pick[:, i, None, None].clamp_max(PATTERNS - 1).expand(-1, 1, at.shape[-1])
        pattern = texture.gather(1, which) * (pick[:, i, None, None] < PATTERNS)
        colour = textured(draw, first[:, CELLS + i, :, None], second[:, CELLS + i, :, None], pattern)
        albedo = torch.lerp(albedo, colour, cover * paints[:, i, None, None])
        shape = bulge(plain[:, i, :, None], stack.inside[:, i], bend[:, i, :, None])
        normals = torch.lerp(normals, shape, cover * solid[:, i, None, None])
    return albedo, lit(draw, at, normals, occlusion)


def patterned_like(patterned: Tensor, first: Tensor) -> Tensor:
    return F.pad(patterned, (0, 0, 0, first.shape[1] - patterned.shape[1]))


def photograph(draw: Draw, light: Tensor) -> Tensor:
    """Linear light [n, 3, H, W] -> an sRGB image in [0, 1]: a slight blur, noise, block compression, clipping, 8 bits."""
    blur = draw.uniform(1, 1, 1).square() * 0.7
    light = torch.lerp(light, F.avg_pool2d(F.pad(light, (1, 1, 1, 1), "replicate"), 3, 1), blur)
    image = linear_to_srgb(light.clamp(0, 1))
    noise = draw.uniform(1, 1, 1).square() * 0.02
    image = image + noise * draw.normal(*image.shape[1:])
    return (compress(draw, image).clamp(0, 1) * 255).round() / 255


def compress(draw: Draw, image: Tensor) -> Tensor:
    """Rounds the cosine coefficients of 8×8 blocks in a third of the images, more the higher the frequency, as JPEG does."""
    height, width = (s // 8 * 8 for s in image.shape[-2:])
    k = torch.arange(8)
    basis = (torch.pi / 8 * (k + 0.5) * k[:, None]).cos() * 0.5
    basis[0] *= 0.5**0.5
    blocks = image[..., :height, :width].unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    step = (draw.uniform(1, 1, 1, 1, 1).square() * 0.06).clamp_min(1e-4) * (1 + 0.4 * (k + k[:, None]))
    coefficients = basis @ blocks @ basis.T
    rounded = basis.T @ ((coefficients / step).round() * step) @ basis
    rounded = rounded.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    out = image.clone()
    out[..., :height, :width] = torch.where(draw.chance(0.33, 1, 1, 1), rounded, out[..., :height, :width])
    return out
