"""A taming-transformers .yaml, read as data: which VQGAN it describes.

Its `model` is a tree of `target` (a class) and `params` (the arguments it is made with). Nothing is imported or called
here; the classes are recognised by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints._errors import CheckpointError

FIRST_STAGES = {"VQModel": "vq", "VQNoDiscModel": "vq", "VQSegmentationModel": "vq", "GumbelVQ": "gumbel"}
LARGEST = 1 << 20  # bytes of a configuration; real ones have two thousand
DEEPEST, MOST = 32, 20_000  # its levels and values; by reference to each other a few lines can be billions of values


def read_yaml(paths: Sequence[Path]) -> dict[str, Any]:
    """The `model` of these files, later ones over earlier ones as taming merges them, with ${references} resolved.

    Raises:
        CheckpointError: a file is too large, not YAML, has no `model`, or refers to something outside itself.
    """
    import yaml

    merged: dict[str, Any] = {}
    for path in paths:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for a configuration; pass the "
                                  "project.yaml of the run.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise CheckpointError(f"{path} is not a YAML file of plain values ({str(error)[:200]}).") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: expected a mapping with `model`, got a {type(content).__name__}.")
        merged = _merge(merged, content, str(path), 0)
    if not isinstance(merged.get("model"), dict):
        raise CheckpointError(f"{paths[-1]} has no `model`; pass the project.yaml of a taming-transformers run.")
    return _resolve(merged["model"], merged, str(paths[-1]), 0, [MOST])


def _merge(base: dict[str, Any], over: dict[str, Any], source: str, depth: int) -> dict[str, Any]:
    if depth > DEEPEST:
        raise _endless(source)
    both = {key: _merge(base[key], over[key], source, depth + 1) for key in base.keys() & over.keys()
            if isinstance(base[key], dict) and isinstance(over[key], dict)}
    return {**base, **over, **both}


def _endless(source: str) -> CheckpointError:
    return CheckpointError(f"{source}: its values refer to each other in a circle, or are more, or nested deeper, than any "
                           "configuration's.")


def _resolve(value: Any, root: dict[str, Any], source: str, depth: int, room: list[int]) -> Any:
    room[0] -= 1
    if depth > DEEPEST or room[0] < 0:
        raise _endless(source)
    if isinstance(value, dict):
        return {str(key): _resolve(entry, root, source, depth + 1, room) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolve(entry, root, source, depth + 1, room) for entry in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    match = re.fullmatch(r"\$\{([\w.]+)\}", value)
    found: Any = root
    for key in match[1].split(".") if match else [None]:
        if not isinstance(found, dict) or key not in found:
            raise CheckpointError(f"{source}: `{value}` cannot be resolved within the file; write the value itself there.")
        found = found[key]
    return _resolve(found, root, source, depth + 1, room)


def translate(model: Mapping[str, Any], source: str) -> tuple[dict[str, Any], str | None]:
    """(fields of `VQGANConfig`, path of a separate first stage or None) of what `read_yaml` returned.

    Raises:
        CheckpointError: it is another kind of model, or one whose images cannot be drawn here.
    """
    name, params = _class(model, f"{source}: model")
    if name in FIRST_STAGES:
        return _first_stage(name, params, source), None
    if name != "Net2NetTransformer":
        raise CheckpointError(f"{source}: model.target is {model.get('target')!r}; expected taming's Net2NetTransformer (or "
                              f"a first stage: {', '.join(FIRST_STAGES)}).")
    stage, stage_params = _class(params.get("first_stage_config"), f"{source}: first_stage_config")
    if stage not in FIRST_STAGES:
        raise CheckpointError(f"{source}: the first stage is a {stage}; expected one of {', '.join(FIRST_STAGES)}.")
    config = {**_first_stage(stage, stage_params, source), "gpt": _gpt(params, source), **_condition(params, source)}
    path = stage_params.get("ckpt_path")
    return config, path if isinstance(path, str) else None


def _class(node: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, Mapping) or not isinstance(node.get("target"), str):
        raise CheckpointError(f"{where} has no `target`; expected a class and its `params`.")
    params = node.get("params") or {}
    if not isinstance(params, Mapping):
        raise CheckpointError(f"{where}.params: expected a mapping, got a {type(params).__name__}.")
    return node["target"].rpartition(".")[2], dict(params)


def _first_stage(name: str, params: Mapping[str, Any], source: str) -> dict[str, Any]:
    dd = params.get("ddconfig")
    if not isinstance(dd, Mapping):
        raise CheckpointError(f"{source}: the first stage has no `ddconfig`; pass the project.yaml of the run.")
    if params.get("remap"):
        raise CheckpointError(f"{source}: `remap` names the codes of the first stage anew; such checkpoints are not supported.")
    # Taming's default, but its quantiser has no use for the second half.
    if dd.get("double_z", True):
        raise CheckpointError(f"{source}: ddconfig.double_z is true, which is an autoencoder with a Gaussian bottleneck; a "
                              "VQGAN has `double_z: false`.")
    if not dd.get("resamp_with_conv", True) or dd.get("give_pre_end", False):
        raise CheckpointError(f"{source}: ddconfig.resamp_with_conv=false and give_pre_end=true are not supported.")
    needed = ("resolution", "ch", "num_res_blocks", "attn_resolutions", "z_channels", "in_channels", "out_ch")
    missing = [f"ddconfig.{key}" for key in needed if key not in dd]
    missing += [key for key in ("embed_dim", "n_embed") if key not in params]
    if missing:
        raise CheckpointError(f"{source} lacks {', '.join(missing)}; pass the project.yaml of the run.")
    config = {"out_channels" if key == "out_ch" else key: dd[key] for key in needed}
    return {**config, "ch_mult": dd.get("ch_mult", [1, 2, 4, 8]), "embed_dim": params["embed_dim"],
            "n_embed": params["n_embed"], "quantizer": FIRST_STAGES[name]}


def _gpt(params: Mapping[str, Any], source: str) -> dict[str, Any]:
    name, gpt = _class(params.get("transformer_config"), f"{source}: transformer_config")
    if name != "GPT":
        raise CheckpointError(f"{source}: the transformer is a {name}; expected taming.modules.transformer.mingpt.GPT.")
    if gpt.get("n_unmasked", 0) not in (0, 1):
        raise CheckpointError(f"{source}: n_unmasked={gpt['n_unmasked']!r}: the transformer sees part of its condition in both "
                              "directions, which is not supported.")
    permuter = params.get("permuter_config")
    if permuter is not None and (name := _class(permuter, f"{source}: permuter_config")[0]) != "Identity":
        raise CheckpointError(f"{source}: the codes are written in the order {name}; only row by row (Identity) is supported.")
    defaults = {"n_layer": 12, "n_head": 8, "n_embd": 256}
    missing = [key for key in ("vocab_size", "block_size") if key not in gpt]
    if missing:
        raise CheckpointError(f"{source}: transformer_config lacks {', '.join(missing)}.")
    return {key: gpt.get(key, defaults.get(key)) for key in ("vocab_size", "block_size", *defaults)}


def _condition(params: Mapping[str, Any], source: str) -> dict[str, Any]:
    stage = params.get("cond_stage_config")
    sos = params.get("sos_token", 0)
    if stage == "__is_unconditional__" or params.get("unconditional"):
        return {"conditioning": "none", "sos_token": sos}
    if stage == "__is_first_stage__":
        name, arguments = "image (its own first stage)", {}
    else:
        name, arguments = _class(stage, f"{source}: cond_stage_config")
    if name == "SOSProvider":
        return {"conditioning": "none", "sos_token": arguments.get("sos_token", sos)}
    if name in ("Labelator", "ClassProvider"):
        return {"conditioning": "class", "num_classes": arguments.get("n_classes", 0)}
    if name == "CoordStage" and params.get("downsample_cond_size", -1) in (-1, None):
        return {"conditioning": "coordinate", "coord_embed": arguments.get("n_embed", 0),
                "coord_factor": arguments.get("down_factor", 0)}
    what = params.get("cond_stage_key", "another image")
    raise CheckpointError(f"{source}: it draws from a condition ({what}, by a {name}) that would have to be given for every "
                          "image. Supported are unconditional, class-conditional (Labelator) and coordinate-conditional "
                          "(CoordStage) transformers.")
