"""What every reader returns, and the check that configuration and weights belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ._errors import CheckpointError

STYLEGAN2, STYLEGAN3, STYLEGAN_XL = "stylegan2", "stylegan3", "stylegan-xl"
SUPPORTED = (STYLEGAN2,)


@dataclass(frozen=True)
class Checkpoint:
    """A generator's weights and what they are the weights of.

    Args:
        family: "stylegan2", "stylegan3" or "stylegan-xl".
        config: plain JSON types. For "stylegan2" the fields of `generators.stylegan2.StyleGAN2Config`; for the others
            `init_args`, `init_kwargs` and `modules`, {module path: its plain attributes}.
        state: float32 tensors under the names of stylegan2-ada-pytorch.
        source: the file it was read from.
        sha256: of that file.
        folded: whether the run-time gains of equalised learning rates are multiplied into `state` (native files), or
            not yet (everybody else's).
        metadata: what else the file says about itself (native files).
    """

    family: str
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    source: str
    sha256: str
    folded: bool = False
    metadata: dict[str, str] | None = None

    def require_supported(self) -> "Checkpoint":
        """Itself, or an error that lists the families whose networks can be built."""
        if self.family not in SUPPORTED:
            raise CheckpointError(
                f"{self.source} holds a {self.family} generator, which is not supported yet; "
                f"supported families: {', '.join(SUPPORTED)}."
            )
        return self


def expected_shapes(config: Mapping[str, Any], source: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every entry that a StyleGAN2 of this configuration has.

    Arithmetic, rather than the network itself on the meta device: the configuration is not trusted yet, and torch takes
    seconds to prepare that device.
    """
    from ..stylegan2 import StyleGAN2Config

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


def check_state(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError unless `state` has exactly the entries and shapes that `config` asks for."""
    expected = expected_shapes(config, source)
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not known" for name in state if name not in expected]
    problems += [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source}: the weights do not fit a {config['img_resolution']} px "
            f"{config.get('architecture', 'skip')} StyleGAN2: {'; '.join(problems[:5])}{more}. "
            "Only networks without added or removed layers can be read."
        )


def channel_fields(channels: Mapping[int, int], base: Any = None, limit: Any = None) -> dict[str, Any]:
    """`channel_base` and `channel_max` with min(base // r, max) = `channels` at every resolution r.

    The file's own `base` and `limit` are kept when they are right. A count that no such pair gives (a pruned network)
    is returned as an explicit `channels`.
    """

    def fits(base: Any, limit: Any) -> bool:
        return all(type(x) is int and x > 0 for x in (base, limit)) and all(
            min(base // resolution, limit) == count for resolution, count in channels.items()
        )

    found = {"channel_base": max(r * count for r, count in channels.items()), "channel_max": max(channels.values())}
    if fits(base, limit):
        found = {"channel_base": base, "channel_max": limit}
    elif not fits(*found.values()):
        found["channels"] = {str(resolution): count for resolution, count in sorted(channels.items())}
    return found


def as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous float32 copy that shares no memory with the file's storages."""
    return tensor.detach().to(torch.float32, copy=True).contiguous()
