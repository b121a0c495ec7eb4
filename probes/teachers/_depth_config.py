"""What a depth network's `config.json` says: what its depth means, how far it goes, and what of it transformers is given.

transformers acts on more of a configuration than a network needs: it fetches and runs the attention that one names, and fetches
backbones and their weights. None of that gets through.
"""
from __future__ import annotations

import math
from typing import Any

from generators.checkpoints import CheckpointError

INDOOR, OUTDOOR = (0.25, 10.0), (1.0, 80.0)         # metres, of the encoding where a network does not say
# What says how a network is run, or where more of it lies, rather than what it computes. Private fields go with them.
_LEFT_OUT = {"auto_map", "attn_implementation", "experts_implementation", "transformers_weights", "custom_pipelines",
             "use_pretrained_backbone", "distributed_config", "kernel_config", "use_kernels", "compression_config"}
_DEEPEST = 8


def sanitised(config: dict, source: str) -> dict[str, Any]:
    """The configuration that transformers builds the network from, at every level without what fetches or runs anything; each
    network then attends as PyTorch does ("sdpa", or "eager" where it knows no other).

    Raises CheckpointError for quantised weights, and for a backbone that is named instead of described.
    """
    return _cleaned(config, source, 0)


def _cleaned(value: Any, source: str, level: int) -> Any:
    if level > _DEEPEST:
        raise CheckpointError(f"{source} is nested more than {_DEEPEST} levels deep, which no network's is; fetch it again")
    if isinstance(value, list):
        return [_cleaned(one, source, level + 1) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("quantization_config"):
        raise CheckpointError(f"{source}: its weights are quantised (quantization_config), which is not read; take the "
                              "network's float32 or float16 files")
    if isinstance(name := value.get("backbone"), str) and not value.get("backbone_config"):
        raise CheckpointError(f"{source}: its backbone is named, {name!r:.80}, and not described by a backbone_config: "
                              "transformers would fetch it from elsewhere; take the repository's conversion for transformers")
    return {key: _cleaned(found, source, level + 1) for key, found in value.items()
            if key not in _LEFT_OUT and not str(key).startswith("_")}


def check(config: dict, source: str) -> None:
    """Raises CheckpointError, with the field, where what is read here of a configuration is not what it should be."""

    def refuse(name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{source}: {name}={value!r:.80}, expected {expected}; fetch the file again")

    if not isinstance(backbone := config.get("backbone_config"), (dict, type(None))):
        raise refuse("backbone_config", backbone, "an object")
    heads = config.get("bin_configurations") or []
    if not isinstance(heads, list) or not all(isinstance(head, dict) for head in heads):
        raise refuse("bin_configurations", heads, "a list of objects")
    if (said := config.get("depth_estimation_type")) not in (None, "relative", "metric"):
        raise refuse("depth_estimation_type", said, "relative or metric")
    for found in (config, *heads):
        far = found.get("max_depth")
        # 0 and null: it does not say.
        if far and (type(far) not in (int, float) or not math.isfinite(far) or far <= INDOOR[0]):
            raise refuse("max_depth", far, f"metres, more than {INDOOR[0]:g}")


def meaning_of(config: dict) -> str | None:
    """What a network of this configuration gives, None where that cannot be told.

    Sources: `depth_estimation_type` of Depth Anything; Birkl et al. 2023 (MiDaS 3.1, arXiv 2307.14460) for DPT; Oquab et al.
    2023 (DINOv2, arXiv 2304.07193, section 7.4) for DPT on DINOv2; the networks' papers for the others.
    """
    kind = config.get("model_type")
    if "depth_estimation_type" in config or kind == "depth_anything":
        return "metric" if config.get("depth_estimation_type") == "metric" else "disparity"
    if kind == "dpt":
        return "metric" if "dinov2" in str((config.get("backbone_config") or {}).get("model_type", "")) else "disparity"
    return "metric" if kind in ("zoedepth", "glpn", "depth_pro") else None


def range_of(config: dict) -> tuple[float, float]:
    """(near, far) in metres that suit a metric network, from the largest depth that it can say."""
    heads, pro = config.get("bin_configurations") or (), config.get("model_type") == "depth_pro"
    said = [float(found["max_depth"]) for found in (config, *heads) if found.get("max_depth")]
    largest = max(said, default=OUTDOOR[1] if pro else INDOOR[1])
    # A network for rooms and streets at once still has to tell the things in a room apart.
    return INDOOR[0] if largest <= 20 or pro or len(heads) > 1 else OUTDOOR[0], largest
