"""Fourier features and the layers of the alias-free synthesis network (StyleGAN3, figure 4b and appendix F).

A convolution whose weights are scaled per sample equals a shared convolution between two per-channel scalings, so no
weight is ever built per sample and the batch shares one convolution:

    y_o = d_o sum_i w_oi * (g s_i x_i),    d_o = 1 / sqrt(sum_i s_i^2 sum_k w_oik^2)

with s the styles, d the demodulation, and g = 1 / sqrt(E[x^2]) from a running mean: demodulation assumes inputs of unit
variance, and here nothing else sees to that (section 3.1, config D).
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ._config import InputGeometry, LayerGeometry
from ._filters import lowpass

_EPS = 1e-8
_SLOPE, _GAIN = 0.2, math.sqrt(2)


def full_precision(x: Tensor) -> torch.autocast:
    """Context in which autocast is off: for the few small products whose rounding would reach every pixel."""
    return torch.autocast(x.device.type, enabled=False)


class FourierInput(nn.Module):
    """Sines over an infinite plane, seen through a window that each w may rotate and shift, then mixed by a matrix.

    The affine gives (r_c, r_s, t_x, t_y): cosine and sine of the angle, normalised, and the translation.
    """

    def __init__(self, geometry: InputGeometry, w_dim: int) -> None:
        super().__init__()
        self.geometry = geometry
        self.affine = nn.Linear(w_dim, 4)
        self.weight = nn.Parameter(torch.empty(geometry.channels, geometry.channels))
        self.register_buffer("freqs", torch.zeros(geometry.channels, 2))
        self.register_buffer("phases", torch.zeros(geometry.channels))

    def forward(self, w: Tensor) -> Tensor:
        """w: [N, w_dim] -> [N, C, H, W] in w's dtype, channels last in memory."""
        geometry = self.geometry
        with full_precision(w):
            pose = self.affine(w)
            pose = pose / pose[:, :2].norm(dim=1, keepdim=True)
            cosine, sine, shift = pose[:, 0], pose[:, 1], pose[:, 2:]
            rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
            offset = -(rotation @ shift[:, :, None])                                    # [N, 2, 1]
            phases = self.phases + (self.freqs @ offset)[:, :, 0]                       # [N, C]
            freqs = self.freqs @ rotation                                               # [N, C, 2]
            # Rotation keeps the radius. What lies beyond the band fades out towards the Nyquist frequency.
            room = geometry.sampling_rate / 2 - geometry.bandwidth
            amplitudes = (1 - (self.freqs.norm(dim=1) - geometry.bandwidth) / room).clamp(0, 1)
            # sin(a + b) from the sines of columns and rows: W + H of them per feature, not W x H.
            a, b = (self._axis(axis, w)[:, None] * freqs[:, None, :, axis] for axis in (0, 1))
            a, b = 2 * math.pi * a, 2 * math.pi * (b + phases[:, None])
            x = a.sin()[:, None] * b.cos()[:, :, None] + a.cos()[:, None] * b.sin()[:, :, None]      # [N, H, W, C]
            return (x @ (self.weight * amplitudes).t()).permute(0, 3, 1, 2)

    def _axis(self, axis: int, like: Tensor) -> Tensor:
        """Positions of the samples along an axis, the image's centre at 0: [size]."""
        size = self.geometry.size[axis]
        samples = torch.arange(size, device=like.device, dtype=like.dtype)
        return (samples + 0.5 - size / 2) / self.geometry.sampling_rate


class SynthesisLayer(nn.Module):
    """Modulated convolution, bias, and the nonlinearity between an upsampling and a downsampling filter.

    As ToRGB: a modulated 1x1 convolution without demodulation and bias; the affine carries its gain 1/sqrt(in_channels).
    """

    def __init__(self, geometry: LayerGeometry, w_dim: int, magnitude_beta: float) -> None:
        super().__init__()
        self.geometry, self.magnitude_beta = geometry, magnitude_beta
        kernel = geometry.conv_kernel
        self.affine = nn.Linear(w_dim, geometry.in_channels)
        self.weight = nn.Parameter(torch.empty(geometry.out_channels, geometry.in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(geometry.out_channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        rate = geometry.activation_rate
        up = down = None
        if geometry.up_taps > 1:
            up = lowpass(geometry.up_taps, geometry.in_cutoff, geometry.in_half_width, rate)
        if geometry.down_taps > 1:
            down = lowpass(geometry.down_taps, geometry.out_cutoff, geometry.out_half_width, rate, geometry.down_radial)
        self.register_buffer("up_filter", up)
        self.register_buffer("down_filter", down)

    def forward(self, x: Tensor, w: Tensor, update_emas: bool = False) -> Tensor:
        """x: [N, I, H, W], w: [N, w_dim] -> [N, O, H', W'] in x's (or autocast's) dtype; ToRGB in w's."""
        if update_emas:
            self.update_magnitude(x)
        geometry = self.geometry
        if x.device.type == "cuda" and not torch.is_autocast_enabled("cuda"):
            x = x.to(torch.float16 if geometry.use_fp16 else w.dtype)
        return self._to_rgb(x, w) if geometry.is_torgb else self._layer(x, w)

    @torch.no_grad()
    def update_magnitude(self, x: Tensor) -> None:
        """Moves the running mean square of the input towards that of x."""
        with full_precision(x):
            self.magnitude_ema.lerp_(x.detach().float().square().mean(), 1 - self.magnitude_beta)

    def modulation(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w: [N, w_dim] -> scales of the input [N, I], weight [O, I, k, k], scales of the output [N, O], all in w's dtype.

        Styles and weights are brought to unit mean square first (appendix F): demodulation cancels any such factor, and
        half precision does not overflow on the way.
        """
        with full_precision(w):
            styles = self.affine(w)
            styles = styles * torch.rsqrt(styles.square().mean(1, keepdim=True) + _EPS)
            weight = self.weight * torch.rsqrt(self.weight.square().mean((1, 2, 3), keepdim=True) + _EPS)
            power = styles.square() @ weight.square().sum((2, 3)).t()
            return styles * torch.rsqrt(self.magnitude_ema), weight, torch.rsqrt(power + _EPS)

    def _layer(self, x: Tensor, w: Tensor) -> Tensor:
        geometry = self.geometry
        before, weight, after = self.modulation(w)
        x = x * before[:, :, None, None].to(x.dtype)
        x = F.conv2d(x, weight.to(x.dtype), padding=geometry.conv_kernel - 1)
        x = x * after[:, :, None, None].to(x.dtype)
        return ops.filtered_lrelu(
            x, self.up_filter, self.down_filter, self.bias, up=geometry.up_factor, down=geometry.down_factor,
            padding=geometry.padding, gain=_GAIN, slope=_SLOPE, clamp=geometry.conv_clamp)

    def _to_rgb(self, x: Tensor, w: Tensor) -> Tensor:
        with full_precision(x):
            # [N, O, I] is small, and spares a pass over x: the only weights that are modulated themselves.
            weight = self.weight.flatten(1) * (self.affine(w) * torch.rsqrt(self.magnitude_ema))[:, None, :]
        n, channels, height, width = x.shape
        y = torch.bmm(weight.to(x.dtype), x.reshape(n, channels, height * width)).view(n, -1, height, width)
        y = y.to(w.dtype) + self.bias[:, None, None]
        clamp = self.geometry.conv_clamp
        return y if clamp is None else y.clamp(-clamp, clamp)
