"""The weights of an alias-free generator on disk: their names and shapes, and how the reference's become this network's."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..checkpoints._errors import CheckpointError
from ._config import LayerGeometry, StyleGANXLConfig
from ._gains import fold_gains

# Far beyond anything published; below it, what the weights do not already bound fits in memory.
_LIMITS = {"size": 8192, "layers": 256, "mapping layers": 64, "taps": 512, "resampling factor": 32, "kernel": 15}


def native(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config, state) with the raw equalised parameters of a published checkpoint -> what `StyleGANXLNetwork` loads
    strictly."""
    parsed = StyleGANXLConfig.from_dict(config)
    return parsed.to_dict(), fold_gains(state, parsed)


def expected_shapes(config: Mapping[str, Any], source: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every entry that an alias-free generator of this configuration has.

    Arithmetic, rather than the network itself: the configuration is not trusted yet.

    Raises:
        CheckpointError: the configuration is none, its layers do not fit together, or it is absurdly large.
    """
    try:
        parsed = StyleGANXLConfig.from_dict(config)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its configuration is not that of a StyleGAN3 or StyleGAN-XL: {error}") from error
    _check_limits(parsed, source)
    averages = (parsed.c_dim, parsed.w_dim) if parsed.class_averages else (parsed.w_dim,)
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": averages}
    if parsed.embedding == "linear":
        shapes.update(_linear("mapping.embed", parsed.c_dim, parsed.w_dim))
    elif parsed.embedding == "pretrained":
        shapes["mapping.embed.weight"] = (parsed.embed_rows, parsed.embed_dim)
        shapes.update(_linear("mapping.embed_proj", parsed.embed_dim, parsed.z_dim))
    widths = parsed.mapping_widths
    for i in range(parsed.mapping_layers):
        shapes.update(_linear(f"mapping.fc{i}", widths[i], widths[i + 1]))
    channels = parsed.input.channels
    shapes.update(_linear("synthesis.input.affine", parsed.w_dim, 4))
    shapes["synthesis.input.weight"] = (channels, channels)
    shapes["synthesis.input.freqs"] = (channels, 2)
    shapes["synthesis.input.phases"] = (channels,)
    for layer in parsed.layers:
        shapes.update(_layer(layer, parsed.w_dim))
    return shapes


def _layer(layer: LayerGeometry, w_dim: int) -> dict[str, tuple[int, ...]]:
    path = f"synthesis.{layer.name}"
    shapes = _linear(f"{path}.affine", w_dim, layer.in_channels)
    shapes[f"{path}.weight"] = (layer.out_channels, layer.in_channels, layer.conv_kernel, layer.conv_kernel)
    shapes[f"{path}.bias"] = (layer.out_channels,)
    shapes[f"{path}.magnitude_ema"] = ()
    if layer.up_taps > 1:
        shapes[f"{path}.up_filter"] = (layer.up_taps,)
    if layer.down_taps > 1:
        shapes[f"{path}.down_filter"] = (layer.down_taps,) * (2 if layer.down_radial else 1)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _check_limits(config: StyleGANXLConfig, source: str) -> None:
    layers = config.layers
    largest = {
        "size": max(config.img_resolution, *config.input.size, *(n for layer in layers for n in layer.out_size)),
        "layers": len(layers),
        "mapping layers": config.mapping_layers,
        "taps": max(max(layer.up_taps, layer.down_taps) for layer in layers),
        "resampling factor": max(max(layer.up_factor, layer.down_factor) for layer in layers),
        "kernel": max(layer.conv_kernel for layer in layers),
    }
    if beyond := [f"{name} {value} > {_LIMITS[name]}" for name, value in largest.items() if value > _LIMITS[name]]:
        raise CheckpointError(f"{source}: beyond any StyleGAN3 or StyleGAN-XL known: {', '.join(beyond)}.")
