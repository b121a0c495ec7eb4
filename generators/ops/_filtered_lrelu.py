"""filtered_lrelu: the alias-free activation of StyleGAN3 and StyleGAN-XL (arXiv 2106.12423, section 3.2 and app. D).

    y = D · φ(U · (x + b))      φ(u) = clamp(gain · lrelu(u), ±clamp)

U inserts zeros, pads or crops, and filters with fu · up²; D filters with fd and decimates. The leaky ReLU thereby acts
on a signal sampled finely enough for the frequencies that its corner adds, and those are removed again.

φ is piecewise linear, so the derivative along v is D · φ'(u) · U · v, its transpose Uᵀ · φ'(u) · Dᵀ · v, and each is
the other's gradient: gradients of any order exist. One op is y, one is those two.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _dispatch
from ._bias_act import _rounded, bias_act
from ._layout import memory_format
from ._torch_filtered_lrelu import Spec, axes
from ._upfirdn2d import _check_tensors, _factors, _paddings


def filtered_lrelu(x: Tensor, fu: Tensor | None = None, fd: Tensor | None = None, b: Tensor | None = None,
                   up: int | Sequence[int] = 1, down: int | Sequence[int] = 1, padding: int | Sequence[int] = 0,
                   gain: float = math.sqrt(2), slope: float = 0.2, clamp: float | None = None) -> Tensor:
    """Add a bias, upsample, leaky ReLU, clamp, downsample; every channel on its own.

    The same as :func:`upfirdn2d` (gain up²), :func:`bias_act` and :func:`upfirdn2d` one after the other, but the
    upsampled signal, many times the size of x, is not stored: on a CPU by products of small matrices, on a GPU by a
    kernel that takes separable filters; only 2-D filters on a GPU, and very long ones, are those three ops.

    Args:
        x: float32, float64, float16 or bfloat16 ``[N, C, H, W]``; N may be 0.
        fu: upsampling filter, on the device of x: 1-D ``[taps]`` (separable), 2-D ``[height, width]``, or None for
            none. A constant, as fd: gradients flow to x and b only. See :func:`setup_filter`.
        fd: downsampling filter, likewise.
        b: bias ``[C]``, added before the upsampling; converted to the dtype of x. None adds nothing.
        up: factor of the upsampling; an int, or ``(x, y)``.
        down: factor of the downsampling, likewise.
        padding: zeros around the zero-inserted signal, before fu: ``(left, right, top, bottom)``, an int for all four,
            or ``(x, y)``. Negative numbers crop.
        gain: factor of the activation, above 0.
        slope: of the leaky ReLU below zero, at least 0; 1 makes it linear, as in a ToRGB layer.
        clamp: limit of the activation's magnitude after the gain, or None. Where it is reached the gradient is zero.

    Returns:
        ``[N, C, H', W']`` in the dtype and memory format of x, with
        ``H' = (H·up + top + bottom - taps_u + 1 - taps_d) // down + 1``.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or a filter is larger than the image it meets.
    """
    spec = _check(x, fu, fd, b, up, down, padding, gain, slope, clamp)
    b = None if b is None else b.to(x.dtype)
    if fu is None and fd is None and spec[:3] == ((1, 1), (1, 1), (0, 0, 0, 0)):
        return bias_act(x, b, act="lrelu", alpha=spec.slope, gain=spec.gain, clamp=clamp)
    fu = x.new_ones(1) if fu is None else fu
    fd = x.new_ones(1) if fd is None else fd
    for name, axis in zip("xy", axes(x.shape[2:], fu, fd, spec), strict=True):
        if min(axis.middle, axis.out) < 1:
            raise ValueError(f"fu, fd: filters of {fu.shape[-1]} and {fd.shape[-1]} taps leave nothing of an image of "
                             f"{x.shape[3]}×{x.shape[2]} along {name} (up {up}, padding {padding}): increase padding")
    keep = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    return _op(x, fu, fd, b, *spec, keep)[0]


def _check(x, fu, fd, b, up, down, padding, gain, slope, clamp) -> Spec:
    _check_tensors(x, None)
    for name, f in (("fu", fu), ("fd", fd)):
        try:
            _check_tensors(x, f)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}{str(error)[1:]}") from None
    if b is not None:
        if not isinstance(b, Tensor):
            raise TypeError(f"b: a tensor or None expected, got {type(b).__name__}")
        if b.shape != x.shape[1:2]:
            raise ValueError(f"b: shape ({x.shape[1]},) expected, one for each channel of x {tuple(x.shape)}, "
                             f"got {tuple(b.shape)}")
        if b.device != x.device:
            raise ValueError(f"b: expected on the device of x, {x.device}, got {b.device}")
    if not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"gain: a finite number above 0 expected, got {gain}")
    if not slope >= 0:
        raise ValueError(f"slope: at least 0 expected, got {slope}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp: a limit >= 0, or None, expected, got {clamp}")
    limit = -1.0 if clamp is None else _rounded(float(clamp), x.dtype)
    return Spec(_factors("up", up), _factors("down", down), _paddings(padding), float(gain), float(slope), limit)


_ARGUMENTS = "int[] up, int[] down, int[] padding, float gain, float slope, float clamp"


def _spec(up, down, padding, gain, slope, clamp) -> Spec:
    return Spec(tuple(up), tuple(down), tuple(padding), gain, slope, clamp)


# `keep`: a gradient will be asked for. The mask is then what the implementation wants to remember of φ', and empty for
# those that would rather compute it again.
@torch.library.custom_op("probes::filtered_lrelu", mutates_args=(), schema=(
    f"(Tensor x, Tensor fu, Tensor fd, Tensor? b, {_ARGUMENTS}, bool keep) -> (Tensor, Tensor)"))
def _op(x, fu, fd, b, up, down, padding, gain, slope, clamp, keep):
    with _dispatch.autocast_off(x.device.type):
        implementation = _dispatch.choose(x.device.type)
        return implementation.filtered_lrelu(x, b, fu, fd, _spec(up, down, padding, gain, slope, clamp), keep)


@torch.library.custom_op("probes::filtered_lrelu_derivative", mutates_args=(), schema=(
    f"(Tensor v, Tensor? x, Tensor mask, Tensor fu, Tensor fd, Tensor? b, SymInt[] size, {_ARGUMENTS}, bool transposed)"
    " -> Tensor"))
def _derivative_op(v, x, mask, fu, fd, b, size, up, down, padding, gain, slope, clamp, transposed):
    with _dispatch.autocast_off(v.device.type):
        implementation = _dispatch.choose(v.device.type)
        spec = _spec(up, down, padding, gain, slope, clamp)
        return implementation.filtered_lrelu_derivative(v, x, b, mask, fu, fd, size, spec, transposed)


@_op.register_fake
def _(x, fu, fd, b, up, down, padding, gain, slope, clamp, keep):
    spec = _spec(up, down, padding, gain, slope, clamp)
    width, height = (axis.out for axis in axes(x.shape[2:], fu, fd, spec))
    y = x.new_empty((*x.shape[:2], height, width)).contiguous(memory_format=memory_format(x))
    return y, x.new_empty(_dispatch.choose(x.device.type).mask_size(x, fu, fd, spec, keep), dtype=torch.uint8)


@_derivative_op.register_fake
def _(v, x, mask, fu, fd, b, size, up, down, padding, gain, slope, clamp, transposed):
    if not transposed:
        width, height = (axis.out for axis in axes(size, fu, fd, _spec(up, down, padding, gain, slope, clamp)))
        size = (height, width)
    return v.new_empty((*v.shape[:2], *size)).contiguous(memory_format=memory_format(v))


def _setup_context(ctx, inputs, output):
    x, fu, fd, b, *ctx.arguments, _ = inputs
    mask = output[1]
    ctx.size = x.shape[2:]
    ctx.mark_non_differentiable(mask)
    # Where there is a mask, it is all that the gradient needs to know of x.
    ctx.save_for_backward(*((None, mask, fu, fd, None) if mask.numel() else (x, mask, fu, fd, b)))


def _backward(ctx, dy, _):
    dx = _derivative_op(dy, *ctx.saved_tensors, ctx.size, *ctx.arguments, True)
    db = dx.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None
    return dx, None, None, db, *[None] * 7


_op.register_autograd(_backward, setup_context=_setup_context)


def _setup_derivative_context(ctx, inputs, output):
    _, *tensors, ctx.size, up, down, padding, gain, slope, clamp, ctx.transposed = inputs
    ctx.arguments = (up, down, padding, gain, slope, clamp)
    ctx.save_for_backward(*tensors)


def _derivative_backward(ctx, dv):
    d_v = None
    if ctx.needs_input_grad[0]:
        d_v = _derivative_op(dv, *ctx.saved_tensors, ctx.size, *ctx.arguments, not ctx.transposed)
    return d_v, *[None] * 13


_derivative_op.register_autograd(_derivative_backward, setup_context=_setup_derivative_context)
