"""The one interface every generator stands behind.

A generator is split where adapters begin: `prepare` is the frozen prefix (mapping network, transformer, VAE encoder;
no adapter ever touches it, so its output can be kept), `forward` is the part a probe adapts. A generator is driven by
noise (`sample` gives `prepare` its inputs, and with adapters off `to_image(forward(prepare(source)))` is the untouched
generator, bit for bit) or by images (`encode` does, and a probe maps an image to its intrinsic).
"""
from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class Generator(ABC):
    """A frozen network that draws images, and what a probe needs to know of it.

    Attributes:
        name: the catalog's name, or the path it was read from
        family: "stylegan2", ...
        network: the module that adapters are injected into; frozen
        resolution: H = W of the images
        num_classes: 0 for an unconditional generator
        world: what it draws, which decides the default teacher: "scenes" or "photographs"
        weights: "pretrained", or "random:SEED" or "crossed:SEED" for the controls
        address: what `generators.load` takes to find it again: a catalog name or an absolute path
        origin: what `generators.load` was told besides that to find the weights (a configuration's path)
        driven_by: what `prepare` starts from: "noise" (see `sample`) or "images" (see `encode`)
        output_space: of `forward`, where the loss is taken: "pixels", by the intrinsic's own loss, or "latents", by mean
            squared error
        reads_text: whether `prompted` makes a difference
        latent_key: the name, within a state, of the code an image is drawn from or that of the image itself; None where no
            single tensor is that
        latent_layers: how many layers read that code, each of which may be given its own: `forward` then takes
            [N, latent_layers, D] for [N, D]; 1 where it cannot
        sampled_by: the names of those `options` that say how images are sampled and nothing of what is learnt: a probe is the
            same under any of them, and so is the fingerprint
        costs: the names of those `options` that change time and memory and nothing else
        recommended: what a fit takes where it is not told: pairs, steps, pairs a step, Adam's peak learning rate
    """

    family: str
    driven_by: str = "noise"
    output_space: str = "pixels"
    reads_text: bool = False
    latent_key: str | None = None
    latent_layers: int = 1
    sampled_by: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    recommended: dict = dict(samples=4096, steps=3000, batch=8, learning_rate=0.01)

    def __init__(self, name: str, network: nn.Module, resolution: int, num_classes: int = 0,
                 world: str = "photographs", weights: str = "pretrained"):
        self.name, self.network, self.resolution = name, network, resolution
        self.num_classes, self.world, self.weights = num_classes, world, weights
        self.address, self.origin = name, {}
        network.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Generator:
        """Moves the network; returns self."""
        self.network.to(device)
        return self

    def sample(self, seeds: Sequence[int], classes: Sequence[int] | None = None) -> State:
        """Inputs for `prepare` of a generator that is driven by noise: one per seed, and the same for a seed whatever the
        batch it comes in."""
        raise ValueError(f"seeds: {self.name} is driven by {self.driven_by}; give images instead")

    @property
    def multiple(self) -> int:
        """What both sides of an image must be multiples of, where it is driven by images."""
        return 1

    def encode(self, images: Tensor) -> State:
        """Inputs for `prepare` of a generator that is driven by images: float [N, 3, H, W] in [-1, 1]."""
        raise ValueError(f"images: {self.name} is driven by {self.driven_by} and draws its own; give seeds instead")

    def prepare(self, source: State) -> State:
        """The frozen prefix: what `sample` returned -> batch-first tensors that no adapter influences. The identity where
        nothing comes before the first site."""
        return source

    @abstractmethod
    def forward(self, state: State) -> Tensor:
        """The adapted part: state -> prediction in the generator's output space."""

    def to_image(self, prediction: Tensor) -> Tensor:
        """Output space -> float [N, 3, H, W], nominally in [-1, 1]. The identity for pixel-space generators."""
        return prediction

    @torch.no_grad()
    def image(self, state: State) -> Tensor:
        """The picture whose intrinsic a probe emits, float [N, 3, H, W] in [-1, 1]: what the untouched generator draws; for one
        that is driven by images, the image itself, as far as its state keeps it."""
        return self.to_image(self.forward(state)).float().clamp(-1, 1)

    def to_target(self, image: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """A 3-channel image in [-1, 1] -> output space, where the loss is taken. `seeds`, one a row, decide where that is drawn
        from a distribution."""
        return image

    @contextmanager
    def prompted(self, prompt: str | None, vectors: Tensor | None = None, instead: bool = False) -> Iterator[None]:
        """Within the block `forward` and `regress` are told `prompt`; only generators that read text listen.

        Args:
            prompt: in words
            vectors: float [k, D]: embeddings of k words that no vocabulary has, behind the prompt's; gradients reach them
            instead: they stand in place of the prompt's words
        """
        yield

    @contextmanager
    def thawed(self) -> Iterator[None]:
        """Within the block `forward` takes no road that counts on frozen weights: every module of `body` is called, with the
        weights it has at that moment. The same images up to rounding."""
        yield

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Within the block only `forward` and `regress` of prepared states are called, under the prompt in force; a generator
        may lay aside whatever these do not need."""
        yield

    def regress(self, state: State, target: Tensor, seeds: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """One training batch: (prediction, target), both in output space. `seeds`, one a row, decide what is drawn on the way
        by a generator that adds noise."""
        return self.forward(state), target

    def latent(self, state: State) -> Tensor:
        """The code an image is drawn from, flat: float [N, D]. What the linear-regression control may see; by default the
        whole state."""
        return torch.cat([value.reshape(len(value), -1).float() for value in state.values()], 1)

    @abstractmethod
    def sites(self, scope: str) -> list[str]:
        """Exact names, within `network`, of the modules of a scope that a probe may adapt: those of the untouched network,
        also where an adapter has moved a module to NAME.base_layer."""

    @property
    @abstractmethod
    def scopes(self) -> tuple[str, ...]:
        """The scopes `sites` knows, the default first."""

    @property
    def body(self) -> tuple[str, ...]:
        """Names of the modules that `forward` runs, and no prefix does: what full fine-tuning trains. The empty name is the
        whole network, the default where nothing comes before the first site."""
        if type(self).prepare is not Generator.prepare:
            raise ValueError(f"method: full trains what {type(self).__name__}.body names, and a generator with a frozen prefix "
                             "must define that; add it, or choose another method")
        return ("",)

    def feature_sites(self) -> list[str]:
        """Exact names, in the order in which the image passes them, of modules that `forward` calls (once a call, when
        `thawed`) and whose output, or the first of several, is a feature map [N, C, h, w]: what a linear probe reads."""
        raise ValueError(f"method: linear reads what {type(self).__name__}.feature_sites names, and this generator names none; "
                         "add it, or choose another method")

    @torch.no_grad()
    def example(self) -> State:
        """A state of one row, to learn shapes from; cheap where `prepare` is not."""
        if self.driven_by == "noise":
            return self.prepare(self.sample([0]))
        return self.prepare(self.encode(torch.zeros(1, 3, self.resolution, self.resolution)))

    @abstractmethod
    def randomised(self, seed: int) -> Generator:
        """The control: the same architecture with freshly drawn weights, and its own inputs."""

    def crossed(self, seed: int) -> Generator:
        """The crossed control: this generator's frozen prefix in front of a freshly drawn adapted part. Without a prefix,
        that is `randomised`."""
        if type(self).prepare is not Generator.prepare:
            raise NotImplementedError(f"crossed: {type(self).__name__} has a frozen prefix, so it must say how that is put in "
                                      "front of fresh weights; define crossed, or leave crossed out of the controls")
        return self.randomised(seed)

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that decides what this generator draws: architecture and weights."""
        if not hasattr(self, "_fingerprint"):
            self._fingerprint = self._digest(self.describe(), self.base_state())
        return self._fingerprint

    @property
    def prefix_fingerprint(self) -> str:
        """sha256 over what decides the states, the images and the targets in output space: what a bank keeps. By default
        everything does."""
        return self.fingerprint

    def _digest(self, about: dict, state: dict[str, Tensor]) -> str:
        digest = hashlib.sha256(json.dumps([self.family, about], sort_keys=True, default=str).encode())
        for name, value in state.items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def base_state(self) -> dict[str, Tensor]:
        """The frozen weights under the names they had before any adapter was injected."""
        return {name.replace(".base_layer.", "."): value for name, value in self.network.state_dict().items()
                if ".lora_" not in name}

    @property
    def options(self) -> dict:
        """The constructor's options that decide what it draws or how, as plain JSON types: enough, with the name, to
        load it again."""
        return {}

    @property
    def sampling(self) -> dict:
        """Those of the `options` that are in `sampled_by`."""
        return {k: v for k, v in self.options.items() if k in self.sampled_by}

    def describe(self) -> dict:
        """Architecture and options but how it is sampled and what only costs, as plain JSON types: part of the fingerprint."""
        return {k: v for k, v in self.options.items() if k not in (*self.sampled_by, *self.costs)}


def check_truncation(truncation_psi: float) -> float:
    """Raises ValueError unless it is a finite number."""
    if isinstance(truncation_psi, bool) or not isinstance(truncation_psi, Real) or not math.isfinite(truncation_psi):
        raise ValueError(f"truncation_psi: expected a number, 1 for the full distribution, got {truncation_psi!r}")
    return float(truncation_psi)


def check_classes(generator: Generator, seeds: Sequence[int], classes: Sequence[int] | None) -> list[int] | None:
    """Validates class labels against a generator: one a seed, or one for all; by default the seed modulo the number of
    classes. None where there are no classes."""
    if generator.num_classes == 0:
        if classes is not None:
            raise ValueError(f"classes: {generator.name} is unconditional; leave classes out")
        return None
    if classes is None:
        return [int(s) % generator.num_classes for s in seeds]
    count = len(seeds)
    labels = list(classes) * (count if len(classes) == 1 else 1)
    if len(labels) != count or any(not isinstance(c, Integral) or not 0 <= c < generator.num_classes for c in labels):
        raise ValueError(f"classes: expected one label, or one for each of {count} seeds, in 0 … "
                         f"{generator.num_classes - 1}; got {list(classes)[:8]}")
    return [int(c) for c in labels]
