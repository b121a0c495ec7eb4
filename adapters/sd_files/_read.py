"""A LoRA file of any spelling -> one state in ours."""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from generators.checkpoints import CheckpointError

from ._file import LoRAFile
from ._names import HARMLESS, TEXT_ENCODER, Entry, decode
from ._open import adapter_metadata, open_lora
from ._scale import Pair, configured_alpha, unify

Found = dict[str, tuple[str, Entry, Tensor]]                # role -> key, what it says, value
_LARGEST = 4            # times a weight's larger side: a rank above the smaller adds nothing, and yet there are such files
_FACTOR = {"A": "the down-projection, [rank, in]", "B": "the up-projection, [out, rank]"}


def read_lora(path: str | os.PathLike, ignore_text_encoder: bool = False) -> LoRAFile:
    """Reads a LoRA for Stable Diffusion's U-Net, recognised by its content.

    Args:
        path: a .safetensors or a .bin of torch.save, or the folder of either, in one of these spellings:
            the attention processors' of diffusers up to 0.16 (as the paper's released weights are), diffusers' later ones
            with `lora.down` and with `lora_A`, PEFT's folder, kohya's, by diffusers' or by the original block numbers
        ignore_text_encoder: leave out what the file trains in text encoders, which is no part of a probe

    Scales come from `.alpha` entries, from PEFT's configuration beside the file or in its header, or are 1 where the file
    says nothing. Half precision is widened to float32. Text-encoder entries that change nothing are always left out.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafePickleError: the .bin asks for something that no LoRA needs; nothing of it was run.
        CheckpointError: it is damaged, holds another kind of adapter or one of another kind of network, lacks a half of a
            site, or trains text encoders too.
    """
    opened = open_lora(Path(path))
    source = str(opened.file)
    text = {key: value for key, value in opened.tensors.items() if TEXT_ENCODER.match(key)}
    ignored = _text_encoder(text, source, ignore_text_encoder)
    found = _decode({key: value for key, value in opened.tensors.items() if key not in text}, source)
    if not found:
        only = " besides that of a text encoder" if text else ""
        raise CheckpointError(f"{source} holds no LoRA of a U-Net{only}; expected keys such as "
                              "unet.….attn1.to_q.lora_A.weight")
    config = adapter_metadata(opened)
    pairs, styles = {}, []
    for site, entries in found.items():
        if missing := [letter for letter in "AB" if letter not in entries]:
            have = next(iter(entries.values()))[0]
            raise CheckpointError(f"{source}: {have} has no lora_{missing[0]} beside it ({_FACTOR[missing[0]]}); the file is "
                                  "incomplete, download it again.")
        styles.append(entries["A"][1].style)
        a, b = (_weight(*entries[letter], source) for letter in "AB")
        if a.ndim != b.ndim or a.ndim < 2 or a.ndim > 4 or b.shape[1] != len(a) or len(a) < 1 or set(b.shape[2:]) > {1}:
            raise CheckpointError(f"{source}: {entries['A'][0]} {list(a.shape)} and {entries['B'][0]} {list(b.shape)} do not "
                                  "go together; expected [rank, in] and [out, rank], with a kernel of 1 behind the second for "
                                  "convolutions.")
        sides = a[0].numel(), len(b)
        if len(a) > _LARGEST * max(sides):
            raise CheckpointError(f"{source}: {entries['A'][0]} is of rank {len(a)} at a weight of {sides[1]} × {sides[0]}, "
                                  "beyond any LoRA that is trained; it was tampered with.")
        pairs[site] = Pair(a, b, _alpha(site, entries, config, len(a), source))
    try:
        state, rank, alpha = unify(pairs)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}; it was tampered with, or give a LoRA of more even ranks.") from None
    style = "peft" if opened.config is not None else styles[0]
    return LoRAFile(state, rank, alpha, style, source, opened.metadata, ignored)


def _text_encoder(text: Mapping[str, Tensor], source: str, ignore: bool) -> tuple[str, ...]:
    """Names of the modules left out, or an error if they would have mattered."""
    names = tuple(sorted({key.partition(".lora")[0].partition("_lora.")[0].removesuffix(".alpha") for key in text}))
    if ignore or not any(value.float().any() for key, value in text.items() if not HARMLESS.search(key)):
        return names
    raise CheckpointError(f"{source} also trains a text encoder ({len(names)} modules, the first is {names[0]}), which is no "
                          "part of a probe; without it the U-Net's LoRA may draw something else. To read the U-Net's alone, "
                          "pass ignore_text_encoder=True.")


def _decode(tensors: Mapping[str, Tensor], source: str) -> dict[str, Found]:
    found: dict[str, Found] = defaultdict(dict)
    names = set()
    for key, value in tensors.items():
        try:
            entry = decode(key)
        except ValueError as error:
            raise CheckpointError(f"{source}: {key!r:.200} {error}.") from None
        if entry.role in found[entry.site]:
            raise CheckpointError(f"{source}: {key} and {found[entry.site][entry.role][0]} are the same weight; expected one "
                                  "LoRA in a file.")
        found[entry.site][entry.role] = key, entry, value
        names.add(entry.adapter)
    if len(names - {None}) > 1:
        raise CheckpointError(f"{source} holds several adapters ({', '.join(sorted(names - {None}))}); save one of them alone.")
    return found


def _weight(key: str, entry: Entry, value: Tensor, source: str) -> Tensor:
    if not value.is_floating_point():
        raise CheckpointError(f"{source}: {key} is a {value.dtype} tensor; expected floating-point numbers.")
    value = value.float()
    if not value.isfinite().all():
        raise CheckpointError(f"{source}: {key} holds values that are not finite; its training diverged, or the file is "
                              "damaged.")
    return value


def _alpha(site: str, entries: Found, config: Mapping | None, rank: int, source: str) -> float:
    if "alpha" in entries:
        key, _, value = entries["alpha"]
        if value.numel() != 1 or not value.float().isfinite().all():
            raise CheckpointError(f"{source}: {key} is {list(value.shape)}; expected one finite number.")
        return float(value)
    if config is None:
        return float(rank)
    try:
        return configured_alpha(config, site.removeprefix("unet."), rank)
    except ValueError as error:
        raise CheckpointError(f"{source}: in its configuration, {error}.") from None
