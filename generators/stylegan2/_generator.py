"""StyleGAN2 behind the generator interface: z -> w is the frozen prefix, w -> image the adapted part."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .._base import Generator, State, check_classes, check_truncation
from ..checkpoints import Checkpoint, native_state
from ._config import StyleGAN2Config
from ._frozen import FrozenSynthesis
from ._gains import affine_names, affine_resolutions
from ._network import StyleGAN2Network

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class StyleGAN2(Generator):
    """Scopes: `affine` (every w -> s affine, ToRGB's included), `affine@R` (those of the R×R block), `affine-convs`
    (without ToRGB's).

    Args:
        truncation_psi: StyleGAN's truncation of w; 1 draws the full distribution
        noise_mode: "const" or "none": what a probe is asked about must be a function of w
        precision: of the convolutions on a CPU: "fp32", or "bf16", which is faster where the CPU has AMX
    """

    family = "stylegan2"
    latent_key = "w"
    body = ("synthesis",)

    def __init__(self, name: str, network: StyleGAN2Network, truncation_psi: float = 1.0, noise_mode: str = "const",
                 precision: str = "fp32", **about):
        config = network.config
        if config.img_channels != 3:
            raise ValueError(f"{name}: draws {config.img_channels} channels; a probe needs a generator of RGB images")
        if noise_mode not in ("const", "none"):
            raise ValueError(f"noise_mode: expected 'const' or 'none', got {noise_mode!r} (a probe needs an image that "
                             "is a function of its latent)")
        if precision not in _PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
        super().__init__(name, network, config.img_resolution, num_classes=config.c_dim, **about)
        self.truncation_psi, self.noise_mode, self.precision = check_truncation(truncation_psi), noise_mode, precision
        self._frozen, self._thawed = FrozenSynthesis(network.synthesis, _PRECISIONS[precision]), False

    @property
    def recommended(self) -> dict:
        """For models of photographs the package's own; for the embedded ones what two cores do in minutes."""
        return dict(samples=1024, steps=700) if self.world == "scenes" else {}

    def sample(self, seeds: Sequence[int], classes: Sequence[int] | None = None) -> State:
        z_dim = self.network.config.z_dim
        seeds = list(seeds)
        z = torch.stack([torch.randn(z_dim, generator=torch.Generator().manual_seed(int(s))) for s in seeds])
        labels = check_classes(self, seeds, classes)
        source = {"z": z}
        if labels is not None:
            source["c"] = torch.nn.functional.one_hot(torch.tensor(labels), self.num_classes).float()
        return source

    @torch.no_grad()
    def prepare(self, source: State) -> State:
        """z [N, z_dim] (and one-hot c) -> w [N, w_dim], truncated."""
        source = {k: v.to(self.device) for k, v in source.items()}
        ws = self.network.mapping(source["z"], source.get("c"), truncation_psi=self.truncation_psi)
        return {"w": ws[:, 0].contiguous()}

    @property
    def latent_layers(self) -> int:
        return self.network.config.num_ws

    def forward(self, state: State) -> Tensor:
        """w [N, w_dim], or one for every layer, [N, num_ws, w_dim] -> image."""
        w = state["w"].to(self.device)
        ws = w if w.ndim == 3 else w[:, None].expand(-1, self.latent_layers, -1)
        frozen = w.device.type == "cpu" and not self._thawed
        dtype = _PRECISIONS[self.precision] if w.device.type == "cpu" and not frozen else None
        with torch.autocast(w.device.type, dtype, enabled=dtype is not None):         # a launcher's is not for styles
            # On a CPU the weights' being frozen is worth a path of its own; a GPU has its ops, and fp16 layers.
            return (self._frozen if frozen else self.network.synthesis)(ws, self.noise_mode)

    @contextmanager
    def thawed(self) -> Iterator[None]:
        before, self._thawed = self._thawed, True
        try:
            yield
        finally:
            self._thawed = before

    def feature_sites(self) -> list[str]:
        """Every 3×3 convolution's layer, from 4×4 to the image's size."""
        return [n.removesuffix(".affine") for n in affine_names(self.network) if ".torgb." not in n]

    @property
    def scopes(self) -> tuple[str, ...]:
        return ("affine", "affine-convs", *(f"affine@{r}" for r in self.network.config.resolutions))

    def sites(self, scope: str = "affine") -> list[str]:
        resolutions = affine_resolutions(self.network)
        names = affine_names(self.network)
        if scope == "affine":
            return names
        if scope == "affine-convs":
            return [n for n in names if ".torgb." not in n]
        if scope in self.scopes:
            return [n for n in names if resolutions[n] == int(scope.removeprefix("affine@"))]
        raise ValueError(f"scope: {self.name} has no scope {scope!r}; it has {', '.join(self.scopes)}")

    def _fresh(self, seed: int) -> StyleGAN2Network:
        network = StyleGAN2Network(self.network.config, seed=seed)
        # Fresh w must be centred where truncation expects it, as a trained network's is.
        with torch.no_grad():
            z = torch.randn(1024, network.config.z_dim, generator=torch.Generator().manual_seed(seed))
            if network.config.c_dim == 0:
                network.mapping.w_avg.copy_(network.mapping(z)[:, 0].mean(0))
        return network

    def _sibling(self, network: StyleGAN2Network, weights: str) -> StyleGAN2:
        return StyleGAN2(self.name, network.to(self.device), self.truncation_psi, self.noise_mode, self.precision,
                         world=self.world, weights=weights)

    def randomised(self, seed: int) -> StyleGAN2:
        return self._sibling(self._fresh(seed), f"random:{seed}")

    def crossed(self, seed: int) -> StyleGAN2:
        network = self._fresh(seed)
        network.mapping.load_state_dict(self.network.mapping.state_dict())
        return self._sibling(network, f"crossed:{seed}")

    @property
    def options(self) -> dict:
        return dict(truncation_psi=self.truncation_psi, noise_mode=self.noise_mode, precision=self.precision)

    def describe(self) -> dict:
        return {**self.network.config.to_dict(), **self.options}


def build(name: str, checkpoint: Checkpoint, **options) -> StyleGAN2:
    """The generator a checkpoint holds. `options` are those of `StyleGAN2`."""
    config, state = native_state(checkpoint)
    network = StyleGAN2Network(StyleGAN2Config.from_dict(config))
    network.load_state_dict(state)
    return StyleGAN2(name, network, **options)
