"""The TensorFlow originals of StyleGAN2: a pickled tuple (G, D, Gs) of `dnnlib.tflib.network.Network`.

Each network's state has `static_kwargs`, `variables` [(name, array)] and `components` {mapping, synthesis}. Gs is the
moving average. Its variables are ADA's under other names: convolutions are stored [kh, kw, in, out]; those that
upsample are flipped in both spatial axes; a style's bias is stored around 0 and used around 1.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .._families import package
from ._checkpoint import STYLEGAN2, channel_fields
from ._errors import CheckpointError
from ._standins import Array, Record
from ._stylegan import MAX_DEPTH, bounded, plain

MIN_VERSION = 4


def is_tensorflow(root: Any) -> bool:
    """Whether an unpickled file is of this kind."""
    return (
        type(root) in (tuple, list) and len(root) == 3 and type(root[2]) is Record and root[2].class_name == "Network"
    )


def read_tensorflow(root: Any, source: str, limit: int) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """(family, config, state) of Gs, the averaged generator, under ADA's names; at most `limit` bytes of arrays."""
    network = root[2]
    version = network.state.get("version")
    if type(version) is not int or version < MIN_VERSION:
        raise CheckpointError(
            f"{source}: its networks have version {version!r:.40}; {MIN_VERSION} or later can be read."
        )
    variables = dict(bounded(_variables(network, source), source))
    if sum(array.nbytes for array in variables.values()) > limit:
        raise CheckpointError(f"{source}: its arrays share memory to look larger than the file; it was tampered with.")
    if "synthesis/4x4/Conv/mod_weight" not in variables:
        raise CheckpointError(
            f"{source}: no synthesis/4x4/Conv/mod_weight, so not a StyleGAN2 generator (a StyleGAN1 one, perhaps); "
            "use a stylegan2-*-config-f.pkl."
        )
    config = _config(network, variables, source)
    state = {}
    for name in package(STYLEGAN2, "._format").expected_shapes(config, source):
        key, convert = _translate(name)
        if key not in variables:
            raise CheckpointError(f"{source}: variable {key} ({name} in PyTorch) is missing; the file is incomplete.")
        state[name] = torch.from_numpy(np.array(convert(variables[key]), dtype=np.float32, order="C"))
    return STYLEGAN2, config, state


def _variables(network: Record, source: str, prefix: str = "", depth: int = 0) -> Any:
    """(path, array) of the network's own variables, then its components'."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{source}: components are nested {depth} deep; this is no network.")
    variables = network.state.get("variables")
    pairs = list(variables.items()) if type(variables) is dict else variables
    for pair in pairs if type(pairs) is list else ():
        if type(pair) not in (tuple, list) or len(pair) != 2 or type(pair[0]) is not str:
            raise CheckpointError(f"{source}: its variables are not (name, array) pairs.")
        name, value = pair
        if type(value) is Array:
            yield prefix + name, value.value
        elif type(value) is float or type(value) is int:  # a 0-d array pickled as a scalar
            yield prefix + name, np.asarray(value)
    components = network.state.get("components")
    for name, component in components.items() if type(components) is dict else ():
        if type(component) is Record:
            yield from _variables(component, source, f"{prefix}{name}/", depth + 1)


def _kwargs(network: Record) -> dict[str, Any]:
    """The constructor's arguments: the network's own over its components'."""
    merged: dict[str, Any] = {}
    components = network.state.get("components")
    inner = [part for part in components.values() if type(part) is Record] if type(components) is dict else []
    for record in (*inner, network):
        kwargs = record.state.get("static_kwargs")
        merged.update(kwargs if type(kwargs) is dict else {})
    return {str(key): plain(value) for key, value in merged.items()}


