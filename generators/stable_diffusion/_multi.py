"""Multi-step diffusion with the image's latent beside the noisy one (AUG; Intrinsic LoRA, arXiv 2311.17137, section 4.3).

The U-Net's input is (noisy latent of the intrinsic, latent of the image); its first convolution gets four more input
channels, which stay frozen like the rest. Training noises the intrinsic's latent to a random timestep; prediction starts in
pure noise and samples with DPM-Solver++ (arXiv 2211.01095), trailing timesteps, guided by the prompt.
"""
from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ._config import StableDiffusionConfig

if TYPE_CHECKING:
    from ._generator import StableDiffusion

OWN = "own"


class MultiStep:
    """How a U-Net is trained and sampled in several steps.

    Args:
        image_guidance: by the image's latent; 1 for none (see `_guided`)
        noise_seed: of the noise that sampling starts from
        others: see `StableDiffusion`; there zero_snr may be None, for what suits the U-Net
    """

    def __init__(self, config: StableDiffusionConfig, conv_in: str, steps: int, guidance: float, rescale: float,
                 zero_snr: bool | None, scale_image_latent: bool, image_guidance: float = 1.0, noise_seed: int = 0):
        check_sampling(config, steps, noise_seed, guidance=guidance, image_guidance=image_guidance)
        if not is_number(rescale) or not 0 <= rescale <= 1:
            raise ValueError(f"rescale: expected a number in [0, 1], got {rescale!r}")
        from diffusers import DDPMScheduler

        kind = config.scheduler["prediction_type"]
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"mode: a U-Net that predicts {kind!r} cannot be run in several steps; only epsilon and "
                             "v_prediction")
        if zero_snr is None:        # a U-Net that came with two latents was trained on the schedule that it states
            stated = config.scheduler.get("rescale_betas_zero_snr", False)
            zero_snr = kind != "epsilon" and (conv_in != OWN or stated)
        if zero_snr and kind == "epsilon":
            raise ValueError("zero_snr: a U-Net that predicts the noise (epsilon) says nothing of the picture at a "
                             "signal-to-noise ratio of zero; pass zero_snr=False, or a model with v-prediction")
        self.options = dict(conv_in=conv_in, steps=steps, guidance=guidance, rescale=rescale, zero_snr=zero_snr,
                            scale_image_latent=scale_image_latent)
        self.kind, self.steps, self.guidance, self.rescale = kind, steps, guidance, rescale
        self.image_guidance, self.noise_seed = image_guidance, noise_seed
        self.divisor = 1.0 if scale_image_latent else config.vae["scaling_factor"]
        self.config, self.zero_snr = config, zero_snr
        # The solver keeps a trace of signal at the end, where its logarithm would be infinite; training has none.
        self.alphas_cumprod = DDPMScheduler(**_betas(config), rescale_betas_zero_snr=zero_snr).alphas_cumprod

    def editing(self, steps: int, guidance: float, image_guidance: float, noise_seed: int) -> MultiStep:
        """The same U-Net sampled as InstructPix2Pix is (Brooks et al. 2023, arXiv 2211.09800, section 3.2.1): guided by
        both the image and the words, and no contrast taken back."""
        return MultiStep(self.config, self.options["conv_in"], steps, guidance, 0.0, self.zero_snr,
                         self.options["scale_image_latent"], image_guidance, noise_seed)

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
        scheduler = solver(self.config, self.zero_snr)
        scheduler.set_timesteps(self.steps, device=latent.device)
        x = same_noise(latent, self.noise_seed) * scheduler.init_noise_sigma
        beside, told = latent / self.divisor, generator.context(len(latent))
        silent = None if self.guidance == self.image_guidance == 1 else generator.context(len(latent), "")
        for t in scheduler.timesteps:
            said = self._guided(generator, scheduler.scale_model_input(x, t), t, beside, told, silent)
            x = scheduler.step(said, t, x).prev_sample
        return x

    def _guided(self, generator: StableDiffusion, x: Tensor, t: Tensor, beside: Tensor, told: Tensor,
                silent: Tensor | None) -> Tensor:
        """What the U-Net says of x with words and image, carried on from what it says without the words (classifier-free
        guidance: arXiv 2207.12598) and from what it says without either (arXiv 2211.09800, eq. 3); no image is a latent of
        zeros, no words are the empty prompt."""
        image = torch.cat([x, beside], 1)
        if silent is None:
            return generator.denoise(image, t, told)
        if self.image_guidance == 1:
            without, with_ = generator.denoise(torch.cat([image, image]), t, torch.cat([silent, told])).chunk(2)
            return _rescaled(without + self.guidance * (with_ - without), with_, self.rescale)
        neither = torch.cat([x, torch.zeros_like(beside)], 1)
        said = generator.denoise(torch.cat([neither, image, image]), t, torch.cat([silent, silent, told]))
        free, without, with_ = said.chunk(3)
        guided = free + self.image_guidance * (without - free) + self.guidance * (with_ - without)
        return _rescaled(guided, with_, self.rescale)


