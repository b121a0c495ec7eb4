"""The two trainings of a latent diffusion model (Rombach et al. 2022, arXiv 2112.10752): its autoencoder, then its U-Net.

Autoencoder, section 3.1, with the KL regularisation of appendix G: L1 in pixels and in their gradients, which keeps edges
where the paper's perceptual term would; no adversarial term. U-Net, section 3.2 and equation 3, together with its text
encoder, as the paper's text-to-image model learns its transformer together with the U-Net (section 4.3.1).
"""
from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.stable_diffusion import StableDiffusionNetwork
from generators.stable_diffusion._text import END, UNKNOWN, WordTokens
from probes.data.scenes._store import Store

from ._training import check_recipe, real_batch


@dataclass
class AutoencoderRecipe:
    """Everything that decides the autoencoder.

    Args:
        batch: images a step
        learning_rate: at its peak, reached after 160 images
        gradients: weight of the L1 distance of the images' gradients
        kl: weight of the KL divergence of a latent [C, h, w] from a standard normal, beside a mean over pixels
        recoloured: share of a batch whose colours are transformed at random
        ema_kimg: half-life of the weights' moving average, in thousands of images
        seed: of everything
    """

    batch: int = 16
    learning_rate: float = 1.5e-3
    gradients: float = 1.0
    kl: float = 3e-6
    recoloured: float = 0.5
    ema_kimg: float = 1.0
    seed: int = 0


@dataclass
class UNetRecipe:
    """Everything that decides the U-Net and its text encoder.

    Args:
        batch: latents a step
        learning_rate: of both, at its peak, reached after 3200 latents
        weight_decay: of matrices
        wordless: share of latents whose caption is "", for guidance without a classifier (arXiv 2207.12598)
        ema_kimg: half-life of the weights' moving average, in thousands of latents
        seed: of everything
        decay_from: kimg after which the learning rate falls linearly to a fiftieth at `kimg`
    """

    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    wordless: float = 0.1
    ema_kimg: float = 8.0
    seed: int = 0
    decay_from: float | None = None


def recolour(image: Tensor, rng: torch.Generator) -> Tensor:
    """Every image [N, 3, H, W] in [-1, 1] through its own affine map of colours, clamped to [-1, 1].

    The autoencoder of Stable Diffusion has seen so many pictures that it reconstructs normal and depth maps too, which is
    what a probe in its latent space rests on. Rooms alone are no such variety, so it is made from them: a random matrix and
    offset; for a third of the images a permutation of the channels with random signs; for another third equal channels, that
    is, grey. It never sees a normal, depth, albedo or shading map: what these look like must stay for the probe to find out,
    or the autoencoder would have been trained on its answers.
    """
    n = len(image)
    matrix = 0.6 * torch.randn(n, 3, 3, generator=rng)
    offset = 0.8 * (torch.rand(n, 3, generator=rng) - 0.5)
    kind = torch.randint(3, (n,), generator=rng)
    order = torch.rand(n, 3, generator=rng).argsort(1)
    signs = torch.randint(2, (n, 3, 1), generator=rng) * 2.0 - 1
    swapped = torch.eye(3)[order] * signs
    matrix = torch.where((kind == 1)[:, None, None], swapped, matrix)
    offset = torch.where((kind == 1)[:, None], 0.0, offset)
    grey = (kind == 2)[:, None, None]
    matrix = torch.where(grey, matrix[:, :1], matrix)
    offset = torch.where(grey[..., 0], offset[:, :1], offset)
    return (torch.einsum("nij,njhw->nihw", matrix, image) + offset[..., None, None]).clamp(-1, 1)


