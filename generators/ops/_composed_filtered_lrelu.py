"""filtered_lrelu step by step, from the passes of any implementation: upsample, activate, downsample.

What it costs is the upsampled signal in memory; what it takes is anything: every device, filter and size.
"""
from __future__ import annotations

from torch import Tensor

from ._filters import plan
from ._torch_filtered_lrelu import Spec, activate_, axes, slope_


def _passes(implementation, x: Tensor, *arguments) -> Tensor:
    for step in plan(x.shape[2:], *arguments, x.dtype):
        x = implementation.upfirdn2d_pass(x, step)
    return x


def _up(implementation, x: Tensor, fu: Tensor, spec: Spec) -> Tensor:
    return _passes(implementation, x, fu, spec.up, (1, 1), spec.padding, False, spec.up[0] * spec.up[1] * spec.gain)


def _down(implementation, u: Tensor, fd: Tensor, spec: Spec) -> Tensor:
    return _passes(implementation, u, fd, (1, 1), spec.down, (0, 0, 0, 0), False, 1.0)


def _biased(x: Tensor, b: Tensor | None) -> Tensor:
    return x if b is None else x + b[:, None, None]


def forward(implementation, x: Tensor, b: Tensor | None, fu: Tensor, fd: Tensor, spec: Spec) -> Tensor:
    u = _up(implementation, _biased(x, b), fu, spec)
    u = u.clone() if u is x else u
    return _down(implementation, activate_(u, spec), fd, spec)


def derivative(implementation, v: Tensor, x: Tensor, b: Tensor | None, fu: Tensor, fd: Tensor, spec: Spec,
               transposed: bool) -> Tensor:
    u = _up(implementation, _biased(x, b), fu, spec)
    if not transposed:
        return _down(implementation, slope_(_up(implementation, v, fu, spec), u, spec), fd, spec)
    # The transposes of both: up and down change places, filters are reversed, padding becomes what is left.
    width, height = (axis.middle for axis in axes(x.shape[2:], fu, fd, spec))
    (up_x, up_y), (down_x, down_y), (x0, _, y0, _) = spec.up, spec.down, spec.padding
    taps_x, taps_y = fd.shape[-1], fd.shape[0]
    back = (taps_x - 1, width - v.shape[3] * down_x, taps_y - 1, height - v.shape[2] * down_y)
    g = _passes(implementation, v, fd, spec.down, (1, 1), back, True, 1.0)
    g = slope_(g, u, spec)
    taps_x, taps_y = fu.shape[-1], fu.shape[0]
    back = (taps_x - 1 - x0, x.shape[3] * up_x - width + x0 - up_x + 1,
            taps_y - 1 - y0, x.shape[2] * up_y - height + y0 - up_y + 1)
    return _passes(implementation, g, fu, (1, 1), spec.up, back, True, up_x * up_y * spec.gain)
