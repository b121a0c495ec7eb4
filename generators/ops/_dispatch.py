"""Which implementation runs: one decision, taken per call, for all ops and their gradients.

``PROBES_OPS`` chooses:

=========  =======================================  =========================
value      CUDA tensors                             CPU tensors
=========  =======================================  =========================
``auto``   CUDA extension, else torch (default)     torch
``cuda``   the same                                 torch
``cpu``    torch                                    C++ extension, else torch
``torch``  torch                                    torch
=========  =======================================  =========================

The C++ CPU extension is there to be checked, since its arithmetic is the CUDA kernels' own; torch is faster on a CPU
(`PROBES_OPS=cpu python benchmarks/ops.py`). "Else": where an extension cannot be built, one logged line says why and
torch takes over.
"""
from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from . import _composed_filtered_lrelu, _torch_bias_act, _torch_filtered_lrelu, _torch_upfirdn2d
from ._extension import EXTENSIONS
from ._filters import Pass
from ._torch_bias_act import ActSpec
from ._torch_filtered_lrelu import Spec

SWITCH = "PROBES_OPS"
MODES = ("auto", "torch", "cpu", "cuda")
logger = logging.getLogger("generators.ops")
_reported: set[str] = set()


class Implementation(Protocol):
    """What an implementation provides. None of it is differentiable: the gradients are defined above it."""

    def upfirdn2d_pass(self, x: Tensor, spec: Pass) -> Tensor: ...
    def forward(self, x: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor: ...
    def gradient(self, dy: Tensor, reference: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor: ...
    def filtered_lrelu(self, x: Tensor, b: Tensor | None, fu: Tensor, fd: Tensor, spec: Spec,
                       keep: bool) -> tuple[Tensor, Tensor]: ...
    def filtered_lrelu_derivative(self, v: Tensor, x: Tensor | None, b: Tensor | None, mask: Tensor, fu: Tensor,
                                  fd: Tensor, size: Sequence[int], spec: Spec, transposed: bool) -> Tensor: ...
    def mask_size(self, x: Tensor, fu: Tensor, fd: Tensor, spec: Spec, keep: bool) -> tuple[int, ...]: ...


class _Torch:
    upfirdn2d_pass = staticmethod(_torch_upfirdn2d.upfirdn2d_pass)
    forward = staticmethod(_torch_bias_act.forward)
    gradient = staticmethod(_torch_bias_act.gradient)

    def filtered_lrelu(self, x, b, fu, fd, spec, keep):
        if x.device.type == "cpu":
            y = _torch_filtered_lrelu.run(x, b, fu, fd, spec)
        else:
            y = _composed_filtered_lrelu.forward(self, x, b, fu, fd, spec)
        return y, x.new_empty(0, dtype=torch.uint8)

    def filtered_lrelu_derivative(self, v, x, b, mask, fu, fd, size, spec, transposed):
        if x.device.type == "cpu":
            return _torch_filtered_lrelu.run(x, b, fu, fd, spec, v, transposed)
        return _composed_filtered_lrelu.derivative(self, v, x, b, fu, fd, spec, transposed)

    def mask_size(self, x, fu, fd, spec, keep):
        return (0,)


TORCH: Implementation = _Torch()


def mode() -> str:
    value = os.environ.get(SWITCH, "") or "auto"
    if value not in MODES:
        raise ValueError(f"{SWITCH}={value!r}: expected one of {', '.join(MODES)}")
    return value


def wanted_extension(device: str) -> str | None:
    """The extension that should run on tensors of `device` under the current mode, or None for torch."""
    if device == "cuda" and mode() in ("auto", "cuda"):
        return "cuda"
    return "cpu" if device == "cpu" and mode() == "cpu" else None


def choose(device: str) -> Implementation:
    """The implementation for tensors of `device`; compiles it on the first call that wants it."""
    name = wanted_extension(device)
    if name is None:
        return TORCH
    native = EXTENSIONS[name].load()
    if native is not None:
        return native
    if name not in _reported:
        _reported.add(name)
        logger.warning("upfirdn2d, bias_act and filtered_lrelu run in plain torch on %s: %s", device, EXTENSIONS[name].failure)
    return TORCH


def autocast_off(device: str) -> contextlib.AbstractContextManager:
    """These ops keep the type of their input; autocast would cast the convolutions inside."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
