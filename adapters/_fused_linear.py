"""PEFT's LoRA on `nn.Linear`, its forward and backward pass in as few passes over the activations as there can be.

o = W a + s W_u W_l a of N positions costs little arithmetic and much memory traffic: written out, autograd reads and writes
[N, out] for the product, the scaling and the sum, and for each again on the way back, and a 16-bit base's activations are
brought to float32 before. Here W_u's product is accumulated onto W a in place, and so is its part of the input's gradient; kept
for the backward pass are the input and W_l a, [N, rank]. Weights, files and the switching of adapters are PEFT's own, and so is
the pass wherever this one would say something else; on a 16-bit base W_u W_l a is computed in 16 bits, within its rounding of
PEFT's float32.
"""
from __future__ import annotations

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class _LowRank(torch.autograd.Function):
    """W x + bias + scaling B A x, differentiable in x, A and B."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, lower: Tensor, upper: Tensor,
                scaling: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ lower.to(x.dtype).t()
        out = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        out.addmm_(inner, (upper * scaling).to(x.dtype).t())
        ctx.save_for_backward(x, weight, lower, upper, inner)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        x, weight, lower, upper, inner = ctx.saved_tensors
        wanted, flat = ctx.needs_input_grad, grad.reshape(-1, grad.shape[-1])
        to_inner = flat @ (upper * ctx.scaling).to(x.dtype)
        to_x = (flat @ weight).addmm_(to_inner, lower.to(x.dtype)).view(x.shape) if wanted[0] else None
        to_lower = (to_inner.t() @ x.reshape(-1, x.shape[-1])).to(lower.dtype) if wanted[3] else None
        to_upper = (inner.t() @ flat).t().to(upper.dtype) * ctx.scaling if wanted[4] else None
        return to_x, None, None, to_lower, to_upper, None


class FusedLinear(Linear):
    """PEFT's layer; `forward` in one operation where one plain LoRA is active on a frozen base of the input's dtype."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        name = self._plain(x) if not (args or kwargs) else None
        if name is None:
            return super().forward(x, *args, **kwargs)
        base = self.get_base_layer()
        return _LowRank.apply(x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight,
                              self.scaling[name])

    def _plain(self, x: Tensor) -> str | None:
        """The active adapter, where the single operation says what PEFT's says."""
        base, active = self.get_base_layer(), self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or type(base) is not nn.Linear:
            return None
        name = active[0]
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        frozen = not (base.weight.requires_grad or base.bias is not None and base.bias.requires_grad)
        still = isinstance(self.lora_dropout[name], nn.Identity)
        alike = x.dtype == base.weight.dtype and not torch.is_autocast_enabled(x.device.type)
        return name if frozen and still and alike else None


def register_fused_linear(config: LoraConfig) -> LoraConfig:
    """Makes PEFT put this layer on every `nn.Linear` that the configuration names; returns the configuration."""
    config._register_custom_module({nn.Linear: FusedLinear})
    return config
