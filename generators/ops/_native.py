"""The compiled implementations, called: dense tensors, filters on the right device, bias strides in memory order."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from . import _composed_filtered_lrelu
from ._filters import Pass
from ._layout import dense, memory_format
from ._torch_bias_act import ACTIVATIONS, ActSpec
from ._torch_filtered_lrelu import Geometry, Spec, axes


class Native:
    """What `torch.ops.probes_cpu` or `torch.ops.probes_cuda` offers, behind the interface of the torch functions."""

    def __init__(self, namespace: str):
        ops = getattr(torch.ops, namespace)
        self._upfirdn2d, self._bias_act = ops.upfirdn2d.default, ops.bias_act.default
        self._fused_op = ops.filtered_lrelu.default

    def upfirdn2d_pass(self, x: Tensor, spec: Pass) -> Tensor:
        if x.numel() == 0:
            return x.new_zeros((*x.shape[:2], *spec.size))
        return self._upfirdn2d(dense(x), spec.taps.contiguous(), spec.up, spec.down, spec.padding, spec.size)

    def forward(self, x: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor:
        return self._run(None, x, b, spec)

    def gradient(self, dy: Tensor, reference: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor:
        return self._run(dy, reference, b, spec)

    def _run(self, dy: Tensor | None, x: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor:
        result_format = memory_format(x)
        x = x.contiguous(memory_format=result_format)
        if dy is not None:
            dy = torch.empty_like(x).copy_(dy) if dy.stride() != x.stride() else dy
        last = result_format == torch.channels_last
        inner = prod(x.shape[2:]) * x.shape[1] if last and spec.dim == 0 else prod(x.shape[spec.dim + 1:])
        if last and spec.dim > 0:  # memory order N, H, W, C
            inner = {1: 1, 2: x.shape[3] * x.shape[1], 3: x.shape[1]}[spec.dim]
        bias = None if b is None else b.contiguous()
        act = ACTIVATIONS.index(spec.act)
        return self._bias_act(dy, x, bias, max(inner, 1), act, spec.alpha, spec.gain, spec.clamp)

    def filtered_lrelu(self, x: Tensor, b: Tensor | None, fu: Tensor, fd: Tensor, spec: Spec,
                       keep: bool) -> tuple[Tensor, Tensor]:
        mask = x.new_zeros(self.mask_size(x, fu, fd, spec, keep), dtype=torch.uint8)
        if not _fused(x, fu, fd, spec):
            return _composed_filtered_lrelu.forward(self, x, b, fu, fd, spec), mask
        kept = mask if mask.numel() else None
        y = self._filtered_lrelu(x, b, fu, fd, spec, x.shape[2:], False, kept, ACTIVATE if kept is None else KEEP)
        return y, mask

    def filtered_lrelu_derivative(self, v: Tensor, x: Tensor | None, b: Tensor | None, mask: Tensor, fu: Tensor,
                                  fd: Tensor, size: Sequence[int], spec: Spec, transposed: bool) -> Tensor:
        if mask.numel():
            return self._filtered_lrelu(v, None, fu, fd, spec, size, transposed, mask, SLOPE)
        return _composed_filtered_lrelu.derivative(self, v, x, b, fu, fd, spec, transposed)

    def mask_size(self, x: Tensor, fu: Tensor, fd: Tensor, spec: Spec, keep: bool) -> tuple[int, ...]:
        if not keep or x.numel() == 0 or not _fused(x, fu, fd, spec):
            return (0,)
        axis_x, axis_y = axes(x.shape[2:], fu, fd, spec)
        return x.shape[0] * x.shape[1], axis_y.middle, -(-axis_x.middle // 4)

    def _filtered_lrelu(self, x: Tensor, b: Tensor | None, fu: Tensor, fd: Tensor, spec: Spec, size: Sequence[int],
                        transposed: bool, mask: Tensor | None, mode: int) -> Tensor:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        fu, fd = fu.to(kind), fd.to(kind)
        scaled = fu * (spec.gain * spec.up[0] * spec.up[1])
        taps = [fd, fd, fu, scaled] if transposed else [scaled.flip(0), fu.flip(0), fd.flip(0), fd.flip(0)]
        arguments = [_kernel_axis(axis, transposed) for axis in axes(size, fu, fd, spec)]
        b = None if b is None else b.contiguous()
        y = self._fused_op(x.contiguous(), b, torch.cat(taps), mask, *arguments, spec.slope, spec.clamp, mode)
        return y.contiguous(memory_format=memory_format(x))


# FilteredMode in csrc/filtered_lrelu_core.h.
ACTIVATE, KEEP, SLOPE = range(3)
_SHARED_BYTES = 48 * 1024


def _kernel_axis(axis: Geometry, transposed: bool) -> list[int]:
    """FilteredAxis: in, middle, out, up, down, pad_in, pad_out, taps_in, taps_out."""
    if not transposed:
        return [axis.size, axis.middle, axis.out, axis.up, axis.down, axis.pad, 0, axis.taps_up, axis.taps_down]
    return [axis.out, axis.middle, axis.size, axis.down, axis.up, axis.taps_down - 1, axis.taps_up - 1 - axis.pad,
            axis.taps_down, axis.taps_up]


def _fused(x: Tensor, fu: Tensor, fd: Tensor, spec: Spec) -> bool:
    """Whether the kernel takes this call and its gradient: separable filters, and an 8×8 tile in shared memory."""
    if fu.ndim != 1 or fd.ndim != 1:
        return False
    both = axes(x.shape[2:], fu, fd, spec)
    for transposed in (False, True):
        extents = []
        for axis in both:
            *_, up, down, _, _, rise, fall = _kernel_axis(axis, transposed)
            middle = 7 * down + fall
            extents.append((middle, (middle + rise - 2) // up + 1))
        (middle_x, in_x), (middle_y, in_y) = extents
        elements = max(in_y * (in_x + middle_x), 8 * middle_y) + middle_x * middle_y + 2 * (len(fu) + len(fd))
        if elements * (8 if x.dtype == torch.float64 else 4) > _SHARED_BYTES:
            return False
    return True
