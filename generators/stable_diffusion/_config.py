"""The configuration of a latent diffusion model: those of its parts, as diffusers and transformers write them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StableDiffusionConfig:
    """What a Stable Diffusion is made of (Rombach et al. 2022, arXiv 2112.10752).

    Args:
        unet: of `diffusers.UNet2DConditionModel`
        vae: of `diffusers.AutoencoderKL`; its `scaling_factor` brings latents to unit variance
        text_encoder: of `transformers.CLIPTextModel`
        scheduler: noise schedule: num_train_timesteps, beta_start, beta_end, beta_schedule, prediction_type
        resolution: H = W of the images it was trained on, in pixels
        vocabulary: words of a word-level tokenizer, by token; None where `tokenizer` says where CLIP's lies
        tokenizer: folder of CLIP's tokenizer, or None
        text_encoder_2: of `transformers.CLIPTextModelWithProjection`, which Stable Diffusion XL has beside the first
        silent_is_zero: of a model with two text encoders: no words are zeros, not what the encoders make of an empty prompt
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    resolution: int
    vocabulary: tuple[str, ...] | None = None
    tokenizer: str | None = field(default=None, compare=False)
    text_encoder_2: dict[str, Any] | None = None
    silent_is_zero: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Those that have weights."""
        return ("unet", "vae", "text_encoder", *(("text_encoder_2",) if self.text_encoder_2 else ()))

    @property
    def latent_channels(self) -> int:
        return self.vae["latent_channels"]

    @property
    def factor(self) -> int:
        """Pixels of an image for one of its latent, along a side."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for files and fingerprints; without the place of a tokenizer, which is the machine's."""
        named = {name: getattr(self, name) for name in ("unet", "vae", "text_encoder", "scheduler", "resolution")}
        if self.text_encoder_2 is not None:
            named |= dict(text_encoder_2=self.text_encoder_2, silent_is_zero=self.silent_is_zero)
        return named if self.vocabulary is None else {**named, "vocabulary": list(self.vocabulary)}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> StableDiffusionConfig:
        """Raises ValueError naming what is missing or unknown."""
        known = {f for f in cls.__dataclass_fields__}
        needed = known - {"vocabulary", "tokenizer", "text_encoder_2", "silent_is_zero"}
        if missing := sorted(needed - set(config)):
            raise ValueError(f"config: a Stable Diffusion needs {', '.join(missing)}; got {', '.join(sorted(config))}")
        if wrong := sorted(set(config) - known):
            raise ValueError(f"config: a Stable Diffusion has no {', '.join(wrong)}; it has {', '.join(sorted(known))}")
        words = config.get("vocabulary")
        return cls(**{**config, "vocabulary": None if words is None else tuple(words)})
