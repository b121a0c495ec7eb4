"""bias_act: add a bias, apply an activation, scale, clamp: what follows every convolution of StyleGAN.

    y = clamp(gain · act(x + b), ±clamp)

Both gradients are defined here, above the implementations. The first reads y alone (x for swish), so a network keeps
no tensor that the next layer does not keep anyway; the second is the first again for the piecewise linear activations,
and a formula in differentiable torch ops for the smooth ones: gradients of any order exist.
"""
from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from . import _dispatch
from ._layout import memory_format
from ._torch_bias_act import ACTIVATIONS, ActSpec, curvature, formula
from ._upfirdn2d import DTYPES

_DEFAULT_GAIN = {"relu": math.sqrt(2), "lrelu": math.sqrt(2), "swish": math.sqrt(2)}


def bias_act(x: Tensor, b: Tensor | None = None, dim: int = 1, act: str = "linear", alpha: float | None = None,
             gain: float | None = None, clamp: float | None = None) -> Tensor:
    """Bias, activation, gain and clamp in one op.

    Args:
        x: float32, float64, float16 or bfloat16, any shape and memory format.
        b: bias ``[x.shape[dim]]``, converted to the dtype of x; None adds nothing.
        dim: the dimension of x that the bias runs along.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope of lrelu below zero, at least 0, 0.2 by default; no other activation takes it.
        gain: factor after the activation. By default the one that keeps the variance, as in the StyleGAN papers:
            √2 for relu, lrelu and swish, 1 for the others.
        clamp: limit of ``|y|`` after the gain, or None. Where the limit is reached the gradient is zero.

    Returns:
        like x.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or size.
    """
    spec = _check(x, b, dim, act, alpha, gain, clamp)
    if b is not None:
        b = b.to(x.dtype)
    if torch.compiler.is_compiling():
        return formula(x, b, spec).to(x.dtype)  # the compiler fuses it with what stands around it
    return _op(x, b, spec.dim, spec.act, spec.alpha, spec.gain, _rounded(spec.clamp, x.dtype))


def _check(x, b, dim, act, alpha, gain, clamp) -> ActSpec:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: a tensor expected, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x: float32, float64, float16 or bfloat16 expected, got {x.dtype}: convert it first")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim: one of the {x.ndim} dimensions of x expected, got {dim}")
    dim %= x.ndim
    if act not in ACTIVATIONS:
        raise ValueError(f"act: one of {', '.join(ACTIVATIONS)} expected, got {act!r}")
    if b is not None:
        if not isinstance(b, Tensor):
            raise TypeError(f"b: a tensor or None expected, got {type(b).__name__}")
        if b.ndim != 1 or b.shape[0] != x.shape[dim]:
            raise ValueError(f"b: shape ({x.shape[dim]},) expected, for dimension {dim} of x {tuple(x.shape)}, "
                             f"got {tuple(b.shape)}")
        if b.device != x.device:
            raise ValueError(f"b: expected on the device of x, {x.device}, got {b.device}")
    if alpha is not None and act != "lrelu":
        raise ValueError(f"alpha: only lrelu has a slope, got alpha={alpha} with act={act!r}: leave it out")
    if alpha is not None and not alpha >= 0:  # the gradient reads the sign of u off the sign of y
        raise ValueError(f"alpha: a slope >= 0 expected, got {alpha}")
    gain = _DEFAULT_GAIN.get(act, 1.0) if gain is None else float(gain)
    if gain == 0 or not math.isfinite(gain):
        raise ValueError(f"gain: a finite number other than 0 expected, got {gain}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp: a limit >= 0, or None, expected, got {clamp}")
    return ActSpec(dim, act, 0.2 if alpha is None else float(alpha), gain, -1.0 if clamp is None else float(clamp))


@functools.lru_cache(maxsize=256)
def _rounded(clamp: float, dtype: torch.dtype) -> float:
    """The limit as the output can hold it: the gradient recognises clamped elements by ``|y| >= clamp``."""
    return torch.tensor(clamp, dtype=torch.float64).to(dtype).item()


_ARGUMENTS = "int dim, str act, float alpha, float gain, float clamp) -> Tensor"


@torch.library.custom_op("probes::bias_act", mutates_args=(), schema=f"(Tensor x, Tensor? b, {_ARGUMENTS}")
def _op(x, b, *spec):
    with _dispatch.autocast_off(x.device.type):
        return _dispatch.choose(x.device.type).forward(x, b, ActSpec(*spec))


@torch.library.custom_op("probes::bias_act_gradient", mutates_args=(),
                         schema=f"(Tensor dy, Tensor reference, Tensor? b, {_ARGUMENTS}")
def _gradient_op(dy, reference, b, *spec):
    with _dispatch.autocast_off(dy.device.type):
        return _dispatch.choose(dy.device.type).gradient(dy, reference, b, ActSpec(*spec))


@_op.register_fake
def _(x, b, *spec):
    return torch.empty_like(x, memory_format=memory_format(x))


@_gradient_op.register_fake
def _(dy, reference, b, *spec):
    return torch.empty_like(reference, memory_format=memory_format(reference))


def _sum_to_bias(dx: Tensor, dim: int) -> Tensor:
    return dx.sum([i for i in range(dx.ndim) if i != dim]) if dx.ndim > 1 else dx


def _setup_context(ctx, inputs, output):
    x, b, *spec = inputs
    ctx.spec = ActSpec(*spec)
    if ctx.spec.act == "swish":
        ctx.save_for_backward(x, b)
    elif ctx.spec.act == "linear" and ctx.spec.clamp < 0:
        ctx.save_for_backward(None, None)  # the gradient is a constant
    else:
        ctx.save_for_backward(output, None)


def _backward(ctx, dy):
    reference, b = ctx.saved_tensors
    dx = dy * ctx.spec.gain if reference is None else _gradient_op(dy, reference, b, *ctx.spec)
    db = _sum_to_bias(dx, ctx.spec.dim) if ctx.needs_input_grad[1] else None
    return dx, db, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)


def _setup_gradient_context(ctx, inputs, output):
    dy, reference, b, *spec = inputs
    ctx.spec = ActSpec(*spec)
    ctx.save_for_backward(dy, reference, b)


def _gradient_backward(ctx, ddx):
    dy, reference, b = ctx.saved_tensors
    d_dy = d_reference = d_b = None
    if ctx.needs_input_grad[0]:
        d_dy = _gradient_op(ddx, reference, b, *ctx.spec)
    curve = curvature(reference, b, ctx.spec) if any(ctx.needs_input_grad[1:3]) else None
    if curve is not None:
        d_reference = ddx * dy * curve
        d_b = _sum_to_bias(d_reference, ctx.spec.dim) if ctx.needs_input_grad[2] else None
    return d_dy, d_reference, d_b, None, None, None, None, None


_gradient_op.register_autograd(_gradient_backward, setup_context=_setup_gradient_context)
