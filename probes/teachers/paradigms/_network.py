"""The network that takes a paradigm apart: a small residual U-Net that says whose every edge is, and an exact integration.

Between neighbouring pixels the log shading changes by d = g · d log b, b the image's brightness, with the share g from the
U-Net. Retinex is g in {0, 1} by a threshold. A soft Retinex is where this starts from; what stands around an edge then decides.
The shading is the field whose differences are nearest to these, and which is itself no further from even light than it must:

    minimise over log s   Σ |∇ log s - d|² + λ / min(H, W)² · Σ (log s)²

a screened Poisson equation, solved exactly in the cosine basis. The second term matters where surface and light change at one
edge (a thing before a wall): the step there is anyone's guess, and without it every wrong guess is carried across the picture.
A U-Net that may also guess the large-scale light itself does better on paradigms and worse on scenes: such guesses do not carry
over. The albedo is the image over the shading.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.colour import srgb_to_linear
from .._retinex import _cosine_basis, _eigenvalues
from .._scenes_net import Residual

MULTIPLE = 16           # what the four levels fold away; other sizes are padded inside
FLOOR = 1 / 255         # linear light below which a pixel says nothing about ratios
# of the start: the change of log chromaticity (as in Grosse et al. 2009) and of log brightness that halves g, and its most
CHROMATICITY, BRIGHTNESS, MOST = 0.075, 0.6, 0.9
NEARNESS = 5.0          # λ


def log_light(image: Tensor) -> Tensor:
    """sRGB-encoded image [N, 3, H, W] in [0, 1] -> log linear light, not below log FLOOR."""
    return srgb_to_linear(image.clamp(0, 1)).clamp_min(FLOOR).log()


class ParadigmsNet(nn.Module):
    """image: float [N, 3, H, W] in [0, 1], sRGB-encoded, 16 pixels or more a side -> log shading [N, 1, H, W] of mean zero.

    Its mean says nothing: no picture tells how bright its lamp was.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 112, 144), detail: int = 16):
        super().__init__()
        self.stem = nn.Conv2d(44, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.encode = nn.ModuleList(Residual(w) for w in widths)
        self.bottom = nn.Sequential(Residual(widths[-1]), Residual(widths[-1]))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.decode = nn.ModuleList(Residual(w) for w in widths[:-1])
        self.to_detail = nn.Conv2d(widths[0], detail, 1)
        self.from_image = nn.Conv2d(11, detail, 3, padding=1)
        self.norm = nn.GroupNorm(4, detail)             # without it the last activation dies within a few hundred steps
        self.mix = nn.Conv2d(detail, detail, 3, padding=1)
        self.head = nn.Conv2d(detail, 2, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)     # not zero: Adam would amplify what little reaches the layers below
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        light = log_light(image)
        brightness = light.mean(1, keepdim=True)
        height, width = image.shape[-2:]
        starts, cues, changes = [], [], []
        for axis, pad in ((2, (0, 0, 0, 1)), (3, (0, 1, 0, 0))):
            change = F.pad(brightness.diff(dim=axis), pad)
            colour = F.pad((light - brightness).diff(dim=axis), pad).square().sum(1, keepdim=True)
            start = MOST / (1 + colour / CHROMATICITY**2 + (change / BRIGHTNESS).square())
            starts, cues, changes = [*starts, start], [*cues, 2 * start - 1, (4 * change).clamp(-2, 2)], [*changes, change]
        seen = torch.cat((image - 0.5, (light - brightness) * 0.7, brightness * 0.5 + 1, *cues), 1)    # each about [-1, 1]
        raw = self.edges(F.pad(seen, (0, -width % MULTIPLE, 0, -height % MULTIPLE), "reflect"))[..., :height, :width].float()
        d_rows, d_columns = ((starts[i] + raw[:, i:i + 1]) * changes[i] for i in range(2))
        with torch.autocast(image.device.type, enabled=False):
            return integrate(d_rows[:, :, :-1], d_columns[..., :-1], NEARNESS / min(height, width) ** 2)

    def edges(self, seen: Tensor) -> Tensor:
        """What g differs by from its start, [N, 2, H, W]: between rows and between columns."""
        x, kept = self.stem(F.pixel_unshuffle(seen, 2)), []
        for i, block in enumerate(self.encode):
            x = block(x)
            if i < len(self.down):
                kept.append(x)
                x = self.down[i](x)
        x = self.bottom(x)
        for i in reversed(range(len(self.up))):
            x = self.decode[i](kept[i] + F.interpolate(self.up[i](x), scale_factor=2, mode="bilinear"))
        x = F.interpolate(self.to_detail(x), scale_factor=2, mode="bilinear") + self.from_image(seen)
        return self.head(F.silu(self.mix(F.silu(self.norm(x)))))


def integrate(d_rows: Tensor, d_columns: Tensor, nearness: float) -> Tensor:
    """The field whose differences are nearest to `d_rows` [N, 1, H-1, W] and `d_columns` [N, 1, H, W-1], and which itself,
    `nearness` times as much, is near zero; all in the least-squares sense. Its mean is zero."""
    height, width = d_columns.shape[-2], d_rows.shape[-1]
    divergence = (F.pad(d_rows, (0, 0, 1, 0)) - F.pad(d_rows, (0, 0, 0, 1))
                  + F.pad(d_columns, (1, 0)) - F.pad(d_columns, (0, 1)))
    rows, columns = (_cosine_basis(n).to(divergence) for n in (height, width))
    eigenvalues = _eigenvalues(height).to(divergence)[:, None] + _eigenvalues(width).to(divergence)[None]
    field = rows.T @ (rows @ divergence @ columns.T / (eigenvalues + nearness)) @ columns
    return field - field.mean((1, 2, 3), keepdim=True)      # zero but for rounding, which a small nearness enlarges
