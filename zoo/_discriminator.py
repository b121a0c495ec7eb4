"""The discriminator that the StyleGAN recipes train against (residual, StyleGAN2 section 4.1; minibatch statistic from
Karras et al. 2018, section 3). Its stem folds 2×2 pixels into channels: at 64 px that halves the cost and loses nothing."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GAIN = math.sqrt(2)


class Discriminator(nn.Module):
    """image: float [N, 3, H, W] in [-1, 1] -> realness logits [N].

    Args:
        resolution: H = W, a power of two of at least 16
        channels: of the blocks, from the stem down to 4×4; their number must be log2(resolution) - 2
    """

    def __init__(self, resolution: int, channels: tuple[int, ...]):
        super().__init__()
        if resolution != 2 ** (len(channels) + 2):
            raise ValueError(f"channels: {len(channels)} widths lead from 4x4 to {2 ** (len(channels) + 2)} px, "
                             f"but resolution is {resolution}")
        self.stem = nn.Conv2d(12, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(_Down(a, b) for a, b in zip(channels[:-1], channels[1:], strict=True))
        width = channels[-1]
        self.conv = nn.Conv2d(width + 1, width, 3, padding=1)
        self.fc = nn.Linear(width * 16, width)
        self.out = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, std=_fan_in_gain(module.weight))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = _leaky_relu(self.stem(F.pixel_unshuffle(image, 2))) * _GAIN
        for block in self.blocks:
            x = block(x)
        x = _leaky_relu(self.conv(_append_deviation(x))) * _GAIN
        x = _leaky_relu(self.fc(x.flatten(1))) * _GAIN
        return self.out(x)[:, 0].float()

    def learning_rate_scales(self) -> dict[str, float]:
        """Equalised learning rates: Adam's step on a weight is scaled by the gain its initial value was given."""
        return {name: _fan_in_gain(p) if p.ndim > 1 else 1.0 for name, p in self.named_parameters()}


class PatchDiscriminator(nn.Module):
    """image: float [N, 3, H, W] in [-1, 1] -> realness logits [N, 1, H/8, W/8], one a patch (Isola et al. 2017, arXiv
    1611.07004, section 3.2.2), and the features on the way."""

    def __init__(self, channels: tuple[int, ...] = (48, 96, 128)):
        super().__init__()
        self.stem = nn.Conv2d(12, channels[0], 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1)
                                    for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in channels[1:])
        self.out = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = _leaky_relu(self.stem(F.pixel_unshuffle(image, 2)))
        features = [x]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = _leaky_relu(norm(layer(x)))
            features.append(x)
        return self.out(x).float(), features


class _Down(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv0 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = _leaky_relu(self.conv0(x)) * _GAIN
        y = _leaky_relu(self.conv1(F.avg_pool2d(y, 2)))       # gain sqrt 2 and the residual's sqrt 1/2 cancel
        return y + self.skip(F.avg_pool2d(x, 2)) * math.sqrt(0.5)


def _leaky_relu(x: Tensor) -> Tensor:
    """Slope 0.2. Compiled, as a sum: of the comparison inside `F.leaky_relu`, the CPU compiler would keep a mask of
    bools for the backward pass, and writes and reads one lane at a time (a third of a whole training step)."""
    return 0.6 * x + 0.4 * x.abs() if torch.compiler.is_compiling() else F.leaky_relu(x, 0.2)


def _fan_in_gain(weight: Tensor) -> float:
    return 1 / math.sqrt(weight[0].numel())


def _append_deviation(x: Tensor, group: int = 4) -> Tensor:
    """One more channel: the standard deviation over groups of samples, averaged over features and positions."""
    n, _, h, w = x.shape
    group = math.gcd(group, n)
    y = x.float().reshape(group, n // group, -1)
    deviation = (y.var(0, unbiased=False) + 1e-8).sqrt().mean(1)
    return torch.cat([x, deviation.to(x.dtype).repeat(group)[:, None, None, None].expand(n, 1, h, w)], 1)
