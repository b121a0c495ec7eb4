"""LoRA on exactly the sites a generator names (Intrinsic LoRA, arXiv 2311.17137, section 3: o = W a + W_u W_l a).

Several adapters may sit on one generator. None is active unless a `with adapter.active():` block says so; outside of
such blocks the generator draws what it drew before the first adapter came, bit for bit.

Variants are PEFT's: rank-stabilised scaling (rsLoRA, arXiv 2312.03732), weight decomposition (DoRA, 2402.09353) and other
initial weights. PiSSA (2404.02948) and OLoRA (2406.01775) start from parts of W itself, W = R + W_u⁰ W_l⁰, and learn with R in
W's place; here R is there within the adapter's block only, and files say the same thing as a LoRA of twice the rank on W,
W_u W_l - W_u⁰ W_l⁰, which any software reads.
"""
from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from generators import Generator
from generators._names import unknown

from ._base import Adapter, disable_all, swapped
from ._conv_transpose import refusal, register_conv_transpose
from ._fused_linear import register_fused_linear

INITS = {"default": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "pissa": "pissa", "olora": "olora"}
_ALTERING = ("pissa", "olora")


class LoRA(Adapter):
    """One LoRA on one generator; made by `attach`.

    Attributes:
        config: PEFT's configuration, target_modules being the exact site names
    """

    method = "lora"

    def __init__(self, generator: Generator, name: str, config: LoraConfig, prompt: str | None = None):
        super().__init__(generator, name, prompt)
        self.config = config
        self._start: dict[str, Tensor] = {}                 # of PiSSA and OLoRA: W_l⁰ and W_u⁰, by the names of W_l and W_u
        self._residuals: dict[str, nn.Parameter] = {}       # and R, by the exact name of W

    @property
    def options(self) -> dict[str, Any]:
        init = next(k for k, v in INITS.items() if v == self.config.init_lora_weights)
        every = dict(rslora=self.config.use_rslora, dora=self.config.use_dora, init=init)
        return {k: v for k, v in every.items() if v not in (False, "default")}

    def layers(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        for name, module in self.generator.network.named_modules():
            if isinstance(module, BaseTunerLayer) and self.name in module.lora_A:
                yield name, module

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by PEFT's file names: {site}.lora_A.weight [rank, in], {site}.lora_B.weight [out, rank], and of
        DoRA {site}.lora_magnitude_vector [out]."""
        found = {}
        for site, layer in self.layers():
            found[f"{site}.lora_A.weight"] = layer.lora_A[self.name].weight
            found[f"{site}.lora_B.weight"] = layer.lora_B[self.name].weight
            if self.config.use_dora:
                found[f"{site}.lora_magnitude_vector"] = layer.lora_magnitude_vector[self.name].weight
        return found

    def buffers(self) -> dict[str, Tensor]:
        return {f"{name}.start": value for name, value in self._start.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self._subtract_start()

    @property
    def scaling(self) -> float:
        """What W_u W_l is multiplied by: alpha / rank, of rsLoRA alpha / √rank."""
        return self.config.lora_alpha / (math.sqrt(self.config.r) if self.config.use_rslora else self.config.r)

    def plain(self) -> tuple[dict[str, Tensor], int, float]:
        """(state, rank, alpha) of a LoRA without variants that does the same on the untouched generator.

        Raises ValueError for DoRA, whose update is not of low rank.
        """
        if self.config.use_dora:
            raise ValueError("run: this LoRA was trained with dora, which scales whole weights and cannot be written as a "
                             "plain LoRA; fit it without dora to exchange it")
        rank = self.config.r * (2 if self._start else 1)
        own = {k: v.detach().cpu().clone() for k, v in self.parameters().items()}
        for name, value in self._start.items():
            sign, axis = (1, 0) if name.endswith(".lora_A.weight") else (-1, 1)
            own[name] = torch.cat([own[name], sign * value.cpu()], axis)
        alpha = self.scaling * rank if self._start or self.config.use_rslora else self.config.lora_alpha
        return own, rank, alpha

    def file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """PEFT's own files, which PEFT loads."""
        state, about = self.state(), self.config.to_dict()
        if self._start:
            state, rank, alpha = self.plain()
            about |= dict(r=rank, lora_alpha=alpha, init_lora_weights=True, use_rslora=False)
        about = {k: sorted(v) if isinstance(v, set) else v for k, v in about.items()}
        return {f"base_model.model.{k}": v for k, v in state.items()}, {**about, "target_modules": self.site_names}

    def load_file(self, tensors: dict[str, Tensor]) -> None:
        state = {k.removeprefix("base_model.model."): v for k, v in tensors.items()}
        for name in self._start:
            if name in state:
                sign, axis = (1, 0) if name.endswith(".lora_A.weight") else (-1, 1)
                half = state[name].shape[axis] // 2
                state[name], start = state[name].split([half, state[name].shape[axis] - half], axis)
                state[f"{name}.start"] = sign * start
        self.load_state(state)

    @property
    def site_names(self) -> list[str]:
        """Exact module names it sits on. PEFT may shorten those in its own configuration to suffixes."""
        return [site for site, _ in self.layers()]

    @contextmanager
    def _applied(self) -> Iterator[None]:
        layers = [layer for _, layer in self.layers()]
        if not layers:
            raise RuntimeError(f"adapter: {self.name!r} is no longer on {self.generator.name}; it was detached")
        for layer in layers:
            layer.enable_adapters(True)
            layer.set_adapter(self.name)          # also makes it the only one that requires a gradient
        for value in self._residuals.values():
            value.data = value.data.to(self.generator.device)
        with swapped(self.generator.network, self._residuals), super()._applied():
            yield

    def _keep_start(self, weights: dict[str, Tensor]) -> None:
        """Gives W back to the sites that PiSSA and OLoRA took parts of; `weights` are theirs as they were."""
        for site, layer in self.layers():
            layer.get_base_layer().weight.data = weights[site]
        self._start = {name: value.detach().clone() for name, value in self.parameters().items()}
        self._subtract_start()

    @torch.no_grad()
    def _subtract_start(self) -> None:
        """R = W - scaling W_u⁰ W_l⁰, for every site."""
        if not self._start:
            return
        for site, layer in self.layers():
            weight = layer.get_base_layer().weight
            lower, upper = (self._start[f"{site}.lora_{which}.weight"].to(weight.device) for which in "AB")
            rest = (weight.float() - self.scaling * upper @ lower).to(weight.dtype)
            self._residuals[f"{site}.base_layer.weight"] = nn.Parameter(rest, requires_grad=False)

    def remove(self) -> None:
        """Takes it off its generator, and PEFT's wrapper with it where it was the last on a site."""
        network = self.generator.network
        for site, layer in list(self.layers()):
            layer.delete_adapter(self.name)
            if not layer.lora_A:
                parent, _, child = site.rpartition(".")
                setattr(network.get_submodule(parent), child, layer.get_base_layer())
        super().remove()


def attach(generator: Generator, name: str, scope: str = "auto", rank: int = 8, alpha: float | None = None,
           seed: int = 0, sites: list[str] | None = None, prompt: str | None = None, rslora: bool = False,
           dora: bool = False, init: str = "default") -> LoRA:
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
        rslora: scale by alpha / √rank
        dora: learn the length of every row of W beside its direction
        init: default; gaussian; orthogonal, pissa or olora (the last two start from W's leading parts), Linear sites only

    Sites may be Linear, Conv1d, Conv2d, Conv3d (PEFT's own layers) and ConvTranspose2d (ours), in any mixture.

    Raises ValueError for a rank below 1, a name in use, a scope the generator does not have, a site that cannot be
    adapted, or a variant that a site cannot have; the generator is then as it was.
    """
    if rank < 1:
        raise ValueError(f"rank: expected at least 1, got {rank}; the paper uses 8")
    sites, modules = chosen_sites(generator, scope, sites), dict(generator.network.named_modules())
    for site in sites:
        _check_site(generator, site, getattr(modules[site], "base_layer", modules[site]), rank, init)
    if dora and init != "default":
        raise ValueError(f"init: dora keeps the length of the rows of W, and {init!r} starts elsewhere; leave init or dora out")
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=sites, lora_dropout=0.0,
                        bias="none", use_rslora=rslora, use_dora=dora, init_lora_weights=INITS[init])
    adapter = LoRA(generator, name, register_fused_linear(register_conv_transpose(config)), prompt)
    kept = {}
    if init in _ALTERING:
        kept = {site: getattr(modules[site], "base_layer", modules[site]).weight.detach().clone() for site in sites}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")      # several adapters are the point
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, generator.network, adapter_name=name)
        except BaseException:
            for site, layer in adapter.layers():
                layer.get_base_layer().weight.data = kept.get(site, layer.get_base_layer().weight.data)
            detach(adapter)                  # PEFT stops at the first site it cannot adapt, the earlier ones adapted
            raise
    found = sorted(site for site, _ in adapter.layers())
    if found != sorted(sites):
        detach(adapter)
        raise RuntimeError(f"sites: asked PEFT for {len(sites)} sites of {generator.name}, got {len(found)}")
    for parameter in adapter.parameters().values():
        parameter.data = parameter.data.float()     # PEFT follows the base's dtype; adapters train in fp32
    if kept:
        adapter._keep_start(kept)
    disable_all(generator)
    return adapter


def detach(adapter: Adapter) -> None:
    """Takes an adapter off its generator."""
    adapter.remove()


def chosen_sites(generator: Generator, scope: str = "auto", sites: Sequence[str] | None = None) -> list[str]:
    """The sites of a scope, or those given; raises ValueError where there are none, no such modules, or some that only the
    frozen prefix runs."""
    scope = generator.scopes[0] if scope == "auto" else scope
    sites = list(sites) if sites is not None else generator.sites(scope)
    modules = dict(generator.network.named_modules())
    missing = [s for s in sites if s not in modules]
    if missing or not sites:
        raise ValueError(f"sites: {generator.name} has no module {missing[0]!r}" if missing else
                         f"sites: scope {scope!r} of {generator.name} is empty")
    try:
        body = generator.body
    except ValueError:              # a generator need not say
        return sites
    if idle := [s for s in sites if not any(not part or s == part or s.startswith(f"{part}.") for part in body)]:
        raise ValueError(f"sites: {idle[0]} is no part of what {generator.name} draws with ({', '.join(body)}), so training "
                         "would not reach it; choose sites within that")
    return sites


def lora_size(generator: Generator, scope: str = "auto", rank: int = 8, sites: Sequence[str] | None = None) -> int:
    """How many parameters a plain LoRA of that scope and rank trains."""
    total = 0
    for site in chosen_sites(generator, scope, sites):
        layer = generator.network.get_submodule(site)
        layer = getattr(layer, "base_layer", layer)
        if isinstance(layer, nn.Linear):
            total += rank * (layer.in_features + layer.out_features)
        elif isinstance(layer, nn.ConvTranspose2d):         # its lora_B has the kernel, see _conv_transpose
            total += rank * (layer.in_channels + layer.out_channels * math.prod(layer.kernel_size))
        else:                                               # a grouped base groups lora_B too
            total += rank * (layer.in_channels * math.prod(layer.kernel_size) + layer.out_channels // layer.groups)
    return total


def _check_site(generator: Generator, site: str, layer: nn.Module, rank: int, init: str) -> None:
    if reason := refusal(layer):
        raise ValueError(f"sites: {site} of {generator.name} is {reason}")
    if init not in INITS:
        raise unknown("init", init, INITS)
    if init not in (*_ALTERING, "orthogonal"):
        return
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"init: {init!r} is for Linear layers, and {site} of {generator.name} is a {type(layer).__name__}; "
                         "leave init out, or choose another scope")
    if init in _ALTERING and rank > min(layer.in_features, layer.out_features):
        raise ValueError(f"rank: {init!r} starts from {rank} directions of W, and {site} of {generator.name} has "
                         f"{min(layer.in_features, layer.out_features)}; choose a rank of at most that")
    if init == "orthogonal" and rank % 2:
        raise ValueError(f"rank: {init!r} needs an even rank, got {rank}; choose {rank + 1}")
