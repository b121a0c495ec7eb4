"""The containers: .safetensors, torch's .bin, and PEFT's folder -> named tensors. Nothing they contain is executed."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.checkpoints import CheckpointError
from generators.checkpoints._torch_file import check_claims, load_torch

DIFFUSERS, PEFT, PEFT_CONFIG = "pytorch_lora_weights", "adapter_model", "adapter_config.json"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Opened:
    """tensors by key; the text of the header; PEFT's configuration, where the container has one beside the tensors."""

    file: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any] | None


def open_lora(path: Path) -> Opened:
    """Raises FileNotFoundError, CheckpointError or UnsafePickleError, naming the file."""
    file = _file_of(path)
    config_file = file.parent / PEFT_CONFIG
    config, metadata = None, {}
    if file.stem == PEFT:
        if not config_file.is_file():
            raise CheckpointError(f"{file}: {PEFT_CONFIG} should lie beside it and does not; without it the scale (lora_alpha) "
                                  "of the LoRA is not known. Download the whole folder.")
        text = config_file.read_text(encoding="utf-8", errors="replace")
        config, metadata = json_object(text, config_file, "its content"), {PEFT_CONFIG: text}
    with open(file, "rb") as stream:
        head = stream.read(16)
    if head[8:9] == b"{":
        tensors, header = _safetensors(file)
        return Opened(file, tensors, {**header, **metadata}, config)
    return Opened(file, _pickle(file, head), metadata, config)


def adapter_metadata(opened: Opened) -> dict[str, Any] | None:
    """PEFT's configuration of the U-Net: from its own file, or where diffusers keeps it, in the header."""
    if opened.config is not None:
        return opened.config
    text = opened.metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    every = json_object(text, opened.file, "lora_adapter_metadata in its header")
    own = {name.removeprefix("unet."): value for name, value in every.items() if name.startswith("unet.")}
    if own or any(name.startswith("text_encoder") for name in every):
        return own or None
    return every                    # as UNet2DConditionModel.save_lora_adapter writes it


def _file_of(path: Path) -> Path:
    """The file itself, or that of a folder: PEFT's, then diffusers', then the only one there is."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such LoRA; give a .safetensors or .bin, or the folder it is in")
    for stem in (PEFT, DIFFUSERS):
        for suffix in SUFFIXES[:2]:
            if (path / (stem + suffix)).is_file():
                return path / (stem + suffix)
    found = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.suffix in SUFFIXES)
    if len(found) != 1:
        what = f"{len(found)}: {', '.join(entry.name for entry in found[:5])}" if found else "none"
        raise CheckpointError(f"{path}: expected {DIFFUSERS}.safetensors, {PEFT}.safetensors with {PEFT_CONFIG}, or one "
                              f".safetensors or .bin in the folder; there is {what}. Give the file itself.")
    return found[0]


def _safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise CheckpointError(f"{file} is truncated or not a .safetensors file ({error}); download it again.") from error


def _pickle(file: Path, head: bytes) -> dict[str, Tensor]:
    if head[:2] != b"PK" and head[:1] != b"\x80":
        kind = {b"<": "a web page, perhaps what a server sends instead of a download", b"": "empty",
                b"v": "perhaps the pointer of a Git LFS file"}.get(head[:1], "of an unknown format")
        raise CheckpointError(f"{file} is {kind}; expected a LoRA as .safetensors or as torch saves it. Download it again.")
    content = load_torch(file, "LoRA", "Look for the same LoRA as .safetensors.")
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} holds no state_dict: expected tensors by name, got a {type(content).__name__}; give the "
                              "file that holds the LoRA's weights alone.")
    if odd := [key for key, value in content.items() if value.layout != torch.strided or value.device.type != "cpu"]:
        raise CheckpointError(f"{file}: {odd[0]!r:.200} is no plain tensor; expected numbers stored one by one.")
    check_claims(content, str(file))
    return {str(key): value for key, value in content.items()}


def json_object(text: str, file: Path, what: str) -> dict[str, Any]:
    """The object that a text of a LoRA file spells; CheckpointError, naming the file, where it spells none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: {what} is not JSON ({str(error)[:100]}); download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: {what} is not a JSON object; download it again.")
    return value
