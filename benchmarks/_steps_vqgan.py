"""The steps of VQGAN: its decoder, with LoRA on the projections of its attention.

    contiguous    the decoder as diffusers makes it, float32
    plain         as the generator runs it: channels last, float32
    plain bf16    the same under autocast
    floor         the bare convolutions and projections of the same shapes, forward and backward to their input, and
                  nothing else; the attention itself is left out
    floor bf16    the same in bfloat16
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from _steps import Step, adapt, bare, random_target, training_step
from torch import Tensor, nn

from generators.vqgan import VQGAN, VQGANConfig, VQGANNetwork
from generators.vqgan._config import GPTConfig

# The transformer does not run in a step; one of the least size stands for it.
_GPT = GPTConfig(vocab_size=1024, block_size=257, n_layer=1, n_head=1, n_embd=8)
PRESETS = {
    "vqgan-ffhq": (VQGANConfig(resolution=256, ch=128, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_resolutions=(16,),
                               z_channels=256, embed_dim=256, n_embed=1024, encoder=False, gpt=_GPT), 1),
    "vqgan-embedded": (VQGANConfig(resolution=64, ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, attn_resolutions=(16,),
                                   z_channels=64, embed_dim=64, n_embed=1024, encoder=False, gpt=_GPT), 8),
}


class VQGANSteps:
    variants = ("contiguous", "plain", "plain bf16", "floor", "floor bf16")
    unmeasured = ("floor", "floor bf16")
    base, reference, notes = "contiguous", "plain", __doc__

    def __init__(self, preset: str) -> None:
        config, self.batch = PRESETS[preset]
        torch.manual_seed(0)
        network = VQGANNetwork(config).requires_grad_(False)
        self.generators = {p: VQGAN(preset, network, precision=p) for p in ("fp32", "bf16")}
        self.network = network
        adapt(network, self.generators["fp32"].sites(), lambda name: False)
        generator = torch.Generator().manual_seed(2)
        self.codes = torch.randn(self.batch, config.embed_dim, config.side, config.side, generator=generator)
        self.target = random_target(self.batch, config.resolution)

    def __getitem__(self, variant: str) -> Step:
        if variant.startswith("floor"):
            return bare(self._calls(torch.bfloat16 if "bf16" in variant else torch.float32))
        generator = self.generators["bf16" if "bf16" in variant else "fp32"]
        layout = torch.contiguous_format if variant == "contiguous" else torch.channels_last
        decoder = self.network.first_stage.decoder
        step = training_step(lambda: generator.forward({"codes": self.codes}), self.target, self.network)

        def in_layout() -> object:
            decoder.to(memory_format=layout)  # nothing to do but in the first of a variant's turns
            return step()
        return in_layout

    def _calls(self, dtype: torch.dtype) -> list[tuple]:
        """Every convolution and projection that a forward pass runs, LoRA's own left out."""
        calls, hooks = [], []

        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x, weight = torch.randn_like(inputs[0], dtype=dtype), module.weight.detach().to(dtype)
            if isinstance(module, nn.Linear):
                calls.append((F.linear, x, weight, {}))
            else:
                calls.append((F.conv2d, x, weight, {"padding": module.padding, "stride": module.stride}))

        for name, module in self.network.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and "lora_" not in name:
                hooks.append(module.register_forward_pre_hook(record))
        with torch.no_grad():
            self.generators["fp32"].forward({"codes": self.codes})
        for hook in hooks:
            hook.remove()
        return calls
