"""The two trainings of a VQGAN (Esser et al. 2021, arXiv 2012.09841): its first stage, and the transformer over its codes.

First stage, section 3.1: reconstruction + commitment + a patch discriminator's verdict, weighted by the ratio of gradients
at the last layer (equation 7). The perceptual term of the paper needs a network trained on photographs; in its place the
reconstruction's features in the discriminator are matched to the original's (Larsen et al. 2016, arXiv 1512.09300). Codes
that nothing uses are given the latent of something.
"""
from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generators.vqgan import VQGANNetwork
from probes.data.scenes._store import Store

from ._discriminator import PatchDiscriminator
from ._training import check_recipe, real_batch


@dataclass
class Recipe:
    """Everything that decides the result.

    Args:
        batch: images a step of the first stage
        learning_rate: of the first stage and its discriminator
        commitment: weight of the commitment loss
        matching: weight of the features' distance
        adversarial: weight of the adversarial loss, times the adaptive one
        adversarial_from: images, in thousands, before the discriminator is heard
        restart_every: steps between searches for unused codes
        ema_kimg: half-life of the weights' moving average, in thousands of images
        transformer_batch: sequences a step of the transformer
        transformer_learning_rate: of the transformer, at its peak
        seed: of everything
    """

    batch: int = 16
    learning_rate: float = 6e-4
    commitment: float = 0.25
    matching: float = 1.0
    adversarial: float = 0.3
    adversarial_from: float = 8.0
    restart_every: int = 50
    ema_kimg: float = 2.0
    transformer_batch: int = 64
    transformer_learning_rate: float = 1.5e-3
    seed: int = 0


class FirstStage:
    """The first stage's training; `train_step` is one."""

    def __init__(self, network: VQGANNetwork, store: Store, recipe: Recipe, device: torch.device):
        self.store, self.recipe, self.device = store, recipe, device
        self.network = network.to(device)
        self.model = network.first_stage.train().requires_grad_(True).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        torch.manual_seed(recipe.seed)
        self.discriminator = PatchDiscriminator().to(device, memory_format=torch.channels_last)
        options = dict(lr=recipe.learning_rate, betas=(0.5, 0.9))
        self.optimiser = torch.optim.Adam(self.model.parameters(), **options)
        self.optimiser_d = torch.optim.Adam(self.discriminator.parameters(), **options)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.usage = torch.zeros(self.model.quantize.embedding.num_embeddings)
        self.images, self.seconds = 0, 0.0

    def train_step(self, decay: float = 1.0) -> dict[str, float]:
        recipe, model = self.recipe, self.model
        for group in (*self.optimiser.param_groups, *self.optimiser_d.param_groups):
            group["lr"] = recipe.learning_rate * decay
        real = real_batch(self.store, recipe.batch, self.rng).to(self.device)
        judged = self.images >= recipe.adversarial_from * 1000
        with torch.autocast(self.device.type, torch.bfloat16):
            latent = model.encode(real).latents.float()
            with torch.autocast(self.device.type, enabled=False):
                codes, commitment, indices = quantise(model, latent, recipe.commitment)
            drawn = model.decoder(model.post_quant_conv(codes)).float()
            reconstruction = (drawn - real).abs().mean()
            self.discriminator.requires_grad_(False)
            verdict, features = self.discriminator(drawn)
            with torch.no_grad():
                _, wanted = self.discriminator(real)
            matching = sum(F.l1_loss(a.float(), b.float()) for a, b in zip(features, wanted, strict=True)) / len(features)
            self.discriminator.requires_grad_(True)
        loss = reconstruction + recipe.matching * matching + commitment
        if judged:
            last = model.decoder.conv_out.weight
            ours = torch.autograd.grad(reconstruction + recipe.matching * matching, last, retain_graph=True)[0].norm()
            theirs = torch.autograd.grad(-verdict.mean(), last, retain_graph=True)[0].norm()
            loss = loss - recipe.adversarial * (ours / (theirs + 1e-4)).clamp(max=100).detach() * verdict.mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

        self.optimiser_d.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss_d = F.relu(1 - self.discriminator(real)[0]).mean() + F.relu(1 + self.discriminator(drawn.detach())[0]).mean()
        loss_d.backward()
        self.optimiser_d.step()

        self.images += recipe.batch
        self.usage.lerp_(torch.bincount(indices.flatten().cpu(), minlength=len(self.usage)).float(), 0.05)
        steps = self.images // recipe.batch
        if (steps - 1) % recipe.restart_every == 0:
            self._restart(latent.detach())
        weight = 1 - 0.5 ** (recipe.batch / max(min(recipe.ema_kimg * 1000, 0.05 * self.images), 1e-8))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.state_dict().values()), list(model.state_dict().values()), weight)
        used = self.usage / self.usage.sum()
        return dict(l1=reconstruction.item(), matching=matching.item(), loss_d=loss_d.item(),
                    perplexity=torch.exp(-(used * (used + 1e-10).log()).sum()).item())

    @torch.no_grad()
    def _restart(self, latent: Tensor) -> None:
        """Codes used less than a tenth of their share take the latent of a random position of this batch."""
        vectors = latent.permute(0, 2, 3, 1).flatten(0, 2)
        idle = self.usage < 0.1 * self.usage.mean()
        picks = torch.randint(len(vectors), (int(idle.sum()),), generator=self.rng)
        for table in (self.model.quantize.embedding.weight, self.ema.quantize.embedding.weight):
            table[idle.to(table.device)] = vectors[picks.to(vectors.device)]
        self.usage[idle] = self.usage.mean()

    def state(self) -> dict:
        return dict(model=self.model.state_dict(), ema=self.ema.state_dict(), usage=self.usage, images=self.images,
                    discriminator=self.discriminator.state_dict(), optimiser=self.optimiser.state_dict(),
                    optimiser_d=self.optimiser_d.state_dict(), rng=self.rng.get_state(), seconds=self.seconds,
                    recipe=asdict(self.recipe))

    def load(self, state: dict) -> None:
        check_recipe(state["recipe"], self.recipe)
        for name in ("model", "ema", "discriminator", "optimiser", "optimiser_d"):
            getattr(self, name).load_state_dict(state[name])
        self.usage.copy_(state["usage"])
        self.rng.set_state(state["rng"])
        self.images, self.seconds = state["images"], state["seconds"]


