"""LoRA on exactly the sites a generator names (Intrinsic LoRA, arXiv 2311.17137, section 3: o = W a + W_u W_l a).

Several adapters may sit on one generator. None is active unless a `with adapter.active():` block says so; outside of
such blocks the generator draws what it drew before the first adapter came, bit for bit.
"""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from generators import Generator

from ._conv_transpose import refusal, register_conv_transpose


class LoRA:
    """One adapter on one generator; made by `attach`.

    Attributes:
        generator: what it sits on
        name: its name within the generator's network
        config: PEFT's configuration, target_modules being the exact site names
        prompt: what a generator that reads text is told while the adapter is active
    """

    def __init__(self, generator: Generator, name: str, config: LoraConfig, prompt: str | None = None):
        self.generator, self.name, self.config, self.prompt = generator, name, config, prompt

    def layers(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        for name, module in self.generator.network.named_modules():
            if isinstance(module, BaseTunerLayer) and self.name in module.lora_A:
                yield name, module

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by PEFT's file names: {site}.lora_A.weight [rank, in], {site}.lora_B.weight [out, rank]."""
        found = {}
        for site, layer in self.layers():
            found[f"{site}.lora_A.weight"] = layer.lora_A[self.name].weight
            found[f"{site}.lora_B.weight"] = layer.lora_B[self.name].weight
        return found

    def state(self) -> dict[str, Tensor]:
        """A detached CPU copy of the parameters."""
        return {k: v.detach().cpu().clone() for k, v in self.parameters().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copies weights in. Raises ValueError if they belong to other sites or another rank."""
        own = self.parameters()
        wrong = sorted(set(own) ^ set(state)) or [k for k in own if own[k].shape != state[k].shape]
        if wrong:
            raise ValueError(f"adapter: its weights do not fit {self.generator.name} ({len(wrong)} entries differ, the "
                             f"first is {wrong[0]}); load it on the generator, scope and rank it was trained with")
        for name, parameter in own.items():
            parameter.copy_(state[name])

    @property
    def size(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters().values())

    @property
    def site_names(self) -> list[str]:
        """Exact module names it sits on. PEFT may shorten those in its own configuration to suffixes."""
        return [site for site, _ in self.layers()]

    @contextmanager
    def active(self, train: bool = False) -> Iterator[None]:
        """Within the block the generator runs with this adapter, and no other; `train` lets gradients reach it."""
        layers = [layer for _, layer in self.layers()]
        if not layers:
            raise RuntimeError(f"adapter: {self.name!r} is no longer on {self.generator.name}; it was detached")
        disable_all(self.generator)
        for layer in layers:
            layer.enable_adapters(True)
            layer.set_adapter(self.name)          # also makes it the only one that requires a gradient
        for parameter in self.parameters().values():
            parameter.requires_grad_(train)
        try:
            with self.generator.prompted(self.prompt):
                yield
        finally:
            disable_all(self.generator)


def attach(generator: Generator, name: str, scope: str = "auto", rank: int = 8, alpha: float | None = None,
           seed: int = 0, sites: list[str] | None = None, prompt: str | None = None) -> LoRA:
    """Puts a fresh LoRA on a generator: W_l Kaiming-uniform, W_u zero, so that it changes nothing yet.

    Args:
        generator: the generator; its own weights stay frozen
        name: of the adapter; each on a generator needs its own
        scope: which sites, see `generator.sites`; auto is the first of `generator.scopes`
        rank: of W_u W_l
        alpha: scale of the update, alpha / rank; the rank by default, as in the paper
        seed: of the initial W_l
        sites: exact module names instead of a scope
        prompt: what a generator that reads text is told while the adapter is active

    Sites may be Linear, Conv1d, Conv2d, Conv3d (PEFT's own layers) and ConvTranspose2d (ours), in any mixture.

    Raises ValueError for a rank below 1, a name in use, a scope the generator does not have, or a site that cannot be
    adapted; the generator is then as it was.
    """
    if rank < 1:
        raise ValueError(f"rank: expected at least 1, got {rank}; the paper uses 8")
    scope = generator.scopes[0] if scope == "auto" else scope
    sites = list(sites) if sites is not None else generator.sites(scope)
    modules = dict(generator.network.named_modules())
    missing = [s for s in sites if s not in modules]
    if missing or not sites:
        raise ValueError(f"sites: {generator.name} has no module {missing[0]!r}" if missing else
                         f"sites: scope {scope!r} of {generator.name} is empty")
    for site in sites:
        if reason := refusal(getattr(modules[site], "base_layer", modules[site])):
            raise ValueError(f"sites: {site} of {generator.name} is {reason}")
    if "." in name or any(name in m.lora_A for m in modules.values() if isinstance(m, BaseTunerLayer)):
        raise ValueError(f"name: expected a name without dots that no adapter on {generator.name} has, got {name!r}")
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=sites, lora_dropout=0.0,
                        bias="none")
    adapter = LoRA(generator, name, register_conv_transpose(config), prompt)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")      # several adapters are the point
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, generator.network, adapter_name=name)
        except BaseException:
            detach(adapter)                  # PEFT stops at the first site it cannot adapt, the earlier ones adapted
            raise
    found = sorted(site for site, _ in adapter.layers())
    if found != sorted(sites):
        detach(adapter)
        raise RuntimeError(f"sites: asked PEFT for {len(sites)} sites of {generator.name}, got {len(found)}")
    for parameter in adapter.parameters().values():
        parameter.data = parameter.data.float()     # PEFT follows the base's dtype; adapters train in fp32
    disable_all(generator)
    return adapter


def detach(adapter: LoRA) -> None:
    """Takes an adapter off its generator, and PEFT's wrapper with it where it was the last on a site."""
    network = adapter.generator.network
    for site, layer in list(adapter.layers()):
        layer.delete_adapter(adapter.name)
        if not layer.lora_A:
            parent, _, child = site.rpartition(".")
            setattr(network.get_submodule(parent), child, layer.get_base_layer())


def disable_all(generator: Generator) -> None:
    """Switches every adapter off and freezes it: the untouched generator."""
    for module in generator.network.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
            for parameter in (*module.lora_A.parameters(), *module.lora_B.parameters()):
                parameter.requires_grad_(False)
