"""Frozen layers that keep little for their backward pass: what is cheap to compute again is computed again.

Where only an adapter elsewhere learns, a frozen layer owes the gradient to its input and no more. torch keeps for it the
output of the normalisation, that of the activation, and the convolution's input, which is for the weight's gradient alone.
Here the normalisation's input and its two moments per group are kept, one map instead of three, and the rest is two passes
over it. The same is done for gated linear units, whose gate's activation is not kept.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._group_norm import GroupNorm, dense, input_gradient, normalised


def frozen(*modules: nn.Module) -> bool:
    """Whether these are layers as they were made: nothing in them learns, is hooked, or is to be cast on the way."""
    return (not torch.is_autocast_enabled("cuda") and not torch.is_autocast_enabled("cpu") and all(map(_as_made, modules)))


def _as_made(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    plain = type(module) is not nn.Conv2d or (
        module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros" and type(module.padding) is tuple)
    return (type(module) in (GroupNorm, nn.Conv2d, nn.SiLU) and plain and not any(hooks) and "forward" not in vars(module)
            and not any(p.requires_grad for p in module.parameters()))


def norm_silu_conv(x: Tensor, norm: GroupNorm, conv: nn.Conv2d) -> Tensor:
    """conv(silu(norm(x))) of frozen layers (see `frozen`), for float [N, C, H, W]; differentiable once, in `x`."""
    return _NormSiluConv.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, conv.weight, conv.bias, conv.stride,
                               conv.padding)


def gated(x: Tensor) -> Tensor:
    """h gelu(g) where x = [h, g] along the last axis; differentiable once."""
    return _Gated.apply(x)


class _NormSiluConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float, weight: Tensor, bias: Tensor | None,
                stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        x = dense(x)
        y, mean, rstd = normalised(x, gamma, beta, groups, eps)
        out = F.conv2d(F.silu(y, inplace=True), weight, bias, stride, padding)
        ctx.save_for_backward(x, gamma, beta, mean, rstd, weight)
        ctx.how = groups, eps, stride, padding
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, rstd, weight = ctx.saved_tensors
        groups, eps, stride, padding = ctx.how
        hidden, _, _ = torch.ops.aten.convolution_backward(     # of its input only the shape is asked for
            grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False))
        y, _, _ = normalised(x, gamma, beta, groups, eps)       # not by the moments: in bfloat16 that cancels
        hidden = torch.ops.aten.silu_backward(hidden, y)
        return input_gradient(hidden, x, gamma, mean, rstd), *[None] * 8


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        value, gate = x.chunk(2, -1)
        return F.gelu(gate).mul_(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        value, gate = x.chunk(2, -1)
        result = torch.empty_like(x)
        by_value, by_gate = result.chunk(2, -1)
        torch.mul(grad, F.gelu(gate), out=by_value)
        by_gate.copy_(torch.ops.aten.gelu_backward(grad * value, gate))
        return result