class TransformerStage:
    """The transformer's training, on the codes of a first stage that is done; `train_step` is one."""

    def __init__(self, network: VQGANNetwork, codes: Tensor, recipe: Recipe, device: torch.device):
        self.codes, self.recipe, self.device, self.network = codes, recipe, device, network
        self.model = network.transformer.to(device).train().requires_grad_(True)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimiser = torch.optim.AdamW([dict(params=decayed, weight_decay=0.01), dict(params=others, weight_decay=0.0)],
                                           lr=recipe.transformer_learning_rate, betas=(0.9, 0.95))
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.images, self.seconds = 0, 0.0

    def train_step(self, decay: float = 1.0) -> dict[str, float]:
        warm = min(1.0, (self.images + 1) / 6400)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.transformer_learning_rate * decay * warm
        picks = torch.randint(len(self.codes), (self.recipe.transformer_batch,), generator=self.rng)
        codes = self.codes[picks].long().to(self.device)
        start = torch.full_like(codes[:, :1], self.network.config.sos_token)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(torch.cat([start, codes[:, :-1]], 1)).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.images += len(codes)
        return dict(nats=loss.item())

    def state(self) -> dict:
        return dict(model=self.model.state_dict(), optimiser=self.optimiser.state_dict(), rng=self.rng.get_state(),
                    images=self.images, seconds=self.seconds, recipe=asdict(self.recipe))

    def load(self, state: dict) -> None:
        check_recipe(state["recipe"], self.recipe)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.set_state(state["rng"])
        self.images, self.seconds = state["images"], state["seconds"]


def quantise(model: torch.nn.Module, latent: Tensor, commitment: float) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest codes, straight through; the codebook's and the commitment loss (equation 4); indices [N, h, w]."""
    vectors = latent.permute(0, 2, 3, 1)
    table = model.quantize.embedding.weight
    distance = table.square().sum(1) - 2 * vectors.detach() @ table.detach().T
    indices = distance.argmin(-1)
    codes = F.embedding(indices, table).permute(0, 3, 1, 2)
    loss = F.mse_loss(codes, latent.detach()) + commitment * F.mse_loss(latent, codes.detach())
    return latent + (codes - latent).detach(), loss, indices


@torch.no_grad()
def all_codes(model: torch.nn.Module, store: Store, device: torch.device, batch: int = 64) -> Tensor:
    """The codes of every scene and of its mirror image, int16 [2 len(store), h w], row by row of the image."""
    return torch.cat(list(_codes(model.to(device).eval(), store, device, batch)))


def _codes(model: torch.nn.Module, store: Store, device: torch.device, batch: int) -> Iterator[Tensor]:
    for start in range(0, len(store), batch):
        x = torch.from_numpy(store.batch("image", np.arange(start, min(start + batch, len(store))))) * 2 - 1
        for image in (x, x.flip(3)):
            with torch.autocast(device.type, torch.bfloat16):
                latent = model.encode(image.to(device).contiguous(memory_format=torch.channels_last)).latents.float()
            yield quantise(model, latent, 0.0)[2].flatten(1).short().cpu()