class AutoencoderStage:
    """The autoencoder's training; `train_step` is one."""

    def __init__(self, vae: nn.Module, store: Store, recipe: AutoencoderRecipe, device: torch.device):
        self.store, self.recipe, self.device = store, recipe, device
        self.model = vae.to(device).train().requires_grad_(True)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.images, self.seconds = 0, 0.0

    def _batch(self) -> Tensor:
        # NCHW on purpose: group normalisation's gradient is several times slower channels last on a CPU, which costs more
        # than the convolutions gain.
        image = real_batch(self.store, self.recipe.batch, self.rng).contiguous()
        own = round(self.recipe.batch * self.recipe.recoloured)
        if own:
            which = torch.randperm(len(image), generator=self.rng)[:own]      # a batch is sorted by scene
            image[which] = recolour(image[which], self.rng)
        return image.to(self.device)

    def train_step(self, decay: float = 1.0) -> dict[str, float]:
        recipe = self.recipe
        warm = min(1.0, (self.images + 1) / 160)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * decay * warm
        image = self._batch()
        with torch.autocast(self.device.type, torch.bfloat16):
            posterior = self.model.encode(image).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum((1, 2, 3)).mean()
        noise = torch.randn(mean.shape, generator=self.rng).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            drawn = self.model.decode(mean + std * noise).sample
        error = drawn.float() - image
        l1 = error.abs().mean()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        self.optimiser.zero_grad(set_to_none=True)
        (l1 + recipe.gradients * edges + recipe.kl * kl).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.images += recipe.batch
        follow(self.ema, self.model, recipe.batch, recipe.ema_kimg, self.images)
        return dict(l1=l1.item(), edges=edges.item(), kl=kl.item() / mean[0].numel(), std=mean.std().item())

    def state(self) -> dict:
        return dict(model=self.model.state_dict(), ema=self.ema.state_dict(), optimiser=self.optimiser.state_dict(),
                    rng=self.rng.get_state(), images=self.images, seconds=self.seconds, recipe=asdict(self.recipe))

    def load(self, state: dict) -> None:
        """Goes on from `state`. Raises ValueError if it is another recipe's."""
        check_recipe(state["recipe"], self.recipe)
        for name in ("model", "ema", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        self.images, self.seconds = state["images"], state["seconds"]


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, batch: int, kimg: float, images: int) -> None:
    """Moves the average of the weights on by a step; its half-life is at most a twentieth of what was seen."""
    weight = 1 - 0.5 ** (batch / max(min(kimg * 1000, 0.05 * images), 1e-8))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)


@torch.no_grad()
def start_as_downscaling(vae: nn.Module) -> nn.Module:
    """Initialises a `diffusers.AutoencoderKL` so that three latent channels carry the mean colour of a block of pixels.

    From an ordinary start this small autoencoder stays for hundreds of steps where it reproduces little but large
    fields of colour. Here colours travel down and up the residual streams in six channels, as x and -x (so that
    silu(x) - silu(-x) = x brings them past the last nonlinearities); residual branches start at zero. Everything learns.
    """
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    def route(conv: nn.Conv2d, entries: list[tuple[int, int, float]], taps: slice = slice(1, 2), share: float = 1.0) -> None:
        for out in {out for out, _, _ in entries}:
            conv.weight[out] = 0
            conv.bias[out] = 0
        for out, source, sign in entries:
            conv.weight[out, source, taps, taps] = sign * share

    same = [(c, c, 1.0) for c in range(6)]
    split = [(c, c % 3, 1.0 if c < 3 else -1.0) for c in range(6)]
    join = [(c, c + 3 * part, 1.0 - 2 * part) for c in range(3) for part in range(2)]
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                route(module.conv_shortcut, same, slice(0, 1))
        elif isinstance(module, Downsample2D):
            route(module.conv, same, slice(0, 2), 0.25)          # diffusers pads at the right and at the bottom
        elif isinstance(module, Upsample2D):
            route(module.conv, same)
    for half in (vae.encoder, vae.decoder):
        route(half.conv_in, split)
        route(half.conv_out, join)
    channels = vae.config.latent_channels
    route(vae.quant_conv, [(c, c, 1.0) for c in range(channels)], slice(0, 1))
    route(vae.post_quant_conv, [(c, c, 1.0) for c in range(channels)], slice(0, 1))
    vae.quant_conv.weight[channels:] *= 0.1
    vae.quant_conv.bias[channels:] = -6                          # posteriors start narrow
    return vae


