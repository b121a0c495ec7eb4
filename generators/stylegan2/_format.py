"""The weights of a StyleGAN2 on disk: their names and shapes, and how the reference's become this network's."""

from collections.abc import Mapping
from typing import Any

import torch

from ..checkpoints._errors import CheckpointError
from ._config import StyleGAN2Config
from ._gains import fold_gains


def native(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config, state) under the names of stylegan2-ada-pytorch -> what `StyleGAN2Network` loads strictly."""
    parsed = StyleGAN2Config.from_dict(config)
    return parsed.to_dict(), fold_gains(state, parsed)


def expected_shapes(config: Mapping[str, Any], source: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every entry that a StyleGAN2 of this configuration has.

    Arithmetic, rather than the network itself on the meta device: the configuration is not trusted yet, and torch takes
    seconds to prepare that device.
    """
    try:
        parsed = StyleGAN2Config.from_dict(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its configuration is not a StyleGAN2's: {error}") from error
    if parsed.img_resolution > 4096 or parsed.mapping_layers > 64 or len(parsed.resample_filter) > 64:
        raise CheckpointError(
            f"{source}: {parsed.img_resolution} px, {parsed.mapping_layers} mapping layers, "
            f"{len(parsed.resample_filter)} filter taps: beyond any StyleGAN2 known."
        )
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (parsed.w_dim,)}
    embed = (parsed.embed_dim or parsed.w_dim) if parsed.c_dim else 0
    if embed:
        shapes.update(_linear("mapping.embed", parsed.c_dim, embed))
    hidden = [parsed.mapping_dim or parsed.w_dim] * (parsed.mapping_layers - 1)
    widths = [parsed.z_dim + embed, *hidden, parsed.w_dim]
    for i in range(parsed.mapping_layers):
        shapes.update(_linear(f"mapping.fc{i}", widths[i], widths[i + 1]))
    previous = parsed.channels_at(4)
    for resolution in parsed.resolutions:
        block, channels = f"synthesis.b{resolution}", parsed.channels_at(resolution)
        if resolution == 4:
            shapes[f"{block}.const"] = (channels, 4, 4)
        for layer, inputs in (("conv0", previous), ("conv1", channels))[resolution == 4 :]:
            shapes.update(_linear(f"{block}.{layer}.affine", parsed.w_dim, inputs))
            shapes[f"{block}.{layer}.weight"] = (channels, inputs, 3, 3)
            shapes[f"{block}.{layer}.bias"] = (channels,)
            if parsed.use_noise:
                shapes[f"{block}.{layer}.noise_strength"] = ()
                shapes[f"{block}.{layer}.noise_const"] = (resolution, resolution)
        if parsed.has_torgb(resolution):
            shapes.update(_linear(f"{block}.torgb.affine", parsed.w_dim, channels))
            shapes[f"{block}.torgb.weight"] = (parsed.img_channels, channels, 1, 1)
            shapes[f"{block}.torgb.bias"] = (parsed.img_channels,)
        if parsed.has_skip(resolution):
            shapes[f"{block}.skip.weight"] = (channels, previous, 1, 1)
        previous = channels
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
