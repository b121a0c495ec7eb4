"""Equalised learning rates, folded: which gain belongs to which parameter.

StyleGAN trains N(0, 1) parameters p and multiplies them by a constant gain g at run time (Karras et al. 2018, arXiv
1710.10196, section 4.1). Here a parameter is g p itself. Adam's step does not depend on the scale of the gradient, so
a step of lr on p equals a step of g lr on g p: `learning_rate_scales` gives that g, and training has the same dynamics.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping as MappingType

import torch
from torch import Tensor, nn

from ._config import StyleGANXLConfig

_UNIT = ("weight", "bias", "magnitude_ema", "up_filter", "down_filter")     # of a layer: demodulation needs no gain


def parameter_gain(name: str, config: StyleGANXLConfig) -> float:
    """The gain folded into the parameter or buffer `name`, e.g. "synthesis.L3_52_512.affine.weight".

    Raises:
        KeyError: a generator of this configuration has no such entry.
    """
    module, _, leaf = name.partition(".")
    gain = None
    if module == "mapping":
        gain = _mapping_gain(leaf, config)
    elif module == "synthesis":
        layer, _, leaf = leaf.partition(".")
        affine = {"affine.weight": 1 / math.sqrt(config.w_dim), "affine.bias": 1.0}
        if layer == "input":
            gain = {"weight": 1 / math.sqrt(config.input.channels), "freqs": 1.0, "phases": 1.0, **affine}.get(leaf)
        else:
            geometry = next((item for item in config.layers if item.name == layer), None)
            if geometry is not None and leaf in affine:
                # ToRGB is not demodulated, so its 1x1 weights have a gain; the styles carry it.
                gain = affine[leaf] / (math.sqrt(geometry.in_channels) if geometry.is_torgb else 1)
            elif geometry is not None and leaf in _UNIT:
                gain = 1.0
    if gain is None:
        raise KeyError(f"{name!r} is no entry of a {config.img_resolution} px alias-free generator of "
                       f"{len(config.layers)} layers (c_dim={config.c_dim}, embedding={config.embedding!r})")
    return gain


def _mapping_gain(leaf: str, config: StyleGANXLConfig) -> float | None:
    if leaf == "w_avg":
        return 1.0
    if config.embedding == "linear" and leaf in ("embed.weight", "embed.bias"):
        return 1 / math.sqrt(config.c_dim) if leaf == "embed.weight" else 1.0
    if config.embedding == "pretrained" and leaf in ("embed.weight", "embed_proj.weight", "embed_proj.bias"):
        return 1 / math.sqrt(config.embed_dim) if leaf == "embed_proj.weight" else 1.0
    match = re.fullmatch(r"fc(\d+)\.(weight|bias)", leaf)
    if match is None or int(match[1]) >= config.mapping_layers:
        return None
    multiplier = config.mapping_lr_multiplier
    return multiplier if match[2] == "bias" else multiplier / math.sqrt(config.mapping_widths[int(match[1])])


def fold_gains(state: MappingType[str, Tensor], config: StyleGANXLConfig) -> dict[str, Tensor]:
    """Converts a reference state dict (raw equalised parameters) to this network's.

    An unconditional StyleGAN-XL carries a table of class embeddings that nothing reads; it is dropped. So is the input's
    `transform`, the identity unless somebody moved the finished generator's picture.

    Raises:
        KeyError: for an entry that the configuration does not have, naming it.
    """
    folded = {}
    for name, value in state.items():
        if name == "synthesis.input.transform" or (name == "mapping.embed.weight" and config.embedding == "none"):
            continue
        gain = parameter_gain(name, config)
        folded[name] = value if gain == 1 else value * gain
    return folded


def learning_rate_scales(network: nn.Module) -> dict[str, float]:
    """{parameter name: factor of the learning rate} with which Adam trains as equalised learning rates would."""
    return {name: parameter_gain(name, network.config) for name, _ in network.named_parameters()}


@torch.no_grad()
def initialise(network: nn.Module, seed: int | None = None) -> None:
    """Draws fresh weights in place: N(0, 1) times the gain; styles start at 1, other biases at 0, the picture unmoved.

    Frequencies are uniform in the disc of the input's bandwidth, phases uniform (StyleGAN3, section 3.1). Magnitudes
    start at 1: `Synthesis.calibrate` measures them.

    Args:
        network: a `StyleGANXLNetwork` on any device; draws are made on the CPU, so all devices get the same weights
        seed: of the draws; None for torch's global generator
    """
    config = network.config
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for name, value in network.state_dict(keep_vars=True).items():
        if value.is_meta or name.endswith("_filter"):
            continue
        gain = parameter_gain(name, config)
        if name.startswith("synthesis.input."):
            _initialise_input(name.rpartition("input.")[2], value, config, gain, generator)
        elif name.endswith("affine.bias"):
            value.fill_(gain)
        elif name.endswith(("bias", "w_avg")):
            value.zero_()
        elif name.endswith("magnitude_ema"):
            value.fill_(1)
        else:
            # The mapping network's raw weights are drawn wider by what its multiplier takes away.
            scale = gain / config.mapping_lr_multiplier if name.startswith("mapping.fc") else gain
            value.copy_(torch.randn(value.shape, generator=generator) * scale)


def _initialise_input(leaf: str, value: Tensor, config: StyleGANXLConfig, gain: float,
                      generator: torch.Generator | None) -> None:
    if leaf == "affine.weight":
        value.zero_()
    elif leaf == "affine.bias":
        value.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    elif leaf == "freqs":
        radius, angle = torch.rand(2, len(value), generator=generator)
        radius, angle = config.input.bandwidth * radius.sqrt(), 2 * math.pi * angle
        value.copy_(torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
    elif leaf == "phases":
        value.copy_(torch.rand(value.shape, generator=generator) - 0.5)
    else:
        value.copy_(torch.randn(value.shape, generator=generator) * gain)


def affine_names(network: nn.Module) -> list[str]:
    """Exact names of the layers' w -> s affines, ToRGB's included and the Fourier input's not, in the image's order."""
    return list(affine_rates(network))


def affine_rates(network: nn.Module) -> dict[str, int]:
    """{affine's module name: sampling rate of its layer's output}, in the order of `affine_names`."""
    return {f"synthesis.{layer.name}.affine": int(layer.out_sampling_rate) for layer in network.config.layers}
