"""The steps of Stable Diffusion in one step: its U-Net, with LoRA on every self- and cross-attention. Random weights.

    all inside     as the paper's released scripts train: the image, the target and the prompt are encoded in every step
    plain          what `fit` runs: latents and the prompt's embedding are there already
    checkpointing  the same, activations recomputed in the backward pass
    plain bf16     the U-Net in bfloat16
    floor          the bare U-Net without adapters, forward and backward to its input
"""
from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from _steps import Step, adapt, training_step
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

import generators
from generators.stable_diffusion import StableDiffusion, StableDiffusionConfig, StableDiffusionNetwork
from generators.stable_diffusion._frugal import Gated, Resnet

CONFIGS = Path(generators.__file__).parent / "stable_diffusion" / "configs"
PRESETS = {"sd15": (512, 1), "sd15-256": (256, 1), "sd-embedded": (64, 4)}        # resolution, batch


def config_of(preset: str) -> StableDiffusionConfig:
    if preset == "sd-embedded":
        return generators.load("sd-scenes").network.config
    about = json.loads((CONFIGS / f"{preset.partition('-')[0]}.json").read_text())
    parts = {name: about[name] for name in ("unet", "vae", "text_encoder", "scheduler")}
    return StableDiffusionConfig(**parts, resolution=512)


class StableDiffusionSteps:
    variants = ("all inside", "plain", "checkpointing", "plain bf16", "floor")
    unmeasured = ("floor",)
    base, reference, notes = "all inside", "plain", __doc__

    def __init__(self, preset: str, resolution: int | None = None, batch: int | None = None, device: str = "cpu") -> None:
        self.resolution, self.batch = resolution or PRESETS[preset][0], batch or PRESETS[preset][1]
        config = config_of(preset)
        network = StableDiffusionNetwork(config).requires_grad_(False).to(device)
        length = config.text_encoder["max_position_embeddings"]
        network.tokenizer = "none"
        network._tokens = lambda prompts: torch.zeros(len(prompts), length, dtype=torch.int64)
        self.generator = StableDiffusion(preset, network, resolution=self.resolution)
        self.network = network
        self.sites = self.generator.sites("all")
        generator = torch.Generator().manual_seed(2)
        shape = (self.batch, 3, self.resolution, self.resolution)
        self.image, self.target = ((torch.rand(shape, generator=generator) * 2 - 1).to(device) for _ in range(2))
        state = self.generator.prepare(self.generator.encode(self.image))
        self.latents = [state["latent"], self.generator.to_target(self.target, range(self.batch))]
        self.generator.context(1)

    def __getitem__(self, variant: str) -> Step:
        wanted = torch.bfloat16 if "bf16" in variant else torch.float32
        if "floor" in variant:
            return self._bare(wanted)
        if self.sites:
            adapt(self.network, self.sites, lambda name: False)
            self.sites = []
        unet = self.network.unet

        def prepared() -> tuple[Tensor, Tensor]:
            if "all inside" in variant:
                self.generator._embeddings.clear()
                state = self.generator.prepare(self.generator.encode(self.image))
                return state["latent"], self.generator.to_target(self.target, range(self.batch))
            return self.latents[0], self.latents[1]

        def draw() -> Tensor:
            latent, self.wanted = prepared()
            return self.generator.forward({"latent": latent})

        step = training_step(draw, None, self.network, lambda prediction, _: F.mse_loss(prediction, self.wanted))

        # VAE and text encoder, laid aside on a CPU, stay so: done here, outside of what is timed. On an accelerator they come
        # back behind the block, which is therefore `sd_step`'s own.
        if "all inside" not in variant and self.image.device.type == "cpu":
            with self.generator.stepping():
                pass

        kinds = {Resnet: ResnetBlock2D, Gated: GEGLU}       # the scripts' blocks are diffusers' own
        kinds = kinds if "all inside" in variant else {theirs: ours for ours, theirs in kinds.items()}
        compiled = torch.compile(unet._call_impl) if "compiled" in variant else None

        def in_its_way() -> object:
            # Nothing to do but in the first of a variant's turns: LoRA stays in float32, as `fit` has it.
            for name, parameter in unet.named_parameters():
                if "lora_" not in name:
                    parameter.data = parameter.data.to(wanted)
            (unet.enable_gradient_checkpointing if "checkpointing" in variant else unet.disable_gradient_checkpointing)()
            unet._compiled_call_impl = compiled
            for module in unet.modules():
                module.__class__ = kinds.get(type(module), type(module))
            return step()
        return in_its_way

    def _bare(self, dtype: torch.dtype) -> Step:
        """A second U-Net of the same shapes without adapters."""
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_config(self.network.config.unet).requires_grad_(False)
        torch.nn.Module.to(unet, self.image.device, dtype)      # diffusers' own warns of what does not happen here
        latent = self.latents[0].clone().requires_grad_()
        context = self.generator.context(self.batch).to(dtype)

        def step() -> None:
            prediction = unet(latent.to(dtype), 999, encoder_hidden_states=context).sample
            torch.autograd.grad(F.mse_loss(prediction.float(), self.latents[1]), latent)
        return step
