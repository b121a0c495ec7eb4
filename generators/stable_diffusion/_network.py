"""The parts of a latent diffusion model in one module: VAE, text encoder and U-Net (arXiv 2112.10752, figure 3)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._config import StableDiffusionConfig
from ._text import Tokens, tokens_of


class StableDiffusionNetwork(nn.Module):
    """`unet`, `vae` and `text_encoder` of a configuration, or some of these `parts`, with weights drawn from `seed`.

    diffusers and transformers do the work; what is here is how the parts meet.
    """

    def __init__(self, config: StableDiffusionConfig, seed: int = 0, parts: Sequence[str] = ("unet", "vae", "text_encoder")):
        super().__init__()
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if "unet" in parts:
                self.unet = UNet2DConditionModel.from_config(config.unet)
            if "vae" in parts:
                self.vae = AutoencoderKL.from_config(config.vae)
            if "text_encoder" in parts:
                self.text_encoder = CLIPTextModel(CLIPTextConfig(**config.text_encoder))
        self._tokenizer = config.tokenizer
        self._tokens: Tokens | None = None

    @property
    def tokenizer(self) -> str | None:
        """Folder of CLIP's tokenizer, where the configuration has no vocabulary; it is read with the first prompt."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, folder: str | None) -> None:
        if folder != self._tokenizer:
            self._tokenizer, self._tokens = folder, None

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """image: float [N, 3, H, W] in [-1, 1] -> latents [N, C, H / f, W / f]: the posterior's mode, or a sample of it where
        `noise` (of the latents' shape, standard normal) is given; not yet scaled."""
        posterior = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        return posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents, not scaled -> image [N, 3, H, W], nominally in [-1, 1]."""
        return self.vae.decode(latent.to(self.vae.dtype)).sample

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """prompts -> float [N, L, D]: the text encoder's last hidden state, one row a prompt, padded to its full length."""
        if self._tokens is None:
            self._tokens = tokens_of(self.config, self.tokenizer)
        ids = self._tokens(prompts).to(self.text_encoder.device)
        return self.text_encoder(input_ids=ids).last_hidden_state
