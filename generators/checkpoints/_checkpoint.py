"""What every reader returns, and the check that configuration and weights belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .._families import PACKAGES, package
from ._errors import CheckpointError

STYLEGAN2, STYLEGAN3, STYLEGAN_XL, VQGAN = "stylegan2", "stylegan3", "stylegan-xl", "vqgan"


@dataclass(frozen=True)
class Checkpoint:
    """A generator's weights and what they are the weights of.

    Args:
        family: "stylegan2", "stylegan3", "stylegan-xl" or "vqgan".
        config: plain JSON types: the fields of the family's configuration.
        state: tensors under the names of the family's reference implementation, or its own (native files); float32, but
            as they are stored in native files and taming's.
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


def check_state(family: str, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError unless `state` has exactly the entries and shapes that `config` asks for."""
    if family not in PACKAGES:
        raise CheckpointError(f"{source}: there is no family {family!r:.80}; supported families: {', '.join(PACKAGES)}.")
    expected = package(family, "._format").expected_shapes(config, source)
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not known" for name in state if name not in expected]
    problems += [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    if problems:
        side = config.get("img_resolution", config.get("resolution", "unknown"))
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source}: the weights do not fit the {family} generator of {side} px that "
            f"its configuration describes: {'; '.join(problems[:5])}{more}. "
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
