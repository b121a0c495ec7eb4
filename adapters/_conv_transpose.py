"""LoRA for transposed convolutions, which PEFT lacks: o = W a + W_u W_l a (Intrinsic LoRA, arXiv 2311.17137, section 3).

A transposed convolution multiplies the vector `a` of every input position by one matrix W [out·kh·kw, in] and lays the
resulting patches over each other. Its LoRA is therefore a 1×1 convolution W_l (`lora_A`, in -> rank) before a transposed
convolution W_u of the base's own geometry (`lora_B`, rank -> out): the kernel changes by exactly W_u W_l, of rank `rank`.
These are the updates that PEFT allows the convolution whose gradient the layer is, and where the input is 1×1, as in the
first layer of a DCGAN, they are those of a linear layer.
"""
from __future__ import annotations

import math
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import _ConvNd
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ConvTranspose2d(_ConvNd):
    """PEFT's LoRA layer around an `nn.ConvTranspose2d` of any stride, padding, output_padding and dilation.

    merge, unmerge, several adapters and their switching are PEFT's. Weights of an adapter: lora_A [rank, in, 1, 1],
    lora_B [rank, out, kh, kw].

    Raises ValueError for a layer with groups, DoRA and other variants, and initialisations that read the base weight.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, r: int = 0, lora_alpha: int = 1,
                 **kwargs: Any):
        if reason := refusal(base_layer):
            raise ValueError(f"{kwargs.get('target_name') or 'ConvTranspose2d'} is {reason}")
        super().__init__(base_layer, adapter_name, config=config, r=r, lora_alpha=lora_alpha, **kwargs)

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        return module.in_channels, module.out_channels

    @property
    def lora_variants(self) -> dict:
        return {(): None}

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        """Adds an adapter: W_l Kaiming-uniform (or Gaussian), W_u zero."""
        if r < 1:
            raise ValueError(f"r: expected a rank of at least 1, got {r}")
        if config.init_lora_weights not in (True, False, "gaussian"):
            raise ValueError(f"init_lora_weights: a transposed convolution knows True, False and 'gaussian', got "
                             f"{config.init_lora_weights!r}")
        self.resolve_lora_variant(config=config)             # raises on those this layer has not got
        base = self.get_base_layer()
        self.r[adapter_name], self.lora_alpha[adapter_name] = r, lora_alpha
        self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
        self.use_rslora[adapter_name], self.use_dora[adapter_name] = config.use_rslora, False
        self.lora_bias[adapter_name] = config.lora_bias
        self.lora_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        self.lora_A[adapter_name] = nn.Conv2d(self.in_features, r, 1, bias=False)
        self.lora_B[adapter_name] = nn.ConvTranspose2d(
            r, self.out_features, base.kernel_size, base.stride, base.padding, base.output_padding,
            dilation=base.dilation, bias=config.lora_bias)
        self.reset_lora_parameters(adapter_name, config.init_lora_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What the adapter adds to the base weight: scaled W_u W_l as a kernel [in, out, kh, kw]."""
        lower, upper = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        dtype = lower.dtype
        if lower.device.type == "cpu" and dtype in (torch.float16, torch.bfloat16):      # slow there
            lower, upper = lower.float(), upper.float()
        delta = lower.flatten(1).T @ upper.flatten(1)
        return (delta.view(self.in_features, *upper.shape[1:]) * self.scaling[adapter]).to(dtype)

    def forward(self, x: Tensor, output_size: list[int] | None = None, **kwargs: Any) -> Tensor:
        """As `nn.ConvTranspose2d`: `output_size` picks one of the sizes that a stride above 1 leaves open."""
        if output_size is None:
            return super().forward(x, **kwargs)
        if kwargs.get("adapter_names") is not None:
            raise ValueError("output_size: PEFT cannot mix adapters within a batch and pass it on; use output_padding")
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, output_size)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name in self.lora_A:
                lower = self.lora_A[name]
                update = lower(self.lora_dropout[name](self._cast_input_dtype(x, lower.weight.dtype)))
                result = result + self.lora_B[name](update, output_size) * self.scaling[name]
        return result.to(dtype)


def register_conv_transpose(config: LoraConfig) -> LoraConfig:
    """Makes PEFT put this layer on every `nn.ConvTranspose2d` that the configuration names; returns the configuration.

    PEFT keeps the table on the configuration object alone: it goes into no file, so register after loading one too.
    """
    config._register_custom_module({nn.ConvTranspose2d: ConvTranspose2d})
    return config


def refusal(layer: nn.Module) -> str | None:
    """Why a layer cannot have a LoRA that is W_u W_l a, as the end of a sentence, or None where it can."""
    if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS, nn.ConvTranspose2d)):
        return f"{type(layer).__name__}; expected Linear, Conv1d, Conv2d, Conv3d or ConvTranspose2d: name layers within it"
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups != 1:
        return (f"a transposed convolution with groups={layer.groups}, expected groups=1: one low-rank matrix over all "
                "channels is no update of a grouped kernel; leave this layer out of the sites")
    if isinstance(layer, _CONVOLUTIONS):         # PEFT builds lora_A from kernel, stride and padding alone
        if set(layer.dilation) != {1}:
            return f"a convolution with dilation={layer.dilation}, which PEFT's LoRA leaves out; leave it out of the sites"
        if layer.padding_mode != "zeros":
            return (f"a convolution with padding_mode={layer.padding_mode!r}, where PEFT's LoRA pads with zeros; leave it "
                    "out of the sites")
    return None
