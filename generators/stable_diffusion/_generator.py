"""Stable Diffusion behind the generator interface: image -> latent is the frozen prefix, the U-Net the adapted part.

Intrinsic LoRA (arXiv 2311.17137, sections 3 and 4.2) uses the U-Net in two ways, here `mode`. `single`: as a dense predictor,
one pass at the last timestep from the image's latent to the intrinsic's. `multi` (the paper's AUG): as the diffusion model
it is, from noise to the intrinsic's latent with the image's latent beside it at every step (see `_multi`). The baselines that
train nothing use it in two more: an image may be redrawn (`redrawing`), or edited by a model made for that (`editing`).
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .._aside import aside
from .._base import Generator, State
from .._group_norm import adopt
from ..checkpoints import Checkpoint, native_state
from ._config import StableDiffusionConfig
from ._multi import OWN, MultiStep, conv_in_of, noise_rows, widen
from ._network import StableDiffusionNetwork
from ._read import load_network
from ._redraw import Redrawing

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROJECTIONS = (".to_q", ".to_k", ".to_v", ".to_out.0")
_PLACES = {"up": "up_blocks.", "mid": "mid_block.", "down": "down_blocks."}


class StableDiffusion(Generator):
    """Scopes: `all` (query, key, value and output projections of every self- and cross-attention of the U-Net), `self`,
    `cross`, `down`, `mid`, `up`.

    Args:
        mode: "single" or "multi"; by default the one that its U-Net was made for: "multi" where that reads two latents, as
            an InstructPix2Pix's does
        resolution: H = W of the images a fit uses; the checkpoint's own by default
        timestep: of `single`; the last by default
        precision: of the U-Net: "fp32", "bf16" or "fp16"; VAE and text encoder stay in fp32
        checkpointing: recompute activations in the backward pass instead of keeping them: less memory, about a third slower
        conv_in: of `multi`: the half of the U-Net's first convolution that reads the image's latent: "doubled" (its own
            weights for both halves, halved), "random:SEED", or an InstructPix2Pix, its path or name on the hub; "own", or
            nothing, for a U-Net that reads two latents already
        steps: of `multi`: of DPM-Solver++
        guidance: of `multi`: of classifier-free guidance by the prompt; 1 turns it off
        rescale: of `multi`: how far guided predictions get the contrast of unguided ones back, 0 … 1 (arXiv 2305.08891, 3.4)
        zero_snr: of `multi`: the noise schedule is stretched to end in pure noise (arXiv 2305.08891, 3.1); by default where
            the U-Net predicts v, and one that came with two latents was trained so
        scale_image_latent: of `multi`: multiply the image's latent by the VAE's scaling factor; the paper's code does not
        tokenizer: folder of CLIP's tokenizer, for checkpoints without one

    `multi` widens the network it is given: no other generator of mode "single" can use it from then on.

    Raises ValueError for options out of range, and for `multi` without `conv_in` where the U-Net reads one latent.
    """

    family = "stable-diffusion"
    driven_by = "images"
    output_space = "latents"
    reads_text = True
    sampled_by = ("steps", "guidance", "rescale")
    costs = ("checkpointing",)
    latent_key = "latent"
    body = ("unet",)

    def __init__(self, name: str, network: StableDiffusionNetwork, mode: str | None = None, resolution: int | None = None,
                 timestep: int | None = None, precision: str = "fp32", checkpointing: bool = False,
                 conv_in: str | None = None, steps: int = 25, guidance: float = 3.0, rescale: float = 0.7,
                 zero_snr: bool | None = None, scale_image_latent: bool = False, tokenizer: str | None = None, **about):
        config = network.config
        trained = config.scheduler["num_train_timesteps"]
        resolution = config.resolution if resolution is None else resolution
        timestep = trained - 1 if timestep is None else timestep
        if mode is None:
            mode = "multi" if edits(network) else "single"
        if mode not in ("single", "multi"):
            raise ValueError(f"mode: expected 'single' or 'multi', got {mode!r}")
        if precision not in _PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
        if type(resolution) is not int or resolution < 1 or resolution % config.factor:
            raise ValueError(f"resolution: expected a multiple of {config.factor}, which is what the VAE divides by, got "
                             f"{resolution!r}")
        if type(timestep) is not int or not 0 <= timestep < trained:
            raise ValueError(f"timestep: expected 0 … {trained - 1}, got {timestep!r}")
        super().__init__(name, network, resolution, **about)
        self.mode, self.timestep, self.precision, self.checkpointing = mode, timestep, precision, checkpointing
        tokenizer = str(Path(tokenizer).resolve()) if tokenizer else None      # a probe may be loaded from elsewhere
        # `tokenizer` is a wish, to be recorded; the place in the configuration is where this machine keeps the checkpoint's.
        self.tokenizer, self._words = tokenizer, tokenizer or config.tokenizer or network.tokenizer
        self.multi = None
        if mode == "multi":
            conv_in = conv_in_of(network.unet, conv_in, name)
            self.multi = MultiStep(config, conv_in, steps, guidance, rescale, zero_snr, scale_image_latent)
            widen(network.unet, conv_in, name)
        elif network.unet.conv_in.in_channels != config.latent_channels:
            raise ValueError(f"mode: the U-Net of {name} takes {network.unet.conv_in.in_channels} channels, which is no "
                             "single-step predictor; pass mode='multi'")
        from ._frugal import frugal  # diffusers is there by now, but not wherever this file is

        # diffusers' own `to` warns of what does not happen here
        nn.Module.to(frugal(adopt(network.unet)), _PRECISIONS[precision])
        if checkpointing:
            network.unet.enable_gradient_checkpointing()
        self._prompt, self._embeddings, self._vectors, self._instead = "", {}, None, False

    @property
    def recommended(self) -> dict:
        """The paper's (Table 6) for models of photographs; for the embedded one what was measured to be better."""
        if self.world == "scenes":
            return dict(samples=2048, steps=1500, batch=8, learning_rate=5e-3)
        return dict(samples=4000, steps=15000 if self.mode == "single" else 30000, batch=4, learning_rate=1e-4)

    @property
    def multiple(self) -> int:
        return self.network.config.factor

    def encode(self, images: Tensor) -> State:
        """images: float [N, 3, H, W] in [-1, 1], H and W multiples of the VAE's factor.

        Raises ValueError for another shape, or values that are not finite.
        """
        factor = self.network.config.factor
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(f"images: expected [N, 3, H, W] with H and W multiples of {factor}, got {list(images.shape)}; "
                             "resize or pad them")
        if not torch.isfinite(images).all():
            raise ValueError("images: some values are not finite; expected numbers in [-1, 1]")
        return {"image": images}

    @torch.no_grad()
    def prepare(self, source: State) -> State:
        """image -> latent: float [N, C, H / f, W / f], the mode of the VAE's posterior times its scaling factor."""
        return {"latent": self.network.encode(source["image"].to(self.device)).float() * self.scaling_factor}

    @property
    def scaling_factor(self) -> float:
        return self.network.config.vae["scaling_factor"]

    def context(self, count: int, prompt: str | None = None) -> Tensor:
        """[count, L, D]: the embedding of `prompt`, or of the one in force (of an XL one row more: see `_two_encoders`); each
        is computed once, but for vectors, which may be learning."""
        if prompt is None and self._vectors is not None:
            with torch.autocast(self.device.type, enabled=False):
                learnt = self._read(self._prompt, self._vectors, self._instead)
            return learnt.to(self.network.unet.dtype).expand(count, -1, -1)
        prompt = self._prompt if prompt is None else prompt
        if prompt not in self._embeddings:
            self.network.tokenizer = self._words        # another generator on this network may read with its own
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):       # it is kept for whoever comes next
                self._embeddings[prompt] = self.network.embed([prompt])
        return self._embeddings[prompt].to(self.device, self.network.unet.dtype).expand(count, -1, -1)

    def _read(self, prompt: str, vectors: Tensor, instead: bool) -> Tensor:
        """[1, L, D]: what the text encoder makes of a prompt some of whose words are given as their embeddings (textual
        inversion: Gal et al. 2022, arXiv 2208.01618, section 3.2)."""
        self.network.tokenizer = self._words
        return self.network.embed_vectors(prompt, vectors.to(self.device), instead)

    def words(self, prompt: str) -> Tensor:
        """float [n, D]: the embeddings of a prompt's n tokens, without those that begin and end it, as they enter the text
        encoder."""
        self.network.tokenizer = self._words
        return self.network.words(prompt)

    @contextmanager
    def prompted(self, prompt: str | None, vectors: Tensor | None = None, instead: bool = False) -> Iterator[None]:
        before = self._prompt, self._vectors, self._instead
        self._prompt, self._vectors, self._instead = prompt or "", vectors, instead
        try:
            yield
        finally:
            self._prompt, self._vectors, self._instead = before

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Lays the VAE aside, and the text encoders once they have read the prompt, unless words of it are being learnt."""
        spoken = self._vectors is None
        if spoken:
            self.context(1)
        with aside([getattr(self.network, part) for part in self.network.config.parts if part == "vae"
                    or (spoken and part.startswith("text_encoder"))]):
            yield

    def denoise(self, sample: Tensor, timestep: Tensor | int, context: Tensor | None = None) -> Tensor:
        """One pass of the U-Net, float32 in and out."""
        context = self.context(len(sample)) if context is None else context
        return self.network.say(sample.to(self.network.unet.dtype), timestep, context).float()

    def forward(self, state: State) -> Tensor:
        latent = state["latent"].to(self.device)
        if self.multi is not None:
            return self.multi.generate(self, latent)
        return self.denoise(latent, self.timestep)

    def regress(self, state: State, target: Tensor, seeds: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        if self.multi is not None:
            return self.multi.regress(self, state["latent"].to(self.device), target, seeds)
        return self.forward(state), target

    @torch.no_grad()
    def to_image(self, prediction: Tensor) -> Tensor:
        """Scaled latents -> float [N, 3, H, W]."""
        return self.network.decode(prediction / self.scaling_factor).float()

    @torch.no_grad()
    def image(self, state: State) -> Tensor:
        """The image its latent decodes to."""
        return self.to_image(state["latent"].to(self.device)).clamp(-1, 1)

    @torch.no_grad()
    def to_target(self, image: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """image -> scaled latent: a sample of the VAE's posterior, by the row's seed, or its mode without seeds."""
        config, noise = self.network.config, None
        if seeds is not None:
            noise = noise_rows([config.latent_channels, *(side // config.factor for side in image.shape[2:])], seeds)
        return self.network.encode(image.to(self.device), noise).float() * self.scaling_factor

    def redrawing(self, strength: float, steps: int, guidance: float, noise_seed: int = 0) -> Redrawing:
        """SDEdit on this generator; see `Redrawing`. Raises ValueError in mode "multi"."""
        if self.multi is not None:
            raise ValueError(f"mode: the U-Net of {self.name} reads the image's latent beside the noise, and what is redrawn "
                             "must be a noisy image by itself; pass mode='single', or a text-to-image model")
        return Redrawing(self.network.config, strength, steps, guidance, noise_seed)

    def editing(self, steps: int, guidance: float, image_guidance: float, noise_seed: int = 0) -> MultiStep:
        """InstructPix2Pix's sampling on this generator; see `MultiStep`.

        Raises ValueError where the U-Net was not made to edit images: where it reads no image, or reads one only since mode
        "multi" has widened it.
        """
        if self.multi is None or not edits(self.network):
            raise ValueError(f"generator: the U-Net of {self.name} was not trained to edit an image as it is told; give an "
                             "InstructPix2Pix (such as timbrooks/instruct-pix2pix, or its folder), whose U-Net came with 8 "
                             "input channels")
        return self.multi.editing(steps, guidance, image_guidance, noise_seed)

    def feature_sites(self) -> list[str]:
        """The U-Net's first convolution and its blocks, at the generator's `timestep`.

        Raises ValueError in mode "multi", where what is emitted is sampled in several passes."""
        if self.multi is not None:
            raise ValueError("method: linear reads the features of one pass, and mode 'multi' samples in several; pass "
                             "mode='single' (and a timestep), or choose another method")
        unet = self.network.unet
        return ["unet.conv_in", *(f"unet.down_blocks.{i}" for i in range(len(unet.down_blocks))), "unet.mid_block",
                *(f"unet.up_blocks.{i}" for i in range(len(unet.up_blocks)))]

    @property
    def scopes(self) -> tuple[str, ...]:
        return ("all", "self", "cross", "down", "mid", "up")

    def sites(self, scope: str = "all") -> list[str]:
        if scope not in self.scopes:
            raise ValueError(f"scope: {self.name} has no scope {scope!r}; it has {', '.join(self.scopes)}")
        # An adapted module has moved to `.base_layer`; the site is the place where it was.
        modules = dict.fromkeys(name.removesuffix(".base_layer") for name, _ in self.network.unet.named_modules()
                                if ".lora_" not in name)
        kinds = {"self": (".attn1.",), "cross": (".attn2.",)}.get(scope, (".attn1.", ".attn2."))
        return [f"unet.{n}" for n in modules if n.endswith(_PROJECTIONS) and any(kind in n for kind in kinds)
                and n.startswith(_PLACES.get(scope, ""))]

    def randomised(self, seed: int) -> StableDiffusion:
        """Fresh weights in the U-Net; VAE and text encoders, which nothing adapts, are shared with this one."""
        config = self.network.config
        network = StableDiffusionNetwork(config, seed, parts=("unet",))
        for part in config.parts[1:]:
            setattr(network, part, getattr(self.network, part))
        options = self.options
        if self.multi is not None and options["conv_in"] != OWN:
            # Another seed: the first half was drawn from that stream, and the two would resemble each other.
            options = {**options, "conv_in": f"random:{seed + 1}"}
        network.unet.to(self.device)
        return StableDiffusion(self.name, network, **options, world=self.world, weights=f"random:{seed}")

    def crossed(self, seed: int) -> StableDiffusion:
        """The same as `randomised`: images come from outside, so both share everything but the adapted part."""
        fresh = self.randomised(seed)
        fresh.weights = f"crossed:{seed}"
        return fresh

    @property
    def options(self) -> dict:
        own = dict(mode=self.mode, resolution=self.resolution, timestep=self.timestep, precision=self.precision,
                   checkpointing=self.checkpointing)
        if self.tokenizer:
            own["tokenizer"] = self.tokenizer
        return own if self.multi is None else {**own, **self.multi.options}

    def describe(self) -> dict:
        decides = {k: v for k, v in super().describe().items() if k not in ("tokenizer", "conv_in")}
        return {**self.network.config.to_dict(), **decides}

    @property
    def prefix_fingerprint(self) -> str:
        """The VAE's: the U-Net has no part in images and latents, so all of its levels and controls share their banks."""
        if not hasattr(self, "_prefix_fingerprint"):
            about = dict(vae=self.network.config.vae, resolution=self.resolution)
            state = {n: v for n, v in self.base_state().items() if n.startswith("vae.")}
            self._prefix_fingerprint = self._digest(about, state)
        return self._prefix_fingerprint


GENERATOR = StableDiffusion


def edits(network: StableDiffusionNetwork) -> bool:
    """Whether its U-Net came with two latents to read: the noisy one, and that of an image."""
    return (network.unet.conv_in.in_channels == 2 * network.config.latent_channels
            and getattr(network.unet, "widened_by", OWN) == OWN)


def build(name: str, checkpoint: Checkpoint, **options) -> StableDiffusion:
    """The generator a checkpoint holds. `options` are those of `StableDiffusion`."""
    config, state = native_state(checkpoint)
    config = replace(StableDiffusionConfig.from_dict(config), tokenizer=checkpoint.config.get("tokenizer"))
    return StableDiffusion(name, load_network(config, state), **options)
