"""An adapter -> a .safetensors that diffusers, or ComfyUI and kohya's relatives, load."""
from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from generators._files import write_tensors

from ._names import to_kohya
from ._open import DIFFUSERS

STYLES = ("diffusers", "comfyui")
RESERVED = ("format", "lora_adapter_metadata", "ss_network_module", "ss_network_dim", "ss_network_alpha")
_KEY = re.compile(r"unet\.(.+)\.lora_([AB])\.weight")


def write_lora(path: str | os.PathLike, state: Mapping[str, Tensor], rank: int, alpha: float, style: str = "diffusers",
               metadata: Mapping[str, str] | None = None, overwrite: bool = False) -> Path:
    """Writes an adapter on a U-Net, complete or not at all.

    Args:
        path: a name that ends in .safetensors, or a folder, in which it becomes pytorch_lora_weights.safetensors
        state: {`unet.MODULE.lora_A.weight`: [rank, in, …], `….lora_B.weight`: [out, rank, …]}
        rank: of every site
        alpha: the update is alpha / rank · B A
        style: "diffusers" for `pipe.load_lora_weights(folder)`, or of a U-Net alone
            `unet.load_lora_adapter(folder, prefix="unet", use_safetensors=True)`. alpha is in the header, where diffusers looks
            since 0.34; what does not look there takes the rank for it, which is right for adapters made without an alpha.
            "comfyui" for ComfyUI, AUTOMATIC1111 and kohya's scripts, with an `.alpha` a site; diffusers loads it too
        metadata: more text for the header, e.g. what the probe predicts and its prompt
        overwrite: replace an existing file

    Returns the file written. Raises ValueError for an unknown style, for a state that is no U-Net's of this rank, and for
    metadata that is not text or has a reserved name; FileExistsError where there is such a file and `overwrite` is False;
    OutputError, an OSError, where it cannot be written.
    """
    if style not in STYLES:
        raise ValueError(f"style: expected {' or '.join(STYLES)}, got {style!r}")
    if isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, the rank for a scale of 1, got {alpha!r}")
    sites = _sites(state, rank)
    extra = dict(metadata or {})
    if wrong := [name for name, value in extra.items() if not isinstance(value, str) or name in RESERVED]:
        raise ValueError(f"metadata: {wrong[0]!r} is reserved or not text; expected text under names other than "
                         f"{', '.join(RESERVED)}")
    file = Path(path)
    if file.suffix != ".safetensors":
        file = file / f"{DIFFUSERS}.safetensors"
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists; pass overwrite=True to replace it, or choose another name")
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    plain = int(alpha) if float(alpha).is_integer() else float(alpha)
    if style == "diffusers":
        tensors = own
        config = {"r": rank, "lora_alpha": plain, "lora_dropout": 0.0, "bias": "none", "target_modules": sites}
        extra["lora_adapter_metadata"] = json.dumps({f"unet.{name}": value for name, value in config.items()}, sort_keys=True)
    else:
        tensors = {}
        exact = torch.tensor(alpha, dtype=torch.float64)
        for site in sites:
            name = to_kohya(f"unet.{site}")
            tensors[f"{name}.lora_down.weight"] = own[f"unet.{site}.lora_A.weight"]
            tensors[f"{name}.lora_up.weight"] = own[f"unet.{site}.lora_B.weight"]
            tensors[f"{name}.alpha"] = exact.float() if exact.float() == exact else exact.clone()
        extra |= {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(plain)}
    write_tensors(file, tensors, {"format": "pt", **extra})
    return file


def _sites(state: Mapping[str, Tensor], rank: int) -> list[str]:
    """Module names without `unet.`, or ValueError."""
    halves: dict[str, set[str]] = {}
    for name, value in state.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise ValueError(f"state: {name!r} has no place in a LoRA file; expected unet.MODULE.lora_A.weight and "
                             "….lora_B.weight, of an adapter on the U-Net alone (scopes within the VAE cannot be exported)")
        axis = 0 if match[2] == "A" else 1
        if value.ndim < 2 or not value.is_floating_point() or value.shape[axis] != rank:
            raise ValueError(f"state: {name} is {value.dtype} {list(value.shape)}; expected floating-point numbers, {rank} "
                             f"(the rank) along axis {axis}")
        halves.setdefault(match[1], set()).add(match[2])
    if lone := [site for site, letters in halves.items() if len(letters) < 2]:
        raise ValueError(f"state: unet.{lone[0]} has lora_{halves[lone[0]].pop()} only; expected lora_A and lora_B")
    if not halves:
        raise ValueError("state: it is empty; expected the state() of an adapter")
    return sorted(halves)