def solver(config: StableDiffusionConfig, zero_snr: bool):
    """DPM-Solver++ of second order (arXiv 2211.01095) on a configuration's noise schedule, trailing timesteps."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**_betas(config), prediction_type=config.scheduler["prediction_type"],
                                       rescale_betas_zero_snr=zero_snr, timestep_spacing="trailing",
                                       algorithm_type="dpmsolver++")


def _betas(config: StableDiffusionConfig) -> dict:
    return {k: config.scheduler[k] for k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}


def check_sampling(config: StableDiffusionConfig, steps: int, noise_seed: int, **guidances: float) -> None:
    """Raises ValueError for steps, a seed or strengths of guidance that no sampling can have."""
    trained = config.scheduler["num_train_timesteps"]
    if type(steps) is not int or not 1 <= steps <= trained:
        raise ValueError(f"steps: expected 1 … {trained}, the timesteps it was trained with, got {steps!r}")
    if type(noise_seed) is not int or not 0 <= noise_seed < 1 << 63:
        raise ValueError(f"noise_seed: expected an integer of at least 0, got {noise_seed!r}")
    for name, value in guidances.items():
        if not is_number(value) or not 0 <= value < float("inf"):
            raise ValueError(f"{name}: expected a number of at least 0, 1 for none, got {value!r}")


def same_noise(latent: Tensor, seed: int) -> Tensor:
    """Standard normal of the shape of `latent`, the same in every row: what a row becomes depends on no other."""
    noise = torch.randn((1, *latent.shape[1:]), generator=torch.Generator().manual_seed(seed))
    return noise.to(latent).expand_as(latent)


def noise_rows(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal [N, *shape], each row by its own seed, so that it does not matter which batch or process has it."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guidance raises contrast; this takes `share` of that back (arXiv 2305.08891, eqs. 14-16)."""
    axes = tuple(range(1, guided.ndim))
    scaled = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * scaled + (1 - share) * guided


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def conv_in_of(unet: nn.Module, conv_in: str | None, name: str) -> str:
    """What stands for the half of the first convolution that reads the image's latent, given what was asked for: of a U-Net
    that reads two latents, what made it so, OWN where it came like that.

    Raises ValueError where nothing was asked for and it is needed, or where something was and it comes too late.
    """
    if conv_in not in (None, OWN, "doubled") and Path(conv_in).exists():
        conv_in = str(Path(conv_in).resolve())          # a probe may be loaded from elsewhere
    channels, half = unet.conv_in.in_channels, unet.config.out_channels
    if channels == half:
        if conv_in is None or conv_in == OWN:
            raise ValueError("conv_in: mode 'multi' needs the half of the first convolution that reads the image's latent, "
                             f"which the U-Net of {name} has not; give an InstructPix2Pix (the paper's choice: its path, or "
                             "timbrooks/instruct-pix2pix), 'doubled' or 'random:SEED'")
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
        from .._hub import is_hub_id
        from ._hub import resolve
        from ._read import read_conv_in

        place = Path(conv_in)
        if not place.exists():
            if not is_hub_id(conv_in) or place.suffix in (".safetensors", ".ckpt", ".bin", ".pt"):
                raise FileNotFoundError(f"conv_in: {conv_in!r:.200} is neither 'doubled', nor 'random:SEED', nor an "
                                        "InstructPix2Pix: a diffusers folder, .safetensors or .ckpt that is here, or "
                                        "owner/model on the Hugging Face hub, as timbrooks/instruct-pix2pix")
            place = resolve(conv_in, parts=("unet",))
        other = read_conv_in(place)[0].to(weight)
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
