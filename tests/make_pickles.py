"""Forges checkpoint files in NVIDIA's true formats, without NVIDIA's code: what a real file looks like, at any size.

The modules that real files name (`torch_utils.persistence`, `dnnlib...`) exist only while the pickle is written, so the
file refers to them by the right names and nothing but a restricted reader can open it afterwards. Tensors go in as
`pickle.dumps` writes them, each with a whole `torch.save` file inside.
"""

import pickle
import pickletools
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

MODULE_SRC = "raise RuntimeError('module_src was executed')\n"


@contextmanager
def nvidia_modules() -> Iterator[dict[str, Any]]:
    """Registers stand-ins for the modules that real files name; yields what they define."""

    class EasyDict(dict):
        pass

    class Network:
        pass

    def _reconstruct_persistent_obj(meta: dict) -> dict:
        return meta

    defined = {
        "torch_utils.persistence": _reconstruct_persistent_obj,
        "dnnlib.util": EasyDict,
        "dnnlib.tflib.network": Network,
    }
    saved = dict(sys.modules)
    try:
        for name, value in defined.items():
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
            value.__module__, value.__qualname__ = name, value.__name__
            setattr(sys.modules[name], value.__name__, value)
        yield {value.__name__: value for value in defined.values()}
    finally:
        for name in set(sys.modules) - set(saved):
            if name.split(".")[0] in ("torch_utils", "dnnlib"):
                del sys.modules[name]


class Persistent(torch.nn.Module):
    """A module that pickles as `torch_utils.persistence` makes it: one call on one dict."""

    def __init__(self, class_name: str, **attributes: Any):
        super().__init__()
        self.__dict__.update(attributes)
        self._class_name = class_name
        self._module_src = MODULE_SRC

    def __reduce__(self) -> tuple:
        state = {key: value for key, value in self.__dict__.items() if key not in ("_class_name", "_module_src")}
        meta = {"type": "class", "version": 6, "module_src": self._module_src, "class_name": self._class_name}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, ({**meta, "state": state},)


BUFFERS = ("w_avg", "noise_const", "resample_filter")


def persistent_generator(state: dict[str, torch.Tensor], config: dict[str, Any], **init: Any) -> Persistent:
    """A Generator with these ADA-named weights; `config` as StyleGAN2Config, `init` overrides its `_init_kwargs`."""
    modules: dict[str, Persistent] = {}
    paths = sorted({path for name in state for path in _parents(name)}, key=lambda path: path.count("."))
    for path in paths:
        modules[path] = _describe(path, config)
        if path:
            parent, _, name = path.rpartition(".")
            modules[parent].add_module(name, modules[path])
    for name, value in state.items():
        parent, _, leaf = name.rpartition(".")
        if leaf in BUFFERS:
            modules[parent].register_buffer(leaf, value)
        else:
            modules[parent].register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))
    taps = torch.tensor([float(tap) for tap in config.get("resample_filter", (1, 3, 3, 1))])
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    for path, module in modules.items():
        if path.rpartition(".")[2] in ("conv0", "conv1", "skip") or module._class_name == "SynthesisBlock":
            module.register_buffer("resample_filter", kernel.clone())
    kwargs = {key: config[key] for key in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}
    kwargs["mapping_kwargs"] = {"num_layers": config["mapping_layers"]}
    kwargs["synthesis_kwargs"] = {
        key: config[key]
        for key in ("channel_base", "channel_max", "num_fp16_res", "conv_clamp", "architecture", "resample_filter")
        if key in config
    }
    modules[""].__dict__.update(_init_args=(), _init_kwargs={**kwargs, **init})
    return modules[""]


def _parents(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]


def _describe(path: str, config: dict[str, Any]) -> Persistent:
    """The module at `path` without its weights, with the attributes that a real one has."""
    interface = {key: config[key] for key in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}
    num_ws = 2 * (config["img_resolution"].bit_length() - 2)
    name = path.rpartition(".")[2]
    if path == "":
        return Persistent("Generator", **interface, num_ws=num_ws)
    if path == "mapping":
        layers = config["mapping_layers"]
        return Persistent("MappingNetwork", **interface, num_ws=num_ws, num_layers=layers, w_avg_beta=0.995)
    if path == "synthesis":
        return Persistent("SynthesisNetwork", **interface, num_ws=num_ws)
    if name.startswith("fc"):
        gain = config.get("mapping_lr_multiplier", 0.01)
        return Persistent("FullyConnectedLayer", activation="lrelu", weight_gain=np.float64(gain / 7), bias_gain=gain)
    if name in ("affine", "embed"):
        return Persistent("FullyConnectedLayer", activation="linear", weight_gain=np.float64(0.1), bias_gain=1)
    clamp = config.get("conv_clamp")
    if name in ("conv0", "conv1"):
        resolution, up = int(path.split(".")[1][1:]), 2 if name == "conv0" else 1
        common = {"activation": config.get("activation", "lrelu"), "conv_clamp": clamp, "act_gain": np.sqrt(2)}
        return Persistent("SynthesisLayer", resolution=resolution, up=up, use_noise=True, padding=1, **common)
    if name == "torgb":
        return Persistent("ToRGBLayer", conv_clamp=clamp, weight_gain=np.float64(0.1))
    if name == "skip":
        return Persistent("Conv2dLayer", activation="linear", up=2, down=1, conv_clamp=None)
    resolution = int(name[1:])
    half = resolution > config["img_resolution"] >> config.get("num_fp16_res", 0)
    shape = {"resolution": resolution, "img_channels": config["img_channels"], "w_dim": config["w_dim"]}
    return Persistent("SynthesisBlock", **shape, architecture=config["architecture"], use_fp16=half)


