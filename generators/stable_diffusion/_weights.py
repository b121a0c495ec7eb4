"""The weight files of a diffusers folder: which of a part's files are read, and how, without running what is in them.

    <part>/diffusion_pytorch_model[.<variant>].safetensors                 one file; a text encoder's is model.safetensors
    <part>/diffusion_pytorch_model.safetensors.index[.<variant>].json      several: weight_map, {name: file}
    <part>/diffusion_pytorch_model[.<variant>].bin                         a pickle of tensors, where there is nothing better

Tensors of .safetensors, and of a .bin in torch.save's current form, are mapped from the file: no memory is taken until
they are used, and none is ever copied here.
"""
from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints._errors import CheckpointError
from ..checkpoints._torch_file import check_claims, load_torch
from ._parts import read_json

_STEMS = {".safetensors": dict.fromkeys(("text_encoder", "text_encoder_2"), "model"),
          ".bin": dict.fromkeys(("text_encoder", "text_encoder_2"), "pytorch_model")}
_POINTER = b"version https://git-lfs"
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
State = dict[str, Tensor]


def choose(names: Iterable[str], part: str, variant: str | None, weight_map: Callable[[str], Iterable[str]],
           ) -> tuple[list[str], str | None]:
    """(files, variant) of a part's weights among `names`, all relative to the part's folder.

    .safetensors go before .bin; the asked variant before full precision, and without one full precision before "fp16".

    Args:
        names: of the files that there are
        part: "unet", "vae", "text_encoder" or "text_encoder_2"
        variant: e.g. "fp16", or None
        weight_map: the files that an index, given by its name, lists

    Returns:
        An empty list where there are none. An index is the first of its files.
    """
    names = set(names)
    for suffix, stems in _STEMS.items():
        stem = stems.get(part, "diffusion_pytorch_model")
        for kind in ((variant, None) if variant else (None, "fp16")):
            dotted = f".{kind}" if kind else ""
            if (single := f"{stem}{dotted}{suffix}") in names:
                return [single], kind
            if (index := f"{stem}{suffix}.index{dotted}.json") in names:
                return [index, *sorted(set(weight_map(index)))], kind
    return [], None


def weight_map(index: Path) -> list[str]:
    """The files that an index lists, each within its own folder.

    Raises CheckpointError where it lists none, or others.
    """
    listed = read_json(index).get("weight_map")
    files = sorted(set(listed.values())) if isinstance(listed, dict) and all(
        isinstance(file, str) for file in listed.values()) else []
    if not files or any(Path(file).name != file or file in ("", ".", "..") for file in files):
        raise CheckpointError(f"{index}: expected a weight_map of files beside it, found {str(files or listed)[:80]}; download "
                              "it again.")
    return files


def read_part(folder: Path, part: str, variant: str | None) -> tuple[State, list[Path], str | None]:
    """(weights, files, variant) of a part of a diffusers folder, under diffusers' current names.

    Raises:
        CheckpointError: there are no weights, or they are damaged or no plain numbers.
        UnsafePickleError: a .bin asks for what no weights need.
    """
    place = folder / part
    names, found = choose((entry.name for entry in place.iterdir()), part, variant, lambda index: weight_map(place / index))
    if not names:
        there = ", ".join(sorted(entry.name for entry in place.iterdir())[:6]) or "nothing"
        stem = _STEMS[".safetensors"].get(part, "diffusion_pytorch_model")
        raise CheckpointError(f"{place}: no weights that can be read; expected {stem}.safetensors, found {there}. Download the "
                              "folder again, with them.")
    files = [place / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{place}: {files[0].name} lists {', '.join(missing[:4])}, which is not there; download the "
                              "folder again, whole.")
    state: State = {}
    for file in files[len(names) > 1:]:
        state.update(read_tensors(file))
    return plain(_renamed(state, part), str(place)), files, found


def read_tensors(path: Path) -> State:
    """{name: tensor} of a .safetensors or a file of torch.save, recognised by content; executes nothing."""
    with open(path, "rb") as file:
        head = file.read(32)
    if head.startswith(_POINTER):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder.")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _safetensors(path)
    return _pickle(path, head)


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a .safetensors file ({str(error)[:120]}); download it "
                              "again.") from error


def _pickle(path: Path, head: bytes) -> State:
    if not zipfile.is_zipfile(path) and (head[:1] != b"\x80" or head[2:3] != b"\x8a"):
        kind = {b"P": "truncated", b"<": "a web page, perhaps what a server sends instead of a download",
                b"": "empty"}.get(head[:1], "of an unknown format")
        raise CheckpointError(f"{path} is {kind}; expected weights as .safetensors or of torch.save. Download it again.")
    state: Any = load_torch(path, "file of weights", "Use the model's .safetensors.")
    for _ in range(3):
        state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: there are no weights in it.")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _renamed(state: State, part: str) -> State:
    """Files of diffusers before version 0.15 call the projections of a VAE's attention otherwise."""
    renamed = {}
    for name, value in state.items():
        old = _ATTENTION.fullmatch(name) if part == "vae" else None
        if old:
            name = f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}"
            value = value[..., 0, 0] if value.ndim == 4 else value
        if not name.endswith("position_ids"):       # 0, 1, 2, …: no weight, though old files store it
            renamed[name] = value
    return renamed


def plain(state: State, source: str) -> State:
    """The same, or CheckpointError where a tensor is no plain numbers or claims more of them than the file holds."""
    for name, value in state.items():
        if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu":
            raise CheckpointError(f"{source}: {name} is a {value.dtype} tensor, expected floating-point numbers; quantised "
                                  "weights cannot be adapted: take the model's float32 or float16 files.")
    check_claims(state, source)
    return state
