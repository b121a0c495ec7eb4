"""diffusers' residual and feed-forward blocks, which keep less for the backward pass while nothing in them learns."""
from __future__ import annotations

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from .._recompute import frozen, gated, norm_silu_conv


class Resnet(ResnetBlock2D):
    """`ResnetBlock2D`, with its weights' names; whatever it is not made for takes diffusers' own road."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args, **kwargs) -> Tensor:
        parts = (self.norm1, self.conv1, self.norm2, self.conv2, self.nonlinearity)
        plain = (self.time_embedding_norm == "default" and self.upsample is None and self.downsample is None
                 and not (self.training and self.dropout.p))
        if not (plain and torch.is_grad_enabled() and input_tensor.requires_grad and frozen(*parts)):
            return super().forward(input_tensor, temb, *args, **kwargs)
        hidden = norm_silu_conv(input_tensor, self.norm1, self.conv1)
        if self.time_emb_proj is not None:
            temb = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))[:, :, None, None]
        hidden = norm_silu_conv(hidden if temb is None else hidden + temb, self.norm2, self.conv2)
        shortcut = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return (shortcut + hidden) / self.output_scale_factor


class Gated(GEGLU):
    """`GEGLU`, with its weights' names. What is projected may learn: only the gate is computed again."""

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(hidden_states, *args, **kwargs)
        return gated(self.proj(hidden_states))


def frugal(unet: nn.Module) -> nn.Module:
    """Gives the blocks of a U-Net of diffusers these classes; returns it."""
    for module in unet.modules():
        if type(module) is ResnetBlock2D:
            module.__class__ = Resnet
        elif type(module) is GEGLU:
            module.__class__ = Gated
    return unet
