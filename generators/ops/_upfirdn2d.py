"""upfirdn2d: zero insertion, padding, FIR filter, decimation; the resampling of StyleGAN2 (arXiv 1912.04958, app. B).

Per axis, with f̃ the reversed filter (or f itself with ``flip_filter``):

    y[o] = gain · Σ_k f̃[k] · P[o·down + k],    P[j] = U[j − pad₀],    U[i·up] = x[i], 0 elsewhere

It is linear in x, and its transpose is an upfirdn2d again: up and down change places, the filter is reversed, and
pad₀' = taps − 1 − pad₀. The op is its own gradient, so gradients of any order exist in every implementation.
"""
from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _dispatch
from ._filters import filter_size, output_size, plan
from ._layout import memory_format

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def upfirdn2d(x: Tensor, f: Tensor | None, up: int | Sequence[int] = 1, down: int | Sequence[int] = 1,
              padding: int | Sequence[int] = (0, 0, 0, 0), flip_filter: bool = False, gain: float = 1.0) -> Tensor:
    """Upsample by zero insertion, pad, filter with a FIR filter, downsample; every channel on its own.

    Args:
        x: float32, float64, float16 or bfloat16 ``[N, C, H, W]``; N may be 0. Any memory format; on a CPU
            channels_last is the fast one.
        f: filter, on the device of x. 1-D ``[taps]`` is separable: it stands for the outer product with itself;
            2-D is ``[height, width]``; None filters nothing. A constant: gradients flow to x only. See
            :func:`setup_filter`.
        up: every sample is followed by ``up - 1`` zeros; an int, or ``(x, y)``.
        down: every ``down``-th result is kept, from the first one; an int, or ``(x, y)``.
        padding: zeros around the upsampled image, ``(left, right, top, bottom)``; an int for all four, or ``(x, y)``.
            Negative numbers crop.
        flip_filter: False convolves (the filter is reversed), True correlates.
        gain: factor of the result; ``up²`` keeps the brightness of an upsampled image.

    Returns:
        ``[N, C, H', W']`` in the dtype and memory format of x, with
        ``H' = (H·up + top + bottom - height) // down + 1``. Sums are taken in float32 (float64 for float64) by the
        compiled implementations, in the convolution's own precision by torch.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or the filter is larger than the padded image.
    """
    _check_tensors(x, f)
    up, down = _factors("up", up), _factors("down", down)
    padding = _paddings(padding)
    if f is None:
        f = torch.ones(1, device=x.device)
    size = output_size(x.shape[2:], filter_size(f), up, down, padding)
    if size[0] < 1 or size[1] < 1:
        raise ValueError(f"f: a filter of {filter_size(f)[1]}×{filter_size(f)[0]} taps is larger than the padded image "
                         f"(x is {x.shape[2]}×{x.shape[3]}, up {up}, padding {padding}): increase padding")
    return _op(x, f, up, down, padding, bool(flip_filter), float(gain))


def _check_tensors(x: Tensor, f: Tensor | None) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: a tensor [N, C, H, W] expected, got {type(x).__name__}")
    if x.ndim != 4:
        raise ValueError(f"x: 4 dimensions [N, C, H, W] expected, got shape {tuple(x.shape)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x: float32, float64, float16 or bfloat16 expected, got {x.dtype}: convert it first")
    if f is None:
        return
    if not isinstance(f, Tensor):
        raise TypeError(f"f: a tensor expected, got {type(f).__name__}: make it with setup_filter(taps)")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"f: [taps] or [height, width] expected, got shape {tuple(f.shape)}")
    if not f.is_floating_point():
        raise TypeError(f"f: floating point expected, got {f.dtype}: make it with setup_filter(taps)")
    if f.device != x.device:
        raise ValueError(f"f: expected on the device of x, {x.device}, got {f.device}: register it as a buffer")
    if f.requires_grad:
        raise ValueError("f: a constant expected, got a tensor that requires grad: pass f.detach()")


def _integers(name: str, value: int | Sequence[int], counts: tuple[int, ...]) -> tuple[int, ...]:
    expected = f"{name}: an int or {' or '.join(map(str, counts))} ints expected"
    items = value if isinstance(value, list | tuple | torch.Size) else (value,)
    try:
        items = tuple(operator.index(item) for item in items)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if len(items) not in (1, *counts):
        raise ValueError(f"{expected}, got {len(items)}: {value!r}")
    return items


def _factors(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    items = _integers(name, value, (2,))
    if min(items) < 1:
        raise ValueError(f"{name}: at least 1 expected, got {value!r}")
    return items if len(items) == 2 else (items[0], items[0])


def _paddings(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    items = _integers("padding", value, (2, 4))
    if len(items) == 4:
        return items
    return (items[0], items[0], items[-1], items[-1])


_SCHEMA = "(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor"


@torch.library.custom_op("probes::upfirdn2d", mutates_args=(), schema=_SCHEMA)
def _op(x, f, up, down, padding, flip_filter, gain):
    implementation = _dispatch.choose(x.device.type)
    y = x
    with _dispatch.autocast_off(x.device.type):
        for step in plan(x.shape[2:], f, up, down, padding, flip_filter, gain, x.dtype):
            y = implementation.upfirdn2d_pass(y, step)
    return y


@_op.register_fake
def _(x, f, up, down, padding, flip_filter, gain):
    size = output_size(x.shape[2:], filter_size(f), up, down, padding)
    return x.new_empty((*x.shape[:2], *size)).contiguous(memory_format=memory_format(x))


def _setup_context(ctx, inputs, output):
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip_filter, ctx.gain = inputs
    ctx.save_for_backward(f)
    ctx.input_size, ctx.output_size = x.shape[2:], output.shape[2:]


def _backward(ctx, dy):
    f, = ctx.saved_tensors
    width, height = filter_size(f)
    x0, _, y0, _ = ctx.padding
    (in_height, in_width), (out_height, out_width) = ctx.input_size, ctx.output_size
    padding = [width - 1 - x0, in_width * ctx.up[0] - out_width * ctx.down[0] + x0 - ctx.up[0] + 1,
               height - 1 - y0, in_height * ctx.up[1] - out_height * ctx.down[1] + y0 - ctx.up[1] + 1]
    dx = _op(dy, f, ctx.down, ctx.up, padding, not ctx.flip_filter, ctx.gain)
    return dx, None, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
