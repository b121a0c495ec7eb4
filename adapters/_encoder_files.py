"""Self-supervised encoders of images, read from a folder or the Hugging Face hub: DINOv2, with registers too, and DINOv3's ViT.

    scenes                                        trained on the scenes world's images alone, by zoo.train_encoder
    facebook/dinov2-base                          Oquab et al. 2023 (arXiv 2304.07193)
    facebook/dinov2-with-registers-base           Darcet et al. 2023 (arXiv 2309.16588)
    FOLDER                                        config.json and model.safetensors, as transformers writes them

Networks are transformers' classes, built from the numbers of a configuration: no code that a repository carries is fetched, let
alone run, and weights come from .safetensors only.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators import _hub
from generators._download import DownloadError
from generators._hub import HUB, is_hub_id, listing, quiet
from generators.checkpoints import CheckpointError, check_shipped
from generators.checkpoints._torch_file import check_claims
from generators.stable_diffusion._parts import read_json
from generators.stable_diffusion._weights import read_tensors, weight_map

EMBEDDED = {"scenes": Path(__file__).parent / "embedded" / "encoder-scenes"}
KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit")
_IMAGENET = dict(image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225))     # what all of these were trained with
_INDEX = "model.safetensors.index.json"
# What decides what a network computes; all else that a configuration says is not passed on.
_COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "image_size",
           "num_channels")
_NUMBERS = (*_COUNTS, "num_register_tokens", "mlp_ratio", "layer_norm_eps", "layerscale_value", "rope_theta",
            "initializer_range")
_FLAGS = ("qkv_bias", "use_swiglu_ffn", "use_mask_token", "query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias",
          "use_gated_mlp")
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Pretrained:
    """An encoder and how it wants its images.

    Args:
        network: frozen; pixel_values [N, 3, H, W] -> last_hidden_state [N, 1 + registers + patches, width]
        patch: pixels a side
        side: patches along a side of the images that it was trained on
        others: tokens before the first patch's: the class token and the registers
        mean, std: of the normalisation of images in [0, 1]
        digest: sha256 of all that decides its features
    """

    network: nn.Module
    patch: int
    side: int
    others: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: bytes


def read_encoder(model: str, seed: int | None = None) -> Pretrained:
    """The encoder called `model`: "scenes", a folder, owner/model on the hub, or its address.

    Args:
        model: its name
        seed: of freshly drawn weights instead of its own, the control

    Raises:
        ValueError: `model` is neither, or a network of another kind.
        CheckpointError: files are lacking or damaged.
        OfflineError: it is not in the hub's cache and the hub cannot be reached, or may not be (HF_HUB_OFFLINE).
        DownloadError: the hub has no such model, refuses it, or it lacks files.
    """
    folder = _folder(model)
    config, source = read_json(folder / "config.json"), str(folder / "config.json")
    if config.get("model_type") not in KINDS:
        raise ValueError(f"model: {model} is a {str(config.get('model_type'))!r:.60}, expected one of {', '.join(KINDS)}; for "
                         "instance facebook/dinov2-base")
    about = _checked(config, source)
    stated = read_json(path) if (path := folder / "preprocessor_config.json").is_file() else {}
    mean, std = (_three(stated, name, str(path)) for name in _IMAGENET)
    if model in EMBEDDED:
        check_shipped(folder / "model.safetensors", read_json(folder / "card.json"))
    state = None if seed is not None else _state(folder)
    network = _built(config["model_type"], about, state, seed, folder)
    digest = hashlib.sha256(json.dumps([config["model_type"], about, mean, std], sort_keys=True).encode())
    # Of fresh weights the seed, since the last bit of what is drawn may differ between two machines.
    digest.update(f"random:{seed}".encode() if state is None else b"")
    for name, value in sorted((state or {}).items()):
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    made = network.config
    return Pretrained(network, made.patch_size, max(1, made.image_size // made.patch_size),
                      1 + getattr(made, "num_register_tokens", 0), mean, std, digest.digest())


def _folder(model: str) -> Path:
    if model in EMBEDDED:
        if not (EMBEDDED[model] / "config.json").is_file():
            raise CheckpointError(f"model: this installation lacks its encoder {model!r}, no config.json in {EMBEDDED[model]}; "
                                  "`python -m zoo.train_encoder` makes one, or name another, such as facebook/dinov2-base")
        return EMBEDDED[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        if missing := _wanted(listing(folder))[1]:
            raise CheckpointError(f"model: {folder} has no {', no '.join(missing)}; fetch the folder again, whole")
        return folder
    if not is_hub_id(model):
        raise ValueError(f"model: {model!r:.120} is neither {' nor '.join(EMBEDDED)}, a folder, nor owner/model on the Hugging "
                         "Face hub; for instance facebook/dinov2-base")
    repo = model.removeprefix(HUB)
    found = _hub.cached(repo, "config.json", argument="model")
    if found is not None and not _wanted(listing(found))[1]:
        return found

    def choose(names: Iterable[str]) -> list[str]:
        files, missing = _wanted(names)
        if missing:
            raise DownloadError(f"{HUB}{repo} has no {', no '.join(missing)}; give another model")
        return files

    by_hand = (f"Fetch config.json, preprocessor_config.json and model.safetensors by other means, from {HUB}{repo}/tree/main, "
               "into one folder, and give that as model. model=scenes needs no connection.")
    return _hub.fetch(repo, choose, revision=None, folder="a folder can be given by its path", by_hand=by_hand)


def _wanted(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(files to read, what is missing) among `names`."""
    names = set(names)
    files = [name for name in ("config.json", "preprocessor_config.json", "model.safetensors") if name in names]
    if "model.safetensors" not in names and _INDEX in names:
        files += [_INDEX, *sorted(n for n in names if n.startswith("model-") and n.endswith(".safetensors"))]
    missing = [] if "config.json" in names else ["config.json"]
    return files, missing + ([] if len([n for n in files if n.endswith(".safetensors")]) else ["model.safetensors"])


