"""Reading Stable Diffusion: folders in diffusers' layout, and single files in the original one.

    read_folder("stable-diffusion-v1-5")                    model_index.json, unet/, vae/, text_encoder/, scheduler/, tokenizer/
    read_single_file("v1-5-pruned-emaonly.safetensors")     model.diffusion_model.*, first_stage_model.*, cond_stage_model.*
    read_conv_in("instruct-pix2pix")                        the first convolution of a U-Net, from either

Both become a Checkpoint under the names of `StableDiffusionNetwork`, mapped from the files; `load_network` makes these very
tensors the network's weights. Nothing a file contains is run.
"""
from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import file_sha256
from ..checkpoints._checkpoint import Checkpoint, check_state
from ..checkpoints._errors import CheckpointError
from ..checkpoints._native import FORMAT as NATIVE
from ._config import StableDiffusionConfig
from ._format import file_name
from ._network import StableDiffusionNetwork
from ._original import CONV_IN, averaged, check_names, convert, is_original, kin, width
from ._parts import CLASSES, PARTS, PREDICTIONS, READABLE, SECOND, assemble, published, read_json
from ._text import FILES, holds_tokenizer
from ._weights import plain, read_part, read_tensors

FAMILY = "stable-diffusion"
# The files that Stability AI published, by name: their weights do not say what they predict.
OFFICIAL = {"v2-1_768-ema-pruned": "sd21", "v2-1_768-nonema-pruned": "sd21", "768-v-ema": "sd21",
            "v2-1_512-ema-pruned": "sd21-base", "v2-1_512-nonema-pruned": "sd21-base", "512-base-ema": "sd21-base"}


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a folder is laid out as diffusers does."""
    return (Path(path) / "model_index.json").is_file() or (Path(path) / "unet" / "config.json").is_file()


def is_single_file(path: str | os.PathLike) -> bool:
    """Whether a file is one for `read_single_file`: a model in the original layout, or a .safetensors of something like it,
    of which that can say what it is. Of a .safetensors only the header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            ours = "format" in (metadata := file.metadata() or {}) and metadata["format"] == NATIVE
            return not ours and (is_original(file.keys()) or kin(file.keys()) is not None)
    except (SafetensorError, ValueError, OSError):
        pass
    try:
        return is_original(read_tensors(Path(path)))
    except (CheckpointError, OSError):
        return False


def read_folder(path: str | os.PathLike, variant: str | None = None, tokenizer: str | os.PathLike | None = None,
                concatenated: bool = False) -> Checkpoint:
    """Reads a folder in diffusers' layout.

    Args:
        path: the folder with model_index.json
        variant: of the weights: "fp16" or "non_ema"; by default full precision, where that is there
        tokenizer: folder of CLIP's tokenizer, where it is not tokenizer/
        concatenated: accept a U-Net that takes an image latent beside the noise (8 channels)

    Returns:
        A "stable-diffusion" with weights of whatever precision the files have.

    Raises:
        FileNotFoundError: there is no such folder.
        UnsafePickleError: a .bin asks for what no weights need.
        CheckpointError: a part is missing, damaged, of another class or another model.
    """
    folder, source = Path(path), str(path)
    config = _folder_config(folder, tokenizer, concatenated)
    state: dict[str, Tensor] = {}
    used, variants = [], set()
    for part in config.parts:
        weights, files, found = read_part(folder, part, variant)
        state.update({file_name(f"{part}.{name}"): value for name, value in weights.items()})
        used += [folder / part / "config.json", *files]
        variants.add(found)
    if variant is not None and variant not in variants:
        raise CheckpointError(f"variant: {source} holds no {variant!r:.40} weights; leave variant out, or download them.")
    return _checkpoint(config, state, source, _sha256(folder, used))


