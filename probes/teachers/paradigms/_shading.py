"""Shading paradigms: what light does to uncoloured surfaces that are smooth but for creases.

A field of normals (flat facets, bulges, cylinders, soft bumps) is lit by one lamp at a finite distance and by the room:

    shading = ambient · occlusion + lamp · shadow · max(0, n · l) / distance^p

with cast shadows soft and hard, darker creases, and vignetting. Lamp and room may be tinted a little; the shading that the
network must tell is the mean over the channels.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ._shapes import Draw, coverage, layers

DIMMEST = 0.02


def facets(draw: Draw, count: int) -> Tensor:
    """Normals of flat facets, unit [n, count, 3], frame x right, y down, z towards the viewer negative."""
    tilt = draw.normal(count, 2) * draw.uniform(1, 1, low=0.1, high=1.0)
    return unit(torch.cat((tilt, -torch.ones(draw.n, count, 1)), -1), -1)


def bulge(flat: Tensor, inside: Tensor, bend: Tensor) -> Tensor:
    """Normals over a region [n, 3, P]: its facet's [n, 3, 1], bent outwards with the position inside by `bend` [n, 2, 1]:
    (0, 0) leaves it flat, (1, 0) makes a cylinder, (1, 1) a ball."""
    tilt = inside.clamp(-1, 1) * bend * 0.97
    depth = (1 - tilt.square().sum(1, keepdim=True)).clamp_min(0.03).sqrt()
    return unit(torch.cat((tilt, -depth), 1) + flat * torch.tensor([1.0, 1.0, 0.0])[:, None], 1)


def lit(draw: Draw, at: Tensor, normals: Tensor, occlusion: Tensor) -> Tensor:
    """Linear shading of three channels [n, 3, P], its brightest percent near 1.

    Args:
        at: coordinates [n, 2, P]
        normals: [n, 3, P], any length
        occlusion: share of the room's light that arrives, [n, 1, P]
    """
    rough = draw.uniform(1, 1, high=0.35) * draw.chance(0.5, 1, 1)
    bumps = torch.cat((draw.field(6, 2), torch.zeros_like(occlusion)), 1)
    normals = unit(normals + rough * bumps, 1)
    lamp = torch.cat((draw.uniform(2, 1, low=-2.2, high=2.2), -draw.log_uniform(1, 1, low=0.5, high=3.0)), 1)
    towards = torch.cat((lamp[:, :2] - at, lamp[:, 2:].expand_as(occlusion)), 1)
    distance = towards.square().sum(1, keepdim=True).sqrt()
    cosine = ((normals * towards).sum(1, keepdim=True) / distance)
    wrap = draw.uniform(1, 1, high=0.25)                    # large lamps reach a little round the corner
    direct = ((cosine + wrap) / (1 + wrap)).clamp_min(0) / distance ** draw.uniform(1, 1, high=1.5)
    direct = direct / direct.amax(2, keepdim=True).clamp_min(1e-3) * shadows(draw, at)
    ambient = draw.log_uniform(1, 1, low=0.15, high=3.0) * occlusion        # rooms are light: most shadows are not black
    tint = draw.normal(2, 3, 1) * draw.uniform(1, 1, 1, high=0.06)
    warm, cool = (tint - tint.mean(2, keepdim=True)).exp().unbind(1)
    light = ambient * cool + direct * warm
    waves = draw.uniform(1, 1, high=0.12) * draw.field(3)
    radius = (at - draw.uniform(2, 1, low=-0.5, high=0.5)).square().sum(1, keepdim=True)
    vignette = draw.uniform(1, 1, high=0.25) * draw.chance(0.4, 1, 1) * radius
    light = light * (waves - vignette).exp()
    top = light.mean(1).flatten(1)[:, ::5].quantile(0.99, dim=1)[:, None, None]
    return (light / top).clamp_min(DIMMEST)


def shadows(draw: Draw, at: Tensor, most: int = 3) -> Tensor:
    """Share of the lamp that arrives [n, 1, P]: cast shadows with edges from a pixel wide to a fifth of the picture."""
    cast = layers(draw, at, most, smallest=0.15, largest=1.0, thin=0.1).distance
    soft = draw.log_uniform(1, 1, low=1.5 * draw.pixel, high=0.5) * draw.log_uniform(most, 1, low=0.6, high=1.6)
    inside = coverage(cast / soft.clamp_min(draw.pixel), 1.0)
    inside = inside * inside * (3 - 2 * inside)
    present = draw.chance(0.4, most, 1) & draw.chance(0.6, 1, 1)
    depth = draw.uniform(most, 1, low=0.3, high=1.0) * present
    return (1 - inside * depth).amin(1, keepdim=True)


def unit(x: Tensor, dim: int) -> Tensor:
    return x * x.square().sum(dim, keepdim=True).clamp_min(1e-8).rsqrt()