@torch.no_grad()
def posteriors(vae: nn.Module, store: Store, device: torch.device, batch: int = 64,
               count: int | None = None) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the latents of all scenes, or the first `count`: float16 [N, C, h, w], not scaled."""
    vae, parts, count = vae.to(device).eval(), [], min(count or len(store), len(store))
    for start in range(0, count, batch):
        image = torch.from_numpy(store.batch("image", np.arange(start, min(start + batch, count)))) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(image.to(device)).latent_dist
        parts.append((posterior.mean.half().cpu(), posterior.std.half().cpu()))
    return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])


class UNetStage:
    """The training of U-Net and text encoder on latents and captions; `train_step` is one.

    v-prediction (Salimans & Ho 2022, arXiv 2202.00512, appendix D), as in Stable Diffusion 2: at the highest noise, where
    single-step probes run, the U-Net then draws an image's latent instead of repeating the noise. Mirror images are left
    out, because captions say left and right.

    Args:
        network: whole; its autoencoder is done and its config knows the latents' scaling_factor
        mean, std: of the latents' posteriors, float16 [N, C, h, w]
        captions: one a latent
        recipe: everything else that decides the result
        device: to train on
    """

    def __init__(self, network: StableDiffusionNetwork, mean: Tensor, std: Tensor, captions: list[str], recipe: UNetRecipe,
                 device: torch.device):
        from diffusers import DDIMScheduler
        from diffusers.models.attention_processor import AttnProcessor

        self.mean, self.std, self.recipe, self.device = mean, std, recipe, device
        self.network, self.config = network.to(device).requires_grad_(False).eval(), network.config
        self.ema = copy.deepcopy(network)
        self.model = nn.ModuleDict(dict(unet=network.unet, text_encoder=network.text_encoder)).train().requires_grad_(True)
        self.average = nn.ModuleDict(dict(unet=self.ema.unet, text_encoder=self.ema.text_encoder))
        if device.type == "cpu":                  # the gradient of fused attention takes half of a step there
            network.unet.set_attn_processor(AttnProcessor())
        self.schedule = DDIMScheduler(**self.config.scheduler)
        tokens = WordTokens(self.config.vocabulary, self.config.text_encoder["max_position_embeddings"])
        self.ids, self.wordless = tokens(captions), tokens([""])
        if bad := [caption for caption, row in zip(captions, self.ids, strict=True)
                   if row[-1] != tokens.ids[END] or tokens.ids[UNKNOWN] in row]:
            raise ValueError(f"captions: the text encoder cannot read all of {bad[0]!r}; its words must be in the vocabulary, "
                             f"and fewer than {tokens.length - 1}")
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimiser = torch.optim.AdamW([dict(params=decayed, weight_decay=recipe.weight_decay),
                                            dict(params=others, weight_decay=0.0)],
                                           lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.images, self.seconds = 0, 0.0

    def train_step(self, decay: float = 1.0) -> dict[str, float]:
        recipe, rng = self.recipe, self.rng
        warm = min(1.0, (self.images + 1) / 3200)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * decay * warm
        picks = torch.randint(len(self.mean), (recipe.batch,), generator=rng)
        mean, std = self.mean[picks].float(), self.std[picks].float()
        clean = (mean + std * torch.randn(mean.shape, generator=rng)) * self.config.vae["scaling_factor"]
        noise = torch.randn(mean.shape, generator=rng)
        time = torch.randint(len(self.schedule.alphas_cumprod), (recipe.batch,), generator=rng)
        silent = torch.rand(recipe.batch, generator=rng) < recipe.wordless
        ids = torch.where(silent[:, None], self.wordless, self.ids[picks]).to(self.device)
        noisy = self.schedule.add_noise(clean, noise, time).to(self.device)
        wanted = self.schedule.get_velocity(clean, noise, time).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            context = self.model["text_encoder"](input_ids=ids).last_hidden_state
            said = self.model["unet"](noisy, time.to(self.device), context).sample
        loss = F.mse_loss(said.float(), wanted)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.images += recipe.batch
        follow(self.average, self.model, recipe.batch, recipe.ema_kimg, self.images)
        return dict(v=loss.item())

    def state(self) -> dict:
        return dict(model=self.model.state_dict(), average=self.average.state_dict(), optimiser=self.optimiser.state_dict(),
                    rng=self.rng.get_state(), images=self.images, seconds=self.seconds, recipe=asdict(self.recipe))

    def load(self, state: dict) -> None:
        """Goes on from `state`. Raises ValueError if it is another recipe's; only `decay_from` may be set on the way."""
        check_recipe(state["recipe"], self.recipe, free=("decay_from",))
        for name in ("model", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        self.images, self.seconds = state["images"], state["seconds"]


@torch.no_grad()
def draw(network: StableDiffusionNetwork, prompts: list[str], steps: int = 20, guidance: float = 3.0, seed: int = 1) -> Tensor:
    """Images [N, 3, H, W] of prompts: DPM-Solver++ (arXiv 2211.01095) with guidance without a classifier."""
    from diffusers import DPMSolverMultistepScheduler

    config, device = network.config, next(network.parameters()).device
    schedule = DPMSolverMultistepScheduler(**config.scheduler, timestep_spacing="trailing")
    schedule.set_timesteps(steps)
    side = config.resolution // config.factor
    noise = torch.randn(len(prompts), config.latent_channels, side, side, generator=torch.Generator().manual_seed(seed))
    latent, context = noise.to(device), network.embed([*prompts, *[""] * len(prompts)])
    for time in schedule.timesteps:
        told, untold = network.unet(latent.repeat(2, 1, 1, 1), time, context).sample.chunk(2)
        latent = schedule.step(untold + guidance * (told - untold), time, latent).prev_sample
    return network.decode(latent / config.vae["scaling_factor"])