def read_single_file(path: str | os.PathLike, config: str | os.PathLike | Mapping[str, Any] | None = None,
                     prediction_type: str | None = None, tokenizer: str | os.PathLike | None = None, ema: bool = True,
                     concatenated: bool = False) -> Checkpoint:
    """Reads a .safetensors or .ckpt in the original layout.

    Args:
        path: the file
        config: what it is a file of, which it does not say: "sd15", "sd21-base", "sd21" or "sdxl", a diffusers folder, or a
            mapping with unet, vae, text_encoder (text_encoder_2) and scheduler; by default told from the file's name and the
            shapes of its weights
        prediction_type: "epsilon" or "v_prediction", which the weights do not show either; by default that of `config`, or
            where that is told from the shapes, "epsilon"
        tokenizer: folder of CLIP's tokenizer, which the file does not hold
        ema: read the U-Net's moving average where the file holds it beside the weights, as diffusers' folders hold it
        concatenated: accept a U-Net that takes an image latent beside the noise (8 channels)

    Returns:
        A "stable-diffusion" with weights of whatever precision the file has.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafePickleError: a .ckpt asks for what no weights need.
        CheckpointError: it is damaged, something else, lacks a part, or does not fit the configuration.
    """
    path, source = Path(path), str(path)
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such checkpoint; give the path of a .safetensors or .ckpt.")
    if prediction_type is not None and prediction_type not in PREDICTIONS:
        raise ValueError(f"prediction_type: expected one of {', '.join(PREDICTIONS)}, got {prediction_type!r:.60}")
    state = read_tensors(path)
    check_names(state, source)
    columns, channels = width(state, source)
    stated = _stated(path, config, prediction_type, columns)
    if (expected := stated["unet"].get("cross_attention_dim")) != columns:
        raise CheckpointError(f"{source}: its U-Net attends to vectors of {columns} numbers, the given configuration says "
                              f"{expected}; leave config out, or pass the one that belongs to the file.")
    if config is None:      # what cannot be seen is stated; what can be seen is looked at
        stated["unet"] = {**stated["unet"], "in_channels": channels}
    scheduler = {**stated["scheduler"], **({"prediction_type": prediction_type} if prediction_type else {})}
    parsed = assemble(stated, scheduler, source, concatenated, _tokenizer(tokenizer), silent_is_zero=True)
    weights = convert(averaged(state, source) if ema else state, parsed.to_dict(), source)
    return _checkpoint(parsed, plain(weights, source), source, file_sha256(path))


def read_conv_in(path: str | os.PathLike) -> tuple[Tensor, Tensor]:
    """The U-Net's first convolution, from a folder or a single file: weight [C, in_channels, 3, 3] and bias [C], float32.

    A multi-step probe's input is noise and an image latent; the half that reads the image starts as that of InstructPix2Pix
    (arXiv 2311.17137, section 4), whose U-Net takes 8 channels. Nothing else of the file is read into memory.

    Raises:
        FileNotFoundError, UnsafePickleError: as the readers.
        CheckpointError: it holds no U-Net.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "unet").is_dir():
            raise CheckpointError(f"{path}: has no unet/; give the folder of the whole model, or a single file.")
        state, names = read_part(path, "unet", None)[0], ("conv_in.weight", "conv_in.bias")
    elif path.is_file():
        state, names = read_tensors(path), (f"{CONV_IN}weight", f"{CONV_IN}bias")
        if names[0] not in state:
            names = ("conv_in.weight", "conv_in.bias")      # unet/diffusion_pytorch_model.safetensors, given by itself
        state = averaged(state, str(path))      # InstructPix2Pix' own file holds both; it draws with the average
    else:
        raise FileNotFoundError(f"{path}: no such checkpoint; give a diffusers folder, a .safetensors or a .ckpt.")
    found = [state.get(name) for name in names]
    if any(value is None for value in found) or found[0].ndim != 4 or found[1].shape != found[0].shape[:1]:
        raise CheckpointError(f"{path}: holds no U-Net of a latent diffusion model: no {names[0]} with its bias.")
    return found[0].to(torch.float32, copy=True), found[1].to(torch.float32, copy=True)


def load_network(config: StableDiffusionConfig, state: Mapping[str, Tensor], dtype: torch.dtype | None = torch.float32,
                 ) -> StableDiffusionNetwork:
    """The network with these weights, in evaluation mode.

    The tensors become its parameters where they have the type already; nothing is drawn first, and nothing copied. Others are
    converted one by one; what was mapped from a file takes no memory beside its copy.

    Args:
        state: as `read_folder` and `read_single_file` give it, or the network's own `state_dict`
        dtype: of all its weights; None keeps what each part has

    Raises:
        RuntimeError: weights are missing or left over.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = StableDiffusionNetwork(config)
    named = {file_name(name): name for name in network.state_dict()}
    network.load_state_dict({named.get(name := file_name(given), name): value if dtype is None else value.to(dtype)
                             for given, value in state.items()}, assign=True)
    return network.eval()


def _checkpoint(config: StableDiffusionConfig, state: dict[str, Tensor], source: str, sha256: str) -> Checkpoint:
    check_state(FAMILY, state, config.to_dict(), source)
    described = {**config.to_dict(), **({"tokenizer": config.tokenizer} if config.tokenizer else {})}
    return Checkpoint(FAMILY, described, state, source, sha256)


