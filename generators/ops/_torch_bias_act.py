"""bias_act in torch: the activations, once as formulas and once in as few passes over memory as torch allows."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import memory_format

aten = torch.ops.aten

# The order is that of `enum Activation` in csrc/bias_act_core.h.
ACTIVATIONS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
PIECEWISE_LINEAR = ("linear", "relu", "lrelu")  # act(g·u) = g·act(u) for g > 0, and act'' = 0
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


class ActSpec(NamedTuple):
    """Everything about a call but its tensors. ``clamp < 0`` is none; it is rounded to the tensor's type."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float


def expand_bias(b: Tensor, ndim: int, dim: int) -> Tensor:
    return b.reshape([-1 if i == dim else 1 for i in range(ndim)])


def activate(u: Tensor, act: str, alpha: float) -> Tensor:
    """The activation itself, without bias or gain; differentiable."""
    match act:
        case "relu":
            return F.relu(u)
        case "lrelu":
            return F.leaky_relu(u, alpha)
        case "tanh":
            return torch.tanh(u)
        case "sigmoid":
            return torch.sigmoid(u)
        case "elu":
            return F.elu(u)
        case "selu":
            return F.selu(u)
        case "softplus":
            return F.softplus(u)
        case "swish":
            return F.silu(u)
    return u


def formula(x: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor:
    """bias_act as it is written down. torch.compile fuses it into one kernel, with its neighbours."""
    u = x if b is None else x + expand_bias(b, x.ndim, spec.dim)
    y = activate(u, spec.act, spec.alpha)
    y = y * spec.gain if spec.gain != 1 else y
    return y.clamp(-spec.clamp, spec.clamp) if spec.clamp >= 0 else y


def forward(x: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor:
    """Two passes for the piecewise linear activations: a gain > 0 goes before them, into one multiply-add with b."""
    y = torch.empty_like(x, memory_format=memory_format(x))
    early = spec.gain if spec.act in PIECEWISE_LINEAR and spec.gain > 0 else 1.0
    if b is None:
        torch.mul(x, early, out=y)
    else:
        bias = expand_bias(b, x.ndim, spec.dim)
        torch.add(bias if early == 1 else bias * early, x, alpha=early, out=y)
    match spec.act:
        case "relu":
            y.relu_()
        case "lrelu":
            F.leaky_relu_(y, spec.alpha)
        case "tanh":
            y.tanh_()
        case "sigmoid":
            y.sigmoid_()
        case "elu":
            F.elu_(y)
        case "selu":
            F.selu_(y)
        case "softplus":
            y = F.softplus(y)
        case "swish":
            F.silu(y, inplace=True)
    if spec.gain != early:
        y.mul_(spec.gain)
    if spec.clamp >= 0:
        y.clamp_(-spec.clamp, spec.clamp)
    return y


def gradient(dy: Tensor, reference: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor:
    """dx from dy and the reference: y, or x for swish. Where ``|y| >= clamp`` it is zero."""
    if spec.act == "swish":
        u = reference if b is None else reference + expand_bias(b, dy.ndim, spec.dim)
        dx = aten.silu_backward(dy, u)
        y = F.silu(u).mul_(spec.gain) if spec.clamp >= 0 else None
    else:
        y = reference
        r = y if spec.gain == 1 or (spec.act in PIECEWISE_LINEAR and spec.gain > 0) else y / spec.gain
        match spec.act:
            case "relu":
                dx = aten.threshold_backward(dy, r, 0)
            case "lrelu":
                dx = aten.leaky_relu_backward(dy, r, spec.alpha, True)
            case "tanh":
                dx = aten.tanh_backward(dy, r)
            case "sigmoid":
                dx = aten.sigmoid_backward(dy, r)
            case "elu":
                dx = aten.elu_backward(dy, 1, 1, 1, True, r)
            case "selu":
                dx = aten.elu_backward(dy, SELU_ALPHA, SELU_SCALE, 1, True, r)
            case "softplus":
                dx = dy * torch.expm1(-r).neg_()
            case _:
                dx = dy
    if spec.gain != 1:
        dx = dx * spec.gain if dx is dy else dx.mul_(spec.gain)
    if spec.clamp >= 0:
        dx = aten.hardtanh_backward(dx, y, -spec.clamp, spec.clamp)
    return (dx.clone() if dx is dy else dx).contiguous(memory_format=memory_format(reference))


def curvature(reference: Tensor, b: Tensor | None, spec: ActSpec) -> Tensor | None:
    """d(dx/dy)/d(reference), differentiable in turn; None where it is zero everywhere.

    dx = dy·φ(reference). In terms of r = act(u) = y/gain, φ = gain·act'(act⁻¹(r)), so that dφ/dy = dact'/dr.
    """
    if spec.act in PIECEWISE_LINEAR:
        return None
    if spec.act == "swish":
        u = reference if b is None else reference + expand_bias(b, reference.ndim, spec.dim)
        s = torch.sigmoid(u)
        d = spec.gain * s * (1 - s) * (2 + u * (1 - 2 * s))
        y = u * s * spec.gain
    else:
        y, r = reference, reference / spec.gain
        match spec.act:
            case "tanh":
                d = -2 * r
            case "sigmoid":
                d = 1 - 2 * r
            case "softplus":
                d = torch.exp(-r)
            case _:  # elu, selu: act' = r + constant below zero, constant above
                d = (r < 0).to(r.dtype)
    return d * (y.abs() < spec.clamp) if spec.clamp >= 0 else d
