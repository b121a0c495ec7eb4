"""The network of the scenes world's teacher: a small residual U-Net with one head for all four intrinsics."""
from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..data.scenes import DEPTH_RANGE

_LOG = (math.log(DEPTH_RANGE[0]), math.log(DEPTH_RANGE[1]))


def encode_depth(depth: Tensor) -> Tensor:
    """Metres -> [-1, 1], logarithmic between the ends of DEPTH_RANGE."""
    return (depth.clamp(*DEPTH_RANGE).log() - _LOG[0]) / (_LOG[1] - _LOG[0]) * 2 - 1


def decode(raw: Tensor) -> dict[str, Tensor]:
    """The head's 8 channels -> physical maps: unit normals, metres, sRGB-encoded albedo and shading in [0, 1]."""
    raw = raw.float()
    depth = ((raw[:, 3:4].clamp(-1, 1) + 1) / 2 * (_LOG[1] - _LOG[0]) + _LOG[0]).exp()
    return dict(normal=F.normalize(raw[:, :3], dim=1), depth=depth, albedo=(raw[:, 4:7].clamp(-1, 1) + 1) / 2,
                shading=(raw[:, 7:8].clamp(-1, 1) + 1) / 2)


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width)
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(F.silu(self.conv0(F.silu(self.norm(x)))))


class ScenesNet(nn.Module):
    """image: float [N, 3, H, W] in [-1, 1], H and W multiples of 16 -> raw maps [N, 8, H, W] (see `decode`).

    Half the resolution inside (2×2 pixels folded into channels), four levels down; the full-resolution head sees the
    image again, and upsampling is bilinear with a convolution, so that no pixel-shuffle grid shows.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 96, 128, 160), detail: int = 24):
        super().__init__()
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.encode = nn.ModuleList(Residual(w) for w in widths)
        self.bottom = nn.Sequential(Residual(widths[-1]), Residual(widths[-1]))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.decode = nn.ModuleList(Residual(w) for w in widths[:-1])
        self.to_detail = nn.Conv2d(widths[0], detail, 1)
        self.from_image = nn.Conv2d(3, detail, 3, padding=1)
        self.mix = nn.Conv2d(detail, detail, 3, padding=1)
        self.head = nn.Conv2d(detail, 8, 3, padding=1)

    def features(self, image: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """The deepest features, float [N, 160, H / 16, W / 16]; `kept` collects what the way up needs."""
        x = self.stem(F.pixel_unshuffle(image, 2))
        for i, block in enumerate(self.encode):
            x = block(x)
            if i < len(self.down):
                if kept is not None:
                    kept.append(x)
                x = self.down[i](x)
        return self.bottom(x)

    def forward(self, image: Tensor) -> Tensor:
        kept: list[Tensor] = []
        x = self.features(image, kept)
        for i in reversed(range(len(self.up))):
            x = self.decode[i](kept[i] + F.interpolate(self.up[i](x), scale_factor=2, mode="bilinear"))
        x = F.interpolate(self.to_detail(x), scale_factor=2, mode="bilinear") + self.from_image(image)
        return self.head(F.silu(self.mix(F.silu(x))))
