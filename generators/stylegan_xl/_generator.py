"""StyleGAN3 and StyleGAN-XL behind the generator interface: z -> w is the frozen prefix, w -> image the adapted part."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._base import Generator, State, check_classes, check_truncation
from ..checkpoints import Checkpoint, native_state
from ._config import StyleGANXLConfig
from ._gains import affine_names, affine_rates
from ._network import TRUNCATE_TO, StyleGANXLNetwork

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
_CALIBRATION = 8                # images that a fresh network's magnitudes are measured on
_CALIBRATION_PIXELS = 2**18     # in one batch, ...
_PER_CLASS = 64                 # latents that the mean w of a fresh network's class is taken over


class StyleGANXL(Generator):
    """Scopes: `affine` (every layer's w -> s affine, ToRGB's included, the Fourier input's not: it moves the picture),
    `affine@S` (those of the layers whose output has S samples per image side), `affine-convs` (without ToRGB's).

    The family is "stylegan-xl" or "stylegan3", as the checkpoint says; the network is of one kind.

    Args:
        truncation_psi: truncation of w; 1 draws the full distribution
        truncate_to: where there is a mean w of every class, truncate towards the "class"'s, or the "global" one
        precision: of the convolutions on a CPU: "fp32", or "bf16", which is faster where the CPU has AMX
    """

    family = "stylegan-xl"
    latent_key = "w"
    body = ("synthesis",)
    recommended = dict(samples=1024, steps=600, batch=8, learning_rate=0.01)

    def __init__(self, name: str, network: StyleGANXLNetwork, truncation_psi: float = 1.0, truncate_to: str = "class",
                 precision: str = "fp32", **about):
        config = network.config
        if config.img_channels != 3:
            raise ValueError(f"{name}: draws {config.img_channels} channels; a probe needs a generator of RGB images")
        if truncate_to not in TRUNCATE_TO:
            raise ValueError(f"truncate_to: expected one of {', '.join(TRUNCATE_TO)}, got {truncate_to!r}")
        if precision not in _PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
        super().__init__(name, network, config.img_resolution, num_classes=config.c_dim, **about)
        self.truncation_psi, self.truncate_to, self.precision = check_truncation(truncation_psi), truncate_to, precision

    def sample(self, seeds: Sequence[int], classes: Sequence[int] | None = None) -> State:
        """z [N, z_dim], and of a class-conditional generator c: int64 [N], class numbers."""
        seeds = list(seeds)
        labels = check_classes(self, seeds, classes)
        z_dim = self.network.config.z_dim
        source = {"z": torch.stack([torch.randn(z_dim, generator=torch.Generator().manual_seed(int(s))) for s in seeds])}
        return source if labels is None else dict(source, c=torch.tensor(labels))

    @torch.no_grad()
    def prepare(self, source: State) -> State:
        """z [N, z_dim] (and c, class numbers [N] or one-hot [N, c_dim]) -> w [N, w_dim], truncated."""
        z, c = (source[key].to(self.device) if key in source else None for key in ("z", "c"))
        ws = self.network.mapping(z, c, truncation_psi=self.truncation_psi, truncate_to=self.truncate_to)
        return {"w": ws[:, 0].contiguous()}

    @property
    def latent_layers(self) -> int:
        return self.network.config.num_ws

    def forward(self, state: State) -> Tensor:
        """w [N, w_dim], or one for the Fourier input and for every layer, [N, num_ws, w_dim] -> image."""
        w = state["w"].to(self.device)
        ws = w if w.ndim == 3 else w[:, None].expand(-1, self.latent_layers, -1)
        dtype = _PRECISIONS[self.precision] if w.device.type == "cpu" else None
        with torch.autocast(w.device.type, dtype, enabled=dtype is not None):
            return self.network.synthesis(ws)

    def feature_sites(self) -> list[str]:
        """Every layer but ToRGB."""
        return [f"synthesis.{layer.name}" for layer in self.network.config.layers[:-1]]

    @property
    def scopes(self) -> tuple[str, ...]:
        rates = dict.fromkeys(affine_rates(self.network).values())
        return ("affine", "affine-convs", *(f"affine@{rate}" for rate in rates))

    def sites(self, scope: str = "affine") -> list[str]:
        names, rates = affine_names(self.network), affine_rates(self.network)
        if scope == "affine":
            return names
        if scope == "affine-convs":
            return names[:-1]
        if scope in self.scopes:
            return [name for name in names if rates[name] == int(scope.removeprefix("affine@"))]
        raise ValueError(f"scope: {self.name} has no scope {scope!r}; it has {', '.join(self.scopes)}")

    def randomised(self, seed: int) -> StyleGANXL:
        """Fresh weights, centred for truncation and calibrated: magnitudes of 1, which no signal has, would make an
        image too faint or too bright to be a fair control."""
        network = StyleGANXLNetwork(self.network.config, seed=seed)
        centre(network, seed)
        return self._sibling(network, f"random:{seed}", seed)

    def crossed(self, seed: int) -> StyleGANXL:
        """This generator's mapping network in front of a fresh synthesis network, calibrated on the former's w."""
        network = StyleGANXLNetwork(self.network.config, seed=seed)
        network.mapping.load_state_dict(self.network.mapping.state_dict())
        return self._sibling(network, f"crossed:{seed}", seed)

    def _sibling(self, network: StyleGANXLNetwork, weights: str, seed: int) -> StyleGANXL:
        sibling = StyleGANXL(self.name, network, world=self.world, weights=weights, **self.options)
        sibling.family = self.family
        # On the CPU in full precision, so that a control is the same wherever it is made.
        size = max(1, min(_CALIBRATION, _CALIBRATION_PIXELS // self.resolution**2))
        seeds = [seed + i for i in range(_CALIBRATION)]
        w = sibling.prepare(sibling.sample(seeds))["w"][:, None].expand(-1, network.config.num_ws, -1)
        network.synthesis.calibrate(list(w.split(size)))
        return sibling.to(self.device)

    @property
    def options(self) -> dict:
        return dict(truncation_psi=self.truncation_psi, truncate_to=self.truncate_to, precision=self.precision)

    def describe(self) -> dict:
        return {**self.network.config.to_dict(), **self.options}


@torch.no_grad()
def centre(network: StyleGANXLNetwork, seed: int) -> None:
    """Puts a fresh network's mean w where truncation expects it, as a trained network's is."""
    config, mapping = network.config, network.mapping
    rng = torch.Generator().manual_seed(seed)
    if not config.class_averages:
        z = torch.randn(1024, config.z_dim, generator=rng)
        c = torch.arange(1024) % config.c_dim if config.c_dim else None
        mapping.w_avg.copy_(mapping(z, c)[:, 0].mean(0))
        return
    z = torch.randn(_PER_CLASS, config.z_dim, generator=rng)
    for label in range(config.c_dim):
        mapping.w_avg[label] = mapping(z, torch.full((_PER_CLASS,), label))[:, 0].mean(0)


def build(name: str, checkpoint: Checkpoint, **options) -> StyleGANXL:
    """The generator a checkpoint holds. `options` are those of `StyleGANXL`."""
    config, state = native_state(checkpoint)
    network = StyleGANXLNetwork(StyleGANXLConfig.from_dict(config))
    network.load_state_dict(state)
    generator = StyleGANXL(name, network, **options)
    generator.family = checkpoint.family
    return generator
