"""Adversarial training of the StyleGAN recipes: resumable, and keeping snapshots, which become quality levels.

Non-saturating loss with lazy R1 (StyleGAN2, arXiv 1912.04958, section 2.2 and appendix B) and an exponential moving
average of the weights. One forward pass of the generator a step serves both networks. What differs between the families
is the network that `train` is given.
"""
from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes.data.scenes._store import Store

from ._discriminator import Discriminator
from ._training import card, check_recipe, falling, keeper, real_batch, resume, run, save_atomically


@dataclass
class Recipe:
    """Everything that decides the result.

    Args:
        batch: images a step
        learning_rate: of both networks
        r1_gamma: weight of the gradient penalty on real images
        r1_every: steps between penalties
        ema_kimg: half-life of the weights' moving average, in thousands of images (shorter at the start: 5 %)
        seed: of weights, latents and the order of the images
        decay_from: kimg after which the learning rate falls linearly to a tenth at `kimg`
    """

    batch: int = 16
    learning_rate: float = 2.5e-3
    r1_gamma: float = 0.1
    r1_every: int = 16
    ema_kimg: float = 5.0
    seed: int = 0
    decay_from: float | None = None


def _adam(network: nn.Module, scales: dict[str, float], lr: float, ratio: float = 1.0) -> torch.optim.Adam:
    groups: dict[float, list] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        groups.setdefault(round(scales[name], 9), []).append(parameter)
    return torch.optim.Adam([dict(params=p, lr=lr * s * ratio, base_lr=lr * s * ratio) for s, p in groups.items()],
                            betas=(0.0, 0.99**ratio), eps=1e-8)


class Trainer:
    """A generator, its average, its discriminator and their optimisers.

    Args:
        family: of the network
        network: `mapping`, `synthesis` and `config` as `StyleGAN2Network` has them; only what requires a gradient learns
        scales: {parameter: factor of its learning rate}
        store: real images; where they are larger than what the network draws they are averaged down
        recipe: everything else that decides the result
        fast: compile
        draw: ws -> image while training; the network's synthesis, compiled, by default
    """

    def __init__(self, family: str, network: nn.Module, scales: dict[str, float], store: Store, recipe: Recipe,
                 device: torch.device, fast: bool, draw: Callable[[Tensor], Tensor] | None = None):
        self.family = family
        self.store, self.recipe, self.device, self.config = store, recipe, device, network.config
        resolution = self.config.img_resolution
        self.shrink, rest = divmod(store.manifest["size"], resolution)
        if rest or not self.shrink:
            raise ValueError(f"data: its scenes have {store.manifest['size']} px, which do not average down to the network's "
                             f"{resolution} px; render them with --size {resolution}, or a multiple")
        self.generator = network.to(device, memory_format=torch.channels_last)
        torch.manual_seed(recipe.seed)
        widths = (64, 96, 128, 128, 128)[-(resolution.bit_length() - 3):]
        self.discriminator = Discriminator(resolution, widths).to(device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimiser_g = _adam(self.generator, scales, recipe.learning_rate)
        ratio = recipe.r1_every / (recipe.r1_every + 1)
        self.optimiser_d = _adam(self.discriminator, self.discriminator.learning_rate_scales(), recipe.learning_rate,
                                 ratio)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.step, self.seconds = 0, 0.0
        self.about: dict = {}           # what else its card says of how it came to be
        self.draw = draw or (torch.compile(self.generator.synthesis) if fast else self.generator.synthesis)
        self.judge = torch.compile(self.discriminator) if fast else self.discriminator

    @property
    def images(self) -> int:
        return self.step * self.recipe.batch

    def _real(self) -> Tensor:
        x = real_batch(self.store, self.recipe.batch, self.rng)
        x = F.avg_pool2d(x, self.shrink) if self.shrink > 1 else x
        return x.to(self.device)

    def train_step(self, decay: float) -> dict[str, float]:
        for optimiser in (self.optimiser_g, self.optimiser_d):
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * decay
        precision = torch.autocast(self.device.type, torch.bfloat16)
        z = torch.randn(self.recipe.batch, self.config.z_dim, generator=self.rng).to(self.device)
        ws = self.generator.mapping(z)
        with precision:
            fake = self.draw(ws)
        self.generator.mapping.update_w_avg(ws[:, 0])
        real = self._real()

        self.optimiser_d.zero_grad(set_to_none=True)
        with precision:
            # One batch each, so that the minibatch statistic never mixes real and generated images.
            loss_d = F.softplus(self.judge(fake.detach())).mean() + F.softplus(-self.judge(real)).mean()
        loss_d.backward()
        penalty = None
        if self.step % self.recipe.r1_every == 0:
            real.requires_grad_(True)
            with precision:
                score = self.discriminator(real)
            (gradient,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            (penalty * (self.recipe.r1_gamma / 2 * self.recipe.r1_every)).backward()
        self.optimiser_d.step()

        self.optimiser_g.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(False)
        with precision:
            loss_g = F.softplus(-self.judge(fake)).mean()
        loss_g.backward()
        self.discriminator.requires_grad_(True)
        self.optimiser_g.step()

        self.step += 1
        half_life = min(self.recipe.ema_kimg * 1000, 0.05 * self.images)
        weight = 1 - 0.5 ** (self.recipe.batch / max(half_life, 1e-8))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.state_dict().values()), list(self.generator.state_dict().values()), weight)
        losses = dict(loss_g=loss_g.item(), loss_d=loss_d.item())
        return losses if penalty is None else dict(losses, r1=penalty.item())

    def state(self) -> dict:
        return dict(generator=self.generator.state_dict(), discriminator=self.discriminator.state_dict(),
                    ema=self.ema.state_dict(), optimiser_g=self.optimiser_g.state_dict(),
                    optimiser_d=self.optimiser_d.state_dict(), rng=self.rng.get_state(), step=self.step,
                    seconds=self.seconds, recipe=asdict(self.recipe), about=self.about,
                    config=self.config.to_dict())

    def load(self, state: dict) -> None:
        """Goes on from `state`. Raises ValueError if it is another recipe's (but for `decay_from`), or
        another network's."""
        check_recipe(state["recipe"], self.recipe, free=("decay_from",))
        if state.get("config", own := self.config.to_dict()) != own:
            raise ValueError("out: the stored training is of another network; go on with the options that it began with, or "
                             "choose another --out")
        for name in ("generator", "discriminator", "ema", "optimiser_g", "optimiser_d"):
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        self.step, self.seconds, self.about = state["step"], state["seconds"], state.get("about", {})


