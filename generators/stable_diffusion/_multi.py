"""Multi-step diffusion with the image's latent beside the noisy one (AUG; Intrinsic LoRA, arXiv 2311.17137, section 4.3).

The U-Net's input is (noisy latent of the intrinsic, latent of the image); its first convolution gets four more input
channels, which stay frozen like the rest. Training noises the intrinsic's latent to a random timestep; prediction starts in
pure noise and samples with DPM-Solver++ (arXiv 2211.01095), trailing timesteps, guided by the prompt.
"""
from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ._config import StableDiffusionConfig

if TYPE_CHECKING:
    from ._generator import StableDiffusion

OWN = "own"


class MultiStep:
    """How a U-Net is trained and sampled in several steps; see `StableDiffusion` for the arguments."""

    def __init__(self, config: StableDiffusionConfig, conv_in: str, steps: int, guidance: float, rescale: float,
                 zero_snr: bool, scale_image_latent: bool):
        trained = config.scheduler["num_train_timesteps"]
        if type(steps) is not int or not 1 <= steps <= trained:
            raise ValueError(f"steps: expected 1 … {trained}, the timesteps it was trained with, got {steps!r}")
        if not _is_number(guidance) or not 0 <= guidance < float("inf"):
            raise ValueError(f"guidance: expected a number of at least 0, 1 for none, got {guidance!r}")
        if not _is_number(rescale) or not 0 <= rescale <= 1:
            raise ValueError(f"rescale: expected a number in [0, 1], got {rescale!r}")
        from diffusers import DDPMScheduler

        kind = config.scheduler["prediction_type"]
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"mode: a U-Net that predicts {kind!r} cannot be run in several steps; only epsilon and "
                             "v_prediction")
        if zero_snr and kind == "epsilon":
            raise ValueError("zero_snr: a U-Net that predicts the noise (epsilon) says nothing of the picture at a "
                             "signal-to-noise ratio of zero; pass zero_snr=False, or a model with v-prediction")
        self.options = dict(conv_in=conv_in, steps=steps, guidance=guidance, rescale=rescale, zero_snr=zero_snr,
                            scale_image_latent=scale_image_latent)
        self.kind, self.steps, self.guidance, self.rescale = kind, steps, guidance, rescale
        self.divisor = 1.0 if scale_image_latent else config.vae["scaling_factor"]
        self.noise_schedule = {k: config.scheduler[k] for k in ("num_train_timesteps", "beta_start", "beta_end",
                                                                "beta_schedule")}
        self.zero_snr = zero_snr
        # The solver keeps a trace of signal at the end, where its logarithm would be infinite; training has none.
        self.alphas_cumprod = DDPMScheduler(**self.noise_schedule, rescale_betas_zero_snr=zero_snr).alphas_cumprod

    def _scheduler(self):
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(**self.noise_schedule, prediction_type=self.kind,
                                           rescale_betas_zero_snr=self.zero_snr, timestep_spacing="trailing",
                                           algorithm_type="dpmsolver++")

    def regress(self, generator: StableDiffusion, latent: Tensor, target: Tensor,
                seeds: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """(what the U-Net says at a random timestep, what it should say): the noise, or v (arXiv 2202.00512, appendix D)."""
        seeds = torch.randint(1 << 62, (len(target),)).tolist() if seeds is None else seeds
        t = torch.tensor([seed % len(self.alphas_cumprod) for seed in seeds])
        noise = noise_rows(target.shape[1:], seeds).to(target)
        alpha = self.alphas_cumprod[t].to(target).view(-1, 1, 1, 1)
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        noisy = signal * target + spread * noise
        wanted = noise if self.kind == "epsilon" else signal * noise - spread * target
        said = generator.denoise(torch.cat([noisy, latent / self.divisor], 1), t.to(target.device))
        return said, wanted

    @torch.no_grad()
    def generate(self, generator: StableDiffusion, latent: Tensor) -> Tensor:
        """The intrinsic's latent [N, C, h, w], sampled from the same noise for every row, whatever batch it comes in."""
        scheduler = self._scheduler()
        scheduler.set_timesteps(self.steps, device=latent.device)
        noise = torch.randn((1, *latent.shape[1:]), generator=torch.Generator().manual_seed(0))
        x = noise.to(latent).expand_as(latent) * scheduler.init_noise_sigma
        beside = latent / self.divisor
        guided = self.guidance != 1
        context = generator.context(len(latent))
        if guided:
            context = torch.cat([generator.context(len(latent), ""), context])
        for t in scheduler.timesteps:
            both = torch.cat([scheduler.scale_model_input(x, t), beside], 1)
            if guided:
                without, with_ = generator.denoise(torch.cat([both, both]), t, context).chunk(2)
                said = _rescaled(without + self.guidance * (with_ - without), with_, self.rescale)
            else:
                said = generator.denoise(both, t, context)
            x = scheduler.step(said, t, x).prev_sample
        return x


def noise_rows(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal [N, *shape], each row by its own seed, so that it does not matter which batch or process has it."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guidance raises contrast; this takes `share` of that back (arXiv 2305.08891, eqs. 14-16)."""
    axes = tuple(range(1, guided.ndim))
    scaled = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * scaled + (1 - share) * guided


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def conv_in_of(unet: nn.Module, conv_in: str | None, name: str) -> str:
    """What stands for the half of the first convolution that reads the image's latent, given what was asked for: of a U-Net
    that reads two latents, what made it so, OWN where it came like that.

    Raises ValueError where nothing was asked for and it is needed, or where something was and it comes too late.
    """
    channels, half = unet.conv_in.in_channels, unet.config.out_channels
    if channels == half:
        if conv_in is None or conv_in == OWN:
            raise ValueError("conv_in: mode 'multi' needs the half of the first convolution that reads the image's latent, "
                             f"which the U-Net of {name} has not; give the path of an InstructPix2Pix (the paper's choice), "
                             "'doubled' or 'random:SEED'")
        return conv_in
    if channels != 2 * half:
        raise ValueError(f"mode: the U-Net of {name} takes {channels} channels; 'multi' needs one that takes {half}, or "
                         f"{2 * half} with the image's latent")
    there = getattr(unet, "widened_by", OWN)
    if conv_in not in (None, there):
        raise ValueError(f"conv_in: the U-Net of {name} takes {channels} channels already (conv_in={there!r}), so "
                         f"{conv_in!r:.200} would change nothing; leave conv_in out, or start from a U-Net of {half} channels")
    return there


@torch.no_grad()
def widen(unet: nn.Module, conv_in: str, name: str) -> None:
    """Gives the U-Net's first convolution, in place, the input channels that read the image's latent, if it has none yet."""
    own = unet.conv_in
    half = unet.config.out_channels
    if own.in_channels == 2 * half:
        return
    weight, bias = own.weight, own.bias
    kind, _, seed = conv_in.partition(":")
    if kind == "doubled":
        weight = torch.cat([weight, weight], 1) / 2
    elif kind == "random" and seed.isdigit():
        fresh = torch.randn(weight.shape, generator=torch.Generator().manual_seed(int(seed))) * weight.std().cpu()
        weight = torch.cat([weight, fresh.to(weight)], 1)
    else:
        from ._read import read_conv_in

        other = read_conv_in(conv_in)[0].to(weight)
        if other.shape[0] != len(weight) or other.shape[1] != 2 * half:
            raise ValueError(f"conv_in: {conv_in} has a first convolution of {list(other.shape)}, {name} needs "
                             f"{[len(weight), 2 * half, *weight.shape[2:]]}: an InstructPix2Pix of the same width")
        weight = torch.cat([weight, other[:, half:]], 1)
    wide = nn.Conv2d(2 * half, len(weight), own.kernel_size, own.stride, own.padding, device=weight.device, dtype=weight.dtype)
    wide.weight.copy_(weight)
    wide.bias.copy_(bias)
    unet.conv_in = wide.requires_grad_(False)
    unet.register_to_config(in_channels=2 * half)
    unet.widened_by = conv_in
