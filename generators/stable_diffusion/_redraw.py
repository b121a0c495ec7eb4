"""SDEdit (Meng et al. 2022, arXiv 2108.01073): an image, noised part of the way, is denoised to another that was asked for.

How far it is noised, `strength`, trades what the image shows against what the prompt says. Nothing is trained. The paper
solves a stochastic equation back; here, as in today's samplers, DPM-Solver++ (arXiv 2211.01095) solves the deterministic one,
with the prompt by classifier-free guidance.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._config import StableDiffusionConfig
from ._multi import check_sampling, is_number, same_noise, solver

if TYPE_CHECKING:
    from ._generator import StableDiffusion


class Redrawing:
    """How far an image is noised, and how it is drawn again.

    Args:
        config: of a U-Net that reads one latent and predicts the noise, v or the latent itself
        strength: the part of the schedule that the image is noised by: 0 leaves it as it is, 1 leaves nothing of it
        steps: of DPM-Solver++ for the whole schedule, of which the last `strength` · `steps`, rounded down, are taken
        guidance: of classifier-free guidance by the prompt; 1 for none
        noise_seed: of the noise

    Raises ValueError for values out of range, and for a strength that is less than one step.
    """

    def __init__(self, config: StableDiffusionConfig, strength: float, steps: int, guidance: float, noise_seed: int):
        check_sampling(config, steps, noise_seed, guidance=guidance)
        if not is_number(strength) or not 0 <= strength <= 1:
            raise ValueError(f"strength: expected a number in [0, 1], got {strength!r}")
        self.taken = int(steps * strength + 1e-9)       # 0.29 of 100 are 28.999999999999996
        if strength and not self.taken:
            raise ValueError(f"strength: {strength:g} of {steps} steps is less than one; choose at least {1 / steps:.3g}, 0 "
                             "for the image as it is, or more steps")
        self.config, self.steps, self.guidance, self.noise_seed = config, steps, guidance, noise_seed

    @torch.no_grad()
    def generate(self, generator: StableDiffusion, latent: Tensor) -> Tensor:
        """Scaled latents of images -> of what they were redrawn to, float [N, C, h, w], from the same noise for every row."""
        if not self.taken:
            return latent
        if self.taken == self.steps:        # nothing of the images is left, and the noise is one for all: so is the picture
            return self._drawn(generator, latent[:1]).expand_as(latent).clone()
        return self._drawn(generator, latent)

    def _drawn(self, generator: StableDiffusion, latent: Tensor) -> Tensor:
        scheduler = solver(self.config, self.config.scheduler.get("rescale_betas_zero_snr", False))
        first = self.steps - self.taken
        scheduler.set_timesteps(self.steps, device=latent.device)
        scheduler.set_begin_index(first)
        times, noise = scheduler.timesteps[first:], same_noise(latent, self.noise_seed)
        # Most schedules end with a trace of the image left; full strength leaves none, as where it is drawn from nothing.
        x = scheduler.add_noise(latent, noise, times[:1].expand(len(latent))) if first else noise * scheduler.init_noise_sigma
        told = generator.context(len(latent))
        silent = None if self.guidance == 1 else generator.context(len(latent), "")
        for t in times:
            given = scheduler.scale_model_input(x, t)
            if silent is None:
                said = generator.denoise(given, t, told)
            else:
                without, with_ = generator.denoise(torch.cat([given, given]), t, torch.cat([silent, told])).chunk(2)
                said = without + self.guidance * (with_ - without)
            x = scheduler.step(said, t, x).prev_sample
        return x