@torch.no_grad()
def sample_sheet(network: nn.Module, path: Path, count: int = 48) -> None:
    from PIL import Image

    z = torch.randn(count, network.config.z_dim, generator=torch.Generator().manual_seed(1))
    device = next(network.parameters()).device
    image = network(z.to(device)).cpu()
    rows = image.reshape(count // 8, 8, *image.shape[1:]).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    Image.fromarray(((rows.clamp(-1, 1) + 1) * 127.5).byte().numpy()).save(path)


def train(trainer: Trainer, out: str, kimg: float, snapshots: tuple[float, ...]) -> None:
    """Trains until `kimg` thousand images, from the last state in `out` if there is one.

    Args:
        trainer: freshly made
        out: folder for state, snapshots, samples and the log
        kimg: where to stop; a snapshot is kept there too
        snapshots: at which kimg to keep the averaged weights
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    resume(trainer, folder / "state.pt")
    kept = keeper(trainer, snapshots, kimg, lambda at: keep(trainer, folder / f"snapshot-{at:06d}.pt"))
    run(trainer, folder / "state.pt", kimg, kept, falling(trainer.recipe.decay_from, kimg, 0.1))


def keep(trainer: Trainer, path: Path) -> None:
    """A snapshot: the averaged weights, what its card will say, and a sheet of samples."""
    save_atomically(dict(family=trainer.family, ema=trainer.ema.state_dict(), config=trainer.config.to_dict()), path)
    path.with_suffix(".json").write_text(json.dumps(card(trainer, trainer.device, trainer.store) | trainer.about, indent=2))
    sample_sheet(trainer.ema, path.with_suffix(".png"))
