"""The parts of a latent diffusion model in one module: VAE, text encoder and U-Net (arXiv 2112.10752, figure 3)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._config import StableDiffusionConfig
from ._text import Tokens, tokens_of
from ._two_encoders import read_by_both, told


class StableDiffusionNetwork(nn.Module):
    """`unet`, `vae`, `text_encoder` and an XL's `text_encoder_2` of a configuration, or some of these `parts`, with weights
    drawn from `seed`.

    diffusers and transformers do the work; what is here is how the parts meet.
    """

    def __init__(self, config: StableDiffusionConfig, seed: int = 0, parts: Sequence[str] | None = None):
        super().__init__()
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        self.config, parts = config, config.parts if parts is None else parts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if "unet" in parts:
                self.unet = UNet2DConditionModel.from_config(config.unet)
            if "vae" in parts:
                self.vae = AutoencoderKL.from_config(config.vae)
            if "text_encoder" in parts:
                self.text_encoder = CLIPTextModel(CLIPTextConfig(**config.text_encoder))
            if "text_encoder_2" in parts:
                self.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**config.text_encoder_2))
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
        """prompts -> float [N, L, D]: the text encoder's last hidden state, one row a prompt, padded to its full length; of two
        text encoders what `read_by_both` says, [N, L + 1, D]."""
        ids = self._ids(prompts)
        if self.config.text_encoder_2 is None:
            return self.text_encoder(input_ids=ids).last_hidden_state
        both = read_by_both(self.text_encoder, self.text_encoder_2, ids)
        silent = torch.tensor([self.config.silent_is_zero and not prompt for prompt in prompts], device=both.device)
        return both.masked_fill(silent[:, None, None], 0)

    def say(self, sample: Tensor, timestep: Tensor | int, context: Tensor) -> Tensor:
        """One pass of the U-Net, in its own precision: latents [N, C, h, w], and `context` as `embed` gives it."""
        added, second = None, self.config.text_encoder_2
        if second is not None:
            context, added = told(context, second["projection_dim"], sample, self.config.factor)
        return self.unet(sample, timestep, encoder_hidden_states=context, added_cond_kwargs=added).sample

    def _ids(self, prompts: Sequence[str]) -> Tensor:
        if self._tokens is None:
            self._tokens = tokens_of(self.config, self.tokenizer)
        return self._tokens(prompts).to(self.text_encoder.device)

    def _spoken(self, prompt: str) -> tuple[Tensor, int]:
        """A prompt's token ids, int64 [L], and where its words end."""
        ids, empty = self._ids([prompt, ""])
        return ids, 1 + int((ids[1:] == empty[1]).long().argmax())          # the empty prompt is its beginning, then its end

    def words(self, prompt: str) -> Tensor:
        """float [n, D]: the embeddings of a prompt's words, as they enter the text encoder.

        Raises ValueError where there are two.
        """
        if self.config.text_encoder_2 is not None:
            raise ValueError("method: words cannot be learnt for a model with two text encoders, each of which has vectors of "
                             "its own; choose another method, or a model with one (Stable Diffusion 1.x, 2.x)")
        ids, end = self._spoken(prompt)
        return self.text_encoder.get_input_embeddings().weight[ids[1:end]].detach().float()

    def embed_vectors(self, prompt: str, vectors: Tensor, instead: bool = False) -> Tensor:
        """float [1, L, D], as `embed`, where vectors: float [k, D] are embeddings of words behind those of the prompt, or
        `instead` of them; gradients reach them.

        Raises ValueError where the text encoder's length does not hold them.
        """
        ids, end = self._spoken(prompt)
        start = 1 if instead else end
        stop = start + len(vectors)
        if stop >= len(ids):
            raise ValueError(f"tokens: {len(vectors)} vectors and {start - 1} words of the prompt do not fit into the text "
                             f"encoder's {len(ids)} places, of which beginning and end take two; choose at most "
                             f"{len(ids) - 1 - start}")
        filler = ids[:1].expand(len(vectors))
        ids = torch.cat([ids[:start], filler, ids[end:]])
        ids = torch.cat([ids, ids[-1:].expand(max(0, self._length - len(ids)))])[:self._length]

        def insert(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            row = torch.cat([output[0, :start], vectors.to(output.dtype), output[0, stop:]])
            return row[None]

        handle = self.text_encoder.get_input_embeddings().register_forward_hook(insert)
        try:
            return self.text_encoder(input_ids=ids[None]).last_hidden_state
        finally:
            handle.remove()

    @property
    def _length(self) -> int:
        return self.config.text_encoder["max_position_embeddings"]
