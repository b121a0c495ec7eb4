"""What every adapter is: trained numbers on a frozen generator, heard only where a `with adapter.active():` block says so.

A probe asks what a generator knows by training an adapter to emit an intrinsic of its pictures. Which adapter decides what the
answer means: LoRA (Intrinsic LoRA, arXiv 2311.17137) reads it off through the head that draws the picture, a linear probe off
the features, full fine-tuning may also learn what was not there, and a network that sees only the picture says what the picture
shows. They all stand behind this interface, are trained by one loop and scored by one protocol.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from generators import Generator, State

# By network, since that is what adapters sit on: those that live, and the one within whose block it runs.
_LIVING: WeakKeyDictionary[nn.Module, WeakSet[Adapter]] = WeakKeyDictionary()
_ACTIVE: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class Adapter(ABC):
    """One adapter on one generator; made by `adapters.attach`, or by `adapters.build` for methods beside LoRA.

    Attributes:
        generator: what it sits on
        name: its own among those on the generator
        prompt: what a generator that reads text is told while the adapter is active
        method: its kind, as `probes fit --method` calls it
    """

    method: str

    def __init__(self, generator: Generator, name: str, prompt: str | None = None):
        if "." in name or not name or name in names_on(generator):
            raise ValueError(f"name: expected a name without dots that no adapter on {generator.name} has, got {name!r}")
        self.generator, self.name, self.prompt = generator, name, prompt
        _LIVING.setdefault(generator.network, WeakSet()).add(self)

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, as plain JSON types: with rank, alpha, sites and prompt enough to build it again."""
        return {}

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, float32, by its name in files; the same objects at every call."""

    def buffers(self) -> dict[str, Tensor]:
        """What belongs to it and is not trained, by its name in files."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """A detached CPU copy of parameters and buffers."""
        return {k: v.detach().cpu().clone() for k, v in {**self.parameters(), **self.buffers()}.items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copies what `state` returned in. Raises ValueError if it belongs to other sites, another rank or other options."""
        own = {**self.parameters(), **self.buffers()}
        wrong = sorted(set(own) ^ set(state)) or [k for k in own if own[k].shape != state[k].shape]
        if wrong:
            raise ValueError(f"adapter: its weights do not fit {self.generator.name} ({len(wrong)} entries differ, the "
                             f"first is {wrong[0]}); load it on the generator, with the sites, rank and options it was "
                             "trained with")
        for name, value in own.items():
            value.copy_(state[name])

    def file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, configuration): the contents of adapter_model.safetensors and adapter_config.json."""
        return self.state(), dict(method=self.method, **self.options)

    def load_file(self, tensors: dict[str, Tensor]) -> None:
        """Takes the tensors of `file` back in; raises ValueError as `load_state` does."""
        self.load_state(tensors)

    @property
    def size(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters().values())

    @property
    def site_names(self) -> list[str]:
        """Exact names, within the generator's network, of the modules that it changes or reads."""
        return []

    @property
    def output_space(self) -> str:
        """Of `forward` and `regress`, and so of the loss: "pixels" or "latents"."""
        return self.generator.output_space

    def calibrate(self, state: State, target: Tensor) -> None:  # noqa: B027 (most have nothing to measure)
        """Called before the first step, and before what an interrupted fit left is restored, with the first pairs of the bank
        in `output_space`, the same in every process: what is not trained is measured here, and first values may be set."""

    def forward(self, state: State) -> Tensor:
        """state -> prediction, in `output_space`; within `active` only."""
        return self.generator.forward(state)

    def regress(self, state: State, target: Tensor, seeds: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """One training batch: (prediction, target), see `Generator.regress`; within `active` only."""
        return self.generator.regress(state, target, seeds)

    @torch.no_grad()
    def emit(self, state: State) -> Tensor:
        """state -> encoded prediction, float [N, 3, H, W]; within `active` only."""
        prediction = self.forward(state)
        return (prediction if self.output_space == "pixels" else self.generator.to_image(prediction)).float()

    @contextmanager
    def active(self, train: bool = False) -> Iterator[None]:
        """Within the block the generator runs with this adapter, and no other; `train` lets gradients reach it.

        Raises RuntimeError within another adapter's block, or its own.
        """
        network = self.generator.network
        if network in _ACTIVE:
            raise RuntimeError(f"adapter: {_ACTIVE[network]!r} is active on {self.generator.name}, so {self.name!r} cannot be; "
                               "leave that block first")
        disable_all(self.generator)
        self._place()
        _ACTIVE[network] = self.name
        try:
            with self._applied():
                for parameter in self.parameters().values():
                    parameter.requires_grad_(train)
                yield
        finally:
            del _ACTIVE[network]
            for parameter in self.parameters().values():
                parameter.requires_grad_(False)
            disable_all(self.generator)

    def _place(self) -> None:
        """Follows the generator to its device."""
        for value in (*self.parameters().values(), *self.buffers().values()):
            value.data = value.data.to(self.generator.device)

    @contextmanager
    def _applied(self) -> Iterator[None]:
        """Within the block the generator runs with this adapter; all others are off already."""
        with self.generator.prompted(self.prompt):
            yield

    def remove(self) -> None:
        """Takes it off its generator."""
        _LIVING.get(self.generator.network, WeakSet()).discard(self)


def names_on(generator: Generator) -> set[str]:
    """The names of all adapters on a generator."""
    layers = {n for m in generator.network.modules() if isinstance(m, BaseTunerLayer) for n in m.lora_A}
    return layers | {adapter.name for adapter in living(generator)}


def living(generator: Generator) -> set[Adapter]:
    """All adapters on a generator that somebody holds."""
    return set(_LIVING.get(generator.network, ()))


def disable_all(generator: Generator) -> None:
    """Switches every LoRA off and freezes it. All other adapters are off outside of their blocks by themselves."""
    for module in generator.network.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
            for name, parameter in module.named_parameters():
                if name.startswith("lora_"):
                    parameter.requires_grad_(False)


@contextmanager
def swapped(network: nn.Module, weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Within the block the modules of `network` have these parameters, by exact name, for their own, which come back after it
    as the very objects they were."""
    places = [(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], value)
              for name, value in weights.items()]
    before = [module._parameters[name] for module, name, _ in places]
    try:
        for module, name, value in places:
            module._parameters[name] = value
        yield
    finally:
        for (module, name, _), own in zip(places, before, strict=True):
            module._parameters[name] = own