def _config(network: Record, variables: dict[str, np.ndarray], source: str) -> dict[str, Any]:
    kwargs = _kwargs(network)
    if kwargs.get("label_size", 0):
        raise CheckpointError(
            f"{source}: a class-conditional TensorFlow network (label_size={kwargs['label_size']!r:.40}) is not "
            "supported; use its stylegan2-ada-pytorch version."
        )
    if not kwargs.get("normalize_latents", True):
        raise CheckpointError(f"{source}: normalize_latents=False is not supported; StyleGAN2 normalises z.")
    blocks = [re.fullmatch(r"synthesis/(\d+)x\1/Conv1/weight", name) for name in variables]
    channels = {int(match[1]): variables[match[0]].shape[-1] for match in blocks if match}
    channels[4] = variables["synthesis/4x4/Conv/mod_weight"].shape[-1]
    layers = sum(re.fullmatch(r"mapping/Dense\d+/weight", name) is not None for name in variables)
    if not layers:
        raise CheckpointError(f"{source}: no mapping/Dense0/weight; the mapping network is missing.")
    z_dim, hidden = variables["mapping/Dense0/weight"].shape
    w_dim = variables["synthesis/4x4/Conv/mod_weight"].shape[0]
    last = max(channels)
    if f"synthesis/{last}x{last}/ToRGB/bias" not in variables:
        raise CheckpointError(f"{source}: no ToRGB at {last} px, the largest resolution.")
    base = kwargs.get("fmap_base", 16384)
    config = {
        "img_resolution": last,
        "z_dim": z_dim,
        "c_dim": 0,
        "w_dim": w_dim,
        "img_channels": variables[f"synthesis/{last}x{last}/ToRGB/bias"].size,
        "mapping_layers": layers,
        "mapping_lr_multiplier": float(kwargs.get("mapping_lrmul", 0.01)),
        "mapping_dim": hidden if layers > 1 and hidden != w_dim else None,
        "embed_dim": None,
        "w_avg_beta": float(kwargs.get("dlatent_avg_beta") or 0.995),
        "architecture": kwargs.get("architecture", "skip"),
        "resample_filter": [float(tap) for tap in kwargs.get("resample_kernel") or (1, 3, 3, 1)],
        "activation": kwargs.get("act", "lrelu"),
        "conv_clamp": None,
        "num_fp16_res": 0,
        "use_noise": "synthesis/noise0" in variables,
    }
    config.update(channel_fields(channels, base * 2 if type(base) is int else None, kwargs.get("fmap_max", 512)))
    return config


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _convolution(array: np.ndarray) -> np.ndarray:
    """[kh, kw, in, out] -> [out, in, kh, kw]"""
    return array.transpose(3, 2, 0, 1)


def _upsampling(array: np.ndarray) -> np.ndarray:
    return _convolution(array[::-1, ::-1])


def _translate(name: str) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """TensorFlow's name of ADA's entry `name`, and what its array needs to become it."""
    if name == "mapping.w_avg":
        return "dlatent_avg", _same
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
        return f"mapping/Dense{match[1]}/{match[2]}", np.transpose
    match = re.fullmatch(r"synthesis\.b(\d+)\.(?:(conv0|conv1|torgb|skip)\.)?(.+)", name)
    resolution, layer, leaf = int(match[1]), match[2], match[3]
    block = f"synthesis/{resolution}x{resolution}"
    if leaf == "const":
        return f"{block}/Const/const", lambda array: array.reshape(array.shape[-3:])
    if leaf == "noise_const":
        index = 0 if resolution == 4 else 2 * int(math.log2(resolution)) - (5 if layer == "conv0" else 4)
        return f"synthesis/noise{index}", lambda array: array.reshape(array.shape[-2:])
    first = "Conv" if resolution == 4 else "Conv1"
    folder = f"{block}/" + {"conv0": "Conv0_up", "conv1": first, "torgb": "ToRGB", "skip": "Skip"}[layer]
    if leaf == "weight":
        return f"{folder}/weight", _upsampling if layer in ("conv0", "skip") else _convolution
    if leaf == "affine.weight":
        return f"{folder}/mod_weight", np.transpose
    if leaf == "affine.bias":
        return f"{folder}/mod_bias", lambda array: array + 1
    return f"{folder}/{leaf}", _same