def _state(folder: Path) -> dict[str, Tensor]:
    single, index = folder / "model.safetensors", folder / _INDEX
    files = [single] if single.is_file() else [folder / name for name in weight_map(index)]
    if lacking := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{index} lists {', '.join(lacking[:4])}, which is not there; fetch the folder again, whole")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_tensors(file)
    check_claims(state, str(files[0]))
    return state


def _built(kind: str, about: dict[str, Any], state: dict[str, Tensor] | None, seed: int | None, folder: Path) -> nn.Module:
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    if kind not in CONFIG_MAPPING:
        raise CheckpointError(f"{folder}: this version of transformers knows no {kind}; update transformers")
    try:
        config = CONFIG_MAPPING[kind](**about)
        if state is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return MODEL_MAPPING[type(config)](config).float().requires_grad_(False).eval()
        with quiet():
            # Given no folder, it reads none: what else lies there has no part in it.
            network, told = MODEL_MAPPING[type(config)].from_pretrained(None, config=config, state_dict=state,
                                                                        output_loading_info=True)
    except Exception as error:      # transformers lets through what its configurations and networks raise
        raise CheckpointError(f"{folder}: transformers cannot build this network ({type(error).__name__}: {str(error)[:300]}); "
                              "fetch it again, or update transformers") from error
    # A mask token hides patches in training; nothing is hidden here.
    lacking = [key for key in told["missing_keys"] if "mask_token" not in key]
    if lacking or told["mismatched_keys"]:
        what = lacking[0] if lacking else next(iter(told["mismatched_keys"]))
        raise CheckpointError(f"{folder}: its weights do not fill the network, {str(what):.160} is missing or of another "
                              "shape; fetch it again")
    return network.float().requires_grad_(False).eval()


def _checked(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The fields that decide what the network computes. Raises CheckpointError for values that no network has."""
    if config.get("quantization_config"):
        raise CheckpointError(f"{source}: its weights are quantised (quantization_config), which is not read; take the float32 "
                              "or float16 files")
    about = {}
    for name in (*_NUMBERS, *_FLAGS):
        if (value := config.get(name)) is None:
            continue
        least = 1 if name in _COUNTS else 0
        kinds = (bool,) if name in _FLAGS else (int,) if name in (*_COUNTS, "num_register_tokens") else (int, float)
        fits = type(value) in kinds and least <= value <= _LARGEST
        if not fits:
            expected = "true or false" if name in _FLAGS else f"a number, {least:g} or more"
            raise CheckpointError(f"{source}: {name}={value!r:.80}, expected {expected}; fetch the file again")
        about[name] = value
    if isinstance(act := config.get("hidden_act"), str):
        about["hidden_act"] = act
    return about


def _three(stated: dict[str, Any], name: str, source: str) -> tuple[float, ...]:
    value = tuple(_IMAGENET[name] if stated.get(name) is None else stated[name] if isinstance(stated[name], list) else ())
    fits = len(value) == 3 and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    if not fits or name == "image_std" and min(value) < 1e-4:
        raise CheckpointError(f"{source}: {name}={stated[name]!r:.80}, expected three numbers"
                              f"{' above 0' if name == 'image_std' else ''}; fetch the file again")
    return value
