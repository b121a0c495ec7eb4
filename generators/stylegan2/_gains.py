"""Equalised learning rates, folded: which gain belongs to which parameter.

StyleGAN trains N(0, 1) parameters p and multiplies them by a constant gain g at run time (Karras et al. 2018, arXiv
1710.10196, section 4.1). Here a parameter is g p itself. Adam's step does not depend on the scale of the gradient, so
a step of lr on p equals a step of g lr on g p: `learning_rate_scales` gives that g, and training has the same dynamics.
"""

import math
import re
from collections.abc import Mapping as MappingType

import torch
from torch import Tensor, nn

from ._config import StyleGAN2Config

_BLOCK = re.compile(r"synthesis\.b(\d+)\.(.+)")


def parameter_gain(name: str, config: StyleGAN2Config) -> float:
    """The gain folded into the parameter or buffer `name`, e.g. "synthesis.b8.conv0.affine.weight".

    Raises:
        KeyError: If a StyleGAN2 of this configuration has no such entry.
    """
    if name.startswith("mapping."):
        return _mapping_gain(name, config)
    match = _BLOCK.fullmatch(name)
    if match is None or int(match[1]) not in config.resolutions:
        raise KeyError(_unknown(name, config))
    resolution, leaf = int(match[1]), match[2]
    channels = config.channels_at(resolution)
    if leaf.endswith("affine.weight") or leaf.endswith("affine.bias"):
        gain = 1 / math.sqrt(config.w_dim) if leaf.endswith("weight") else 1.0
        # ToRGB is not demodulated, so its 1x1 weights have a gain; the styles carry it.
        return gain / math.sqrt(channels) if leaf.startswith("torgb.") else gain
    if leaf == "skip.weight":
        return 1 / math.sqrt(config.channels_at(resolution // 2))
    if leaf == "const" or re.fullmatch(r"(conv[01]|torgb)\.(weight|bias|noise_strength|noise_const)", leaf):
        return 1.0
    raise KeyError(_unknown(name, config))


def _mapping_gain(name: str, config: StyleGAN2Config) -> float:
    embed_dim = (config.embed_dim or config.w_dim) if config.c_dim else 0
    if name == "mapping.w_avg" or (config.c_dim and name == "mapping.embed.bias"):
        return 1.0
    if config.c_dim and name == "mapping.embed.weight":
        return 1 / math.sqrt(config.c_dim)
    match = re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name)
    if match is None or int(match[1]) >= config.mapping_layers:
        raise KeyError(_unknown(name, config))
    if match[2] == "bias":
        return config.mapping_lr_multiplier
    fan_in = config.z_dim + embed_dim if match[1] == "0" else config.mapping_dim or config.w_dim
    return config.mapping_lr_multiplier / math.sqrt(fan_in)


def _unknown(name: str, config: StyleGAN2Config) -> str:
    return f"{name!r} is no entry of a {config.img_resolution}px {config.architecture} StyleGAN2 (c_dim={config.c_dim})"


def fold_gains(state: MappingType[str, Tensor], config: StyleGAN2Config) -> dict[str, Tensor]:
    """Converts a reference state dict (ADA's names, raw equalised parameters) to this network's.

    Resampling filters are dropped: the configuration has them. The result loads with `strict=True`.

    Raises:
        KeyError: For an entry that the configuration does not have, naming it.
    """
    folded = {}
    for name, value in state.items():
        if name.endswith("resample_filter"):
            continue
        gain = parameter_gain(name, config)
        folded[name] = value if gain == 1 else value * gain
    return folded


def learning_rate_scales(network: nn.Module) -> dict[str, float]:
    """{parameter name: factor of the learning rate} with which Adam trains as equalised learning rates would."""
    return {name: parameter_gain(name, network.config) for name, _ in network.named_parameters()}


@torch.no_grad()
def initialise(network: nn.Module, seed: int | None = None) -> None:
    """Draws fresh weights in place: N(0, 1) times the gain; styles start at 1, other biases and noise strengths at 0.

    Args:
        network: A `StyleGAN2Network` on any device; draws are made on the CPU, so all devices get the same weights.
        seed: Seed of the draws; None for torch's global generator.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    lr_multiplier = network.config.mapping_lr_multiplier
    for name, value in network.state_dict(keep_vars=True).items():
        if value.is_meta:
            continue
        gain = parameter_gain(name, network.config)
        if name.endswith("affine.bias"):
            value.fill_(gain)
        elif name.endswith(("bias", "noise_strength", "w_avg")):
            value.zero_()
        else:
            # The mapping network's raw weights are drawn wider by what its multiplier takes away.
            scale = gain / lr_multiplier if name.startswith("mapping.fc") else gain
            draw = torch.randn(value.shape, generator=generator, device="cpu")
            value.copy_(draw * scale)


def affine_names(network: nn.Module) -> list[str]:
    """Exact names of all w -> s affines, ToRGB's included, in the order in which the image passes them."""
    return [name for name, _ in _affines(network)]


def affine_resolutions(network: nn.Module) -> dict[str, int]:
    """{affine's module name: resolution of the block it modulates}, in the order of `affine_names`."""
    return dict(_affines(network))


def _affines(network: nn.Module) -> list[tuple[str, int]]:
    names = {name for name, _ in network.named_modules()}
    found = []
    for resolution in network.config.resolutions:
        for layer in ("conv0", "conv1", "torgb"):
            name = f"synthesis.b{resolution}.{layer}.affine"
            if name in names:
                found.append((name, resolution))
    return found
