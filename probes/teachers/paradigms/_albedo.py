"""Albedo paradigms: flat regions of few colours, as Mondrian painted them, some textured or drawn over with thin marks.

Land's assumption about surfaces: reflectance is constant but for sharp edges. Colours come from a palette of each image's
own; their spread follows what is known of surfaces: reflectances between about 0.03 (black paint) and 0.9 (fresh snow),
most of them greyish, some saturated.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ._shapes import Draw

DARKEST, LIGHTEST = 0.03, 0.92


def colours(draw: Draw, count: int) -> Tensor:
    """Linear reflectances [n, count, 3] in [DARKEST, LIGHTEST].

    An image is greyish or colourful as a whole, and dwells on a hue of its own to a degree of its own. Some of its colours are
    lighter and darker kin, of one chromaticity (planks, curtains, stone): chromaticity alone must not decide.
    """
    lightness = draw.uniform(count, low=0.2, high=1.0)                      # roughly as the eye spaces greys
    spread = draw.uniform(1, low=0.45, high=1.0)
    lightness = torch.lerp(draw.uniform(1, low=0.35, high=0.95), lightness, spread)
    own, hue = draw.normal(1, 3), draw.normal(count, 3)
    dwell = draw.uniform(1, 1, high=0.75)
    hue = torch.lerp(hue, own, dwell)
    hue = balanced(hue)
    saturation = draw.uniform(count, 1)
    kin = draw.chance(0.8, 1, 1) & (draw.uniform(count, 1) < draw.uniform(1, 1))
    hue, saturation = torch.where(kin, balanced(own), hue), torch.where(kin, saturation[:, :1], saturation)
    colourful = draw.uniform(1, 1) * saturation ** 0.7 * 1.3
    colour = lightness[..., None].pow(2.2) * (colourful * hue * 1.3).exp()
    return colour.clamp(DARKEST, LIGHTEST)


def balanced(hue: Tensor) -> Tensor:
    """Unit directions of mean zero, which change no lightness."""
    hue = hue - hue.mean(-1, keepdim=True)
    return hue / hue.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def shades(draw: Draw, first: Tensor, second: Tensor) -> Tensor:
    """The other colour of two-coloured regions [n, count, 3]: most of them a lighter or darker shade of the first, which only
    its repetition tells from shading; the others something between the first and `second`."""
    count = first.shape[1]
    factor = draw.log_uniform(count, 1, low=0.35, high=2.5)
    other = torch.lerp(first, second, draw.uniform(count, 1))
    return torch.where(draw.chance(0.6, count, 1), first * factor, other).clamp(DARKEST, LIGHTEST)


def textured(draw: Draw, colour: Tensor, other: Tensor, pattern: Tensor) -> Tensor:
    """Two colours, [n, 3, P] or [n, 3, 1], mixed by a pattern [n, 1, P] in [0, 1]."""
    return torch.lerp(colour, other, pattern)
