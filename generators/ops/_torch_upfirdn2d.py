"""upfirdn2d in torch: polyphase depthwise convolutions.

Zero insertion by ``up`` and decimation by ``down`` make the outputs fall into ``U = up / gcd(up, down)`` classes per
axis. All outputs of a class meet the same subset of taps, one in ``up``, and start ``D = down / gcd`` samples apart:
each class is an ordinary convolution of x with a small filter and stride D, whose result is interleaved into y. No
inserted zero is ever stored or multiplied; with ``up = 1`` there is one class and nothing to interleave.
"""
from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._filters import Pass
from ._layout import memory_format

# 16-bit depthwise convolutions with wider filters never return on a CPU with AVX-512 (oneDNN in torch 2.13: 15 taps
# hang, 14 do not): they run in float32.
_WIDEST_16_BIT = 14
_FEW_CHANNELS = 8  # below, depthwise convolutions run faster in channels_last even when both copies are paid for


class _Phase(NamedTuple):
    first_output: int
    first_tap: int
    first_sample: int  # negative where the window starts in the padding
    count: int


def _phases(out: int, up: int, down: int, pad: int) -> tuple[int, int, list[_Phase]]:
    common = gcd(up, down)
    classes, stride = up // common, down // common
    phases = []
    for q in range(min(classes, out)):
        tap = (pad - q * down) % up
        phases.append(_Phase(q, tap, (q * down + tap - pad) // up, -(-(out - q) // classes)))
    return classes, stride, phases


def _pad(size: int, phase: _Phase, taps: int, stride: int) -> tuple[int, int]:
    """Zeros needed before and after the samples; negative: samples to leave out."""
    return -phase.first_sample, phase.first_sample + (phase.count - 1) * stride + taps - size


def _correlate(x: Tensor, taps: Tensor, py: tuple[int, int], px: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Convolution whose first window starts ``p[0]`` before the first sample; may return more than was asked for."""
    if x.device.type == "cpu" and x.element_size() == 2 and taps.shape[1] > _WIDEST_16_BIT:
        return _correlate(x.float(), taps, py, px, stride)  # cast back where it is written
    weight = taps.to(x.dtype).expand(x.shape[1], 1, *taps.shape)
    cut_y, cut_x = max(0, -py[0]), max(0, -px[0])
    if cut_y or cut_x:
        x = x[:, :, cut_y:, cut_x:]
    py, px = (max(0, py[0]), max(0, py[1])), (max(0, px[0]), max(0, px[1]))
    # The convolution pads both sides alike, and for nothing; F.pad copies. Surplus outputs are cheaper than a copy.
    alike = py[0] == py[1] and px[0] == px[1]
    small = max(py) < taps.shape[0] and max(px) < taps.shape[1]
    if small and (alike or stride == (1, 1)):
        both = (max(py), max(px))
        y = F.conv2d(x, weight, padding=both, stride=stride, groups=x.shape[1])
        return y[:, :, both[0] - py[0]:, both[1] - px[0]:]
    if max(*py, *px):
        x = F.pad(x, (*px, *py))
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1])


def upfirdn2d_pass(x: Tensor, spec: Pass) -> Tensor:
    """x: ``[N, C, H, W]`` to ``[N, C, *spec.size]`` in the memory format of x."""
    result_format = memory_format(x)
    if x.numel() == 0:
        return x.new_zeros((*x.shape[:2], *spec.size))
    if x.device.type == "cpu" and x.shape[1] < _FEW_CHANNELS:
        x = x.contiguous(memory_format=torch.channels_last)
    (up_x, up_y), (down_x, down_y) = spec.up, spec.down
    classes_x, stride_x, phases_x = _phases(spec.size[1], up_x, down_x, spec.padding[0])
    classes_y, stride_y, phases_y = _phases(spec.size[0], up_y, down_y, spec.padding[2])
    y = None
    if classes_x * classes_y > 1:
        y = torch.empty((*x.shape[:2], *spec.size), dtype=x.dtype, device=x.device, memory_format=result_format)
    for py in phases_y:
        for px in phases_x:
            taps = spec.taps[py.first_tap::up_y, px.first_tap::up_x]
            if taps.numel() == 0:  # fewer taps than `up`: nothing but inserted zeros
                part = x.new_zeros(())
            else:
                pad_y = _pad(x.shape[2], py, taps.shape[0], stride_y)
                pad_x = _pad(x.shape[3], px, taps.shape[1], stride_x)
                if -pad_y[0] >= x.shape[2] or -pad_x[0] >= x.shape[3]:  # starts behind the last sample
                    part = x.new_zeros(())
                else:
                    part = _correlate(x, taps, pad_y, pad_x, (stride_y, stride_x))[:, :, :py.count, :px.count]
            if y is None:
                part = part.expand(*x.shape[:2], *spec.size)
                return part.to(x.dtype).contiguous(memory_format=result_format)
            y[:, :, py.first_output::classes_y, px.first_output::classes_x] = part
    return y
