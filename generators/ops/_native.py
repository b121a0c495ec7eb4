"""The compiled implementations, called: dense tensors, filters on the right device, bias strides in memory order."""
from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ._filters import Pass
from ._layout import dense, memory_format
from ._torch_bias_act import ACTIVATIONS, ActSpec


class Native:
    """What `torch.ops.probes_cpu` or `torch.ops.probes_cuda` offers, behind the interface of the torch functions."""

    def __init__(self, namespace: str):
        ops = getattr(torch.ops, namespace)
        self._upfirdn2d, self._bias_act = ops.upfirdn2d.default, ops.bias_act.default

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
