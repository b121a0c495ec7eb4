"""The weights of a Stable Diffusion on disk: the names and shapes of `StableDiffusionNetwork`, `unet.*`, `vae.*`,
`text_encoder.*` and of an XL `text_encoder_2.*`, as diffusers and transformers call them.

transformers before version 5 put `text_model.` in front of every name of `text_encoder`. Files have either; here it is
always left out, so that a file written with one version is read with any other. In `text_encoder_2` every version has it.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from ..checkpoints._errors import CheckpointError
from ._config import StableDiffusionConfig
from ._parts import check_fields

_LONGEST = {"layers_per_block": 16, "num_hidden_layers": 64, "transformer_layers_per_block": 32}
_OLD = "text_encoder.text_model."


def file_name(name: str) -> str:
    """The name of a weight in our files, given its name in any version of the network."""
    return "text_encoder." + name[len(_OLD):] if name.startswith(_OLD) else name


def native(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config, state) as `load_network` takes them: as they are, for the readers give them this network's names."""
    # Where a tokenizer lies is this machine's affair: `build` takes it from the checkpoint, no file keeps it.
    return {name: value for name, value in config.items() if name != "tokenizer"}, dict(state)


def expected_shapes(config: Mapping[str, Any], source: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every weight that a Stable Diffusion of this configuration has.

    From the network itself, on the meta device: its layers are diffusers' to know. What an untrusted configuration may ask
    for is bounded before: the fields of its parts, since both libraries act on more than a network needs (transformers
    would fetch and run the attention that a configuration names), and their numbers.

    Raises:
        CheckpointError: no such network can be built.
    """
    try:
        parsed = StableDiffusionConfig.from_dict(config)
        if "tokenizer" in config:
            raise CheckpointError(f"{source}: its configuration names a tokenizer, which no file of weights may; pass "
                                  "generator_options.tokenizer instead.")
        _check_bounds(parsed, source)
        check_fields(parsed, source)
        return dict(_shapes(json.dumps(parsed.to_dict(), sort_keys=True)))
    except CheckpointError:
        raise
    except Exception as error:      # diffusers raises anything from TypeError to AssertionError on a bad configuration
        raise CheckpointError(f"{source}: its configuration is not a Stable Diffusion's ({type(error).__name__}: "
                              f"{str(error)[:200]}).") from error


@lru_cache(maxsize=8)
def _shapes(config: str) -> dict[str, tuple[int, ...]]:
    from accelerate import init_empty_weights

    from ._network import StableDiffusionNetwork

    with init_empty_weights():
        network = StableDiffusionNetwork(StableDiffusionConfig.from_dict(json.loads(config)))
    return {file_name(name): tuple(value.shape) for name, value in network.state_dict().items()}


def _check_bounds(config: StableDiffusionConfig, source: str) -> None:
    """Raises for what no Stable Diffusion has and would take minutes or gigabytes only to find out."""
    for part in (*config.parts, "scheduler"):
        for name, value in getattr(config, part).items():
            values = value if isinstance(value, (list, tuple)) else [value]
            numbers = [number for number in values if isinstance(number, int)]
            if len(values) > 12 or any(abs(number) > _LONGEST.get(name, 200_000) for number in numbers):
                raise CheckpointError(f"{source}: {part}.{name} is {value!r:.60}: beyond any Stable Diffusion known.")