def ada_pickle(state: dict[str, torch.Tensor], config: dict[str, Any], protocol: int = 4, **init: Any) -> bytes:
    """A training snapshot of stylegan2-ada-pytorch: G_ema has the weights; G and D are decoys."""
    with nvidia_modules() as nvidia:
        decoy = persistent_generator({name: torch.zeros_like(value) for name, value in state.items()}, config)
        snapshot = {
            "G": decoy,
            "D": Persistent("Discriminator", c_dim=0),
            "G_ema": persistent_generator(state, config, **init),
            "augment_pipe": None,
            "training_set_kwargs": nvidia["EasyDict"](class_name="training.dataset.ImageFolderDataset", xflip=True),
        }
        return pickle.dumps(snapshot, protocol=protocol)


def tensorflow_pickle(state: dict[str, torch.Tensor], config: dict[str, Any], **static: Any) -> bytes:
    """A pickle of the TensorFlow originals: (G, D, Gs); Gs has the weights."""
    weights = {name: value.numpy() for name, value in state.items()}
    mapping = []
    for i in range(config["mapping_layers"]):
        mapping.append((f"Dense{i}/weight", weights[f"mapping.fc{i}.weight"].T.copy()))
        mapping.append((f"Dense{i}/bias", weights[f"mapping.fc{i}.bias"]))
    synthesis = []
    resolution, layer_index = 4, 0
    while resolution <= config["img_resolution"]:
        block, folder = f"synthesis.b{resolution}", f"{resolution}x{resolution}"
        if resolution == 4:
            synthesis.append(("4x4/Const/const", weights[f"{block}.const"][None]))
            layers = [("conv1", "Conv", False)]
        else:
            layers = [("conv0", "Conv0_up", True), ("conv1", "Conv1", False)]
        for ours, theirs, flipped in layers:
            synthesis += _tf_layer(weights, f"{block}.{ours}", f"{folder}/{theirs}", flipped)
            noise = weights[f"{block}.{ours}.noise_const"]
            synthesis.append((f"noise{layer_index}", noise[None, None]))
            layer_index += 1
        if f"{block}.torgb.weight" in weights:
            synthesis += _tf_layer(weights, f"{block}.torgb", f"{folder}/ToRGB", False)
        if f"{block}.skip.weight" in weights:
            synthesis.append((f"{folder}/Skip/weight", _tf_kernel(weights[f"{block}.skip.weight"], True)))
        resolution *= 2
    kwargs = {
        "latent_size": config["z_dim"],
        "label_size": 0,
        "dlatent_size": config["w_dim"],
        "resolution": config["img_resolution"],
        "num_channels": config["img_channels"],
        "fmap_base": config["channel_base"] // 2,
        "fmap_max": config["channel_max"],
        "mapping_layers": config["mapping_layers"],
        "architecture": config["architecture"],
        **static,
    }
    with nvidia_modules() as nvidia:

        def network(name: str, variables: list, components: dict) -> Any:
            made = nvidia["Network"]()
            made.__dict__.update(version=4, name=name, static_kwargs=nvidia["EasyDict"](kwargs), components=components)
            made.__dict__.update(build_module_src=MODULE_SRC, build_func_name="G_main", variables=variables)
            return made

        parts = {"mapping": network("G_mapping", mapping, {}), "synthesis": network("G_synthesis", synthesis, {})}
        average = [("lod", np.float32(0)), ("dlatent_avg", weights["mapping.w_avg"])]
        decoys = network("G", [], {}), network("D", [("Output/bias", np.zeros(1, np.float32))], {})
        return pickle.dumps((*decoys, network("Gs", average, parts)), protocol=4)


def _tf_kernel(weight: np.ndarray, flipped: bool) -> np.ndarray:
    kernel = np.moveaxis(weight, (0, 1), (3, 2))  # [out, in, kh, kw] -> [kh, kw, in, out]
    return (np.flip(kernel, (0, 1)) if flipped else kernel).copy()


def _tf_layer(weights: dict[str, np.ndarray], ours: str, theirs: str, flipped: bool) -> list[tuple[str, Any]]:
    variables = [
        (f"{theirs}/weight", _tf_kernel(weights[f"{ours}.weight"], flipped)),
        (f"{theirs}/bias", weights[f"{ours}.bias"]),
        (f"{theirs}/mod_weight", weights[f"{ours}.affine.weight"].T.copy()),
        (f"{theirs}/mod_bias", weights[f"{ours}.affine.bias"] - 1),
    ]
    if f"{ours}.noise_strength" in weights:
        variables.append((f"{theirs}/noise_strength", weights[f"{ours}.noise_strength"]))
    return variables


def rewrite_numpy(data: bytes, core: str) -> bytes:
    """`data` as a numpy of the other generation would have written it: `core` is "numpy.core" or "numpy._core"."""
    operations = list(pickletools.genops(data))
    ends = [position for _, _, position in operations[1:]] + [len(data)]
    out = bytearray()
    for (opcode, arg, start), end in zip(operations, ends, strict=True):
        if opcode.name == "SHORT_BINUNICODE" and arg.startswith(("numpy.core.", "numpy._core.")):
            name = f"{core}.{arg.split('.', 2)[2]}".encode()
            out += b"\x8c" + bytes([len(name)]) + name
        elif opcode.name != "FRAME":  # frames are optional and their lengths no longer hold
            out += data[start:end]
    return bytes(out)


# --- an assembler for pickles that no pickler writes ---

P4 = b"\x80\x04"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any):
        self.reduced = (function, args)

    def __reduce__(self) -> tuple:
        return self.reduced