def _folder_config(folder: Path, tokenizer: str | os.PathLike | None, concatenated: bool) -> StableDiffusionConfig:
    source = str(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; give one in diffusers' layout, with model_index.json.")
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    kind = str(index.get("_class_name", "model"))
    if kind.startswith("Marigold"):
        raise CheckpointError(f"{source}: a {kind:.60}, whose U-Net reads the image's latent before the noisy one; here they "
                              f"are read the other way round, as InstructPix2Pix does. As a teacher it is marigold:{source}.")
    for extra, what in (("text_encoder_3", "three text encoders"), ("transformer", "a transformer for its U-Net"),
                        ("prior", "a prior"), ("controlnet", "a ControlNet")):
        listed = index.get(extra)
        if isinstance(listed, list) and listed and listed[0]:
            raise CheckpointError(f"{source}: a {kind:.60}, which has {what}; {READABLE}")
    second = index.get(SECOND)
    names = (*PARTS, SECOND) if isinstance(second, list) and second and second[0] else tuple(PARTS)
    if missing := [part for part in (*names, "scheduler") if not (folder / part).is_dir()]:
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
        raise CheckpointError(f"{source}: has no {', no '.join(f'{part}/' for part in missing)}; expected a folder in "
                              f"diffusers' layout with {', '.join(f'{part}/' for part in (*names, 'scheduler'))}; found "
                              f"{there}. Download the folder again, whole.")
    for part in names:
        listed, expected = index.get(part), CLASSES[part]
        if isinstance(listed, list) and listed and listed[-1] not in (expected, None):
            raise CheckpointError(f"{source}: a {kind:.60}, whose {part} is a {listed[-1]!s:.60}, expected a {expected}; "
                                  f"{READABLE}")
    if tokenizer is None and (folder / "tokenizer").is_dir():
        tokenizer = folder / "tokenizer"
    parts = {part: read_json(folder / part / "config.json") for part in names}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return assemble(parts, scheduler, source, concatenated, _tokenizer(tokenizer),
                    bool(index.get("force_zeros_for_empty_prompt", True)))


def _stated(path: Path, config: str | os.PathLike | Mapping[str, Any] | None, prediction_type: str | None,
            columns: int) -> dict[str, Any]:
    """unet, vae, text_encoder and scheduler of a single file."""
    if isinstance(config, Mapping):
        if missing := [name for name in (*PARTS, "scheduler") if not isinstance(config.get(name), Mapping)]:
            raise ValueError(f"config: expected mappings for {', '.join((*PARTS, 'scheduler'))}; there is no {missing[0]}")
        return dict(config)
    if config is not None and not Path(config).is_dir():
        return published(str(config))
    if config is not None:
        folder = Path(config)
        return {**{part: read_json(folder / part / "config.json") for part in CLASSES
                   if part in PARTS or (folder / part).is_dir()},
                "scheduler": read_json(folder / "scheduler" / "scheduler_config.json")}
    if columns in (768, 2048):
        return published("sd15" if columns == 768 else "sdxl")
    if columns != 1024:
        raise CheckpointError(f"{path}: its U-Net attends to vectors of {columns} numbers, neither Stable Diffusion 1.x's 768, "
                              "2.x's 1024 nor XL's 2048; pass its configuration as config=: a diffusers folder with its parts' "
                              "config.json.")
    if path.stem in OFFICIAL:
        return published(OFFICIAL[path.stem])
    if prediction_type is None:
        warnings.warn(f"{path}: Stable Diffusion 2.x comes in two kinds that a file does not tell apart; taken as the one that "
                      "predicts the noise, at 512 px. For the one that predicts v, at 768 px, pass config='sd21'; "
                      "config='sd21-base' ends this warning.", UserWarning, stacklevel=3)
    return published("sd21" if prediction_type == "v_prediction" else "sd21-base")


def _tokenizer(folder: str | os.PathLike | None) -> str | None:
    if folder is None:
        return None
    path = Path(folder)
    if not holds_tokenizer(path):
        raise CheckpointError(f"tokenizer: {path} holds none: expected {FILES}, as in the tokenizer/ folder of any Stable "
                              "Diffusion in diffusers' layout.")
    return str(path.resolve())


def _sha256(folder: Path, files: list[Path]) -> str:
    """One hash of all files that were read, by name within the folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()
